"""Requantization in vectors for any LLVM target: the 64-bit product, written out.

Gives bit for bit what `tinyopt.targets.kernels.requantize` gives.
"""

from __future__ import annotations

from tinyopt.targets.kernels.requantize import Requantization
from tinyopt.targets.kernels.tir import Expr, broadcast, cast, clamp, constant


def vector_type(dtype: str, width: int) -> str:
    """The type of `width` lanes; one lane is a plain element."""
    return dtype if width == 1 else f"{dtype}x{width}"


def splat(value: float, dtype: str, width: int) -> Expr:
    """A literal in all lanes."""
    return broadcast(constant(value, dtype), width)


def levels_of_products(products: Expr, to: Requantization, width: int) -> Expr:
    """Levels of `width` int64 products: rounding shift, zero point, clamp. The products must lie below 2^62."""
    shifted = (products + splat(1 << (to.shift - 1), "int64", width)) >> splat(to.shift, "int64", width)
    if to.shift == 32:  # what is left has 31 bits
        return levels_of(cast(shifted, vector_type("int32", width)), to, width)
    low, high = (splat(level - to.zero_point, "int64", width) for level in (to.low, to.high))
    narrow = cast(clamp(shifted, low, high), vector_type("int32", width)) + splat(to.zero_point, "int32", width)
    return cast(narrow, vector_type(to.dtype, width))


def levels_of(values: Expr, to: Requantization, width: int) -> Expr:
    """Levels of `width` int32 values that the shift is done for."""
    low, high = (splat(level, "int32", width) for level in (to.low, to.high))
    return cast(clamp(values + splat(to.zero_point, "int32", width), low, high), vector_type(to.dtype, width))
