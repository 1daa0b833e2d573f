"""How weights lie in flash for the dual multiply-accumulate.

The depth of a dot product (input channels, taps) is cut into *runs* of neighbouring bytes. The activations of a run are
widened word by word, which SXTB16 does cheapest in the order (0, 2), (1, 3), (4, 6), (5, 7), ...; what is left of a run
after its last four bytes goes in plain order: (8, 9), (10, -). Each pair is one register of two int16.

Weights of two output channels m0, m1 share a word for each pair (a, b): bytes [m0 a, m1 a, m0 b, m1 b], so that
SXTB16 gives channel m0 and SXTB16 with ROR #8 channel m1. An absent element has weight 0.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array

Pair: TypeAlias = tuple[int, int]  # two places in a dot product; -1 for none


def run_pairs(start: int, length: int) -> list[Pair]:
    """The pairs of one run of `length` values that begins at `start`."""
    pairs: list[Pair] = []
    for quad in range(start, start + length - length % 4, 4):
        pairs += [(quad, quad + 2), (quad + 1, quad + 3)]
    left = range(start + length - length % 4, start + length)
    return pairs + [(place, place + 1 if place + 1 in left else -1) for place in left[::2]]


def depth_pairs(run: int, runs: int) -> list[Pair]:
    """The pairs of `runs` runs of `run` values each."""
    return [pair for index in range(runs) for pair in run_pairs(index * run, run)]


def words_in_run(length: int) -> int:
    """How many pairs `run_pairs` makes of a run of `length` values: a word of two int16 for each."""
    return 2 * (length // 4) + (length % 4 + 1) // 2


def pack_channel_pairs(weights: Array, pairs: list[Pair]) -> NDArray[np.int8]:
    """Weights [channels, depth] -> [channel pairs, pairs, 4] bytes; a missing last channel has weights 0."""
    channels, depth = weights.shape
    padded = np.zeros((channels + channels % 2, depth + 1), weights.dtype)  # place -1 reads the added column
    padded[:channels, :depth] = weights
    chosen = padded[:, np.array(pairs)].reshape(-1, 2, len(pairs), 2)  # pair of channels, channel, pair, half
    return np.ascontiguousarray(chosen.transpose(0, 2, 3, 1)).reshape(-1, len(pairs), 4)


def as_words(packed: Array) -> NDArray[np.int32]:
    """Bytes as the little-endian words that the kernel loads."""
    return np.frombuffer(np.ascontiguousarray(packed, np.int8).tobytes(), "<i4").astype(np.int32)
