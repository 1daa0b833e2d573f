"""Float convolutions of 3 x 3 windows by Winograd's minimal filtering: fewer products, at the price of transforms.

    for each strip of the image, each block of tiles in it:
        inputs[position][tile][channel] = B^T (cells of the tile) B
        for each tile of output channels:
            products[position][tile][channel] = inputs[position] x weights[position]    a matrix product per position
            output pixels of the tile = A^T products A + bias, then residual and clamp

F(2x2, 3x3) takes 4/9 of a direct convolution's products and F(4x4, 3x3) a quarter; the planner counts what the
transforms add and refuses where the direct kernel is cheaper. Weights are transformed at compile time, in float64.
Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308.

Exactness: equal in real arithmetic; in float32 the outputs differ from those of the direct sum by rounding: by up to
1.3e-5 of the largest output in a grid of 210 shapes. In float16 there is F(2x2, 3x3) only, which stays within what the
direct sum loses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import ConstantArgument, Kernel, Refusal, ScratchArgument
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, broadcast, lanes, minimum
from tinyopt.targets.kernels.vector.channel_blocks import channel_blocks, for_each_block
from tinyopt.targets.kernels.vector.float_convolution import bias_of, float_refusal
from tinyopt.targets.kernels.vector.float_ending import Clamp, clamped
from tinyopt.targets.kernels.vector.machine import float_vectors
from tinyopt.targets.kernels.vector.rows import VECTOR_BYTES, Rows, declare_rows, plan_rows, row_arguments
from tinyopt.targets.kernels.vector.tiling import choose_tile, tile_instructions
from tinyopt.targets.kernels.vector.window import window_of
from tinyopt.targets.kernels.vector.winograd_tiling import WinogradSpec, winograd_instructions, winograd_specs
from tinyopt.targets.kernels.vector.winograd_transforms import (
    BIAS_POSITION,
    TAPS,
    TRANSFORMS,
    Vectors,
    transformed,
    transformed_filters,
)

MOST_OF_DIRECT = 0.9  # of the direct kernel's instructions: what saves less is not worth up to four times the weights

_Accumulate: TypeAlias = Callable[[Buffer, int, Expr, Expr], None]  # (sums, place, weights, factor)


@dataclass(frozen=True)
class WinogradKernelSpec:
    """What the compiled function depends on."""

    tiling: WinogradSpec
    clamp: Clamp


def plan_winograd(node: Node) -> Kernel | Refusal:
    """Conv without groups, 3 x 3, stride 1, where the transforms cost less than the products that they save."""
    weights, residual, machine = node.input(1), node.optional_input(3), float_vectors(node)
    if node.int("group") != 1:
        return Refusal("groups: Winograd takes one group")
    if weights.shape[1:3] != (TAPS, TAPS) or node.ints("strides") != (1, 1) or node.ints("dilations") != (1, 1):
        return Refusal("not 3 x 3 with stride 1")
    refusal = float_refusal(node, weights, node.optional_input(2), machine.element)
    if refusal is not None:
        return refusal
    window = window_of(node, (TAPS, TAPS))
    if isinstance(window, Refusal):
        return window
    if min(window.channels, weights.shape[0]) < machine.lanes:
        return Refusal("fewer channels than a vector has lanes")
    specs = winograd_specs(window, weights.shape[0], residual is not None, machine)
    spec = min(specs, key=winograd_instructions, default=None)
    if spec is None:
        return Refusal("no block of tiles fits")
    rows = plan_rows(window, machine.element, read_over_end=False)
    direct = choose_tile(rows, weights.shape[0], 1, residual is not None, machine)
    if winograd_instructions(spec) > MOST_OF_DIRECT * tile_instructions(direct):
        return Refusal("Winograd saves too little")
    return winograd_kernel(node, spec)


def winograd_kernel(node: Node, spec: WinogradSpec) -> Kernel:
    """The kernel for a convolution that is cut into `spec`."""
    weights, residual = node.input(1), node.optional_input(3)
    constants = (
        ConstantArgument("weight", pack_filters(weights.data, spec)),
        ConstantArgument("bias", bias_of(node, weights.shape[0])),
    )
    first, *others = row_arguments(spec.rows, constants, None if residual is None else 3)
    arguments = (first, ScratchArgument(spec.scratch_bytes, VECTOR_BYTES), *others)
    return Kernel(winograd, WinogradKernelSpec(spec, Clamp.of(node)), "conv_winograd", arguments)


def pack_filters(weights: Array, spec: WinogradSpec) -> Array:
    """[O, 3, 3, I] filters, transformed, as [tile of channels][position][I][channel of the tile], flat."""
    filters = transformed_filters(weights, spec.outputs).astype(spec.element)
    positions = filters.reshape(spec.positions, spec.window.channels, spec.out_channels)
    tiles = [positions[:, :, first : first + width].reshape(-1) for first, width in spec.channel_tiles]
    return np.ascontiguousarray(np.concatenate(tiles))


def winograd(spec: WinogradKernelSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `plan_winograd`."""
    tiling, window = spec.tiling, spec.tiling.window
    outputs = window.out_height * window.out_width * tiling.out_channels
    element = tiling.element
    kernel = KernelBuilder("conv_winograd")
    with kernel.function():
        x = kernel.buffer("x", element, window.input_elements)
        scratch = kernel.buffer("scratch", element, tiling.input_elements + tiling.product_elements)
        weights = kernel.buffer("weights", element, tiling.weight_elements)
        bias = kernel.buffer("bias", element, tiling.out_channels)
        residual = kernel.buffer("residual", element, outputs) if tiling.has_residual else None
        rows = declare_rows(kernel, tiling.rows, x, 0)
        y = kernel.buffer("y", element, outputs)
        _Writer(kernel, spec, rows, scratch, weights, bias, residual, y).write()
    return kernel.finish()


@dataclass(frozen=True)
class _Block:
    """Where a block of tiles lies: the strip, and the first column of tiles."""

    strip: Expr
    first_column: Expr


@dataclass(frozen=True)
class _ChannelTile:
    """A tile of output channels. first: the first of them. weight: where its weights begin."""

    first: Expr
    width: int
    weight: Expr


@dataclass(frozen=True)
class _Writer:
    """Writes the loops."""

    kernel: KernelBuilder
    spec: WinogradKernelSpec
    rows: Rows
    scratch: Buffer  # transformed inputs, then products
    weights: Buffer
    bias: Buffer
    residual: Buffer | None
    y: Buffer

    @property
    def _vectors(self) -> Vectors:
        return Vectors(self.kernel, self.spec.tiling.lanes, self.spec.tiling.element)

    def write(self) -> None:
        tiling = self.spec.tiling
        self.rows.prepare()
        with self.kernel.loop(tiling.strips) as strip:
            self.rows.advance(strip)
            with self.kernel.loop(tiling.blocks_in_strip) as number:
                block = _Block(strip, number * tiling.tiles[1])
                self._transform_inputs(block)
                self._channel_tiles(block)

    def _channel_tiles(self, block: _Block) -> None:
        """A loop over the whole tiles of output channels, then the narrower last one."""
        tiling = self.spec.tiling
        whole, depth = tiling.out_channels // tiling.channels, tiling.positions * tiling.window.channels
        with self.kernel.loop(whole) as number:
            first = number * tiling.channels
            self._channel_tile(block, _ChannelTile(first, tiling.channels, first * depth))
        if len(tiling.channel_tiles) > whole:
            first, width = tiling.channel_tiles[-1]
            self._channel_tile(block, _ChannelTile(first, width, whole * tiling.channels * depth))

    def _channel_tile(self, block: _Block, channels: _ChannelTile) -> None:
        tiling = self.spec.tiling
        steps = -(-tiling.block_tiles // tiling.pixels)
        with self.kernel.loop(tiling.positions) as position, self.kernel.loop(steps) as step:
            first = self.kernel.let(minimum(step * tiling.pixels, tiling.block_tiles - tiling.pixels))
            self._product(position, first, channels)
        self._transform_outputs(block, channels)

    def _column(self, block: _Block, tile: Expr) -> Expr:
        """The first output column of a tile of the block; the last tile of a row may overlap the one before it."""
        tiling = self.spec.tiling
        column = (block.first_column + tile) * tiling.outputs
        return self.kernel.let(minimum(column, tiling.window.out_width - tiling.outputs))

    def _transform_inputs(self, block: _Block) -> None:
        tiling, channels = self.spec.tiling, self.spec.tiling.window.channels
        blocks = channel_blocks(channels, tiling.lanes, tiling.lanes)
        assert not isinstance(blocks, Refusal)
        with self.kernel.loop(tiling.tiles[0]) as tile_row:
            starts = [
                self.kernel.let(self.rows.base(block.strip, tile_row * tiling.outputs + row))
                for row in range(tiling.cells)
            ]
            with self.kernel.loop(tiling.tiles[1]) as tile_column:
                cell = self.kernel.let(self._column(block, tile_column) * channels)
                to = self.kernel.let((tile_row * tiling.tiles[1] + tile_column) * tiling.padded_depth)
                for_each_block(
                    self.kernel,
                    blocks,
                    lambda _number, channel, _width: self._transform_input(
                        [start + cell + channel for start in starts], to + channel
                    ),
                )

    def _transform_input(self, starts: list[Expr], to: Expr) -> None:
        """One tile, one vector of channels: its rows begin at `starts`."""
        tiling, channels = self.spec.tiling, self.spec.tiling.window.channels
        begins = [self.kernel.let(start) for start in starts]
        columns = [
            [self.kernel.let(self.rows.data.vector(begin + column * channels, tiling.lanes)) for begin in begins]
            for column in range(tiling.cells)
        ]
        apply = TRANSFORMS[tiling.outputs].inputs
        plane = transformed(apply, self._vectors, list(zip(*columns, strict=True)))
        for row, values in enumerate(plane):
            for column, value in enumerate(apply(self._vectors, values)):
                place = (row * tiling.cells + column) * (tiling.block_tiles * tiling.padded_depth)
                self.scratch.store_vector(to + place, value, tiling.lanes)

    def _product(self, position: Expr, first: Expr, channels: _ChannelTile) -> None:
        """One tile of one position's matrix product: `pixels` tiles of the image from `first` on x channels."""
        tiling, depth = self.spec.tiling, self.spec.tiling.window.channels
        totals = self.kernel.local(tiling.element, tiling.pixels * channels.width)
        start = self.kernel.let((position * tiling.block_tiles + first) * tiling.padded_depth)
        weight = self.kernel.let(channels.weight + position * (depth * channels.width))
        whole, rest = divmod(depth, tiling.lanes)
        following: list[_Accumulate] = [self._add] * tiling.lanes
        self._words(totals, start, weight, channels.width, [self._begin, *following[1:]])
        if whole > 1:
            with self.kernel.loop(whole - 1, 1) as step:
                done = step * tiling.lanes
                self._words(totals, start + done, weight + done * channels.width, channels.width, following)
        if rest:
            done = whole * tiling.lanes
            self._words(totals, start + done, weight + done * channels.width, channels.width, following[:rest])
        to = self.kernel.let(tiling.input_elements + (position * tiling.block_tiles + first) * channels.width)
        for at in range(0, tiling.pixels * channels.width, tiling.lanes):
            self.scratch.store_vector(to + at, totals.vector(at, tiling.lanes), tiling.lanes)

    def _words(self, totals: Buffer, start: Expr, weight: Expr, channels: int, accumulates: list[_Accumulate]) -> None:
        """The products of some channels in, those from `start` on; one way to accumulate for each of them."""
        tiling = self.spec.tiling
        pixels = [
            self.kernel.let(self.scratch.vector(start + pixel * tiling.padded_depth, tiling.lanes))
            for pixel in range(tiling.pixels)
        ]
        for word, accumulate in enumerate(accumulates):
            vectors = [
                self.kernel.let(self.weights.vector(weight + word * channels + at, tiling.lanes))
                for at in range(0, channels, tiling.lanes)
            ]
            for pixel, values in enumerate(pixels):
                factor = broadcast(lanes([values], [word]), tiling.lanes)
                for v, vector in enumerate(vectors):
                    accumulate(totals, pixel * channels + v * tiling.lanes, vector, factor)

    def _begin(self, totals: Buffer, place: int, vector: Expr, factor: Expr) -> None:
        totals.store_vector(place, vector * factor, self.spec.tiling.lanes)

    def _add(self, totals: Buffer, place: int, vector: Expr, factor: Expr) -> None:
        total = totals.vector(place, self.spec.tiling.lanes)
        totals.store_vector(place, self._vectors.multiply_add(total, vector, factor), self.spec.tiling.lanes)

    def _transform_outputs(self, block: _Block, channels: _ChannelTile) -> None:
        tiling = self.spec.tiling
        with self.kernel.loop(channels.width // tiling.lanes) as number:
            channel = self.kernel.let(number * tiling.lanes)
            bias = self.kernel.let(self.bias.vector(channels.first + channel, tiling.lanes))
            with self.kernel.loop(tiling.tiles[0]) as tile_row, self.kernel.loop(tiling.tiles[1]) as tile_column:
                row = self.kernel.let((block.strip * tiling.tiles[0] + tile_row) * tiling.outputs)
                column = self._column(block, tile_column)
                tile = tile_row * tiling.tiles[1] + tile_column
                start = self.kernel.let(tiling.input_elements + tile * channels.width + channel)
                plane = self._output_columns(start, channels.width, bias)
                self._write_tile(plane, row, column, channels.first + channel)

    def _output_columns(self, start: Expr, channels: int, bias: Expr) -> list[list[Expr]]:
        """The products of one tile, transformed along the columns: [m][n] vectors."""
        tiling = self.spec.tiling
        apart = tiling.block_tiles * channels
        products = [
            [
                self.kernel.let(self.scratch.vector(start + (row * tiling.cells + column) * apart, tiling.lanes))
                for column in range(tiling.cells)
            ]
            for row in range(tiling.cells)
        ]
        products[BIAS_POSITION][BIAS_POSITION] = self._vectors.sum(products[BIAS_POSITION][BIAS_POSITION], bias)
        return transformed(TRANSFORMS[tiling.outputs].outputs, self._vectors, products)

    def _write_tile(self, plane: list[list[Expr]], row: Expr, column: Expr, channel: Expr) -> None:
        """Transform along the rows and write those that the output has."""
        tiling, window = self.spec.tiling, self.spec.tiling.window
        index = self.kernel.let((row * window.out_width + column) * tiling.out_channels + channel)
        for i, values in enumerate(plane):
            at = index + i * (window.out_width * tiling.out_channels)
            if window.out_height % (tiling.tiles[0] * tiling.outputs):
                with self.kernel.when(row + i < window.out_height):
                    self._write_row(values, at)
            else:
                self._write_row(values, at)

    def _write_row(self, values: list[Expr], index: Expr) -> None:
        tiling = self.spec.tiling
        for j, value in enumerate(TRANSFORMS[tiling.outputs].outputs(self._vectors, values)):
            at = index + j * tiling.out_channels
            total = value if self.residual is None else value + self.residual.vector(at, tiling.lanes)
            self.y.store_vector(at, clamped(total, self.spec.clamp, tiling.lanes, tiling.element), tiling.lanes)
