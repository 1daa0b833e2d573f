"""How clustered weights lie in flash: two neighbouring weights of a channel are one place in a sequence of pairs.

A *pair sequence* of n values is a ring in which every ordered pair stands once side by side (a de Bruijn sequence of
order two, here of the Lyndon words in their order). For n = 3:

    0  0 1  0 2  1  1 2  2  (0)            the pair (2, 1) stands at place 4, the pair (2, 0) at the end

Its n * n + 1 values as int16 are a table from which one word, read at any place, is a pair of weights: 514 bytes for
16 values and 2,050 for 32. A place takes 2 * index_bits bits; four of them take whole bytes, and so does each channel.
Codebooks of more than `LARGEST_TABLE` values have no table: there a pair is the two indices themselves.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Clusters
from tinyopt.targets.kernels.dsp.packing import Pair

LARGEST_TABLE = 32  # values
MOST_BITS = 6  # of an index that is decoded; more would save too little
PAIRS_AT_ONCE = 4  # what a channel's pairs are filled up to a multiple of


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


def padded_pairs(pairs: int) -> int:
    """The pairs of a channel with those that fill it up."""
    return -(-pairs // PAIRS_AT_ONCE) * PAIRS_AT_ONCE


def packed_row_bytes(pairs: int, bits: int) -> int:
    """Of one channel with `pairs` pairs before filling up."""
    return padded_pairs(pairs) * 2 * bits // 8


def pack_pairs(clusters: Clusters, pairs: list[Pair]) -> NDArray[np.uint8]:
    """Each channel's pairs, least significant bits first. Absent places meet activations of 0: any weight will do."""
    indices = clusters.indices.reshape(len(clusters.indices), -1)
    chosen = np.array(pairs + [(-1, -1)] * (padded_pairs(len(pairs)) - len(pairs)))
    first, second = (np.where(places < 0, 0, indices[:, places]) for places in chosen.T)
    places = pair_places(first, second, clusters)  # channel, pair
    as_bits = (places[:, :, None] >> np.arange(2 * clusters.index_bits, dtype=np.uint16)) & 1
    return np.packbits(as_bits.astype(np.uint8).reshape(-1), bitorder="little")
