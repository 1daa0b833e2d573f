"""The end of every integer product: its sum becomes a level, with a residual added where there is one."""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.targets.kernels.dsp.intrinsics import REQUANTIZE_RESIDUAL
from tinyopt.targets.kernels.intrinsic import Intrinsic
from tinyopt.targets.kernels.requantize import INT8_HIGH, INT8_LOW, SMMLAR, SSAT8, Requantization, requantize_sum, wide
from tinyopt.targets.kernels.tir import Buffer, Expr, call, cast, clamp, maximum, minimum

ANY_SIZE = 1 << 24  # buffers whose extent is not known when the function is compiled

RESIDUAL_INTRINSICS: tuple[Intrinsic, ...] = (REQUANTIZE_RESIDUAL,)


@dataclass(frozen=True)
class Residual:
    """A tensor of the output's shape that is added before the requantization."""

    values: Buffer
    zero_point: Expr
    multiplier: Expr


def finish(acc: Expr, multiplier: Expr, to: Requantization, residual: Residual | None, place: Expr) -> Expr:
    """The level of an accumulator, in SMMLAR and SSAT where the shift is 32."""
    if residual is None:
        if to.shift != 32:
            return requantize_sum(wide(acc) * wide(multiplier), to)
        return saturate(call(SMMLAR, acc, multiplier, to.zero_point), to)
    centred = cast(residual.values[place], "int32") - residual.zero_point
    if to.shift != 32:
        return requantize_sum(wide(acc) * wide(multiplier) + wide(centred) * wide(residual.multiplier), to)
    return saturate(call(REQUANTIZE_RESIDUAL, acc, multiplier, centred, residual.multiplier, to.zero_point), to)


def saturate(level: Expr, to: Requantization) -> Expr:
    """Between low and high, with SSAT doing what it can for int8."""
    if to.dtype != "int8":
        return clamp(level, to.low, to.high)
    return clamp_saturated(call(SSAT8, level), to)


def clamp_saturated(level: Expr, to: Requantization) -> Expr:
    """The rest of a clamp to low and high, for a level that is an int8 already."""
    if to.low > INT8_LOW:
        level = maximum(level, to.low)
    return minimum(level, to.high) if to.high < INT8_HIGH else level
