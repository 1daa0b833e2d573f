"""How a depthwise convolution is cut into groups, blocks, bands and tiles, and the numbers that the kernel takes.

A *tile* is four output pixels of one channel, 2 x 2 or 1 x 4. A *band* is a row of tiles. The image's rows lie in
*slots* of two rows each; a band needs `span` neighbouring slots, the next band begins `advance` slots further on. A
*block* is as many bands as the scratch holds slots for; after it, the slots that the next one needs too come first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np

from tinyopt.ir import Array, Node

SCRATCH_BYTES = 1840  # what a block should not exceed
FILLER_BYTES = 16
PLACE_BYTES = 8
SUM_BYTES = 16
OUTPUTS = 4  # of a tile
HALFWORDS = 8  # of a gather


@dataclass(frozen=True)
class Layer:
    """A QConv with one input and one output channel in each group, and batch 1."""

    node: Node

    @cached_property
    def image(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        _, height, width, channels = self.node.input(0).shape
        return height, width, channels

    @cached_property
    def output(self) -> tuple[int, int]:
        """Height, width."""
        _, height, width, _ = self.node.output.shape
        return height, width

    @cached_property
    def window(self) -> tuple[int, int]:
        """Rows, columns."""
        _, rows, columns, _ = self.node.input(1).shape
        return rows, columns

    @cached_property
    def strides(self) -> tuple[int, int]:
        rows, columns = self.node.ints("strides")
        return rows, columns

    @cached_property
    def pads(self) -> tuple[int, int]:
        """Top, left."""
        top, left = self.node.ints("pads")[:2]
        return top, left

    def taps(self, row: int, column: int) -> dict[tuple[int, int], int]:
        """The cells (row, column) in the window of one of a tile's outputs, and for each which weight it takes."""
        row_dilation, column_dilation = self.node.ints("dilations")
        return {
            (row * self.strides[0] + i * row_dilation, column * self.strides[1] + j * column_dilation): i
            * self.window[1]
            + j
            for i, j in product(range(self.window[0]), range(self.window[1]))
        }


@dataclass(frozen=True)
class Tiling:
    """kind: which micro-kernel. rows, columns: output pixels of a tile."""

    layer: Layer
    kind: str
    rows: int
    columns: int

    @cached_property
    def outputs(self) -> list[tuple[int, int]]:
        return list(product(range(self.rows), range(self.columns)))

    @cached_property
    def halfwords(self) -> list[tuple[int, int]]:
        """(column, slot) of the cells that a tile takes; of its first output, where each output gathers its own."""
        outputs = self.outputs[:1] if self.kind == "row" else self.outputs
        cells = {(x, y // 2) for output in outputs for y, x in self.layer.taps(*output)}
        return sorted(cells)

    @property
    def chunks(self) -> int:
        return -(-len(self.halfwords) // HALFWORDS)

    @property
    def span(self) -> int:
        return 1 + max(slot for _, slot in self.halfwords)

    @property
    def advance(self) -> int:
        return self.rows * self.layer.strides[0] // 2

    @property
    def bands(self) -> int:
        return -(-self.layer.output[0] // self.rows)

    @property
    def tiles_in_band(self) -> int:
        return -(-self.layer.output[1] // self.columns)

    @property
    def last_column(self) -> int:
        """Where the last tile begins, which may overlap the one before it."""
        return max(self.layer.output[1] - self.columns, 0)

    @property
    def slot_columns(self) -> int:
        """As many as are filled, and as the last tile reads."""
        reach = max(x for output in self.outputs for _, x in self.layer.taps(*output))
        return max(self.layer.pads[1] + self.layer.image[1], self.last_column * self.layer.strides[1] + reach + 1)

    @property
    def is_possible(self) -> bool:
        is_aligned = self.rows * self.layer.strides[0] % 2 == 0 or self.bands == 1
        return is_aligned and (self.kind == "chunks" or self.chunks == 1)

    @property
    def cost(self) -> int:
        """Instructions for each channel, roughly."""
        tile = {"square": 14, "row": 17, "chunks": 9 + 12 * self.chunks}[self.kind]
        return self.bands * (self.tiles_in_band * tile + 20 * self.chunks)


def choose_tiling(layer: Layer) -> Tiling:
    """The cheapest one. 2 x 2 outputs in chunks always do."""
    shapes = (("square", 2, 2), ("square", 1, 4), ("row", 1, 4), ("chunks", 2, 2), ("chunks", 1, 4))
    tilings = [Tiling(layer, *shape) for shape in shapes]
    return min((tiling for tiling in tilings if tiling.is_possible), key=lambda tiling: tiling.cost)


@dataclass(frozen=True)
class Blocks:
    """group: channels at a time. bands: of a block."""

    tiling: Tiling
    group: int
    bands: int

    @property
    def column_bytes(self) -> int:
        return 2 * self.group

    @property
    def slot_bytes(self) -> int:
        return self.tiling.slot_columns * self.column_bytes

    @property
    def slots(self) -> int:
        return (self.bands - 1) * self.tiling.advance + self.tiling.span

    @property
    def kept_slots(self) -> int:
        return max(self.tiling.span - self.tiling.advance, 0)

    @property
    def alternates(self) -> bool:
        """Whether two slots change their roles, instead of the second one being moved."""
        return (self.bands, self.tiling.span, self.tiling.advance) == (1, 2, 1)

    @property
    def places_begin(self) -> int:
        return FILLER_BYTES + self.slots * self.slot_bytes

    @property
    def sums_begin(self) -> int:
        return self.places_begin + self.bands * self.tiling.tiles_in_band * PLACE_BYTES

    @property
    def scratch_bytes(self) -> int:
        sums = self.bands * self.tiling.tiles_in_band * SUM_BYTES if self.tiling.kind == "chunks" else 0
        return self.sums_begin + sums

    @property
    def largest_offset(self) -> int:
        column = max(x for output in self.tiling.outputs for _, x in self.tiling.layer.taps(*output))
        return self.tiling.span * self.slot_bytes + (column + 1) * self.column_bytes

    @property
    def rooms(self) -> list[int]:
        """For each block but the last: pixels from the end of its output to the first row that is still to be read."""
        layer, tiling = self.tiling.layer, self.tiling
        rooms: list[int] = []
        for done in range(self.bands, tiling.bands, self.bands):
            next_slot = done * tiling.advance + self.kept_slots
            unread = min(max(2 * next_slot - layer.pads[0], 0), layer.image[0])
            rooms.append(unread * layer.image[1] - done * tiling.rows * layer.output[1])
        return rooms


def choose_blocks(tiling: Tiling) -> Blocks:
    """As few blocks as the scratch allows, then as little scratch."""
    smallest = Blocks(tiling, 16, 1)
    if tiling.layer.image[2] <= 8 or smallest.scratch_bytes > SCRATCH_BYTES:
        smallest = replace(smallest, group=8)
    sizes = (replace(smallest, bands=bands) for bands in range(2, tiling.bands + 1))
    most = max((blocks.bands for blocks in sizes if blocks.scratch_bytes <= SCRATCH_BYTES), default=1)
    return replace(smallest, bands=-(-tiling.bands // -(-tiling.bands // most)))


def settings(blocks: Blocks, clamp: tuple[int, int] | None) -> list[Array]:
    """The vectors of depthwise_tiles; twice where slots alternate, and that once more for a last band of one row."""
    has_half_band = blocks.tiling.layer.output[0] % blocks.tiling.rows != 0
    heights = (blocks.tiling.rows, 1) if has_half_band else (blocks.tiling.rows,)
    parities = (0, 1) if blocks.alternates else (0,)
    return [_setting(blocks, clamp, height, parity) for height in heights for parity in parities]


def _setting(blocks: Blocks, clamp: tuple[int, int] | None, height: int, parity: int) -> Array:
    """Outputs beyond the image's border become those beside them, and are written to the same place."""
    tiling, layer = blocks.tiling, blocks.tiling.layer
    outputs = [(min(row, height - 1), min(column, layer.output[1] - 1)) for row, column in tiling.outputs]
    scatter = np.array([(row * layer.output[1] + column) * layer.image[2] for row, column in outputs], np.int32)
    limits = np.repeat(np.array(clamp or (), np.int32), OUTPUTS)
    chunks = _chunks(tiling)
    gathers = [_gather(blocks, chunk, parity) for chunk in chunks]
    patterns = [_patterns(tiling, chunk, outputs) for chunk in chunks]
    if tiling.kind == "square":
        return _bytes(*gathers, scatter, *patterns, limits)
    if tiling.kind == "row":
        step = layer.strides[1] * blocks.column_bytes
        own = [(gathers[0] + column * step).astype(np.uint16) for _, column in outputs]
        return _bytes(*own, scatter, patterns[0][:1], limits)
    parts = [part for pair in zip(gathers, patterns, strict=True) for part in pair]
    return _bytes(np.resize(limits, 2 * OUTPUTS), scatter, *parts)


def _chunks(tiling: Tiling) -> list[list[tuple[int, int]]]:
    """The halfwords by eights."""
    return [tiling.halfwords[start : start + HALFWORDS] for start in range(0, len(tiling.halfwords), HALFWORDS)]


def _gather(blocks: Blocks, chunk: list[tuple[int, int]], parity: int) -> Array:
    offsets = [column * blocks.column_bytes + (slot ^ parity) * blocks.slot_bytes for column, slot in chunk]
    return np.array(offsets + offsets[:1] * (HALFWORDS - len(chunk)), np.uint16)


def _patterns(tiling: Tiling, chunk: list[tuple[int, int]], outputs: list[tuple[int, int]]) -> Array:
    """For each output and lane the byte of the packed weights, 0 where the cell is not in the output's window."""
    cells = [(2 * slot + half, column) for column, slot in chunk for half in (0, 1)]
    patterns = np.zeros((len(outputs), 2 * HALFWORDS), np.uint8)
    for pattern, output in zip(patterns, outputs, strict=True):
        taps = tiling.layer.taps(*((0, 0) if tiling.kind == "row" else output))
        pattern[: len(cells)] = [taps.get(cell, -1) + 1 for cell in cells]
    return patterns


def _bytes(*arrays: Array) -> Array:
    return np.concatenate([np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays])
