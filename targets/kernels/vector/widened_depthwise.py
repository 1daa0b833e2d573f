"""int8 depthwise convolutions for machines without the dot product: products of 16 bits, two at a time, widened to 32.

Two products of an int8 and a weight of -127..127 fit 16 bits, so they are added there (SMULL, SMLAL) before the sum is
widened and added to the accumulator (SADDW). Sixteen channels (or eight) and several pixels of a row are worked on at a
time; a column is loaded once for all windows that it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, cast, lanes
from tinyopt.targets.kernels.vector.channel_blocks import write_blocks
from tinyopt.targets.kernels.vector.depthwise import (
    DepthwiseShape,
    pixel_groups,
    pixels_at_a_time,
    plan_depthwise,
    shared_columns,
)
from tinyopt.targets.kernels.vector.generic import vector_type
from tinyopt.targets.kernels.vector.integer_ending import Method
from tinyopt.targets.kernels.vector.integer_layer import IntegerLayer, LayerCode, integer_refusal, layer_arguments
from tinyopt.targets.kernels.vector.tile import Finished
from tinyopt.targets.kernels.vector.tiling import LANES

WIDEST, NARROWEST = 16, 8  # channels of a block
MOST_PIXELS = 4
SMALLEST_PAIRED = -127  # weights from here on may be added in pairs


@dataclass(frozen=True)
class WidenedDepthwiseSpec:
    """What the compiled function depends on. pairs: products are added in pairs before they are widened."""

    shape: DepthwiseShape
    layer: IntegerLayer
    pixels: int
    pairs: bool


def plan_neon_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one group for each channel, on 64-bit Arm without the dot product."""
    return _plan(node, "neon")


def plan_widened_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one group for each channel, on any LLVM target."""
    return _plan(node, "widened")


def _plan(node: Node, method: Method) -> Kernel | Refusal:
    refusal = integer_refusal(node)
    if refusal is not None:
        return refusal
    shape = plan_depthwise(node, "int8", WIDEST, NARROWEST)
    if isinstance(shape, Refusal):
        return shape
    weights = node.input(1).data
    pixels = pixels_at_a_time(shape.window, MOST_PIXELS)
    spec = WidenedDepthwiseSpec(shape, IntegerLayer.of(node, method), pixels, bool(weights.min() >= SMALLEST_PAIRED))
    taps = weights.reshape(shape.window.channels, -1).T.reshape(-1).copy()  # KH * KW, C
    arguments = layer_arguments(node, shape.rows, taps, node.input(2).data, node.input(3).data)
    return Kernel(widened_depthwise, spec, f"depthwise_{method}", arguments)


def widened_depthwise(spec: WidenedDepthwiseSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `layer_arguments`."""
    shape = spec.shape
    kernel = KernelBuilder(f"depthwise_{spec.layer.method}")
    with kernel.function():
        code = spec.layer.declare(kernel, shape.rows, shape.taps, shape.window.channels, shape.outputs)
        _Writer(kernel, spec, code).write()
    return kernel.finish()


@dataclass
class _PairSums:
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
            with self.kernel.loop(window.kernel[0]) as row:
                self._window_row(totals, out_row, row, column, channel, width)
            index = self.kernel.let((out_row * window.out_width + column) * window.channels + channel)
            finished = [
                Finished(self._vectors(totals, pixel, width), channel, index + pixel * window.channels, width)
                for pixel in range(pixels)
            ]
            self.code.ending.write(finished)

    def _vectors(self, totals: Buffer, pixel: int, width: int) -> tuple[Expr, ...]:
        total = self.kernel.let(totals.vector(pixel * width, width))
        return tuple(lanes([total], range(v, v + LANES)) for v in range(0, width, LANES))

    def _window_row(self, totals: Buffer, out_row: Expr, row: Expr, column: Expr, channel: Expr, width: int) -> None:
        window, pixels = self.spec.shape.window, self.spec.pixels
        wide = vector_type("int16", width)
        first_tap = self.kernel.let(row * (window.kernel[1] * window.channels) + channel)
        weights = [
            self.kernel.let(cast(self.code.weights.vector(first_tap + tap * window.channels, width), wide))
            for tap in range(window.kernel[1])
        ]
        start = self.kernel.let(
            self.code.rows.base(out_row, row) + column * (window.strides[1] * window.channels) + channel
        )
        sums = _PairSums(self.kernel, totals, width, self.spec.pairs)
        for cell, readers in shared_columns(window, pixels):
            value = self.kernel.let(cast(self.code.rows.data.vector(start + cell * window.channels, width), wide))
            for pixel, tap in readers:
                sums.add(pixel, value * weights[tap])
        sums.finish()
