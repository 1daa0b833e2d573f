"""How int8 products on the matrix instruction SMMLA are cut into tiles, and what that costs.

SMMLA multiplies 2 rows by 2 columns, eight deep: an *operand* is 16 bytes, eight values of one of two pixels (or
channels), then eight of the other. A *step* is eight values of a window's depth. Two ways to lay out the image:

    block   the pixels of one tile are packed as [step][pair][2][8] before its channels are gone through
    cells   every cell of a row is stored next to the one that the next pixel reads in its place, as
            [cell][step of a cell][2][8], in a ring of as many rows as the window spans; windows overlap, cells do not
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.vector.rows import RowPlan
from tinyopt.targets.kernels.vector.tiling import LANES
from tinyopt.targets.kernels.vector.window import Window

DEPTH = 8  # values of one step
OPERAND = 2 * DEPTH  # bytes
VECTOR = 16  # bytes of a register
ACCUMULATORS = 24  # registers
NO_WEIGHT = -1  # a place of a step that no weight belongs to

TILE_OVERHEAD = 20  # instructions to begin a tile: addresses, biases, multipliers, loop counters
PAIR_END = {16: 36, 12: 34, 8: 21, 4: 13}  # instructions to begin, requantize and store so many channels of a pair
RESIDUAL_END = 5  # what a residual adds to that for each accumulator
LOOP_OVERHEAD = 4
CODE_PENALTY = 0.04

Layout = Literal["block", "cells"]


@dataclass(frozen=True)
class PairTileSpec:
    """A convolution as a product of tiles of pixels x channels.

    rows: where the image is read from, before it is laid out anew.
    overlaps: the last tile of channels is as wide as the others and may begin within the one before it; otherwise it is
        as narrow as can be.
    """

    rows: RowPlan
    layout: Layout
    out_channels: int
    pixels: int
    channels: int
    overlaps: bool
    has_residual: bool

    @property
    def window(self) -> Window:
        return self.rows.window

    @property
    def pairs(self) -> int:
        return self.pixels // 2

    @property
    def is_single_run(self) -> bool:
        """The window lies in one piece."""
        return is_single_run(self.window)

    @property
    def run_elements(self) -> int:
        """What lies in one piece in a row of the image: all cells of a window's row, or one cell of dilated windows."""
        window = self.window
        return window.channels * (window.kernel[1] if window.dilations[1] == 1 else 1)

    @property
    def cell_steps(self) -> int:
        return -(-self.window.channels // DEPTH)

    @property
    def runs(self) -> tuple[int, int]:
        """Pieces of the laid out image that one window reads: (rows, runs in a row)."""
        window = self.window
        if self.layout == "block":
            return 1, 1
        return window.kernel[0], window.kernel[1] if window.dilations[1] > 1 else 1

    @property
    def steps(self) -> int:
        """Of one whole window."""
        window = self.window
        cells = window.kernel[0] * window.kernel[1]
        return cells * self.cell_steps if self.layout == "cells" else -(-cells * window.channels // DEPTH)

    @property
    def run_steps(self) -> int:
        return self.steps // (self.runs[0] * self.runs[1])

    @property
    def padded_channels(self) -> int:
        return -(-self.out_channels // LANES) * LANES

    @property
    def whole_tiles(self) -> int:
        """Tiles of `channels` channels."""
        return -(-self.out_channels // self.channels) if self.overlaps else self.out_channels // self.channels

    @property
    def last_channels(self) -> int:
        """Channels of the narrower last tile, a multiple of LANES; 0 where there is none."""
        return max(self.padded_channels - self.whole_tiles * self.channels, 0)

    @property
    def tiles(self) -> tuple[tuple[int, int], ...]:
        """(first channel, channels) of each tile."""
        last_start = self.out_channels - self.channels
        starts = [start * self.channels for start in range(self.whole_tiles)]
        whole = tuple((min(start, last_start) if self.overlaps else start, self.channels) for start in starts)
        return (*whole, (len(whole) * self.channels, self.last_channels)) if self.last_channels else whole

    @property
    def row_cells(self) -> int:
        """Cells of a row in the "cells" layout."""
        window = self.window
        return (window.out_width - 2) * window.strides[1] + (window.kernel[1] - 1) * window.dilations[1] + 1

    @property
    def laid_out_bytes(self) -> int:
        """Of the image in pairs: one tile, or a ring of rows."""
        if self.layout == "block":
            return self.steps * self.pairs * OPERAND
        return self.window.row_span * self.row_cells * self.cell_steps * OPERAND


def is_single_run(window: Window) -> bool:
    return window.kernel[0] == 1 and (window.kernel[1] == 1 or window.dilations[1] == 1)


def run_starts(elements: int) -> tuple[int, ...]:
    """Where the steps of `elements` >= DEPTH values begin; the last one overlaps the one before where they are not
    a multiple of DEPTH, so that nothing is read beyond them."""
    return tuple(min(start, elements - DEPTH) for start in range(0, elements, DEPTH))


def weight_order(spec: PairTileSpec) -> Array:
    """[steps, DEPTH]: which of a channel's KH * KW * I weights meet the values of each step, or NO_WEIGHT."""
    window = spec.window
    weights = window.kernel[0] * window.kernel[1] * window.channels
    if spec.layout == "cells":
        cell = _run_order(window.channels)
        cells = np.arange(window.kernel[0] * window.kernel[1]) * window.channels
        order = cells[:, None, None] + cell
        return np.where(cell == NO_WEIGHT, NO_WEIGHT, order).reshape(-1, DEPTH)
    if spec.is_single_run:
        return _run_order(weights)
    order = np.full(spec.steps * DEPTH, NO_WEIGHT)
    order[:weights] = np.arange(weights)
    return order.reshape(-1, DEPTH)


def _run_order(elements: int) -> Array:
    order = np.array([np.arange(start, start + DEPTH) for start in run_starts(elements)])
    for step in range(1, len(order)):
        order[step][order[step] < step * DEPTH] = NO_WEIGHT  # the step before has it
    return order


def pack_pair_weights(weights: Array, spec: PairTileSpec) -> Array:
    """[O, KH, KW, I] weights as [tile of channels][step][channel][DEPTH], flat."""
    flat = np.zeros((spec.padded_channels, weights[0].size + 1), np.int8)
    flat[: spec.out_channels, :-1] = weights.reshape(spec.out_channels, -1)  # the last one is 0: NO_WEIGHT
    steps = flat[:, weight_order(spec)].transpose(1, 0, 2)  # steps, O, DEPTH
    return np.concatenate([steps[:, start : start + width].reshape(-1) for start, width in spec.tiles])


def pack_pair_tile(weights: Array) -> Array:
    """[channels, depth] weights of one tile of a window in one piece, as [step][channel][DEPTH], flat."""
    order = _run_order(weights.shape[1])
    steps = np.where(order == NO_WEIGHT, 0, weights[:, order])  # channels, steps, DEPTH
    return steps.transpose(1, 0, 2).reshape(-1).astype(np.int8)


def pad_channels(values: Array, spec: PairTileSpec) -> Array:
    """Numbers per output channel, with zeros up to whole vectors."""
    return np.pad(values, (0, spec.padded_channels - spec.out_channels))


def choose_pair_tile(
    rows: RowPlan, layout: Layout, out_channels: int, has_residual: bool
) -> tuple[PairTileSpec, float]:
    """The tile that takes the fewest instructions, and their number, by a simple count."""
    specs = (
        PairTileSpec(rows, layout, out_channels, 2 * pairs, channels, overlaps, has_residual)
        for pairs, channels in _shapes(rows.window, out_channels)
        for overlaps in ((False, True) if channels <= out_channels else (False,))
    )
    return min(((spec, pair_instructions(spec)) for spec in specs), key=lambda choice: choice[1])


def _shapes(window: Window, out_channels: int) -> Iterator[tuple[int, int]]:
    """(pairs of pixels, channels) whose accumulators and operands fit into the registers."""
    for channels in range(LANES, min(24, -(-out_channels // LANES) * LANES) + 1, LANES):
        for pairs in range(1, window.out_width // 2 + 1):
            if pairs * channels // 2 <= ACCUMULATORS:
                yield pairs, channels


def pair_instructions(spec: PairTileSpec) -> float:
    """Of the whole layer; a narrower last tile counts a little more, for it is code of its own."""
    window = spec.window
    pixel_tiles = window.out_height * -(-window.out_width // spec.pixels)
    per_pixel_tile = sum(_tile_instructions(spec, channels) for _, channels in spec.tiles) + LOOP_OVERHEAD
    per_pixel_tile *= 1 + CODE_PENALTY if spec.last_channels and spec.whole_tiles else 1
    if spec.layout == "block":
        per_pixel_tile += _block_instructions(spec)
        return pixel_tiles * per_pixel_tile
    rows = window.out_height * window.strides[0] + window.row_span
    return pixel_tiles * per_pixel_tile + rows * spec.row_cells * (3 * spec.cell_steps + LOOP_OVERHEAD)


def _tile_instructions(spec: PairTileSpec, channels: int) -> float:
    accumulators = spec.pairs * channels // 2
    image_loads = spec.pairs if spec.layout == "cells" else (spec.pairs + 1) / 2
    per_step = accumulators + image_loads + channels / 4 + LOOP_OVERHEAD / 4
    end = spec.pairs * sum(PAIR_END[width] for width in ending_pieces(channels))
    end += accumulators * RESIDUAL_END if spec.has_residual else 0
    return TILE_OVERHEAD + spec.steps * per_step + end


def ending_pieces(channels: int) -> tuple[int, ...]:
    """The channels that are requantized and stored together."""
    return (16, channels - 16) if channels > 16 else (channels,)


def _block_instructions(spec: PairTileSpec) -> float:
    """To pack the pixels of one tile."""
    zipped = spec.pairs * 3 * spec.steps + spec.pixels
    if spec.is_single_run:
        return zipped
    gathered = spec.window.kernel[0] * (spec.window.kernel[1] if spec.window.dilations[1] > 1 else 1)
    return zipped + spec.pixels * (gathered * 2 * -(-spec.run_elements // VECTOR) + 2)
