"""Requantization on x86-64 in whole vectors, bit for bit what `tinyopt.targets.kernels.requantize` gives.

VPMULDQ multiplies every other lane to 64 bits, so the even and the odd lanes are taken apart and rounded. Where the
shift is 32, as it mostly is, the results are the upper halves, which need no shift but are blended together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tinyopt.targets.kernels.requantize import INT8_HIGH, INT8_LOW
from tinyopt.targets.kernels.tir import Expr, cast, lanes, llvm_call, maximum, minimum, reinterpret
from tinyopt.targets.kernels.vector.generic import levels_of, levels_of_products, splat, vector_type
from tinyopt.targets.kernels.vector.integer_ending import IntegerEnding
from tinyopt.targets.kernels.vector.machine import AVX2_VECTORS, AVX512_VECTORS
from tinyopt.targets.kernels.vector.tile_nest import Finished


@dataclass(frozen=True)
class X86Ending(IntegerEnding):
    """Vectors of `lanes` channels."""

    lanes: ClassVar[int]

    def write(self, pixels: list[Finished]) -> None:
        """Pixels of the same channels, vector by vector."""
        width = self.lanes
        for v in range(len(pixels[0].values)):
            multiplier = self.kernel.let(self.multiplier.vector(pixels[0].channel + v * width, width))
            for pixel in pixels:
                self._write_vector(pixel, v, multiplier)

    def _write_vector(self, pixel: Finished, v: int, multiplier: Expr) -> None:
        width, done = self.lanes, v * self.lanes
        index, valid = pixel.index + done, min(pixel.valid - done, width)
        centred: list[Expr] = []
        if self.term is not None:
            wide = cast(self.load_residual(index, valid, width), vector_type("int32", width))
            centred.append(self.kernel.let(wide - splat(self.term.zero_point, "int32", width)))
        value = self.kernel.let(pixel.values[v])
        self.store(index, self._levels([value], [multiplier], centred), width, valid)

    def _levels(self, values: Sequence[Expr], multipliers: Sequence[Expr], residuals: Sequence[Expr]) -> Expr:
        """The levels of one vector."""
        width = self.lanes
        terms = list(zip(values, multipliers, strict=True))
        if self.term is not None:
            terms += [(residual, splat(self.term.multiplier, "int32", width)) for residual in residuals]
        if self.to.shift == 32:
            return levels_of(self._upper_halves(terms, width), self.to, width)
        wide = vector_type("int64", width)
        return levels_of_products(_total([cast(a, wide) * cast(b, wide) for a, b in terms]), self.to, width)

    def packed_levels(self, values: Sequence[Expr], multipliers: Sequence[Expr], width: int) -> Expr:
        """int8 levels of four vectors of `width` int32, four of each in turn: packed within each 128 bits.

        VPACKSSDW and VPACKSSWB saturate: a level that does so in 16 bits does so in 8 as well.
        """
        terms = [[(value, multiplier)] for value, multiplier in zip(values, multipliers, strict=True)]
        if self.to.shift != 32:
            wide = vector_type("int64", width)
            each = [levels_of_products(cast(a, wide) * cast(b, wide), self.to, width) for ((a, b),) in terms]
            quads = [4 * part + vector * width for part in range(width // 4) for vector in range(4)]
            return lanes([self.kernel.let(levels) for levels in each], [q + i for q in quads for i in range(4)])
        rounded = [self.kernel.let(self._upper_halves(term, width)) for term in terms]
        words = [_packed(rounded[i], rounded[i + 1], "int32", width) for i in (0, 2)]
        if self.to.zero_point:
            zero_point = splat(self.to.zero_point, "int16", 2 * width)
            kind = f"int16x{2 * width}"
            words = [llvm_call(f"llvm.sadd.sat.v{2 * width}i16", kind, word, zero_point) for word in words]
        levels = _packed(words[0], words[1], "int16", 2 * width)
        if self.to.low > INT8_LOW:
            levels = maximum(levels, splat(self.to.low, "int8", 4 * width))
        return minimum(levels, splat(self.to.high, "int8", 4 * width)) if self.to.high < INT8_HIGH else levels

    def _upper_halves(self, terms: Sequence[tuple[Expr, Expr]], width: int) -> Expr:
        """The rounded upper halves of the sums of 64-bit products, int32."""
        pairs = vector_type("int64", width // 2)
        half = splat(1 << 31, "int64", width // 2)
        wide = [tuple(self.kernel.let(reinterpret(operand, pairs)) for operand in term) for term in terms]
        bits = splat(32, "int64", width // 2)
        even = _total([_extended(a, bits) * _extended(b, bits) for a, b in wide]) + half
        odd = _total([(a >> bits) * (b >> bits) for a, b in wide]) + half
        halves = [self.kernel.let(reinterpret(total, vector_type("int32", width))) for total in (even, odd)]
        return lanes(halves, [lane + 1 if lane % 2 == 0 else lane + width for lane in range(width)])


class Avx2Ending(X86Ending):
    """With AVX2."""

    lanes = AVX2_VECTORS.lanes


class Avx512Ending(X86Ending):
    """With AVX-512."""

    lanes = AVX512_VECTORS.lanes


def _packed(a: Expr, b: Expr, dtype: str, width: int) -> Expr:
    """Two vectors of `width` ints in half the bits, saturated, side by side within each 128 bits."""
    name = {"int32": "packssdw", "int16": "packsswb"}[dtype]
    narrow = {"int32": "int16", "int16": "int8"}[dtype]
    bits = width * int(dtype[3:])
    intrinsic = {128: f"sse2.{name}.128", 256: f"avx2.{name}", 512: f"avx512.{name}.512"}[bits]
    return llvm_call(f"llvm.x86.{intrinsic}", f"{narrow}x{2 * width}", a, b)


def _extended(value: Expr, bits: Expr) -> Expr:
    """The lower half of each int64, with its sign."""
    return (value << bits) >> bits


def _total(products: Sequence[Expr]) -> Expr:
    total = products[0]
    for product in products[1:]:
        total = total + product
    return total
