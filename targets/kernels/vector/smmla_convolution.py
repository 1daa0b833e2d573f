"""int8 convolutions and dense layers on the matrix product of Armv8.6's I8MM extension (SMMLA).

for each output row, tile of pixels:
    lay the pixels out in pairs, unless the row is laid out already
    for each tile of channels:
        accumulators = bias
        for each step of eight values:
            accumulators[pair of pixels][pair of channels] += image[step][pair] * weights[step][pair]
        requantize, store
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, minimum
from tinyopt.targets.kernels.vector.integer_ending import IntegerEnding
from tinyopt.targets.kernels.vector.integer_layer import IntegerLayer, integer_refusal, layer_arguments
from tinyopt.targets.kernels.vector.neon import smmla
from tinyopt.targets.kernels.vector.pointwise import plan_pointwise
from tinyopt.targets.kernels.vector.rows import RowPlan, plan_rows
from tinyopt.targets.kernels.vector.smmla_ending import FinishedPair, twice, write_pairs
from tinyopt.targets.kernels.vector.smmla_image import PairedImage, declare_image, image_scratch
from tinyopt.targets.kernels.vector.smmla_tiling import (
    DEPTH,
    OPERAND,
    Layout,
    PairTileSpec,
    choose_pair_tile,
    is_single_run,
    pack_pair_weights,
    pad_channels,
)
from tinyopt.targets.kernels.vector.tiling import choose_tile, tile_instructions
from tinyopt.targets.kernels.vector.window import Window, dense_window, ungrouped_window

UNROLLED_PRODUCTS = 320  # windows with up to so many products per tile are written out without a loop
STEPS_AT_A_TIME = 4


@dataclass(frozen=True)
class PairedConvolutionSpec:
    """What the compiled function depends on."""

    tile: PairTileSpec
    layer: IntegerLayer


def plan_smmla_convolution(node: Node) -> Kernel | Refusal:
    """QConv without groups."""
    window = ungrouped_window(node)
    if isinstance(window, Refusal):
        return window
    if window.is_pointwise:
        return _plan_pointwise(node, window.flattened(), "conv_smmla")
    return _plan(node, window, "conv_smmla")


def plan_smmla_dense(node: Node) -> Kernel | Refusal:
    """QDense."""
    return _plan_pointwise(node, dense_window(node), "dense_smmla")


def _plan_pointwise(node: Node, window: Window, name: str) -> Kernel | Refusal:
    plan = plan_pointwise(node, window, "smmla")
    if isinstance(plan, Refusal) or node.output.dtype != "int8":
        return _plan(node, window, name)
    return _refusal(node, window, plan.instructions) or plan.kernel(node, name)


def _plan(node: Node, window: Window, name: str) -> Kernel | Refusal:
    refusal = integer_refusal(node)
    if refusal is not None:
        return refusal
    if node.output.dtype != "int8":
        return Refusal("an output that is not int8")
    if window.out_width < 2:
        return Refusal("one pixel in a row: the matrix product takes two")
    weights, bias, multiplier = node.input(1), node.input(2), node.input(3)
    layer = IntegerLayer.of(node, "smmla")
    choices = [choose_pair_tile(*where, weights.shape[0], layer.residual is not None) for where in _layouts(window)]
    if not choices:
        return Refusal("too few channels in a row of the window")
    tile, count = min(choices, key=lambda choice: choice[1])
    refusal = _refusal(node, window, count)
    if refusal is not None:
        return refusal
    arguments = layer_arguments(
        node,
        tile.rows,
        pack_pair_weights(weights.data, tile),
        pad_channels(bias.data, tile),
        pad_channels(multiplier.data, tile),
    )
    return Kernel(smmla_convolution, PairedConvolutionSpec(tile, layer), name, (*arguments, *image_scratch(tile)))


def _layouts(window: Window) -> Iterator[tuple[RowPlan, Layout]]:
    """Where the rows are read, and how the image is laid out from them."""
    if is_single_run(window):
        if window.channels * window.kernel[1] >= DEPTH:
            yield plan_rows(window, "int8", read_over_end=False), "block"
    else:
        yield plan_rows(window, "int8", read_over_end=True), "block"
    if window.channels >= DEPTH and window.kernel != (1, 1):
        yield RowPlan(window, "int8", 0), "cells"


def smmla_convolution(spec: PairedConvolutionSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `layer_arguments`, then as in `image_scratch`."""
    tile, window = spec.tile, spec.tile.window
    kernel = KernelBuilder("conv_smmla")
    with kernel.function():
        outputs = window.out_height * window.out_width * tile.out_channels
        weights = sum(channels for _, channels in tile.tiles) * tile.steps * DEPTH
        code = spec.layer.declare(kernel, tile.rows, weights, tile.padded_channels, outputs)
        image = declare_image(kernel, tile, code.rows, spec.layer.padding)
        _Writer(kernel, tile, image, code.weights, code.bias, code.ending).write()
    return kernel.finish()


@dataclass(frozen=True)
class _Writer:
    """Writes the loops."""

    kernel: KernelBuilder
    spec: PairTileSpec
    image: PairedImage
    weights: Buffer
    bias: Buffer
    ending: IntegerEnding

    def write(self) -> None:
        spec, window = self.spec, self.spec.window
        self.image.prepare()
        with self.kernel.loop(window.out_height) as out_row:
            self.image.advance(out_row)
            with self.kernel.loop(-(-window.out_width // spec.pixels)) as step:
                column = self.kernel.let(minimum(step * spec.pixels, window.out_width - spec.pixels))
                self.image.bring(out_row, column)
                if spec.whole_tiles:
                    with self.kernel.loop(spec.whole_tiles) as tile:
                        self._tile(out_row, column, tile, tile * spec.channels, spec.channels)
                if spec.last_channels:
                    start = spec.whole_tiles * spec.channels
                    self._tile(out_row, column, spec.whole_tiles, start, spec.last_channels)

    def _tile(self, out_row: Expr, column: Expr, tile: Expr, channel: Expr, channels: int) -> None:
        spec, window = self.spec, self.spec.window
        first_weight = self.kernel.let(tile * (spec.channels * spec.steps * DEPTH))
        if spec.overlaps:
            channel = self.kernel.let(minimum(channel, spec.out_channels - spec.channels))
        couples = channels // 2
        accumulators = self.kernel.local("int32", spec.pairs * couples * 4)
        for couple, first in enumerate(twice(self.ending, self.bias, channel, channels)):
            for pair in range(spec.pairs):
                accumulators.store_vector((pair * couples + couple) * 4, first, 4)
        self._window(accumulators, out_row, column, first_weight, channels)
        valid = min(channels, spec.out_channels - channel) if isinstance(channel, int) else channels
        index = self.kernel.let((out_row * window.out_width + column) * spec.out_channels + channel)
        pairs = [
            FinishedPair(
                tuple(accumulators.vector((pair * couples + couple) * 4, 4) for couple in range(couples)),
                (index + 2 * pair * spec.out_channels, index + (2 * pair + 1) * spec.out_channels),
                valid,
            )
            for pair in range(spec.pairs)
        ]
        write_pairs(self.ending, pairs, channel, channels)

    def _window(self, accumulators: Buffer, out_row: Expr, column: Expr, first_weight: Expr, channels: int) -> None:
        """Add the products of one window for each pixel."""
        spec = self.spec
        rows, row_runs = spec.runs

        def run(row: Expr, run_in_row: Expr) -> None:
            start = self.kernel.let(self.image.run_start(out_row, column, row, run_in_row))
            weight = first_weight + (row * row_runs + run_in_row) * (spec.run_steps * channels * DEPTH)
            self._run(accumulators, start, self.kernel.let(weight), channels)

        if rows * row_runs * self._written_steps * spec.pairs * channels // 2 <= UNROLLED_PRODUCTS:
            for row in range(rows):
                for run_in_row in range(row_runs):
                    run(row, run_in_row)
            return
        with self.kernel.loop(rows) as row, self.kernel.loop(row_runs) as run_in_row:
            run(row, run_in_row)

    @property
    def _written_steps(self) -> int:
        """Steps of a run that appear in the code."""
        steps = self.spec.run_steps
        return steps if steps < 2 * STEPS_AT_A_TIME else STEPS_AT_A_TIME + steps % STEPS_AT_A_TIME

    def _run(self, accumulators: Buffer, start: Expr, weight: Expr, channels: int) -> None:
        """Add the products of one run, whose operands begin at `start` for the tile's first pair."""
        steps, done = self.spec.run_steps, 0
        if steps >= 2 * STEPS_AT_A_TIME:
            done = steps // STEPS_AT_A_TIME * STEPS_AT_A_TIME
            with self.kernel.loop(steps // STEPS_AT_A_TIME) as group:
                first = group * STEPS_AT_A_TIME
                for step in range(STEPS_AT_A_TIME):
                    self._step(accumulators, start, weight, first + step, channels)
        for step in range(done, steps):
            self._step(accumulators, start, weight, step, channels)

    def _step(self, accumulators: Buffer, start: Expr, weight: Expr, step: Expr, channels: int) -> None:
        """Add the products of eight values of the window, for all pairs of pixels and of channels."""
        image, couples = self.image, channels // 2
        first_pair = start + step * image.step_stride
        first_couple = weight + step * (channels * DEPTH)
        pairs = [
            self.kernel.let(image.data.vector(first_pair + pair * image.pair_stride, OPERAND))
            for pair in range(self.spec.pairs)
        ]
        for couple in range(couples):
            vector = self.kernel.let(self.weights.vector(first_couple + couple * OPERAND, OPERAND))
            for number, pair in enumerate(pairs):
                place = (number * couples + couple) * 4
                accumulators.store_vector(place, smmla(accumulators.vector(place, 4), pair, vector), 4)


def _refusal(node: Node, window: Window, count: float) -> Refusal | None:
    """Where the dot product takes fewer instructions than `count`."""
    others = _sdot_instructions(window, node.output.shape[-1], node.optional_input(4) is not None)
    if count <= others:
        return None
    return Refusal(f"about {count:.0f} instructions, the dot product takes about {others:.0f}")


def _sdot_instructions(window: Window, out_channels: int, has_residual: bool) -> float:
    """What the dot product's kernel takes, by its own count."""
    run = window.channels * (window.kernel[1] if window.dilations[1] == 1 else 1)
    rows = plan_rows(window, "int8", read_over_end=run % 4 != 0)
    return tile_instructions(choose_tile(rows, out_channels, 4, has_residual))
