"""float32 depthwise convolutions: four channels to a vector, several pixels of a row at a time.

for each row of the window, each column that the pixels reach:
    load the column once; for each pixel p that it belongs to: accumulator[p] += column * weights[row][column - p]
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import (
    Argument,
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Refusal,
    ScratchArgument,
)
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, minimum
from tinyopt.targets.kernels.vector.channel_blocks import ChannelBlocks, channel_blocks, write_blocks
from tinyopt.targets.kernels.vector.float_convolution import bias_of, float_refusal, fused_multiply_add
from tinyopt.targets.kernels.vector.float_ending import Clamp, clamped
from tinyopt.targets.kernels.vector.rows import VECTOR_BYTES, RowPlan, Rows, plan_rows
from tinyopt.targets.kernels.vector.tiling import LANES
from tinyopt.targets.kernels.vector.window import Window, window_of

UNROLLED_TAPS = 128  # windows with up to so many products are written out without a loop over their rows
MOST_PIXELS = 8


@dataclass(frozen=True)
class FloatDepthwiseSpec:
    """What the compiled function depends on. pixels: how many of a row are worked on at a time."""

    rows: RowPlan
    blocks: ChannelBlocks
    pixels: int
    clamp: Clamp
    has_residual: bool


def plan_float_depthwise(node: Node) -> Kernel | Refusal:
    """Conv with one group for each channel."""
    weights = node.input(1)
    refusal = depthwise_refusal(node) or float_refusal(node, weights, node.optional_input(2))
    if refusal is not None:
        return refusal
    window = window_of(node, (weights.shape[1], weights.shape[2]))
    if isinstance(window, Refusal):
        return window
    blocks = channel_blocks(window.channels, LANES, LANES)
    if blocks is None:
        return Refusal(f"{window.channels} channels do not fill a vector")
    rows = plan_rows(window, "float32", read_over_end=False)
    residual = node.optional_input(3)
    taps = weights.data.reshape(window.channels, -1).T  # KH * KW, C
    arguments: list[Argument] = [
        InputArgument(0),
        ConstantArgument("weight", taps.reshape(-1).copy()),
        ConstantArgument("bias", bias_of(node, window.channels)),
    ]
    if residual is not None:
        arguments.append(InputArgument(3))
    if not rows.is_in_place:
        arguments.append(ScratchArgument(rows.ring_bytes, VECTOR_BYTES))
    spec = FloatDepthwiseSpec(rows, blocks, pixels_at_a_time(window, MOST_PIXELS), Clamp.of(node), residual is not None)
    return Kernel(float_depthwise, spec, "depthwise_vector", (*arguments, OutputArgument(0)))


def depthwise_refusal(node: Node) -> Refusal | None:
    """Why a convolution is not depthwise in the sense of these kernels."""
    channels, weights = node.input(0).shape[3], node.input(1)
    if node.int("group") != channels or weights.shape[0] != channels:
        return Refusal("not one group and one output for each channel")
    return None


def pixels_at_a_time(window: Window, most: int) -> int:
    """How many pixels, at most `most`, share the columns that they load, by a count of instructions."""
    taps = window.kernel[0] * window.kernel[1]
    reach = (window.kernel[1] - 1) * window.dilations[1] + 1

    def instructions(pixels: int) -> int:
        columns = (pixels - 1) * window.strides[1] + reach
        steps = -(-window.out_width // pixels)
        return steps * (16 + 2 * columns * window.kernel[0] + pixels * (taps + 8))

    return min(range(1, min(most, window.out_width) + 1), key=instructions)


def pixels_of_column(window: Window, column: int, pixels: int) -> list[tuple[int, int]]:
    """(pixel, tap of its window row) for each pixel of a group that a column, counted from the first, belongs to."""
    found: list[tuple[int, int]] = []
    for pixel in range(pixels):
        tap, between = divmod(column - pixel * window.strides[1], window.dilations[1])
        if not between and 0 <= tap < window.kernel[1]:
            found.append((pixel, tap))
    return found


def columns_of(window: Window, pixels: int) -> int:
    """How many columns a group of neighbouring pixels reaches."""
    return (pixels - 1) * window.strides[1] + (window.kernel[1] - 1) * window.dilations[1] + 1


def float_depthwise(spec: FloatDepthwiseSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `plan_float_depthwise`."""
    window = spec.rows.window
    outputs = window.out_height * window.out_width * window.channels
    kernel = KernelBuilder("depthwise_vector")
    with kernel.function():
        x = kernel.buffer("x", "float32", window.height * window.width * window.channels)
        weights = kernel.buffer("weights", "float32", window.kernel[0] * window.kernel[1] * window.channels)
        bias = kernel.buffer("bias", "float32", window.channels)
        residual = kernel.buffer("residual", "float32", outputs) if spec.has_residual else None
        ring = None if spec.rows.is_in_place else kernel.buffer("ring", "float32", spec.rows.ring_elements)
        y = kernel.buffer("y", "float32", outputs)
        rows = Rows(kernel, spec.rows, x, ring, 0)
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
        write_blocks(self.kernel, self.rows, self.spec.rows, self.spec.blocks, self._row)

    def _row(self, out_row: Expr, _number: Expr, channel: Expr, _width: int) -> None:
        """One output row of one block of channels."""
        window, pixels = self.spec.rows.window, self.spec.pixels
        with self.kernel.loop(-(-window.out_width // pixels)) as step:
            column = self.kernel.let(minimum(step * pixels, window.out_width - pixels))
            totals = self.kernel.local("float32", pixels * LANES)
            for pixel in range(pixels):
                totals.store_vector(pixel * LANES, self.bias.vector(channel, LANES), LANES)
            self._taps(totals, out_row, column, channel)
            index = self.kernel.let((out_row * window.out_width + column) * window.channels + channel)
            for pixel in range(pixels):
                self._finish(totals.vector(pixel * LANES, LANES), index + pixel * window.channels)

    def _taps(self, totals: Buffer, out_row: Expr, column: Expr, channel: Expr) -> None:
        window = self.spec.rows.window
        if window.kernel[0] * window.kernel[1] * self.spec.pixels <= UNROLLED_TAPS:
            for row in range(window.kernel[0]):
                self._window_row(totals, out_row, row, column, channel)
            return
        with self.kernel.loop(window.kernel[0]) as row:
            self._window_row(totals, out_row, row, column, channel)

    def _window_row(self, totals: Buffer, out_row: Expr, row: Expr, column: Expr, channel: Expr) -> None:
        window, pixels = self.spec.rows.window, self.spec.pixels
        first_tap = row * (window.kernel[1] * window.channels) + channel
        weights = [
            self.kernel.let(self.weights.vector(first_tap + tap * window.channels, LANES))
            for tap in range(window.kernel[1])
        ]
        first = column * (window.strides[1] * window.channels) + channel
        start = self.kernel.let(self.rows.base(out_row, row) + first)
        for cell in range(columns_of(window, pixels)):
            readers = pixels_of_column(window, cell, pixels)
            if not readers:
                continue
            value = self.kernel.let(self.rows.data.vector(start + cell * window.channels, LANES))
            for pixel, tap in readers:
                total = fused_multiply_add(totals.vector(pixel * LANES, LANES), weights[tap], value)
                totals.store_vector(pixel * LANES, total, LANES)

    def _finish(self, value: Expr, index: Expr) -> None:
        if self.residual is not None:
            value = value + self.residual.vector(index, LANES)
        self.y.store_vector(index, clamped(value, self.spec.clamp, LANES), LANES)
