"""float32 depthwise convolutions for x86-64: as many channels to a vector as the machine has lanes.

for each block of vectors of channels, each group of pixels of a row, each cell of the window:
    accumulator[pixel] += image[pixel + cell] * weights[cell]

Weights stay in registers, or come from memory with the product; pixels are as many as the registers hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import ConstantArgument, Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, PrimFunc
from tinyopt.targets.kernels.vector.channel_blocks import write_blocks
from tinyopt.targets.kernels.vector.depthwise import (
    DepthwiseShape,
    FloatDepthwiseCode,
    float_depthwise_function,
    pixel_groups,
    plan_depthwise,
)
from tinyopt.targets.kernels.vector.float_convolution import bias_of, float_refusal, fused_multiply_add
from tinyopt.targets.kernels.vector.float_ending import Clamp, clamped
from tinyopt.targets.kernels.vector.machine import VectorMachine
from tinyopt.targets.kernels.vector.rows import row_arguments

UNROLLED_TAPS = 128  # windows with up to so many products are written out without a loop over their rows
MOST_PIXELS = 8
NARROWEST = 4  # channels


@dataclass(frozen=True)
class X86DepthwiseSpec:
    """What the compiled function depends on. pixels: how many of a row are worked on at a time."""

    shape: DepthwiseShape
    machine: VectorMachine
    pixels: int
    clamp: Clamp
    has_residual: bool


def plan_x86_depthwise(node: Node, machine: VectorMachine) -> Kernel | Refusal:
    """Conv with one group for each channel."""
    weights, residual = node.input(1), node.optional_input(3)
    refusal = float_refusal(node, weights, node.optional_input(2))
    if refusal is not None:
        return refusal
    shape = plan_depthwise(node, "float32", machine.lanes, NARROWEST)
    if isinstance(shape, Refusal):
        return shape
    channels = shape.window.channels
    constants = (
        ConstantArgument("weight", weights.data.reshape(channels, -1).T.reshape(-1).copy()),  # KH * KW, C
        ConstantArgument("bias", bias_of(node, channels)),
    )
    pixels = _pixels(shape.window.out_width)
    spec = X86DepthwiseSpec(shape, machine, pixels, Clamp.of(node), residual is not None)
    arguments = row_arguments(shape.rows, constants, None if residual is None else 3)
    return Kernel(x86_depthwise, spec, "depthwise_vector", arguments)


def _pixels(out_width: int) -> int:
    """Pixels at a time: the fewest groups for a row, and the smallest that need no more."""
    groups = -(-out_width // MOST_PIXELS)
    return -(-out_width // groups)


def x86_depthwise(spec: X86DepthwiseSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `plan_x86_depthwise`."""
    return float_depthwise_function(spec.shape, spec.has_residual, lambda code: _Writer(code, spec).write())


@dataclass(frozen=True)
class _Writer:
    """Writes the loops."""

    code: FloatDepthwiseCode
    spec: X86DepthwiseSpec

    def write(self) -> None:
        write_blocks(self.code.kernel, self.code.rows, self.spec.shape.rows, self.spec.shape.blocks, self._row)

    def _row(self, out_row: Expr, _number: Expr, channel: Expr, width: int) -> None:
        """One output row of one block of channels."""
        window, pixels = self.spec.shape.window, self.spec.pixels
        with pixel_groups(self.code.kernel, window, pixels) as column:
            totals = self.code.kernel.local("float32", pixels * width)
            first = self.code.kernel.let(self.code.bias.vector(channel, width))
            for pixel in range(pixels):
                totals.store_vector(pixel * width, first, width)
            self._taps(totals, out_row, column, channel, width)
            index = self.code.kernel.let((out_row * window.out_width + column) * window.channels + channel)
            for pixel in range(pixels):
                self._finish(totals.vector(pixel * width, width), index + pixel * window.channels, width)

    def _taps(self, totals: Buffer, out_row: Expr, column: Expr, channel: Expr, width: int) -> None:
        window = self.spec.shape.window
        if window.kernel[0] * window.kernel[1] * self.spec.pixels <= UNROLLED_TAPS:
            for row in range(window.kernel[0]):
                self._window_row(totals, out_row, row, column, channel, width)
            return
        with self.code.kernel.loop(window.kernel[0]) as row:
            self._window_row(totals, out_row, row, column, channel, width)

    def _window_row(self, totals: Buffer, out_row: Expr, row: Expr, column: Expr, channel: Expr, width: int) -> None:
        window = self.spec.shape.window
        first = column * (window.strides[1] * window.channels) + channel
        start = self.code.kernel.let(self.code.rows.base(out_row, row) + first)
        for tap in range(window.kernel[1]):
            weight = self.code.weights.vector((row * window.kernel[1] + tap) * window.channels + channel, width)
            weight = self.code.kernel.let(weight)
            for pixel in range(self.spec.pixels):
                cell = pixel * window.strides[1] + tap * window.dilations[1]
                value = self.code.kernel.let(self.code.rows.data.vector(start + cell * window.channels, width))
                total = self._sum(totals.vector(pixel * width, width), weight, value, width)
                totals.store_vector(pixel * width, total, width)

    def _sum(self, total: Expr, weight: Expr, value: Expr, width: int) -> Expr:
        if not self.spec.machine.is_fused:
            return total + weight * value
        return fused_multiply_add(total, weight, value, width)

    def _finish(self, value: Expr, index: Expr, width: int) -> None:
        if self.code.residual is not None:
            value = value + self.code.residual.vector(index, width)
        self.code.y.store_vector(index, clamped(value, self.spec.clamp, width), width)
