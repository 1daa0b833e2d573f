"""Codebooks of int8 values by k-means, and the nearest of their values."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array
from tinyopt.passes.quantization.weights import LARGEST_LEVEL

_RESTARTS = 8  # of k-means, from different seeds; the best is taken


def packed_bytes(elements: int, clusters: int) -> int:
    """Bytes of packed indices and an int8 codebook."""
    return math.ceil(elements * max(1, math.ceil(math.log2(clusters))) / 8) + clusters


def find_codebook(levels: Array, clusters: int, seed: int, weights: Array | None = None) -> NDArray[np.int8]:
    """At most `clusters` int8 values, ascending, that lie near `levels`. Zero is one of them where some level is zero.

    weights: how much each level counts, of the shape of `levels`; None where they count alike. k-means sees each
    rounded level once, weighted by all that take it: the values are rounded to int8 anyway, and a layer of any size is
    then clustered in milliseconds.
    """
    rounded = np.clip(np.rint(levels), -LARGEST_LEVEL, LARGEST_LEVEL).astype(np.int64) + LARGEST_LEVEL
    size = 2 * LARGEST_LEVEL + 1
    present = np.bincount(rounded.ravel(), minlength=size) > 0
    counts = np.bincount(rounded.ravel(), None if weights is None else weights.ravel(), minlength=size)
    # Levels that do not count still want a value near them: they are rounded to one of these.
    counts = np.maximum(counts, 1e-6 * max(float(counts.max()), 1e-300)) * present
    has_zero = bool((levels == 0).any())
    if has_zero:
        present[LARGEST_LEVEL] = False
    points = np.flatnonzero(present)
    wanted = clusters - has_zero
    centres: Array = points - LARGEST_LEVEL
    if len(points) > wanted:
        centres = np.rint(_centres(centres, counts[points], wanted, seed))
    return np.unique(np.concatenate([centres, [0]] if has_zero else [centres])).astype(np.int8)


def _centres(points: Array, counts: Array, clusters: int, seed: int) -> Array:
    # Loaded here, for it takes a second that most compilations need not wait for.
    from sklearn.cluster import KMeans

    means = KMeans(
        clusters,
        n_init=_RESTARTS,  # pyright: ignore[reportArgumentType] (the default there is a string)
        random_state=seed,
    )
    means.fit(points.astype(np.float64)[:, None], sample_weight=counts.astype(np.float64))
    return np.asarray(means.cluster_centers_[:, 0])


def nearest(levels: Array, codebook: NDArray[np.int8]) -> NDArray[np.uint8]:
    """For each level, the index of the nearest value of an ascending codebook; of two as near, the lower."""
    middles = (codebook[1:].astype(np.float64) + codebook[:-1]) / 2
    return np.searchsorted(middles, levels, side="left").astype(np.uint8)
