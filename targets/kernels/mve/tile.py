"""What a tile of output channels is made of: its constants, and what the micro-kernels of micro_kernels.py mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Node
from tinyopt.ops.integer_rules import level_limits
from tinyopt.targets.kernel import Refusal
from tinyopt.targets.kernels.requantize import zero_point_of

STEP = 16  # places of the depth in a vector
PAIR_CHANNELS = 4  # of a tile of two pixels
DENSE_CHANNELS = 8  # of a tile of one pixel
MAXIMUM_CHANNELS = 65532  # of two pixels, whose lanes' places have 16 bits
Walk = Literal["once", "blocks", "rows", "unrolled"]
Ending = Literal["high", "shift", "residual", "short_residual"]


@dataclass(frozen=True)
class Finish:
    """What becomes of accumulators.

    ending: "high" is for shift 32, "shift" for any from 2 on, "residual" for shift 32 and a residual, which is first
    shifted up by `residual_shift`, "short_residual" for a residual and sums that fit 32 bits with 16 bits behind the
    point. is_clamped: to other limits than those of the type. is_int16: the levels are, instead of int8.
    """

    ending: Ending
    is_clamped: bool
    residual_shift: int = 0
    is_int16: bool = False

    @property
    def name(self) -> str:
        shift = str(self.residual_shift or "")
        return f"{self.ending}{shift}{'_clamped' if self.is_clamped else ''}{'_int16' if self.is_int16 else ''}"

    @property
    def has_residual(self) -> bool:
        return self.ending in {"residual", "short_residual"}

    @property
    def levels_words(self) -> int:
        """The length of what `levels` points to, see `levels_of`."""
        return 19 + {"high": 0, "shift": 2, "residual": 8, "short_residual": 3}[self.ending]


@dataclass(frozen=True)
class Tile:
    """Which micro-kernel.

    walk: "once": `steps` steps are the whole depth. "blocks": they repeat over a contiguous depth, as often as the
    argument `walk` says. "rows": they are a row, and there are rows with gaps in between; the argument is
    (rows - 1) << 16 | gap, an int16. "unrolled": there are `rows` of them, and the argument is the gap.
    """

    steps: int
    walk: Walk
    finish: Finish
    rows: int = 1

    @property
    def name(self) -> str:
        steps = f"{self.rows}x{self.steps}" if self.walk == "unrolled" else f"{self.steps}_{self.walk}"
        return f"{steps}_{self.finish.name}"

    def places(self, walk: int) -> Iterator[int]:
        """Where each step begins in the pixel's memory."""
        count = {"once": 1, "blocks": walk, "rows": (walk >> 16) + 1, "unrolled": self.rows}[self.walk]
        gap = {"once": 0, "blocks": 0, "rows": ((walk & 0xFFFF) ^ 0x8000) - 0x8000, "unrolled": walk}[self.walk]
        for number in range(count):
            first = number * (STEP * self.steps + gap)
            yield from range(first, first + STEP * self.steps, STEP)


@dataclass(frozen=True, eq=False)
class Rescaling:
    """Multipliers and the shift, both made as large as they can be without changing any result.

    The shift is 32 but where a multiplier is too large for that. The residual's multiplier counts for the residual
    times 2^finish.residual_shift; with a short residual it is in units of 2^-16, and the multipliers are times
    2^(15 - accumulator_shift).
    """

    finish: Finish
    shift: int
    multipliers: NDArray[np.int32]
    residual_multiplier: int = 0
    accumulator_shift: int = 0


def rescaling_of(node: Node) -> Rescaling | Refusal:
    """How a QConv or QDense is rescaled."""
    multipliers, shift = node.input(3).data.astype(np.int64), node.int("shift")
    room = 31 - int(multipliers.max()).bit_length()
    doubled = min(max(room, 0), 32 - shift)
    scaled, shift = (multipliers << doubled).astype(np.int32), shift + doubled
    is_int16 = node.output.dtype == "int16"
    is_clamped = (node.int("low"), node.int("high")) != level_limits(node.output.dtype)
    if node.optional_input(4) is None:
        ending: Ending = "high" if shift == 32 else "shift"
        finish = Finish(ending, is_clamped, is_int16=is_int16)
        return Rescaling(finish, shift, scaled) if shift > 1 else Refusal("its shift is 1")
    if is_int16:
        return Refusal("it adds a residual, and gives int16")
    if shift < 32:
        return Refusal("it has a residual, and its scale is 1/2 or more")
    residual_multiplier = node.int("residual_multiplier") << doubled
    if short := _short_residual(node, multipliers << doubled, residual_multiplier, is_clamped):
        return short
    residual_shift = max(residual_multiplier.bit_length() - 31, 0)
    if residual_shift > MAXIMUM_RESIDUAL_SHIFT:
        return Refusal("its residual is scaled by more than 64")
    finish = Finish("residual", is_clamped, residual_shift)
    return Rescaling(finish, 32, scaled, residual_multiplier >> residual_shift)


def _short_residual(
    node: Node, multipliers: NDArray[np.int64], residual_multiplier: int, is_clamped: bool
) -> Rescaling | None:
    """How it is done with 16 bits behind the point, if that changes no result and everything fits 32 bits.

    The residual's multiplier has nothing behind those bits, so that what the product loses there decides nothing.
    """
    if residual_multiplier % (1 << 16):
        return None
    in_units = residual_multiplier >> 16
    sums = _largest_sums(node)
    largest = int((sums * multipliers).max() >> 16) + 1
    beside = 255 * abs(in_units) + (130 << 16)  # residual, output's zero point, and what rounds
    accumulator_shift = min(31 - int(sums.max()).bit_length(), 15)
    scaled = multipliers << 15 - max(accumulator_shift, 0)
    if accumulator_shift < 0 or int(scaled.max()) >= 1 << 31 or largest + beside >= 1 << 31:
        return None
    finish = Finish("short_residual", is_clamped)
    return Rescaling(finish, 32, scaled.astype(np.int32), in_units, accumulator_shift)


def _largest_sums(node: Node) -> NDArray[np.int64]:
    """The largest absolute value that each channel's accumulator can get."""
    channels = node.input(2).shape[0]
    weights = node.input(1).data.astype(np.int64).reshape(channels, -1)
    bias = node.input(2).data.astype(np.int64)
    above, below = np.maximum(weights, 0).sum(1), np.minimum(weights, 0).sum(1)
    largest: NDArray[np.int64] = np.maximum(bias + 127 * above - 128 * below, 128 * above - 127 * below - bias)
    return largest


MAXIMUM_RESIDUAL_SHIFT = 7  # a residual less its zero point has 9 bits and is shifted in 16


def pair_offsets(distance: int) -> list[int]:
    """Of the lanes of a tile of two pixels, whose outputs are `distance` bytes apart."""
    return [channel + pixel * distance for channel in range(PAIR_CHANNELS) for pixel in range(2)]


def levels_of(
    node: Node, rescaling: Rescaling, offsets: Sequence[int], input_step: int = 0, output_step: int = 0
) -> Array:
    """int32: how to go from pixel to pixel, four vectors of int16, and numbers for the ending.

    The first numbers: channels, bytes from pair to pair of pixels in the input, and in the output from the last group
    to the next pair. The vectors: where each lane's byte is, counted from the first channel's, zero point, low, and
    high. The last numbers: 32 - shift and -shift, or vectors of the residual's zero point (int16) and multiplier, or,
    for a short residual, its multiplier, what is added to all sums, and the accumulators' shift.
    """
    channels = node.output.shape[-1]
    steps = np.array([channels, input_step, output_step - channels // PAIR_CHANNELS * PAIR_CHANNELS], np.int32)
    constants = np.repeat([zero_point_of(node, node.output), node.int("low"), node.int("high")], 8)
    found = [steps, _halves([*offsets, *constants])]
    if rescaling.finish.ending == "shift":
        found.append(np.array([32 - rescaling.shift, -rescaling.shift], np.int32))
    if rescaling.finish.ending == "residual":
        zero_point = zero_point_of(node, node.input(4))
        found += [_halves([zero_point] * 8), np.full(4, rescaling.residual_multiplier, np.int32)]
    if rescaling.finish.ending == "short_residual":
        above_zero = (2 * zero_point_of(node, node.output) + 1) << 15  # with the half that rounds
        added = above_zero - zero_point_of(node, node.input(4)) * rescaling.residual_multiplier
        found.append(np.array([rescaling.residual_multiplier, added, rescaling.accumulator_shift], np.int32))
    return np.concatenate(found)


def _halves(numbers: Sequence[int]) -> NDArray[np.int32]:
    """int16 or uint16, two to a word."""
    return np.array(numbers).astype(np.uint16).view(np.int32)


def stream_of(weights: Array, bias: Array, multipliers: Array, order: tuple[int, ...]) -> Array:
    """int8 [channels, places] (whole steps) to the stream of micro_kernels.py; a group's channels stand in `order`."""
    channels, places = weights.shape
    assert places % STEP == 0
    missing = -channels % len(order)
    rows = np.pad(weights, ((0, missing), (0, 0))).reshape(-1, len(order), places // STEP, STEP)
    words = np.ascontiguousarray(rows[:, list(order)].transpose(0, 2, 1, 3)).reshape(len(rows), -1).view(np.int32)
    numbers = [np.pad(each, (0, missing)).reshape(-1, len(order)) for each in (bias, multipliers)]
    biases, factors = (each[:, list(order)].astype(np.int32) for each in numbers)
    # two pixels share their biases and multipliers
    return np.ascontiguousarray(np.concatenate([biases, words, factors], axis=1))


PAIR_ORDER = (0, 1, 2, 3)
DENSE_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

Meaning = Callable[..., None]


def pair_meaning(tile: Tile) -> Meaning:
    """The micro-kernel on numpy arrays that begin where its pointers point."""

    def run(
        stream: Array, levels: Array, x0: Array, x1: Array, walk: int, y: Array, residual: Array, count: int
    ) -> None:
        channels, input_step, rest = (int(number) for number in levels[:3])
        second = int(levels[3:].view(np.uint16)[1])
        output_step = rest + channels // PAIR_CHANNELS * PAIR_CHANNELS
        for pair in range(count):
            for offset, x in ((0, x0), (second, x1)):
                first = pair * output_step + offset
                found = _levels(tile, stream, levels, x[pair * input_step :], walk, residual[first:], PAIR_ORDER)
                y[first : first + channels] = found

    return run


def dense_meaning(tile: Tile) -> Meaning:
    """The micro-kernel on numpy arrays that begin where its pointers point."""

    def run(
        stream: Array, levels: Array, x0: Array, x1: Array, walk: int, y: Array, residual: Array, count: int
    ) -> None:
        y[: int(levels[0])] = _levels(tile, stream, levels, x0, walk, residual, DENSE_ORDER)

    return run


def _levels(
    tile: Tile,
    stream: Array,
    levels: Array,
    x: Array,
    walk: int,
    residual: Array,
    order: tuple[int, ...],
) -> list[int]:
    zero_point, low, high = (int(levels[3:].view(np.int16)[8 * n]) for n in range(1, 4))
    finish = tile.finish
    places = list(tile.places(walk))
    group_words = len(order) * (2 + len(places) * STEP // 4)
    found: list[int] = []
    for channel in range(int(levels[0])):
        group = stream.reshape(-1)[channel // len(order) * group_words :][:group_words]
        place = order.index(channel % len(order))
        weights = group[len(order) : -len(order)].view(np.int8).reshape(len(places), len(order), STEP)[:, place]
        accumulator = int(group[place])
        for start, row in zip(places, weights, strict=True):
            accumulator += int(row.astype(np.int64) @ x[start : start + STEP].astype(np.int64))
        if finish.ending == "short_residual":
            multiplier, added, accumulator_shift = (int(number) for number in levels[19:22])
            product = (accumulator << accumulator_shift) * int(group[place - len(order)]) >> 31
            found.append(min(max((product + added + int(residual[channel]) * multiplier) >> 16, low), high))
            continue
        product, shift = accumulator * int(group[place - len(order)]), 32
        if finish.ending == "shift":
            shift = -int(levels[20])
        if finish.ending == "residual":
            above_zero = int(residual[channel]) - int(levels[19:].view(np.int16)[0])
            product += (above_zero << finish.residual_shift) * int(levels[23])
        found.append(min(max(((product + (1 << shift - 1)) >> shift) + zero_point, low), high))
    return found
