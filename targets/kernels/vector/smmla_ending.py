"""What SMMLA kernels do last: accumulators hold two channels of two pixels, [p0 c0, p0 c1, p1 c0, p1 c1].

They are requantized as they lie; only levels, two to a lane of 16 bits, are sorted by pixels. With a residual the
accumulators are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyopt.targets.kernels.tir import Buffer, Expr, lanes, reinterpret
from tinyopt.targets.kernels.vector import neon
from tinyopt.targets.kernels.vector.generic import vector_type
from tinyopt.targets.kernels.vector.integer_ending import IntegerEnding
from tinyopt.targets.kernels.vector.smmla_tiling import ending_pieces
from tinyopt.targets.kernels.vector.tile_nest import Finished
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
    if ending.residual is not None:
        by_channel = ending.multipliers(channel, channels // LANES)
        for pair in pairs:
            ending.write_with(by_channel, _pixels(ending, pair, channel))
        return
    multipliers = twice(ending, ending.multiplier, channel, channels)
    for pair in pairs:
        done = 0
        for width in ending_pieces(channels):
            _write_piece(ending, pair, multipliers, done, width)
            done += width


def _pixels(ending: IntegerEnding, pair: FinishedPair, channel: Expr) -> list[Finished]:
    """The two pixels one by one: residuals lie like that, and both halves of a vector have multipliers of their own."""
    couples = range(0, len(pair.values), 2)
    orders = ((0, 1, 4, 5), (2, 3, 6, 7))
    return [
        Finished(
            tuple(ending.kernel.let(lanes(pair.values[first : first + 2], order)) for first in couples),
            channel,
            index,
            pair.valid,
        )
        for order, index in zip(orders, pair.indices, strict=True)
    ]


def _write_piece(ending: IntegerEnding, pair: FinishedPair, multipliers: Sequence[Expr], done: int, width: int) -> None:
    """`width` channels from the tile's channel `done` on."""
    levels: list[Expr] = []
    for start in range(done, done + width, 8):
        own = slice(start // 2, min(start + 8, done + width) // 2)
        narrow = [
            ending.kernel.let(neon.narrowed(value, multiplier, None, 0, ending.to.shift))
            for value, multiplier in zip(pair.values[own], multipliers[own], strict=True)
        ]
        levels.append(ending.kernel.let(neon.levels(narrow, ending.to)))
    for pixel, index in enumerate(pair.indices):
        ending.store(index + done, _of_pixel(levels, width, pixel), width, min(pair.valid - done, width))


def _of_pixel(levels: Sequence[Expr], width: int, pixel: int) -> Expr:
    """The levels of one of the two pixels: two channels of one pixel are a lane of 16 bits."""
    couples = [reinterpret(level, "int16x8") for level in levels[: width // 8]]
    if width % 8:
        couples.append(reinterpret(levels[-1], "int16x4"))
    return reinterpret(lanes(couples, range(pixel, width, 2)), vector_type("int8", width))
