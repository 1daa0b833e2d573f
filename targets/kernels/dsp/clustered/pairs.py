"""How clustered weights lie in flash: two neighbouring weights of a channel are one place in a sequence of pairs.

A *pair sequence* of n values is a ring in which every ordered pair stands once side by side (a de Bruijn sequence of
order two, here of the Lyndon words in their order). For n = 3:

    0  0 1  0 2  1  1 2  2  (0)            the pair (2, 1) stands at place 4, the pair (2, 0) at the end

Its n * n + 1 values as int16 are a table from which one word, read at any place, is a pair of weights: 514 bytes for
16 values and 2,050 for 32. A place takes 2 * index_bits bits, so that four of them take whole bytes; each channel ends
with such a four. Codebooks of more than `LARGEST_TABLE` values have no table: there a pair is two indices.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Clusters
from tinyopt.targets.kernels.dsp.packing import Pair

LARGEST_TABLE = 32  # values
MOST_BITS = 6  # of an index that is decoded; more would save too little
PAIRS_AT_ONCE = 4  # whose places fill whole bytes


@cache
def pair_sequence(values: int) -> NDArray[np.uint8]:
    """The ring, cut open, with its first value once more at the end."""
    places: list[int] = []
    for first in range(values):
        places.append(first)
        for second in range(first + 1, values):
            places += [first, second]
    return np.array([*places, 0], np.uint8)


def pair_places(first: Array, second: Array, clusters: Clusters) -> NDArray[np.uint16]:
    """The numbers that stand for pairs of indices."""
    if not has_table(clusters):
        return np.asarray(first | second.astype(np.uint16) << clusters.index_bits, np.uint16)
    values = len(clusters.codebook)
    ring = pair_sequence(values)
    places = np.zeros((values, values), np.uint16)
    places[ring[:-1], ring[1:]] = np.arange(values * values)
    return np.asarray(places[first, second], np.uint16)


def has_table(clusters: Clusters) -> bool:
    """Whether pairs are looked up, and not their two indices."""
    return len(clusters.codebook) <= LARGEST_TABLE


def table_bytes(clusters: Clusters) -> int:
    """Of the pair sequence as int16."""
    return 2 * (len(clusters.codebook) ** 2 + 1) if has_table(clusters) else 0


def skipped_pairs(pairs: int) -> int:
    """Pairs that the first four of a row have no room for; its places begin behind them."""
    return -pairs % PAIRS_AT_ONCE


def packed_row_bytes(pairs: int, bits: int) -> int:
    """Of one channel: whole fours, without the bytes that belong to skipped pairs alone."""
    skipped = skipped_pairs(pairs)
    return (pairs + skipped) * 2 * bits // 8 - skipped * 2 * bits // 8


def pack_pairs(clusters: Clusters, pairs: list[Pair]) -> NDArray[np.uint8]:
    """Each channel's pairs, least significant bits first. Absent places meet activations of 0: any weight will do."""
    indices = clusters.indices.reshape(len(clusters.indices), -1)
    first, second = (np.where(places < 0, 0, indices[:, places]) for places in np.array(pairs).T)
    bits = 2 * clusters.index_bits
    places = np.pad(pair_places(first, second, clusters), ((0, 0), (skipped_pairs(len(pairs)), 0)))  # channel, pair
    as_bits = (places[:, :, None] >> np.arange(bits, dtype=np.uint16)) & 1
    rows = np.packbits(as_bits.astype(np.uint8).reshape(len(places), -1), axis=1, bitorder="little")
    return np.ascontiguousarray(rows[:, rows.shape[1] - packed_row_bytes(len(pairs), clusters.index_bits) :])
