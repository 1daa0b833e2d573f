"""Requantization of accumulators to int8 or int16, as TensorIR: what every integer kernel ends with.

    requantize(acc, M) = min(max(((acc * M + 2^(shift - 1)) >> shift) + zero_point, low), high)

acc is int32, 0 <= M < 2^31, the product is taken in int64 and >> is arithmetic. Three ways to write it give the same
bits: `requantize` for any machine, `requantize_sum` where more than one product is added before the shift (residuals),
and `requantize_smmlar` for the Arm DSP extension, where shift = 32 makes it one SMMLAR and one SSAT.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Node, Value
from tinyopt.targets.kernels.intrinsic import Intrinsic
from tinyopt.targets.kernels.tir import Expr, call, cast, clamp, constant, maximum, minimum

INT8_LOW, INT8_HIGH = -128, 127


@dataclass(frozen=True)
class Requantization:
    """The numbers of one requantization. 1 <= shift <= 32; low and high are levels that include the activation.

    dtype: what the levels are of, int8 or int16.
    """

    shift: int
    zero_point: int
    low: int
    high: int
    dtype: str

    @classmethod
    def of(cls, node: Node) -> Requantization:
        """As the attributes and the output of an integer node say."""
        output = node.outputs[0]
        return cls(node.int("shift"), zero_point_of(node, output), node.int("low"), node.int("high"), output.dtype)


def zero_point_of(node: Node, value: Value) -> int:
    """The zero point of one of the node's per-tensor quantized inputs or outputs."""
    assert value.quantization is not None, f"{value.name} of {node.op} '{node.name}' is not quantized"
    assert value.quantization.is_per_tensor, f"{value.name} of {node.op} '{node.name}' is not per tensor"
    return value.quantization.zero_point[0]


def type_suffix(node: Node) -> str:
    """The end of a kernel's name: s8, s16, or s8_s16 where it reads int8 and gives int16."""
    names = {"int8": "s8", "int16": "s16"}
    return "_".join(dict.fromkeys((names[node.input(0).dtype], names[node.output.dtype])))


def wide(value: Expr) -> Expr:
    """An int32 as int64."""
    return cast(value, "int64")


def requantize(accumulator: Expr, multiplier: Expr, to: Requantization) -> Expr:
    """The level of an int32 accumulator, as an int32 expression; right on every target."""
    return requantize_sum(wide(accumulator) * wide(multiplier), to)


def requantize_sum(products: Expr, to: Requantization) -> Expr:
    """The level of an int64 sum of products, as an int32 expression. The sum must lie below 2^62."""
    shifted = (products + constant(1 << (to.shift - 1), "int64")) >> constant(to.shift, "int64")
    if to.shift == 32:  # what is left has 31 bits: the rest can be done on machine words
        return _clamp_after_zero_point(cast(shifted, "int32"), to)
    low, high = (constant(level - to.zero_point, "int64") for level in (to.low, to.high))
    return cast(clamp(shifted, low, high), "int32") + to.zero_point


def requantize_smmlar(accumulator: Expr, multiplier: Expr, to: Requantization) -> Expr:
    """`requantize` on the Arm DSP extension; the template's kernel lists `SMMLAR_INTRINSICS`."""
    if to.shift != 32:
        return requantize(accumulator, multiplier, to)
    level = call(SMMLAR, accumulator, multiplier, constant(to.zero_point, "int32"))
    if (to.low, to.high) == (INT8_LOW, INT8_HIGH):
        return call(SSAT8, level)
    return clamp(level, to.low, to.high)


def _clamp_after_zero_point(value: Expr, to: Requantization) -> Expr:
    return minimum(maximum(value + to.zero_point, to.low), to.high)


def _smmlar(a: int, b: int, c: int) -> int:
    return ((c << 32) + a * b + (1 << 31)) >> 32


SMMLAR = Intrinsic(
    name="tinyopt_smmlar",
    result="int32",
    headers=("stdint.h",),
    c_text="""\
static inline int32_t tinyopt_smmlar(int32_t a, int32_t b, int32_t c) {
  int32_t result;
  __asm("smmlar %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}
""",
    meaning=_smmlar,
)

SSAT8 = Intrinsic(
    name="tinyopt_ssat8",
    result="int32",
    headers=("arm_acle.h",),
    c_text="""\
static inline int32_t tinyopt_ssat8(int32_t value) { return __ssat(value, 8); }
""",
    meaning=lambda value: min(max(value, INT8_LOW), INT8_HIGH),
)

SMMLAR_INTRINSICS: tuple[Intrinsic, ...] = (SMMLAR, SSAT8)
