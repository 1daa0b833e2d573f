"""How the depth of a product is cut into steps, and what a tile costs: for choosing between kernels."""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.targets.kernels.mve.tile import STEP, Ending, Tile, Walk

UNROLLED_STEPS = 5  # at most; a step of two pixels is 56 bytes of code


@dataclass(frozen=True)
class Cut:
    """repetitions: of the tile's steps. places: those of the depth with what is added to fill the last step."""

    tile: Tile
    repetitions: int

    @property
    def places(self) -> int:
        return STEP * self.tile.steps * self.repetitions


def contiguous(depth: int, ending: Ending) -> Cut:
    """All of a contiguous depth."""
    steps = -(-depth // STEP)
    unrolled = max(count for count in range(1, UNROLLED_STEPS + 1) if steps % count == 0)
    walk: Walk = "once" if unrolled == steps else "blocks"
    return Cut(Tile(unrolled, walk, ending), steps // unrolled)


def row_by_row(run: int, rows: int, ending: Ending) -> Cut | None:
    """Rows of `run` places each; None where they are too long to be unrolled."""
    steps = -(-run // STEP)
    return Cut(Tile(steps, "rows", ending), rows) if steps <= UNROLLED_STEPS else None
