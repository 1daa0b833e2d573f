"""How the depth of a product is cut into steps, and what a tile costs: for choosing between kernels."""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.targets.kernels.mve.geometry import Geometry
from tinyopt.targets.kernels.mve.tile import PAIR_CHANNELS, STEP, Finish, Tile

ONCE_STEPS = 8  # that are unrolled at most, if they are all; a step of two pixels is 56 bytes of code
BLOCK_STEPS = 5
ROW_STEPS = 6
WINDOW_STEPS = 9
GAP_LIMIT = 1 << 15


@dataclass(frozen=True)
class Cut:
    """repetitions: of the tile's steps. gap: bytes between them where windows are read in the image.

    reads_inside: windows inside the image are read where they are, not copied.
    """

    tile: Tile
    repetitions: int
    gap: int = 0
    reads_inside: bool = False

    @property
    def rows(self) -> int:
        """The parts of the depth that are filled with zeros to whole steps."""
        return {"once": 1, "blocks": 1, "rows": self.repetitions, "unrolled": self.tile.rows}[self.tile.walk]

    @property
    def places(self) -> int:
        """Those of the depth with what is added to fill the steps."""
        return STEP * self.tile.steps * self.tile.rows * self.repetitions

    @property
    def instructions(self) -> int:
        """Of one group of channels and a pair of pixels, without what is the same for all."""
        per_repetition = {"once": 0, "blocks": 2, "rows": 4, "unrolled": 2 * self.tile.rows - 2}[self.tile.walk]
        return self.repetitions * (14 * self.tile.steps * self.tile.rows + per_repetition)

    def walk(self, gap: int) -> int:
        """The tile's argument."""
        return {
            "once": 0,
            "blocks": self.repetitions,
            "rows": (self.repetitions - 1) << 16 | gap & 0xFFFF,
            "unrolled": gap,
        }[self.tile.walk]


def contiguous(depth: int, finish: Finish, reads_inside: bool = False) -> Cut:
    """All of a contiguous depth."""
    steps = -(-depth // STEP)
    if steps <= ONCE_STEPS:
        return Cut(Tile(steps, "once", finish), 1, reads_inside=reads_inside)
    unrolled = max(count for count in range(1, BLOCK_STEPS + 1) if steps % count == 0)
    return Cut(Tile(unrolled, "blocks", finish), steps // unrolled, reads_inside=reads_inside)


def cut_of_windows(shape: Geometry, finish: Finish) -> Cut:
    """Windows copied as a whole, or read where they are if that takes fewer instructions."""
    candidates = [contiguous(shape.rows * shape.run, finish), *_row_by_row(shape, finish)]
    groups = -(-shape.channels // PAIR_CHANNELS)
    copying = 2 * (40 + shape.rows * (10 + 3 * -(-shape.run // STEP)))
    border = 1 - shape.inner_pixels / shape.pixels

    def instructions(cut: Cut) -> float:
        return groups * cut.instructions + copying * (border if cut.reads_inside else 1)

    return min(candidates, key=instructions)


def _row_by_row(shape: Geometry, finish: Finish) -> list[Cut]:
    steps = -(-shape.run // STEP)
    if shape.run % STEP and shape.pitch < STEP:
        return []  # the last step of a row would end more than one row further on
    if shape.rows == 1:
        return [contiguous(shape.run, finish, reads_inside=True)]
    gap = shape.pitch - STEP * steps
    if steps * shape.rows <= WINDOW_STEPS:
        return [Cut(Tile(steps, "unrolled", finish, shape.rows), 1, gap, reads_inside=True)]
    if steps <= ROW_STEPS and abs(gap) < GAP_LIMIT:
        return [Cut(Tile(steps, "rows", finish), shape.rows, gap, reads_inside=True)]
    return []
