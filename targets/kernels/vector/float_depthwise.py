"""float32 depthwise convolutions: four channels to a vector, several pixels of a row at a time.

for each row of the window, each column that the pixels reach:
    load the column once; for each pixel p that it belongs to: accumulator[p] += column * weights[row][column - p]
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import ConstantArgument, Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc
from tinyopt.targets.kernels.vector.channel_blocks import write_blocks
from tinyopt.targets.kernels.vector.depthwise import (
    DepthwiseShape,
    pixel_groups,
    pixels_at_a_time,
    plan_depthwise,
    shared_columns,
)
from tinyopt.targets.kernels.vector.float_convolution import bias_of, float_refusal, fused_multiply_add
from tinyopt.targets.kernels.vector.float_ending import Clamp, clamped
from tinyopt.targets.kernels.vector.rows import Rows, declare_rows, row_arguments
from tinyopt.targets.kernels.vector.tiling import LANES

UNROLLED_TAPS = 128  # windows with up to so many products are written out without a loop over their rows
MOST_PIXELS = 8


@dataclass(frozen=True)
class FloatDepthwiseSpec:
    """What the compiled function depends on. pixels: how many of a row are worked on at a time."""

    shape: DepthwiseShape
    pixels: int
    clamp: Clamp
    has_residual: bool


def plan_float_depthwise(node: Node) -> Kernel | Refusal:
    """Conv with one group for each channel."""
    weights, residual = node.input(1), node.optional_input(3)
    refusal = float_refusal(node, weights, node.optional_input(2))
    if refusal is not None:
        return refusal
    shape = plan_depthwise(node, "float32", LANES, LANES)
    if isinstance(shape, Refusal):
        return shape
    channels = shape.window.channels
    constants = (
        ConstantArgument("weight", weights.data.reshape(channels, -1).T.reshape(-1).copy()),  # KH * KW, C
        ConstantArgument("bias", bias_of(node, channels)),
    )
    pixels = pixels_at_a_time(shape.window, MOST_PIXELS)
    spec = FloatDepthwiseSpec(shape, pixels, Clamp.of(node), residual is not None)
    arguments = row_arguments(shape.rows, constants, None if residual is None else 3)
    return Kernel(float_depthwise, spec, "depthwise_vector", arguments)


def float_depthwise(spec: FloatDepthwiseSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `plan_float_depthwise`."""
    shape, window = spec.shape, spec.shape.window
    kernel = KernelBuilder("depthwise_vector")
    with kernel.function():
        x = kernel.buffer("x", "float32", window.input_elements)
        weights = kernel.buffer("weights", "float32", shape.taps)
        bias = kernel.buffer("bias", "float32", window.channels)
        residual = kernel.buffer("residual", "float32", shape.outputs) if spec.has_residual else None
        rows = declare_rows(kernel, shape.rows, x, 0)
        y = kernel.buffer("y", "float32", shape.outputs)
        _Writer(kernel, spec, rows, weights, bias, residual, y).write()
    return kernel.finish()


@dataclass(frozen=True)
class _Writer:
    """Writes the loops."""

    kernel: KernelBuilder
    spec: FloatDepthwiseSpec
    rows: Rows
    weights: Buffer
    bias: Buffer
    residual: Buffer | None
    y: Buffer

    def write(self) -> None:
        write_blocks(self.kernel, self.rows, self.spec.shape.rows, self.spec.shape.blocks, self._row)

    def _row(self, out_row: Expr, _number: Expr, channel: Expr, _width: int) -> None:
        """One output row of one block of channels."""
        window, pixels = self.spec.shape.window, self.spec.pixels
        with pixel_groups(self.kernel, window, pixels) as column:
            totals = self.kernel.local("float32", pixels * LANES)
            for pixel in range(pixels):
                totals.store_vector(pixel * LANES, self.bias.vector(channel, LANES), LANES)
            self._taps(totals, out_row, column, channel)
            index = self.kernel.let((out_row * window.out_width + column) * window.channels + channel)
            for pixel in range(pixels):
                self._finish(totals.vector(pixel * LANES, LANES), index + pixel * window.channels)

    def _taps(self, totals: Buffer, out_row: Expr, column: Expr, channel: Expr) -> None:
        window = self.spec.shape.window
        if window.kernel[0] * window.kernel[1] * self.spec.pixels <= UNROLLED_TAPS:
            for row in range(window.kernel[0]):
                self._window_row(totals, out_row, row, column, channel)
            return
        with self.kernel.loop(window.kernel[0]) as row:
            self._window_row(totals, out_row, row, column, channel)

    def _window_row(self, totals: Buffer, out_row: Expr, row: Expr, column: Expr, channel: Expr) -> None:
        window, pixels = self.spec.shape.window, self.spec.pixels
        first_tap = row * (window.kernel[1] * window.channels) + channel
        weights = [
            self.kernel.let(self.weights.vector(first_tap + tap * window.channels, LANES))
            for tap in range(window.kernel[1])
        ]
        first = column * (window.strides[1] * window.channels) + channel
        start = self.kernel.let(self.rows.base(out_row, row) + first)
        for cell, readers in shared_columns(window, pixels):
            value = self.kernel.let(self.rows.data.vector(start + cell * window.channels, LANES))
            for pixel, tap in readers:
                total = fused_multiply_add(totals.vector(pixel * LANES, LANES), weights[tap], value)
                totals.store_vector(pixel * LANES, total, LANES)

    def _finish(self, value: Expr, index: Expr) -> None:
        if self.residual is not None:
            value = value + self.residual.vector(index, LANES)
        self.y.store_vector(index, clamped(value, self.spec.clamp, LANES), LANES)
