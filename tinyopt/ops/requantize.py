"""Requantization: from an int32 accumulator to int8 or int16 with one multiplication and one rounding.

    requantize(acc) = min(max(((acc * M + 2^(shift-1)) >> shift) + zero_point, low), high)

M and shift stand for the real factor M / 2^shift. Multiplied out in 64 bits this is the real product rounded half up,
so the only error is that of M itself (half a unit of its last place). On a Cortex-M4 a shift of 32 is one SMMLAR.
Source: Jacob et al., arXiv:1712.05877, section 2.2, with a single rounding.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import UnsupportedOperatorError
from tinyopt.ir import DTYPES, Array

MULTIPLIER_BITS = 31
LARGEST_SHIFT = 32


def requantize(
    acc: Array, multiplier: Array | int, shift: int, zero_point: int, low: int, high: int, dtype: str = "int8"
) -> Array:
    """clamp(((acc * multiplier + 2^(shift-1)) >> shift) + zero_point, low, high) as `dtype`; the multiplier broadcasts.

    low and high must be levels of `dtype`, int8 or int16.
    """
    product = acc.astype(np.int64) * np.asarray(multiplier, np.int64)
    return rounded_shift(product, shift, zero_point, low, high, dtype)


def rounded_shift(product: Array, shift: int, zero_point: int, low: int, high: int, dtype: str = "int8") -> Array:
    """The second half of `requantize`, for operators that add several products before they round."""
    assert 1 <= shift <= LARGEST_SHIFT, shift
    levels = ((product.astype(np.int64) + (1 << (shift - 1))) >> shift) + zero_point
    return np.asarray(np.clip(levels, low, high), DTYPES[dtype])


def multiplier_and_shift(
    scales: Array, bits: int = MULTIPLIER_BITS, largest_shift: int = LARGEST_SHIFT
) -> tuple[NDArray[np.int32], int]:
    """Integers M and one shift with M / 2^shift nearest to `scales` (float64, any shape).

    Negative scales give negative integers, a scale of 0 gives 0. The shift is `largest_shift`, less where |M| would not
    stay below 2^bits: with the defaults it is 32 where all scales are below 0.5.
    Raises UnsupportedOperatorError where a scale is not finite or so large that the shift would be below 1.
    """
    wanted = np.asarray(scales, np.float64)
    largest = float(np.max(np.abs(wanted), initial=0.0))
    if not math.isfinite(largest):
        raise UnsupportedOperatorError(
            f"the scales {wanted.tolist()} are not finite: no integer multiplier stands for them"
        )
    for shift in range(largest_shift, 0, -1):
        if np.rint(largest * 2.0**shift) < 2**bits:
            return np.asarray(np.rint(wanted * 2.0**shift), np.int32), shift
    raise UnsupportedOperatorError(
        f"the rescaling factor {largest:g} is too large for a {bits}-bit multiplier: check the quantization's scales"
    )
