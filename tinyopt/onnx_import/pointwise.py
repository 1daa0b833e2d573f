"""Functions of single elements: mathematics, comparisons, logic, integer arithmetic, casts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce

import numpy as np
import onnx

from tinyopt.ir import DTYPES, Attribute, Quantization, Value
from tinyopt.onnx_import.builder import UNCLAMPED, Builder
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.ops.pointwise import cast_array

Rule = Callable[[Builder, OnnxNode], Sequence[Value]]

_INTEGER_ARITHMETIC = {"Add": "IntegerAdd", "Sub": "IntegerSub", "Mul": "IntegerMul", "Div": "IntegerDiv"}


def arithmetic(op: str, builder: Builder, a: Value, b: Value) -> Value:
    """Add, Sub, Mul or Div of floats or integers."""
    if builder.dtype(a).startswith("float"):
        return builder.emit(op, [a, b], UNCLAMPED)
    return builder.pointwise(_INTEGER_ARITHMETIC[op], [a, b])


def scalar(builder: Builder, value: float, like: Value) -> Value:
    """A constant of one element of the type of `like`."""
    return builder.constant(np.array(value, DTYPES[builder.dtype(like)]), f"{like.name}_{value:g}")


def cast(builder: Builder, value: Value, dtype: str) -> Value:
    """`value` as `dtype`; itself where it is that already."""
    return value if builder.dtype(value) == dtype else builder.pointwise("Cast", [value], {}, dtype)


def inputs_of(node: OnnxNode) -> list[Value]:
    """The inputs of an operator that takes any number of them."""
    return [node.value(index) for index in range(max(len(node.inputs), 1))]


def _arithmetic(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [arithmetic(node.op, builder, node.value(0), node.value(1))]


def _plain(operands: int, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [builder.pointwise(node.op, [node.value(index) for index in range(operands)])]


def _with_numbers(numbers: tuple[tuple[str, str, float], ...], builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """numbers: for each attribute what ONNX calls it, what it is called here, and its default."""
    attributes: dict[str, Attribute] = {name: node.real(key, default) for key, name, default in numbers}
    return [builder.pointwise(node.op, [node.value(0)], attributes)]


def _is_inf(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    attributes: dict[str, Attribute] = {
        "positive": node.integer("detect_positive", 1),
        "negative": node.integer("detect_negative", 1),
    }
    return [builder.pointwise("IsInf", [node.value(0)], attributes)]


def _mod(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    fmod = node.integer("fmod", 0)
    if not fmod and node.opset < 28 and builder.dtype(node.value(0)).startswith("float"):
        raise node.invalid("fmod must be 1 for floats")
    return [builder.pointwise("Mod", [node.value(0), node.value(1)], {"fmod": fmod})]


def _bit_shift(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    direction = str(node.required("direction"))
    if direction not in ("LEFT", "RIGHT"):
        raise node.invalid(f"direction is '{direction}'")
    return [builder.pointwise("BitShift", [node.value(0), node.value(1)], {"direction": direction})]


def _is_two(exponent: Value) -> bool:
    return exponent.constant is not None and exponent.type.elements == 1 and bool(np.all(exponent.constant == 2))


def _pow(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """Powers of integers are computed in float64 and then cut, as onnxruntime does."""
    base, exponent = node.value(0), node.value(1)
    if _is_two(exponent) and exponent.type.rank <= base.type.rank:
        return [arithmetic("Mul", builder, base, base)]
    dtype = builder.dtype(base)
    wide = dtype if dtype.startswith("float") else "float64"
    result = builder.pointwise("Pow", [cast(builder, base, wide), cast(builder, exponent, wide)])
    return [cast(builder, result, dtype)]


def _sum(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    inputs = inputs_of(node)
    if len(inputs) == 1:
        return [builder.emit("Identity", inputs)]
    return [reduce(partial(arithmetic, "Add", builder), inputs)]


def _mean(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    (total,) = _sum(builder, node)
    if len(node.inputs) == 1:
        return [total]
    return [builder.emit("Mul", [total, scalar(builder, 1 / len(node.inputs), total)], UNCLAMPED)]


def extreme(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """Max and Min of tensors."""
    inputs = inputs_of(node)
    if len(inputs) == 1:
        return [builder.emit("Identity", inputs)]
    return [reduce(lambda a, b: builder.pointwise(node.op, [a, b]), inputs)]


def general_clip(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """Clip of integers, or to bounds that are computed: Max, then Min."""
    result = node.value(0)
    for index, op in ((1, "Max"), (2, "Min")):
        bound = node.optional(index)
        if bound is not None:
            if bound.type.elements != 1:
                raise node.invalid(f"its bound '{bound.name}' has {bound.type.elements} elements, not one")
            result = builder.pointwise(op, [result, builder.reshape(bound, ())])
    return [builder.emit("Identity", [result]) if result is node.value(0) else result]


def general_prelu(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """PRelu of integers, or with a slope that is computed: Where(x < 0, x * slope, x)."""
    x, slope = node.value(0), node.value(1)
    is_negative = builder.pointwise("Less", [x, scalar(builder, 0, x)])
    return [builder.pointwise("Where", [is_negative, arithmetic("Mul", builder, x, slope), x])]


def _relu(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    if builder.dtype(x).startswith("float"):
        return [builder.emit("Relu", [x])]
    return [builder.pointwise("Max", [x, scalar(builder, 0, x)])]


def _cast(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [_cast_to(builder, node.value(0), _dtype_of(int(node.required("to"))))]


def _cast_like(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [_cast_to(builder, node.value(0), builder.dtype(node.value(1)))]


def _cast_to(builder: Builder, value: Value, dtype: str) -> Value:
    """Of 8-bit integers to float32: a DequantizeLinear of scale 1, so that what follows may be quantized."""
    if value.constant is not None:
        return builder.constant(cast_array(builder.plain(value).data, dtype), value.name)
    if dtype == "float32" and value.dtype == "int8":
        levels = Quantization.per_tensor(1.0, -128 if value in builder.unsigned else 0)
        return builder.emit("DequantizeLinear", [builder.with_quantization(value, levels)])
    result = cast(builder, value, dtype)
    return builder.emit("Identity", [value]) if result is value else result


def _dtype_of(element_type: int) -> str:
    """numpy's name of an ONNX element type; a Refusal where tinyopt has no such type."""
    try:
        name = onnx.helper.tensor_dtype_to_np_dtype(element_type).name
    except KeyError:
        name = f"type {element_type}"
    if name not in DTYPES:
        raise Refusal(f"it casts to {name}, which is not one of {', '.join(DTYPES)}")
    return name


_MATHEMATICS = (
    "Sqrt Exp Log Erf Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Floor Ceil Round Reciprocal Abs Neg Sign "
    "Softplus Softsign Mish IsNaN Not BitwiseNot"
).split()
_OF_TWO = "Equal Less Greater LessOrEqual GreaterOrEqual And Or Xor BitwiseAnd BitwiseOr BitwiseXor".split()

POINTWISE_RULES: dict[tuple[str, str], Rule] = {
    **{("", op): _arithmetic for op in _INTEGER_ARITHMETIC},
    **{("", op): partial(_plain, 1) for op in _MATHEMATICS},
    **{("", op): partial(_plain, 2) for op in _OF_TWO},
    ("", "Elu"): partial(_with_numbers, (("alpha", "alpha", 1.0),)),
    ("", "Celu"): partial(_with_numbers, (("alpha", "alpha", 1.0),)),
    ("", "Selu"): partial(
        _with_numbers,
        (("alpha", "alpha", 1.67326319217681884765625), ("gamma", "gamma", 1.05070102214813232421875)),
    ),
    ("", "ThresholdedRelu"): partial(_with_numbers, (("alpha", "alpha", 1.0),)),
    ("", "Shrink"): partial(_with_numbers, (("bias", "bias", 0.0), ("lambd", "threshold", 0.5))),
    ("", "IsInf"): _is_inf,
    ("", "Mod"): _mod,
    ("", "BitShift"): _bit_shift,
    ("", "Pow"): _pow,
    ("", "Where"): partial(_plain, 3),
    ("", "Sum"): _sum,
    ("", "Mean"): _mean,
    ("", "Relu"): _relu,
    ("", "Cast"): _cast,
    ("", "CastLike"): _cast_like,
}
