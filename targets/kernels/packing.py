"""Packing of cluster indices: `bits` bits for each, least significant first, every row from a whole byte on.

A row is what a kernel decodes at once (the weights of one output channel). Eight indices take exactly `bits` bytes, so
that a row is decoded in groups of eight with constant byte offsets and shifts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array

INDICES_PER_GROUP = 8


def row_bytes(indices: int, bits: int) -> int:
    """Bytes of one packed row."""
    return (indices * bits + 7) // 8


def pack_rows(indices: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """uint8 [rows, n] of values below 2^bits to uint8 [rows, row_bytes(n, bits)]."""
    assert indices.ndim == 2
    assert int(indices.max(initial=0)) < 1 << bits
    as_bits = (indices[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1  # row, index, bit
    return np.packbits(as_bits.reshape(len(indices), -1), axis=1, bitorder="little")


def unpack_rows(packed: NDArray[np.uint8], count: int, bits: int) -> NDArray[np.uint8]:
    """The inverse of `pack_rows`: uint8 [rows, count]."""
    as_bits = np.unpackbits(packed, axis=1, count=count * bits, bitorder="little").reshape(len(packed), count, bits)
    return np.asarray((as_bits << np.arange(bits, dtype=np.uint8)).sum(axis=2), np.uint8)


def whole_words(array: Array) -> Array:
    """The bytes of an array, with zeros behind them up to a whole word: what it takes in flash between others."""
    flat = np.ascontiguousarray(array).reshape(-1)
    assert flat.itemsize == 1, "arrays of larger elements are whole words or have no use for this"
    return np.pad(flat, (0, -len(flat) % 4))
