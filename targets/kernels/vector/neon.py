"""Requantization with NEON: four accumulators at a time, bit for bit what `tinyopt.targets.kernels.requantize` gives.

    SMULL, SMULL2        the 64-bit products
    SQRSHRN, SQRSHRN2    the rounding shift, back to 32 bits (a level that saturates here saturates at int8 as well)
    SQXTN, SQADD, SQXTN  narrow to 16 bits, add the zero point, narrow to 8 bits; all of them saturate
    SMAX, SMIN           the activation's clamp, where it is tighter than int8
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyopt.targets.kernels.requantize import INT8_HIGH, INT8_LOW, Requantization
from tinyopt.targets.kernels.tir import (
    Buffer,
    Expr,
    KernelBuilder,
    broadcast,
    cast,
    constant,
    lanes,
    llvm_call,
    maximum,
    minimum,
)
from tinyopt.targets.kernels.vector.tiling import LANES

LOW_HALF, HIGH_HALF = (0, 1), (2, 3)


@dataclass(frozen=True)
class ResidualTerm:
    """What a fused addition adds to the 64-bit product: (r - zero_point) * multiplier."""

    zero_point: int
    multiplier: int


def sdot(accumulator: Expr, weights: Expr, values: Expr) -> Expr:
    """int32x4 + the four-fold dot products of two int8x16."""
    return llvm_call("llvm.aarch64.neon.sdot.v4i32.v16i8", "int32x4", accumulator, weights, values)


def wide_product(a: Expr, b: Expr, half: tuple[int, int]) -> Expr:
    """int64x2 products of two lanes of a and b, int32x4."""
    return llvm_call("llvm.aarch64.neon.smull.v2i64", "int64x2", lanes([a], half), lanes([b], half))


def rescaled(accumulator: Expr, multiplier: Expr, shift: int) -> Expr:
    """(accumulator * multiplier + 2^(shift - 1)) >> shift of int32x4, saturated to 32 bits."""
    return _rounded([wide_product(accumulator, multiplier, half) for half in (LOW_HALF, HIGH_HALF)], shift)


def rescaled_with_residual(accumulator: Expr, multiplier: Expr, residual: Expr, term: ResidualTerm, shift: int) -> Expr:
    """`rescaled` with (residual - zero point) * multiplier added to the product; residual is int16x4."""
    centred = cast(residual - broadcast(constant(term.zero_point, "int16"), LANES), "int32x4")
    factor = broadcast(constant(term.multiplier, "int32"), LANES)
    halves = (LOW_HALF, HIGH_HALF)
    return _rounded(
        [wide_product(accumulator, multiplier, half) + wide_product(centred, factor, half) for half in halves], shift
    )


def _rounded(products: Sequence[Expr], shift: int) -> Expr:
    bits = constant(shift, "int32")
    return lanes(
        [llvm_call("llvm.aarch64.neon.sqrshrn.v2i32", "int32x2", product, bits) for product in products], range(LANES)
    )


def store_levels(
    kernel: KernelBuilder, y: Buffer, index: Expr, values: Sequence[Expr], valid: int, to: Requantization
) -> None:
    """Add the zero point to int32x4 values, clamp them, and write the first `valid` of them to int8 y[index...]."""
    done = 0
    while done < len(values):
        count = next(count for count in (4, 2, 1) if count <= len(values) - done)
        levels = _levels(values[done : done + count], to)
        _store(kernel, y, index + done * LANES, levels, count * LANES, min(valid - done * LANES, count * LANES))
        done += count


def _levels(values: Sequence[Expr], to: Requantization) -> Expr:
    """int8 levels of 1, 2 or 4 vectors, in a vector of 8 or 16."""
    narrow = [llvm_call("llvm.aarch64.neon.sqxtn.v4i16", "int16x4", value) for value in values]
    if len(narrow) == 1:
        narrow = narrow * 2
    zero_point = broadcast(constant(to.zero_point, "int16"), 8)
    bytes_of_eight: list[Expr] = []
    for i in range(0, len(narrow), 2):
        eight = lanes(narrow[i : i + 2], range(8))
        if to.zero_point:
            eight = llvm_call("llvm.aarch64.neon.sqadd.v8i16", "int16x8", eight, zero_point)
        bytes_of_eight.append(llvm_call("llvm.aarch64.neon.sqxtn.v8i8", "int8x8", eight))
    width = 8 * len(bytes_of_eight)
    levels = lanes(bytes_of_eight, range(16)) if len(bytes_of_eight) == 2 else bytes_of_eight[0]
    if to.low > INT8_LOW:
        levels = maximum(levels, broadcast(constant(to.low, "int8"), width))
    if to.high < INT8_HIGH:
        levels = minimum(levels, broadcast(constant(to.high, "int8"), width))
    return levels


def _store(kernel: KernelBuilder, y: Buffer, index: Expr, levels: Expr, width: int, valid: int) -> None:
    if valid == width:
        y.store_vector(index, lanes([levels], range(width)) if width == LANES else levels, width)
        return
    levels = kernel.let(levels)
    done = 0
    for part in (8, 4, 2, 1):
        if valid - done >= part:
            piece = lanes([levels], range(done, done + part))
            if part == 1:
                y[index + done] = piece
            else:
                y.store_vector(index + done, piece, part)
            done += part
