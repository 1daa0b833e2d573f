"""Decoding of one pair of weights, as assembly and as its meaning.

The places of four pairs fill whole bytes, so that each of the four has its own fixed offset and shift. A row of places
ends with such a four; what a shorter first one leaves out is not in flash.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array
from tinyopt.targets.kernels.dsp.clustered.pairs import PAIRS_AT_ONCE, packed_row_bytes, skipped_pairs

TABLE_BITS = 5  # indices up to this many bits have a table of pairs


def decode_instructions(bits: int) -> float:
    """Instructions of a step that decode a pair of indices of `bits` bits."""
    return sum(len(decode(bits, pair)) for pair in range(PAIRS_AT_ONCE)) / PAIRS_AT_ONCE


def decode(bits: int, pair: int, places: str = "r2") -> list[str]:
    """Bring the pair of weights into r3, and `places` on to the next one. pair: its number among four."""
    width = 2 * bits
    first, shift = divmod(pair * width, 8)
    onward = (pair + 1) * width // 8 - first
    load = "ldrb" if shift + width <= 8 else "ldrh"
    size = 8 if load == "ldrb" else 16
    lines = [f"{load} r3, [{places}], #{onward}" if onward else f"{load} r3, [{places}]"]
    if bits > TABLE_BITS:
        return [
            *lines,
            f"ubfx r12, r3, #{shift}, #{bits}",
            f"ubfx r3, r3, #{shift + bits}, #{bits}",
            "ldrsb r12, [r1, r12]",
            "ldrsb r3, [r1, r3]",
            "pkhbt r3, r12, r3, lsl #16",
        ]
    if width < size:
        lines.append(f"lsr r3, r3, #{shift}" if shift + width == size else f"ubfx r3, r3, #{shift}, #{width}")
    return [*lines, "ldr r3, [r1, r3, lsl #1]"]


def decoded(bits: int, table: Array, row: Array, pairs: int) -> NDArray[np.int64]:
    """int64 [pairs, 2]: the weights that a row of packed places stands for."""
    width = 2 * bits
    skipped_bits = skipped_pairs(pairs) * width % 8
    as_bits = np.unpackbits(row[: packed_row_bytes(pairs, bits)], bitorder="little")[skipped_bits:]
    numbers = (as_bits.reshape(pairs, width).astype(np.int64) << np.arange(width)).sum(axis=1)
    if bits > TABLE_BITS:
        return np.asarray(table[np.stack([numbers % (1 << bits), numbers >> bits], axis=1)], np.int64)
    return np.asarray(table[numbers[:, None] + np.arange(2)], np.int64)
