"""The functions of tinyopt.ops.pointwise as TensorIR expressions of their operands.

Integers that may wrap around are computed without sign, in 32 or 64 bits, so that no rule of C or LLVM is broken; a
bool is a byte that holds 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import DTYPES
from tinyopt.targets.kernels.tir import (
    Expr,
    bitwise_not,
    cast,
    constant,
    is_nan,
    math_call,
    maximum,
    minimum,
    real_call,
    select,
    truncated_quotient,
    truncated_remainder,
)


@dataclass(frozen=True)
class Operation:
    """What an expression depends on beside its operands: the element type of the last one, and numbers or words."""

    dtype: str
    parameters: tuple[float | str, ...]

    @property
    def is_float(self) -> bool:
        return DTYPES[self.dtype].kind == "f"

    @property
    def is_signed(self) -> bool:
        return DTYPES[self.dtype].kind in "if"

    def number(self, index: int) -> Expr:
        """A parameter as a float literal."""
        return constant(float(self.parameters[index]), "float32")

    def literal(self, value: float) -> Expr:
        return constant(value, self.dtype)


Expression = Callable[..., Expr]  # the operation, then its operands


def _real(value: float) -> Expr:
    return constant(value, "float32")


def _libm(function: str) -> Expression:
    return lambda operation, x: math_call(function, x)


def _truth(condition: Expr) -> Expr:
    """A condition as a bool's byte."""
    return select(condition, constant(1, "uint8"), constant(0, "uint8"))


def _absolute(operation: Operation, x: Expr) -> Expr:
    if operation.is_float:
        return real_call("fabs", operation.dtype, x)
    return select(x < operation.literal(0), _negated(operation, x), x) if operation.is_signed else x


def _negated(operation: Operation, x: Expr) -> Expr:
    if operation.is_float:
        return x * operation.literal(-1)  # 0 - x would turn 0 into 0, not -0
    return _wrapped(operation, lambda zero, value: zero - value, operation.literal(0), x)


def _sign(operation: Operation, x: Expr) -> Expr:
    zero, one = operation.literal(0), operation.literal(1)
    if not operation.is_signed:
        return select(x > zero, one, zero)
    return select(x > zero, one, select(x < zero, operation.literal(-1), x))  # 0 and NaN as they are


def _wide_unsigned(dtype: str) -> str:
    return "uint64" if DTYPES[dtype].itemsize == 8 else "uint32"


def _wrapped(operation: Operation, function: Callable[[Expr, Expr], Expr], a: Expr, b: Expr) -> Expr:
    """`function` modulo 2^bits."""
    wide = _wide_unsigned(operation.dtype)
    return cast(function(cast(a, wide), cast(b, wide)), operation.dtype)


def _wrapping(function: Callable[[Expr, Expr], Expr]) -> Expression:
    return lambda operation, a, b: _wrapped(operation, function, a, b)


def _plain(function: Callable[[Expr, Expr], Expr]) -> Expression:
    return lambda operation, a, b: function(a, b)


def _comparison(function: Callable[[Expr, Expr], Expr]) -> Expression:
    return lambda operation, a, b: _truth(function(a, b))


def _divide(operation: Operation, a: Expr, b: Expr) -> Expr:
    """Towards zero; by zero: zero. The lowest integer divided by -1 wraps around."""
    quotient, zero, one = truncated_quotient(a, _harmless(operation, b)), operation.literal(0), operation.literal(1)
    if operation.is_signed:
        one = select(b == operation.literal(-1), operation.literal(-1), one)
    return _wrapped(operation, lambda left, right: left * right, quotient, select(b == zero, zero, one))


def _harmless(operation: Operation, divisor: Expr) -> Expr:
    """The divisor, and 1 where it is 0 or -1.

    The division must not stand behind a condition on its divisor: TVM would take the condition for granted, leave out
    what is done here, and then compute what several conditions share before all of them.
    """
    one = operation.literal(1)
    if operation.is_signed:
        divisor = select(divisor == operation.literal(-1), one, divisor)
    return select(divisor == operation.literal(0), one, divisor)


def _float_modulo(operation: Operation, a: Expr, b: Expr) -> Expr:
    rest, zero = math_call("fmodf", a, b), _real(0)
    if operation.parameters[0]:
        return rest
    is_other_sign = select(b < zero, rest > zero, rest < zero)
    return select(is_other_sign, rest + b, rest)


def _modulo(operation: Operation, a: Expr, b: Expr) -> Expr:
    if operation.is_float:
        return _float_modulo(operation, a, b)
    rest = truncated_remainder(a, _harmless(operation, b))  # 0 where b is 0 or -1
    if not operation.is_signed or operation.parameters[0]:
        return rest
    zero = operation.literal(0)
    return select(rest == zero, rest, select((rest ^ b) < zero, rest + b, rest))


def _shift(operation: Operation, a: Expr, b: Expr) -> Expr:
    zero, bits = operation.literal(0), DTYPES[operation.dtype].itemsize * 8
    is_outside = b >= operation.literal(bits)
    if operation.is_signed:
        is_outside = select(b < zero, b < zero, is_outside)
    distance = select(is_outside, zero, b)
    if operation.parameters[0] == "LEFT":
        return select(is_outside, zero, _wrapped(operation, lambda value, by: value << by, a, distance))
    nothing = select(a < zero, operation.literal(-1), zero) if operation.is_signed else zero
    return select(is_outside, nothing, a >> distance)


def _larger(operation: Operation, a: Expr, b: Expr) -> Expr:
    if not operation.is_float:
        return maximum(a, b)
    return select(is_nan(a), a, select(a > b, a, b))  # NaN goes through, from either side


def _smaller(operation: Operation, a: Expr, b: Expr) -> Expr:
    if not operation.is_float:
        return minimum(a, b)
    return select(is_nan(a), a, select(a < b, a, b))


def _infinite(operation: Operation, x: Expr) -> Expr:
    positive, negative = operation.parameters
    found = constant(0, "uint8")
    if positive:
        found = select(x > _real(float(np.finfo(np.float32).max)), constant(1, "uint8"), found)
    if negative:
        found = select(x < _real(float(np.finfo(np.float32).min)), constant(1, "uint8"), found)
    return found


def _below_zero(x: Expr, alpha: Expr) -> Expr:
    return alpha * math_call("expm1f", x)


def _elu(operation: Operation, x: Expr) -> Expr:
    return select(x < _real(0), _below_zero(x, operation.number(0)), x)


def _selu(operation: Operation, x: Expr) -> Expr:
    return operation.number(1) * _elu(operation, x)


def _celu(operation: Operation, x: Expr) -> Expr:
    alpha = operation.number(0)
    return select(x < _real(0), _below_zero(x / alpha, alpha), x)


def _softplus(x: Expr) -> Expr:
    """log(1 + e^x), without overflow; NaN stays."""
    return select(x > _real(0), x, _real(0)) + math_call("log1pf", math_call("expf", _real(0) - math_call("fabsf", x)))


def _shrink(operation: Operation, x: Expr) -> Expr:
    bias, threshold = operation.number(0), float(operation.parameters[1])
    inner = select(x > _real(threshold), x - bias, _real(0))
    return select(x < _real(-threshold), x + bias, inner)


EXPRESSIONS: Mapping[str, Expression] = {
    "Sqrt": _libm("sqrtf"),
    "Exp": _libm("expf"),
    "Log": _libm("logf"),
    "Erf": _libm("erff"),
    "Sin": _libm("sinf"),
    "Cos": _libm("cosf"),
    "Tan": _libm("tanf"),
    "Asin": _libm("asinf"),
    "Acos": _libm("acosf"),
    "Atan": _libm("atanf"),
    "Sinh": _libm("sinhf"),
    "Cosh": _libm("coshf"),
    "Asinh": _libm("asinhf"),
    "Acosh": _libm("acoshf"),
    "Atanh": _libm("atanhf"),
    "Floor": _libm("floorf"),
    "Ceil": _libm("ceilf"),
    "Round": _libm("rintf"),
    "Reciprocal": lambda operation, x: _real(1) / x,
    "Abs": _absolute,
    "Neg": _negated,
    "Sign": _sign,
    "Elu": _elu,
    "Selu": _selu,
    "Celu": _celu,
    "Softplus": lambda operation, x: _softplus(x),
    "Softsign": lambda operation, x: x / (_real(1) + math_call("fabsf", x)),
    "Mish": lambda operation, x: x * math_call("tanhf", _softplus(x)),
    "Shrink": _shrink,
    "ThresholdedRelu": lambda operation, x: select(x > operation.number(0), x, _real(0)),
    "IsNaN": lambda operation, x: _truth(is_nan(x)),
    "IsInf": _infinite,
    "Equal": _comparison(lambda a, b: a == b),
    "Less": _comparison(lambda a, b: a < b),
    "Greater": _comparison(lambda a, b: a > b),
    "LessOrEqual": _comparison(lambda a, b: a <= b),
    "GreaterOrEqual": _comparison(lambda a, b: a >= b),
    "Not": lambda operation, x: x ^ constant(1, "uint8"),
    "And": _plain(lambda a, b: a & b),
    "Or": _plain(lambda a, b: a | b),
    "Xor": _plain(lambda a, b: a ^ b),
    "IntegerAdd": _wrapping(lambda a, b: a + b),
    "IntegerSub": _wrapping(lambda a, b: a - b),
    "IntegerMul": _wrapping(lambda a, b: a * b),
    "IntegerDiv": _divide,
    "BitwiseNot": lambda operation, x: bitwise_not(x),
    "BitwiseAnd": _plain(lambda a, b: a & b),
    "BitwiseOr": _plain(lambda a, b: a | b),
    "BitwiseXor": _plain(lambda a, b: a ^ b),
    "BitShift": _shift,
    "Max": _larger,
    "Min": _smaller,
    "Mod": _modulo,
    "Pow": lambda operation, a, b: real_call("pow", operation.dtype, a, b),
    "Where": lambda operation, condition, a, b: select(condition != constant(0, "uint8"), a, b),
}


def cast_element(x: Expr, source: str, to: str) -> Expr:
    """An element of type `source` as one of type `to`."""
    if source == "float16" and to != "float16":  # all its values are float32, too
        x, source = cast(x, "float32"), "float32"
    if to == "float16":
        return cast(x if source == "float64" else cast(x, "float32"), to)
    if to == "bool":
        return _truth(x != constant(0, "uint8" if source == "bool" else source))
    if DTYPES[source].kind != "f" or DTYPES[to].kind == "f":
        return cast(x, to)
    limits, zero = np.iinfo(DTYPES[to]), constant(0, source)
    bits = limits.bits - (limits.min < 0)
    low = zero if limits.min == 0 else zero - _power_of_two(bits, source)
    is_high = x >= _power_of_two(bits, source)
    inside = select(is_high, zero, select(x >= low, x, low))
    return select(is_high, _largest(to), cast(inside, to))


def _largest(dtype: str) -> Expr:
    """The largest integer of a type; TVM has no literals above those of int64."""
    if dtype == "uint64":
        return bitwise_not(constant(0, dtype))
    return constant(int(np.iinfo(DTYPES[dtype]).max), dtype)


def _power_of_two(exponent: int, dtype: str) -> Expr:
    """As a literal where TVM's C code prints all its digits, else by a function that every compiler evaluates."""
    if dtype == "float32" or exponent <= 16:
        return constant(2.0**exponent, dtype)
    return real_call("ldexp", dtype, constant(1, dtype), constant(exponent, "int32"))
