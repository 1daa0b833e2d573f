"""Functions of single elements beyond plain float arithmetic: mathematics, comparisons, logic, integers, casts.

    y[i] = f(a[i], b[i], ...)    with numpy's broadcasting

One table: for each function how many operands it takes, of which element types, of which type its result is, and the
numpy reference. Integers wrap around; what C leaves undefined is defined here: an integer divided by zero is zero, a
shift by the width or more gives zero, a float becomes the nearest integer towards zero that the type has (NaN the
lowest one).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyopt.ir import DTYPES, Array, Node, TensorType
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import broadcast_shape, one_per_output_element, present, require

FLOAT32 = ("float32",)
BOOL = ("bool",)
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
SIGNED = ("int8", "int16", "int32", "int64")
INTEGERS = (*SIGNED, *UNSIGNED)
NUMBERS = (*INTEGERS, "float32", "float64")
ANYTHING = tuple(DTYPES)

Compute = Callable[..., Array]  # the node, then an array for each operand


@dataclass(frozen=True)
class Function:
    """One function of elements.

    operands: how many. takes: the element types that the operands may have, all the same one (but for the condition of
    Where, a bool). result: the output's type, None for that of the last operand.
    """

    name: str
    operands: int
    takes: tuple[str, ...]
    compute: Compute
    result: str | None = None


def saturated(array: Array, dtype: str) -> Array:
    """Floats as integers of `dtype`: towards zero, within its range, NaN as its lowest one."""
    limits = np.iinfo(DTYPES[dtype])
    low, high = array.dtype.type(limits.min), array.dtype.type(limits.max)
    inside = np.clip(np.where(np.isnan(array), low, np.trunc(array)), low, high)
    is_largest = inside >= high  # which may be one more than the largest integer
    return np.where(is_largest, limits.max, np.where(is_largest, 0, inside).astype(DTYPES[dtype])).astype(DTYPES[dtype])


def cast_array(array: Array, dtype: str) -> Array:
    """`array` as `dtype`, by the rules of the module's first lines."""
    if array.dtype.kind == "f" and DTYPES[dtype].kind in "iu":
        return saturated(array, dtype)
    with np.errstate(over="ignore"):  # infinity, as it should be
        return array.astype(DTYPES[dtype])


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _plain(function: Callable[..., Any]) -> Compute:
    return lambda node, *operands: np.asarray(function(*operands))


def softplus(x: Array) -> Array:
    """log(1 + e^x) without overflow."""
    return np.asarray(np.logaddexp(np.zeros((), x.dtype), x))


def _elu(x: Array, alpha: float, gamma: float, steepness: float) -> Array:
    """gamma * (x, or alpha * (e^(x / steepness) - 1) below zero)."""
    negative = np.float32(alpha) * np.expm1(np.minimum(x, 0) / np.float32(steepness))
    return np.asarray(np.float32(gamma) * np.where(x < 0, negative, x))


def _shrink(node: Node, x: Array) -> Array:
    bias, threshold = np.float32(node.float("bias")), np.float32(node.float("threshold"))
    return np.where(x < -threshold, x + bias, np.where(x > threshold, x - bias, np.float32(0)))


def _is_infinite(node: Node, x: Array) -> Array:
    found = np.zeros(x.shape, bool)
    if node.int("positive"):
        found |= np.isposinf(x)
    if node.int("negative"):
        found |= np.isneginf(x)
    return found


def _divide(node: Node, a: Array, b: Array) -> Array:
    """Towards zero, as C does; by zero: zero."""
    del node
    a, b = np.broadcast_arrays(a, b)
    divisor = np.where(b == 0, b.dtype.type(1), b)
    quotient = np.floor_divide(a, divisor)
    is_rounded_up = (a - quotient * divisor != 0) & ((a < 0) != (divisor < 0))
    return np.asarray(np.where(b == 0, a.dtype.type(0), quotient + is_rounded_up.astype(a.dtype)))


def _modulo(node: Node, a: Array, b: Array) -> Array:
    """The remainder with the divisor's sign, or the dividend's (fmod); by zero: zero for integers, NaN for floats."""
    function = np.fmod if node.int("fmod") else np.mod
    if a.dtype.kind == "f":
        return np.asarray(function(a, b))
    a, b = np.broadcast_arrays(a, b)
    return np.asarray(np.where(b == 0, a.dtype.type(0), function(a, np.where(b == 0, b.dtype.type(1), b))))


def _shift(node: Node, a: Array, b: Array) -> Array:
    """By less than zero, or by the width or more, nothing is left: zero, or to the right of a negative one its sign."""
    bits, is_left = a.dtype.itemsize * 8, node.str("direction") == "LEFT"
    a, b = np.broadcast_arrays(a, b)
    is_outside = (b < 0) | (b >= bits)
    if is_left:
        return np.asarray(
            np.where(is_outside, a.dtype.type(0), np.left_shift(a, np.where(is_outside, b.dtype.type(0), b)))
        )
    within = np.right_shift(a, np.where(is_outside, b.dtype.type(0), b))
    return np.asarray(np.where(is_outside, np.where(a < 0, np.array(-1).astype(a.dtype), a.dtype.type(0)), within))


FUNCTIONS: tuple[Function, ...] = (
    # mathematics
    Function("Sqrt", 1, FLOAT32, _plain(np.sqrt)),
    Function("Exp", 1, FLOAT32, _plain(np.exp)),
    Function("Log", 1, FLOAT32, _plain(np.log)),
    Function("Erf", 1, FLOAT32, _plain(_erf)),
    Function("Sin", 1, FLOAT32, _plain(np.sin)),
    Function("Cos", 1, FLOAT32, _plain(np.cos)),
    Function("Tan", 1, FLOAT32, _plain(np.tan)),
    Function("Asin", 1, FLOAT32, _plain(np.arcsin)),
    Function("Acos", 1, FLOAT32, _plain(np.arccos)),
    Function("Atan", 1, FLOAT32, _plain(np.arctan)),
    Function("Sinh", 1, FLOAT32, _plain(np.sinh)),
    Function("Cosh", 1, FLOAT32, _plain(np.cosh)),
    Function("Asinh", 1, FLOAT32, _plain(np.arcsinh)),
    Function("Acosh", 1, FLOAT32, _plain(np.arccosh)),
    Function("Atanh", 1, FLOAT32, _plain(np.arctanh)),
    Function("Floor", 1, FLOAT32, _plain(np.floor)),
    Function("Ceil", 1, FLOAT32, _plain(np.ceil)),
    Function("Round", 1, FLOAT32, _plain(np.rint)),
    Function("Reciprocal", 1, FLOAT32, _plain(np.reciprocal)),
    Function("Abs", 1, NUMBERS, _plain(np.abs)),
    Function("Neg", 1, (*SIGNED, "float32", "float64"), _plain(np.negative)),
    Function("Sign", 1, NUMBERS, _plain(np.sign)),
    # activations
    Function("Elu", 1, FLOAT32, lambda node, x: _elu(x, node.float("alpha"), 1.0, 1.0)),
    Function("Selu", 1, FLOAT32, lambda node, x: _elu(x, node.float("alpha"), node.float("gamma"), 1.0)),
    Function("Celu", 1, FLOAT32, lambda node, x: _elu(x, node.float("alpha"), 1.0, node.float("alpha"))),
    Function("Softplus", 1, FLOAT32, _plain(softplus)),
    Function("Softsign", 1, FLOAT32, _plain(lambda x: x / (1 + np.abs(x)))),
    Function("Mish", 1, FLOAT32, _plain(lambda x: x * np.tanh(softplus(x)))),
    Function("Shrink", 1, FLOAT32, _shrink),
    Function(
        "ThresholdedRelu", 1, FLOAT32, lambda node, x: np.where(x > np.float32(node.float("alpha")), x, np.float32(0))
    ),
    # what is asked of elements
    Function("IsNaN", 1, FLOAT32, _plain(np.isnan), "bool"),
    Function("IsInf", 1, FLOAT32, _is_infinite, "bool"),
    Function("Equal", 2, (*NUMBERS, *BOOL), _plain(np.equal), "bool"),
    Function("Less", 2, NUMBERS, _plain(np.less), "bool"),
    Function("Greater", 2, NUMBERS, _plain(np.greater), "bool"),
    Function("LessOrEqual", 2, NUMBERS, _plain(np.less_equal), "bool"),
    Function("GreaterOrEqual", 2, NUMBERS, _plain(np.greater_equal), "bool"),
    Function("Not", 1, BOOL, _plain(np.logical_not), "bool"),
    Function("And", 2, BOOL, _plain(np.logical_and), "bool"),
    Function("Or", 2, BOOL, _plain(np.logical_or), "bool"),
    Function("Xor", 2, BOOL, _plain(np.logical_xor), "bool"),
    # integers
    Function("IntegerAdd", 2, INTEGERS, _plain(np.add)),
    Function("IntegerSub", 2, INTEGERS, _plain(np.subtract)),
    Function("IntegerMul", 2, INTEGERS, _plain(np.multiply)),
    Function("IntegerDiv", 2, INTEGERS, _divide),
    Function("BitwiseNot", 1, INTEGERS, _plain(np.bitwise_not)),
    Function("BitwiseAnd", 2, INTEGERS, _plain(np.bitwise_and)),
    Function("BitwiseOr", 2, INTEGERS, _plain(np.bitwise_or)),
    Function("BitwiseXor", 2, INTEGERS, _plain(np.bitwise_xor)),
    Function("BitShift", 2, INTEGERS, _shift),
    # of two or more
    Function("Max", 2, NUMBERS, _plain(np.maximum)),
    Function("Min", 2, NUMBERS, _plain(np.minimum)),
    Function("Mod", 2, (*INTEGERS, "float32"), _modulo),
    Function("Pow", 2, ("float32", "float64"), _plain(np.power)),
    Function("Where", 3, ANYTHING, _plain(np.where)),
)


def _infer(function: Function, node: Node) -> list[TensorType]:
    operands = [node.input(index) for index in range(function.operands)]
    dtype = operands[-1].dtype
    for number, value in enumerate(operands):
        wanted = "bool" if function.name == "Where" and number == 0 else dtype
        require(value.dtype == wanted, node, f"input '{value.name}' is {value.dtype}, not {wanted}")
    require(dtype in function.takes, node, f"it reads {dtype}: it takes {', '.join(function.takes)}")
    return [TensorType(function.result or dtype, broadcast_shape(node, *(value.shape for value in operands)))]


def _operator(function: Function) -> Operator:
    def infer(node: Node) -> list[TensorType]:
        return _infer(function, node)

    def evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        operands = [present(array) for array in arrays]
        with np.errstate(all="ignore"):
            result = function.compute(node, *operands)
        return [np.asarray(result, DTYPES[function.result or operands[-1].dtype.name])]

    return Operator(
        name=function.name,
        infer=infer,
        evaluate=evaluate,
        macs=one_per_output_element,
        channels=ChannelRelation.OPAQUE,
        quantization=QuantizationRule.FLOAT_ONLY,
        is_elementwise=True,
    )


def _infer_cast(node: Node) -> list[TensorType]:
    return [TensorType(node.output.dtype, node.input(0).shape)]


def _evaluate_cast(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    return [cast_array(present(arrays[0]), node.output.dtype)]


POINTWISE_OPERATORS: tuple[Operator, ...] = (
    Operator(
        name="Cast",  # to the type of its output
        infer=_infer_cast,
        evaluate=_evaluate_cast,
        macs=one_per_output_element,
        channels=ChannelRelation.OPAQUE,
        quantization=QuantizationRule.FLOAT_ONLY,
        is_elementwise=True,
    ),
    *(_operator(function) for function in FUNCTIONS),
)
