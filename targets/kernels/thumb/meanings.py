"""What the micro-kernels of this package do, as Python on lists and numpy arrays."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence

import numpy as np

from tinyopt.ir import Array


def rescaled(acc: int, multiplier: int, added: int, to: Sequence[int]) -> int:
    """clamp(((acc * multiplier + added + 2^31) >> 32) + to[0], 0, to[1]) + to[2]."""
    level = ((acc * multiplier + added + (1 << 31)) >> 32) + to[0]
    return min(max(level, 0), to[1]) + to[2]


def pack_pair(first: Array, second: Array, count: int, columns: MutableSequence[int]) -> None:
    """Two runs of int8 become words first[k] + second[k] * 2^16, two in every four words of `columns`."""
    for k in range(count):
        word = int(first[k]) + (int(second[k]) << 16)
        columns[k // 2 * 4 + k % 2] = int(np.int64(word).astype(np.int32))
    if count % 2:
        columns[count // 2 * 4 + 1] = 0


def columns_meaning(
    columns: Sequence[int],
    weights: Array,
    rescaling: Sequence[tuple[int, int]],
    numbers: Sequence[int],
    residual: Array | None = None,
) -> Array:
    """int8 [4 pixels, channels] of four packed pixels; weights int8 [channels, places] before they were packed.

    numbers: those of the micro-kernel from zero point - low on, the residual's last.
    """
    words = np.array(columns, np.int64).reshape(-1, 2, 2)  # two places, two pairs of pixels, place
    low = (words & 0xFFFF ^ 0x8000) - 0x8000
    high = (words - low) >> 16
    x = np.stack([low, high], axis=3).transpose(1, 3, 0, 2).reshape(4, -1)  # pixel, place
    sums = x @ weights.astype(np.int64).T
    wanted = np.zeros(sums.shape, np.int8)
    for pixel, channel in np.ndindex(sums.shape):
        bias, multiplier = rescaling[channel]
        added = (
            0 if residual is None else (int(residual[pixel, channel]) - numbers[3]) * (numbers[4] + (numbers[5] << 16))
        )
        wanted[pixel, channel] = rescaled(int(sums[pixel, channel]) + bias, multiplier, added, numbers)
    return wanted


def interleave_rows(upper: Array, lower: Array, column_words: int) -> Array:
    """int32 [columns * column_words]: upper[i] + lower[i] * 2^16 in the first word of each column."""
    words = np.zeros((len(upper), column_words), np.int32)
    words[:, 0] = (upper.astype(np.int64) + (lower.astype(np.int64) << 16)).astype(np.int32)
    return words.reshape(-1)


def taps_meaning(
    upper: Array, lower: Array, taps: Array, bias: int, multiplier: int, to: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Two rows of outputs; upper and lower: int8 [outputs, taps], the windows of both rows."""
    sums = ((rows.astype(np.int64) @ taps.astype(np.int64)).tolist() for rows in (upper, lower))
    first, second = ([rescaled(total + bias, multiplier, 0, to) for total in row] for row in sums)
    return first, second
