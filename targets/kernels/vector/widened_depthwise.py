"""int8 depthwise convolutions for machines without the dot product: products of 16 bits, two at a time, widened to 32.

Two products of an int8 and a weight of -127..127 fit 16 bits, so they are added there (SMULL, SMLAL) before the sum is
widened and added to the accumulator (SADDW). Sixteen channels (or eight) and several pixels of a row are worked on at a
time; a column is loaded once for all windows that it belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, cast, lanes
from tinyopt.targets.kernels.vector.channel_blocks import write_blocks
from tinyopt.targets.kernels.vector.depthwise import (
    DepthwiseShape,
    pixel_groups,
    plan_depthwise,
    shared_columns,
)
from tinyopt.targets.kernels.vector.generic import vector_type
from tinyopt.targets.kernels.vector.integer_layer import IntegerLayer, LayerCode, integer_refusal, layer_arguments
from tinyopt.targets.kernels.vector.tile_nest import Finished
from tinyopt.targets.kernels.vector.tiling import LANES
from tinyopt.targets.kernels.vector.window import Window

WIDEST, NARROWEST = 16, 8  # channels of a block
ACCUMULATED = 32  # int32 sums at a time, so that all weights of a 3 x 3 window stay in registers beside them
UNROLLED_TAPS = 49  # larger windows are walked row by row
SMALLEST_PAIRED = -127  # weights from here on may be added in pairs


@dataclass(frozen=True)
class WidenedDepthwiseSpec:
    """What the compiled function depends on. pairs: products are added in pairs before they are widened."""

    shape: DepthwiseShape
    layer: IntegerLayer
    pixels: int
    pairs: bool


def plan_widened_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one group for each channel, on any LLVM target."""
    refusal = integer_refusal(node)
    if refusal is not None:
        return refusal
    shape = plan_depthwise(node, "int8", WIDEST, NARROWEST)
    if isinstance(shape, Refusal):
        return shape
    weights = node.input(1).data
    pixels = pixels_at_a_time(shape.window, ACCUMULATED // shape.blocks.width)
    spec = WidenedDepthwiseSpec(shape, IntegerLayer.of(node, "widened"), pixels, bool(weights.min() >= SMALLEST_PAIRED))
    taps = weights.reshape(shape.window.channels, -1).T.reshape(-1).copy()  # KH * KW, C
    arguments = layer_arguments(node, shape.rows, taps, node.input(2).data, node.input(3).data)
    return Kernel(widened_depthwise, spec, "depthwise_widened", arguments)


def pixels_at_a_time(window: Window, most: int) -> int:
    """How many pixels, at most `most`, share the columns that they load, by a count of instructions."""
    taps = window.kernel[0] * window.kernel[1]
    per_pixel = 2 * taps + 4 * -(-taps // 2) + 14  # products, widening additions, requantization

    def instructions(pixels: int) -> int:
        loads = window.kernel[0] * len(shared_columns(window, pixels))
        return -(-window.out_width // pixels) * (loads + pixels * per_pixel + 3)

    return min(range(1, min(most, window.out_width) + 1), key=instructions)


def widened_depthwise(spec: WidenedDepthwiseSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `layer_arguments`."""
    shape = spec.shape
    kernel = KernelBuilder("depthwise_widened")
    with kernel.function():
        code = spec.layer.declare(kernel, shape.rows, shape.taps, shape.window.channels, shape.outputs)
        _Writer(kernel, spec, code).write()
    return kernel.finish()


@dataclass
class PairSums:
    """Adds 16-bit products to the 32-bit accumulators of some pixels, where it can two at a time."""

    kernel: KernelBuilder
    totals: Buffer
    width: int
    pairs: bool
    waiting: dict[int, Expr] = field(default_factory=dict[int, Expr])

    def add(self, pixel: int, product: Expr) -> None:
        if pixel in self.waiting:
            self._widen(pixel, self.waiting.pop(pixel) + product)
        elif self.pairs:
            self.waiting[pixel] = self.kernel.let(product)
        else:
            self._widen(pixel, product)

    def finish(self) -> None:
        """Add the products that found no second one."""
        for pixel, product in self.waiting.items():
            self._widen(pixel, product)
        self.waiting.clear()

    def _widen(self, pixel: int, product: Expr) -> None:
        place = pixel * self.width
        wide = cast(product, vector_type("int32", self.width))
        self.totals.store_vector(place, self.totals.vector(place, self.width) + wide, self.width)


@dataclass(frozen=True)
class _Writer:
    """Writes the loops."""

    kernel: KernelBuilder
    spec: WidenedDepthwiseSpec
    code: LayerCode

    def write(self) -> None:
        write_blocks(self.kernel, self.code.rows, self.spec.shape.rows, self.spec.shape.blocks, self._row)

    def _row(self, out_row: Expr, _number: Expr, channel: Expr, width: int) -> None:
        """One output row of one block of channels."""
        window, pixels = self.spec.shape.window, self.spec.pixels
        with pixel_groups(self.kernel, window, pixels) as column:
            totals = self.kernel.local("int32", pixels * width)
            for pixel in range(pixels):
                totals.store_vector(pixel * width, self.code.bias.vector(channel, width), width)
            if window.kernel[0] * window.kernel[1] <= UNROLLED_TAPS:
                self._window_rows(totals, out_row, range(window.kernel[0]), column, channel, width)
            else:
                with self.kernel.loop(window.kernel[0]) as row:
                    self._window_rows(totals, out_row, [row], column, channel, width)
            index = self.kernel.let((out_row * window.out_width + column) * window.channels + channel)
            finished = [
                Finished(self._vectors(totals, pixel, width), channel, index + pixel * window.channels, width)
                for pixel in range(pixels)
            ]
            self.code.ending.write(finished)

    def _vectors(self, totals: Buffer, pixel: int, width: int) -> tuple[Expr, ...]:
        total = self.kernel.let(totals.vector(pixel * width, width))
        return tuple(lanes([total], range(v, v + LANES)) for v in range(0, width, LANES))

    def _window_rows(
        self, totals: Buffer, out_row: Expr, rows: Sequence[Expr], column: Expr, channel: Expr, width: int
    ) -> None:
        """Add the products of some rows of the windows."""
        window = self.spec.shape.window
        first_cell = column * (window.strides[1] * window.channels) + channel
        sums = PairSums(self.kernel, totals, width, self.spec.pairs)
        for row in rows:
            first_tap = self.kernel.let(row * (window.kernel[1] * window.channels) + channel)
            weights = [
                self._widened(self.code.weights, first_tap + tap * window.channels, width)
                for tap in range(window.kernel[1])
            ]
            start = self.kernel.let(self.code.rows.base(out_row, row) + first_cell)
            for cell, readers in shared_columns(window, self.spec.pixels):
                value = self._widened(self.code.rows.data, start + cell * window.channels, width)
                for pixel, tap in readers:
                    sums.add(pixel, value * weights[tap])
        sums.finish()

    def _widened(self, data: Buffer, start: Expr, width: int) -> Expr:
        """`width` int8 as int16."""
        return self.kernel.let(cast(data.vector(start, width), vector_type("int16", width)))
