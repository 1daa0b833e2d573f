"""What all kernels of this package share: the size of buffers of any size, and which weights they can multiply."""

from __future__ import annotations

import numpy as np

from tinyopt.ir import Array

ANY_SIZE = 1 << 20
LARGEST_PAIR = 255  # |wa| + |wb|: the sum of two products of int8 stays below 2^15


def has_too_large_pairs(weights: Array) -> bool:
    """Whether the sum of two neighbours' products could exceed half a word; int8 [channels, an even number]."""
    return int(np.abs(weights.astype(np.int32)).reshape(-1, 2).sum(axis=1).max(initial=0)) > LARGEST_PAIR
