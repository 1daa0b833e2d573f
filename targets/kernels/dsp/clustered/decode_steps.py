"""Decoding of one pair of weights, as assembly and as its meaning.

The places of four pairs fill whole bytes, so that each of the four has its own fixed offset and shift. A row of places
ends with such a four; what a shorter first one leaves out is not in flash. Pairs of weights come to r3, the table is at
r1. Tiles have a register to spare, which holds the places of several pairs; vectors read each place anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array
from tinyopt.targets.kernels.dsp.clustered.pairs import PAIRS_AT_ONCE, packed_row_bytes, skipped_pairs

TABLE_BITS = 5  # indices up to this many bits have a table of pairs
_LOADS = {8: "ldrb", 16: "ldrh", 32: "ldr"}


@dataclass(frozen=True)
class _Chunk:
    """Bytes that are loaded at once. first: pair of the four; shift: of that pair in it; onward: to the next chunk."""

    first: int
    byte: int
    bits: int
    shift: int
    pairs: int
    onward: int


@cache
def _chunks(bits: int) -> tuple[_Chunk, ...]:
    """The loads of four pairs. Places of eight bits are loaded one by one: there is nothing to extract."""
    width, found, pair = 2 * bits, [], 0
    while pair < PAIRS_AT_ONCE:
        byte, shift = divmod(pair * width, 8)
        wanted = width if width == 8 else min(shift + (PAIRS_AT_ONCE - pair) * width, 32)
        size = next(size for size in _LOADS if wanted <= size)
        pairs = min((size - shift) // width, PAIRS_AT_ONCE - pair) if width != 8 else 1
        end = (pair + pairs) * width // 8
        found.append(_Chunk(pair, byte, size, shift, pairs, end - byte))
        pair += pairs
    return tuple(found)


def _chunk_of(bits: int, pair: int) -> _Chunk:
    return next(chunk for chunk in _chunks(bits) if chunk.first <= pair < chunk.first + chunk.pairs)


def decode(bits: int, pair: int) -> list[str]:
    """A pair of a tile, its number among four: from r2 on, with lr for chunks of several pairs and r10 to spare."""
    chunk = _chunk_of(bits, pair)
    holder = "r3" if chunk.pairs == 1 and bits <= TABLE_BITS else "lr"
    lines = [f"{_LOADS[chunk.bits]} {holder}, [r2], #{chunk.onward}"] if pair == chunk.first else []
    return lines + _look_up(bits, holder, chunk.bits, chunk.shift + (pair - chunk.first) * 2 * bits, "r10")


def enter(bits: int, pair: int) -> list[str]:
    """What comes before decoding begins with `pair`: its chunk is loaded, from before the row's first byte."""
    chunk = _chunk_of(bits, pair)
    if pair == chunk.first:
        return []
    begin = pair * 2 * bits // 8
    onward = chunk.byte + chunk.onward - begin
    load = f"{_LOADS[chunk.bits]} lr, [r2, #{chunk.byte - begin}]"
    return [load, f"add r2, r2, #{onward}"] if onward else [load]


def decode_one(bits: int, pair: int, places: str) -> list[str]:
    """A pair of a vector, its number among four: from `places` on, with r12 to spare where there is no table."""
    width = 2 * bits
    first, shift = divmod(pair * width, 8)
    onward = (pair + 1) * width // 8 - first
    size = 8 if shift + width <= 8 else 16
    load = f"{_LOADS[size]} r3, [{places}]"
    return [f"{load}, #{onward}" if onward else load, *_look_up(bits, "r3", size, shift, "r12")]


def _look_up(bits: int, holder: str, size: int, shift: int, spare: str) -> list[str]:
    width = 2 * bits
    if bits > TABLE_BITS:
        return [
            f"ubfx {spare}, {holder}, #{shift}, #{bits}",
            f"ubfx r3, {holder}, #{shift + bits}, #{bits}",
            f"ldrsb {spare}, [r1, {spare}]",
            "ldrsb r3, [r1, r3]",
            f"pkhbt r3, {spare}, r3, lsl #16",
        ]
    extract = f"lsr r3, {holder}, #{shift}" if shift + width == size else f"ubfx r3, {holder}, #{shift}, #{width}"
    return [*([extract] if width < size else []), "ldr r3, [r1, r3, lsl #1]"]


def decode_instructions(bits: int) -> float:
    """Of a pair of a tile."""
    return sum(len(decode(bits, pair)) for pair in range(PAIRS_AT_ONCE)) / PAIRS_AT_ONCE


def decode_one_instructions(bits: int) -> float:
    """Of a pair of a vector."""
    return sum(len(decode_one(bits, pair, "r4")) for pair in range(PAIRS_AT_ONCE)) / PAIRS_AT_ONCE


def decoded(bits: int, table: Array, row: Array, pairs: int) -> NDArray[np.int64]:
    """int64 [pairs, 2]: the weights that a row of packed places stands for."""
    width = 2 * bits
    skipped_bits = skipped_pairs(pairs) * width % 8
    as_bits = np.unpackbits(row[: packed_row_bytes(pairs, bits)], bitorder="little")[skipped_bits:]
    numbers = (as_bits.reshape(pairs, width).astype(np.int64) << np.arange(width)).sum(axis=1)
    if bits > TABLE_BITS:
        return np.asarray(table[np.stack([numbers % (1 << bits), numbers >> bits], axis=1)], np.int64)
    return np.asarray(table[numbers[:, None] + np.arange(2)], np.int64)
