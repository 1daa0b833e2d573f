"""Requantization with NEON: four accumulators at a time, bit for bit what `tinyopt.targets.kernels.requantize` gives.

SQDMULH              floor(2 p / 2^32) of the product p, where the shift is 32
SQDMULL, SQDMLAL     the same with a residual: 2 p of both products, of which UZP2 takes the upper words
SQRSHRN              half of that, rounded, in 16 bits (a level that saturates here saturates at int8 as well):
                     floor((floor(2 p / 2^32) + 1) / 2) = floor(p / 2^32 + 1/2), because floors of quotients compose
SQADD, SQXTN         add the zero point, narrow to 8 bits; both saturate
SMAX, SMIN           the activation's clamp, where it is tighter than int8

Other shifts: SMULL, SMULL2 for the 64-bit products, SQRSHRN, SQRSHRN2 for the rounding shift back to 32 bits, SQXTN to
16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyopt.ops.integer_rules import level_limits
from tinyopt.targets.kernels.requantize import INT8_HIGH, INT8_LOW, Requantization
from tinyopt.targets.kernels.tir import Expr, broadcast, cast, constant, lanes, llvm_call, maximum, minimum, reinterpret
from tinyopt.targets.kernels.vector.tiling import LANES

ONE_STEP_SHIFT = 32  # what SQDMULH and a halving shift by
LOW_HALF, HIGH_HALF = (0, 1), (2, 3)


def number(value: Expr, dtype: str) -> Expr:
    """A literal, or an int32 that is passed at run time as `dtype`."""
    return constant(value, dtype) if isinstance(value, int) else cast(value, dtype)


def sdot(accumulator: Expr, weights: Expr, values: Expr) -> Expr:
    """int32x4 + the four-fold dot products of two int8x16."""
    return llvm_call("llvm.aarch64.neon.sdot.v4i32.v16i8", "int32x4", accumulator, weights, values)


def smmla(accumulator: Expr, rows: Expr, columns: Expr) -> Expr:
    """int32x4 + the products of two rows and two columns, eight int8 each: [r0 c0, r0 c1, r1 c0, r1 c1]."""
    return llvm_call("llvm.aarch64.neon.smmla.v4i32.v16i8", "int32x4", accumulator, rows, columns)


def multiply_long(a: Expr, b: Expr) -> Expr:
    """int16x8 products of two int8x8; LLVM makes an addition of two of them one SMLAL or SMLAL2."""
    return llvm_call("llvm.aarch64.neon.smull.v8i16", "int16x8", a, b)


def add_neighbours(accumulator: Expr, values: Expr) -> Expr:
    """int32x4 + the sums of neighbouring lanes of int16x8: SADALP."""
    return accumulator + llvm_call("llvm.aarch64.neon.saddlp.v4i32.v8i16", "int32x4", values)


def wide_product(a: Expr, b: Expr, half: tuple[int, int]) -> Expr:
    """int64x2 products of two lanes of a and b, int32x4."""
    return llvm_call("llvm.aarch64.neon.smull.v2i64", "int64x2", lanes([a], half), lanes([b], half))


def rescaled(value: Expr, multiplier: Expr, residual: Expr | None, factor: Expr, shift: int) -> Expr:
    """(value * multiplier + residual * factor + 2^(shift - 1)) >> shift of int32x4, saturated to 32 bits."""
    halves: list[Expr] = []
    for half in (LOW_HALF, HIGH_HALF):
        product = wide_product(value, multiplier, half)
        if residual is not None:
            product = product + wide_product(residual, broadcast(number(factor, "int32"), LANES), half)
        bits = constant(shift, "int32")
        halves.append(llvm_call("llvm.aarch64.neon.sqrshrn.v2i32", "int32x2", product, bits))
    return lanes(halves, range(LANES))


def narrowed(value: Expr, multiplier: Expr, residual: Expr | None, factor: Expr, shift: int) -> Expr:
    """`rescaled`, saturated to 16 bits: int16x4."""
    if shift != ONE_STEP_SHIFT:
        wide = rescaled(value, multiplier, residual, factor, shift)
        return llvm_call("llvm.aarch64.neon.sqxtn.v4i16", "int16x4", wide)
    if residual is None:
        doubled = llvm_call("llvm.aarch64.neon.sqdmulh.v4i32", "int32x4", value, multiplier)
    else:
        doubled = doubled_sum(value, multiplier, residual, factor)
    return llvm_call("llvm.aarch64.neon.sqrshrn.v4i16", "int16x4", doubled, constant(1, "int32"))


def doubled_sum(value: Expr, multiplier: Expr, residual: Expr, factor: Expr) -> Expr:
    """floor(2 * (value * multiplier + residual * factor) / 2^32) of int32x4, saturated to 32 bits."""
    factors = broadcast(number(factor, "int32"), LANES)
    sums: list[Expr] = []
    for half in (LOW_HALF, HIGH_HALF):
        products = [
            llvm_call("llvm.aarch64.neon.sqdmull.v2i64", "int64x2", lanes([a], half), lanes([b], half))
            for a, b in ((value, multiplier), (residual, factors))
        ]
        sums.append(reinterpret(llvm_call("llvm.aarch64.neon.sqadd.v2i64", "int64x2", *products), "int32x4"))
    return lanes(sums, (1, 3, 5, 7))


def levels_int16(narrow: Sequence[Expr], to: Requantization) -> Expr:
    """int16 levels of 1, 2 or 4 vectors int16x4, side by side: clamped; their zero point is 0."""
    width = LANES * len(narrow)
    result = lanes(narrow, range(width)) if len(narrow) > 1 else narrow[0]
    lowest, highest = level_limits("int16")
    if _differs(to.low, lowest):
        result = maximum(result, broadcast(number(to.low, "int16"), width))
    return minimum(result, broadcast(number(to.high, "int16"), width)) if _differs(to.high, highest) else result


def levels(narrow: Sequence[Expr], to: Requantization) -> Expr:
    """int8 levels of 1, 2 or 4 vectors int16x4, side by side: the zero point added, clamped."""
    count = len(narrow)
    if count == 1:
        narrow = [narrow[0], narrow[0]]
    zero_point = broadcast(number(to.zero_point, "int16"), 8)
    eights: list[Expr] = []
    for i in range(0, len(narrow), 2):
        eight = lanes(narrow[i : i + 2], range(8))
        if _differs(to.zero_point, 0):
            eight = llvm_call("llvm.aarch64.neon.sqadd.v8i16", "int16x8", eight, zero_point)
        eights.append(llvm_call("llvm.aarch64.neon.sqxtn.v8i8", "int8x8", eight))
    width = 8 * len(eights)
    result = lanes(eights, range(16)) if len(eights) == 2 else eights[0]
    if _differs(to.low, INT8_LOW):
        result = maximum(result, broadcast(number(to.low, "int8"), width))
    if _differs(to.high, INT8_HIGH):
        result = minimum(result, broadcast(number(to.high, "int8"), width))
    return lanes([result], range(LANES)) if count == 1 else result


def _differs(value: Expr, free: int) -> bool:
    """Whether a number has to be applied: not where it is known to be the one that changes nothing."""
    return not isinstance(value, int) or value != free
