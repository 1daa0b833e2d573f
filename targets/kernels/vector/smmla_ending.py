"""What SMMLA kernels do last: accumulators hold two channels of two pixels, [p0 c0, p0 c1, p1 c0, p1 c1].

They are requantized as they lie; only levels, two to a lane of 16 bits, are sorted by pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyopt.targets.kernels.tir import Buffer, Expr, cast, lanes, reinterpret
from tinyopt.targets.kernels.vector import neon
from tinyopt.targets.kernels.vector.generic import splat, vector_type
from tinyopt.targets.kernels.vector.integer_ending import IntegerEnding
from tinyopt.targets.kernels.vector.smmla_tiling import ending_pieces
from tinyopt.targets.kernels.vector.tiling import LANES

FIRST_TWICE, LAST_TWICE = (0, 1, 0, 1), (2, 3, 2, 3)


@dataclass(frozen=True)
class FinishedPair:
    """The accumulators of two neighbouring pixels of a row, two channels in each.

    indices: the places in the output of the first channel of each pixel. valid: how many channels there really are.
    """

    values: tuple[Expr, ...]
    indices: tuple[Expr, Expr]
    valid: int


def twice(ending: IntegerEnding, numbers: Buffer, channel: Expr, channels: int) -> list[Expr]:
    """Numbers per channel from `channel` on as accumulators need them: two channels, and again."""
    result: list[Expr] = []
    for start in range(0, channels, LANES):
        loaded = ending.kernel.let(numbers.vector(channel + start, LANES))
        result += [ending.kernel.let(lanes([loaded], order)) for order in (FIRST_TWICE, LAST_TWICE)]
    return result


def write_pairs(ending: IntegerEnding, pairs: Sequence[FinishedPair], channel: Expr, channels: int) -> None:
    """Requantize and store the tile."""
    multipliers = twice(ending, ending.multiplier, channel, channels)
    for pair in pairs:
        done = 0
        for width in ending_pieces(channels):
            _write_piece(ending, pair, multipliers, done, width)
            done += width


def _write_piece(ending: IntegerEnding, pair: FinishedPair, multipliers: Sequence[Expr], done: int, width: int) -> None:
    """`width` channels from the tile's channel `done` on."""
    valid = min(pair.valid - done, width)
    indices = [index + done for index in pair.indices]
    residuals = _residuals(ending, indices, valid, width)
    levels: list[Expr] = []
    for start in range(0, width, 8):
        own = range((done + start) // 2, (done + min(start + 8, width)) // 2)
        levels.append(_levels(ending, pair, multipliers, own, residuals[start // 2 :]))
    for pixel, index in enumerate(indices):
        ending.store(index, _of_pixel(ending, levels, width, pixel), width, valid)


def _levels(
    ending: IntegerEnding, pair: FinishedPair, multipliers: Sequence[Expr], own: range, residuals: Sequence[Expr]
) -> Expr:
    """Levels of four accumulators, or two; those of two channels and one pixel are a lane of 16 bits."""
    factor = ending.term.multiplier if ending.term is not None else 0
    narrow = [
        ending.kernel.let(
            neon.narrowed(
                pair.values[place], multipliers[place], residuals[i] if residuals else None, factor, ending.to.shift
            )
        )
        for i, place in enumerate(own)
    ]
    return ending.kernel.let(neon.levels(narrow, ending.to))


def _of_pixel(ending: IntegerEnding, levels: Sequence[Expr], width: int, pixel: int) -> Expr:
    """The levels of one of the two pixels, `width` channels."""
    couples = [reinterpret(level, "int16x8") for level in levels[: width // 8]]
    if width % 8:
        couples.append(reinterpret(levels[-1], "int16x4"))
    order = range(pixel, width, 2)
    return reinterpret(lanes(couples, order), vector_type("int8", width))


def _residuals(ending: IntegerEnding, indices: Sequence[Expr], valid: int, width: int) -> list[Expr]:
    """The residual of both pixels less its zero point, int32x4 for each accumulator."""
    if ending.residual is None or ending.term is None:
        return []
    levels = [ending.load_residual(index, valid, width) for index in indices]
    couples = [ending.kernel.let(reinterpret(level, vector_type("int16", width // 2))) for level in levels]
    result: list[Expr] = []
    for start in range(0, width // 2, 2):
        order = [start, width // 2 + start, start + 1, width // 2 + start + 1]
        piece = reinterpret(lanes(couples, order), "int8x8")
        centred = ending.kernel.let(cast(piece, "int16x8") - splat(ending.term.zero_point, "int16", 8))
        result += [cast(lanes([centred], half), "int32x4") for half in (range(4), range(4, 8))]
    return result
