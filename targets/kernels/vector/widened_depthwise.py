"""int8 depthwise convolutions for machines without the dot product: products of 16 bits, two at a time, widened to 32.

Two products of an int8 and a weight of -127..127 fit 16 bits, so they are added there (SMULL, SMLAL) before the sum is
widened and added to the accumulator (SADDW). Sixteen channels (or eight) and several pixels of a row are worked on at a
time; a column is loaded once for all windows that it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

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
from tinyopt.targets.kernels.requantize import Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, cast, lanes, minimum
from tinyopt.targets.kernels.vector.channel_blocks import ChannelBlocks, channel_blocks, write_blocks
from tinyopt.targets.kernels.vector.float_depthwise import (
    columns_of,
    depthwise_refusal,
    pixels_at_a_time,
    pixels_of_column,
)
from tinyopt.targets.kernels.vector.generic import vector_type
from tinyopt.targets.kernels.vector.integer_convolution import integer_refusal, residual_term
from tinyopt.targets.kernels.vector.integer_ending import ENDINGS, IntegerEnding, ResidualTerm
from tinyopt.targets.kernels.vector.rows import VECTOR_BYTES, RowPlan, Rows, plan_rows
from tinyopt.targets.kernels.vector.tile import Finished
from tinyopt.targets.kernels.vector.tiling import LANES
from tinyopt.targets.kernels.vector.window import window_of

WIDEST, NARROWEST = 16, 8  # channels of a block
MOST_PIXELS = 4
SMALLEST_PAIRED = -127  # weights from here on may be added in pairs

DepthwiseMethod = Literal["neon", "widened"]


@dataclass(frozen=True)
class WidenedDepthwiseSpec:
    """What the compiled function depends on. pairs: products are added in pairs before they are widened."""

    method: DepthwiseMethod
    rows: RowPlan
    blocks: ChannelBlocks
    pixels: int
    pairs: bool
    to: Requantization
    padding: int
    residual: ResidualTerm | None


def plan_neon_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one group for each channel, on 64-bit Arm without the dot product."""
    return _plan(node, "neon")


def plan_widened_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one group for each channel, on any LLVM target."""
    return _plan(node, "widened")


def _plan(node: Node, method: DepthwiseMethod) -> Kernel | Refusal:
    refusal = depthwise_refusal(node) or integer_refusal(node)
    if refusal is not None:
        return refusal
    weights, bias, multiplier = node.input(1), node.input(2), node.input(3)
    window = window_of(node, (weights.shape[1], weights.shape[2]))
    if isinstance(window, Refusal):
        return window
    blocks = channel_blocks(window.channels, WIDEST, NARROWEST)
    if blocks is None:
        return Refusal(f"{window.channels} channels do not fill a vector")
    rows = plan_rows(window, "int8", read_over_end=False)
    spec = WidenedDepthwiseSpec(
        method,
        rows,
        blocks,
        pixels_at_a_time(window, MOST_PIXELS),
        bool(weights.data.min() >= SMALLEST_PAIRED),
        Requantization.of(node),
        zero_point_of(node, node.input(0)),
        residual_term(node),
    )
    arguments: list[Argument] = [
        InputArgument(0),
        ConstantArgument("weight", weights.data.reshape(window.channels, -1).T.reshape(-1).copy()),  # KH * KW, C
        ConstantArgument("bias", bias.data.astype(np.int32)),
        ConstantArgument("multiplier", multiplier.data.astype(np.int32)),
    ]
    if spec.residual is not None:
        arguments.append(InputArgument(4))
    if not rows.is_in_place:
        arguments.append(ScratchArgument(rows.ring_bytes, VECTOR_BYTES))
    return Kernel(widened_depthwise, spec, f"depthwise_{method}", (*arguments, OutputArgument(0)))


def widened_depthwise(spec: WidenedDepthwiseSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `_plan`."""
    window = spec.rows.window
    outputs = window.out_height * window.out_width * window.channels
    kernel = KernelBuilder(f"depthwise_{spec.method}")
    with kernel.function():
        x = kernel.buffer("x", "int8", window.height * window.width * window.channels)
        weights = kernel.buffer("weights", "int8", window.kernel[0] * window.kernel[1] * window.channels)
        bias = kernel.buffer("bias", "int32", window.channels)
        multiplier = kernel.buffer("multiplier", "int32", window.channels)
        residual = kernel.buffer("residual", "int8", outputs) if spec.residual is not None else None
        ring = None if spec.rows.is_in_place else kernel.buffer("ring", "int8", spec.rows.ring_elements)
        y = kernel.buffer("y", "int8", outputs)
        rows = Rows(kernel, spec.rows, x, ring, spec.padding)
        ending = ENDINGS[spec.method](kernel, spec.to, spec.residual, multiplier, residual, y)
        _Writer(kernel, spec, rows, weights, bias, ending).write()
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
    rows: Rows
    weights: Buffer
    bias: Buffer
    ending: IntegerEnding

    def write(self) -> None:
        write_blocks(self.kernel, self.rows, self.spec.rows, self.spec.blocks, self._row)

    def _row(self, out_row: Expr, _number: Expr, channel: Expr, width: int) -> None:
        """One output row of one block of channels."""
        window, pixels = self.spec.rows.window, self.spec.pixels
        with self.kernel.loop(-(-window.out_width // pixels)) as step:
            column = self.kernel.let(minimum(step * pixels, window.out_width - pixels))
            totals = self.kernel.local("int32", pixels * width)
            for pixel in range(pixels):
                totals.store_vector(pixel * width, self.bias.vector(channel, width), width)
            with self.kernel.loop(window.kernel[0]) as row:
                self._window_row(totals, out_row, row, column, channel, width)
            index = self.kernel.let((out_row * window.out_width + column) * window.channels + channel)
            finished = [
                Finished(self._vectors(totals, pixel, width), channel, index + pixel * window.channels, width)
                for pixel in range(pixels)
            ]
            self.ending.write(finished)

    def _vectors(self, totals: Buffer, pixel: int, width: int) -> tuple[Expr, ...]:
        total = self.kernel.let(totals.vector(pixel * width, width))
        return tuple(lanes([total], range(v, v + LANES)) for v in range(0, width, LANES))

    def _window_row(self, totals: Buffer, out_row: Expr, row: Expr, column: Expr, channel: Expr, width: int) -> None:
        window, pixels = self.spec.rows.window, self.spec.pixels
        wide = vector_type("int16", width)
        first_tap = self.kernel.let(row * (window.kernel[1] * window.channels) + channel)
        weights = [
            self.kernel.let(cast(self.weights.vector(first_tap + tap * window.channels, width), wide))
            for tap in range(window.kernel[1])
        ]
        start = self.kernel.let(self.rows.base(out_row, row) + column * (window.strides[1] * window.channels) + channel)
        sums = _PairSums(self.kernel, totals, width, self.spec.pairs)
        for cell in range(columns_of(window, pixels)):
            readers = pixels_of_column(window, cell, pixels)
            if not readers:
                continue
            value = self.kernel.let(cast(self.rows.data.vector(start + cell * window.channels, width), wide))
            for pixel, tap in readers:
                sums.add(pixel, value * weights[tap])
        sums.finish()
