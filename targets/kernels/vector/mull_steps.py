"""How the multiply-long kernels cut a window into steps, and the order of the weights that follows from it.

One SMULL multiplies eight int8, SMLAL2 adds eight products more, and SADALP adds neighbouring products into four int32
sums. So that the four sums are those of four channels, a lane of weights is a *pair* of neighbouring elements of one
channel, and the image is rotated pair by pair so that each channel meets each pair:

    image    k01 k23 k45 k67 | k89 ...     k23 k45 k67 k89 | ...      and so on: four rotations of 16 elements
    weights  c0  c1  c2  c3  | c0  ...     c0  c1  c2  c3  | ...      multiply four channels with all of them

Three instructions for 16 products, no sums to join at the end, and three rotations (EXT) that all channels of a tile
share. What is left of a run of the window after its steps of 16 elements is a *piece* of 8 or 4 elements. Two pieces of
neighbouring runs make a step together; one alone has no second product to add.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.vector.tiling import LANES, TileSpec

STEP = 16  # elements of a whole step
PAIR = 2  # elements of a lane
SMALLEST_WEIGHT = -127  # two products of an int8 and a weight from here on fit 16 bits


@dataclass(frozen=True)
class StepShape:
    """`pieces` of `elements` each: one or two of 8 or 4 elements; two of 8 are what a step of 16 is in one piece."""

    elements: int
    pieces: int

    @property
    def rotations(self) -> int:
        """Rotations after which each channel has met each pair; pieces of 4 elements are doubled first."""
        return self.elements // PAIR

    @property
    def vector_bytes(self) -> int:
        """Weights of LANES channels for one rotation."""
        return self.pieces * LANES * PAIR

    @property
    def channel_bytes(self) -> int:
        """Weights of one channel."""
        return self.pieces * self.elements

    @property
    def vector_instructions(self) -> int:
        """Multiplications and additions for LANES channels of a pixel."""
        return self.rotations * (self.pieces + 1)


WHOLE = StepShape(STEP // 2, 2)


PIECES: tuple[tuple[int, ...], ...] = ((), (4,), (8,), (8, 4), (STEP,))  # that cover what remains after whole steps


def pieces_of(run_elements: int) -> tuple[int, tuple[int, ...]]:
    """(steps of STEP elements, pieces that remain) of a run. The last may reach beyond its end."""
    whole, rest = divmod(run_elements, STEP)
    pieces = next(pieces for pieces in PIECES if rest <= sum(pieces))
    return (whole + 1, ()) if pieces == (STEP,) else (whole, pieces)


def covered_elements(run_elements: int) -> int:
    """Elements that the loads of a run reach."""
    whole, pieces = pieces_of(run_elements)
    return whole * STEP + sum(pieces)


def shapes_of(runs: int, run_elements: int) -> list[StepShape]:
    """The steps of `runs` neighbouring runs, one or two, in order: each run's whole ones, then their pieces."""
    whole, pieces = pieces_of(run_elements)
    return [WHOLE] * (runs * whole) + [StepShape(elements, runs) for elements in pieces]


def runs_together(run_elements: int) -> int:
    """How many runs are worked on together: two where they leave pieces."""
    return 2 if pieces_of(run_elements)[1] else 1


def pack_rotated(weights: Array, spec: TileSpec) -> Array:
    """[O, KH, KW, I] weights in the order in which the tiles read them, as one flat array.

    [tile of channels][runs worked on together][step][rotation][channel / LANES][piece][channel % LANES][pair], zeros
    where the run or the channels do not fill up.
    """
    runs = weights.reshape(spec.out_channels, -1, spec.run_elements)
    padded = np.zeros((spec.padded_channels, runs.shape[1], covered_elements(spec.run_elements)), np.int8)
    padded[: spec.out_channels, :, : spec.run_elements] = runs
    together = runs_together(spec.run_elements)
    parts: list[Array] = []
    for start in range(0, spec.padded_channels, spec.channels):
        tile = padded[start : start + spec.channels]
        for first in range(0, runs.shape[1], together):
            parts += _pack_runs(tile[:, first : first + together])
    return np.concatenate(parts)


def _pack_runs(tile: Array) -> list[Array]:
    """The steps of [channels, one or two runs, covered elements]."""
    channels, runs, elements = tile.shape
    whole, pieces = pieces_of(elements)
    done = whole * STEP
    halves = tile[..., :done].reshape(channels, runs * whole, 2, STEP // 2)
    parts = [pack_step(halves[:, step]) for step in range(runs * whole)]
    for size in pieces:
        parts.append(pack_step(tile[..., done : done + size]))
        done += size
    return parts


def pack_step(pieces: Array) -> Array:
    """[channels, pieces, elements] in the order of the rotations."""
    channels, count, elements = pieces.shape
    pairs = pieces.reshape(channels // LANES, LANES, count, elements // PAIR, PAIR)
    lane = np.arange(LANES)
    rotated: list[Array] = []
    for rotation in range(elements // PAIR):
        piece, pair = _pairs_met(rotation, count, elements // PAIR)
        rotated.append(pairs[:, lane, piece, pair].reshape(-1))  # [channels / LANES, pieces, LANES, PAIR]
    return np.concatenate(rotated)


def _pairs_met(rotation: int, pieces: int, pairs: int) -> tuple[Array, Array]:
    """(piece, pair) that each lane of a vector meets after a rotation, as arrays that broadcast to [pieces, LANES]."""
    place = np.arange(pieces * LANES).reshape(pieces, LANES) + rotation
    if pairs == LANES:  # the image is rotated as a whole, pairs go from one piece to the other
        place = place % (pieces * LANES)
        return place // LANES, place % LANES
    return np.arange(pieces)[:, None], place % pairs
