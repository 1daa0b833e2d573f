"""Operators that compute on integers (QLinearConv, QLinearAdd, QGemm, ...): DequantizeLinear, float, QuantizeLinear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from tinyopt.ir import Array, Quantization, Value
from tinyopt.onnx_import.builder import UNCLAMPED, Builder
from tinyopt.onnx_import.convolution import convolution
from tinyopt.onnx_import.dense import general_multiplication
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.onnx_import.pooling import average_pool, global_average_pool
from tinyopt.onnx_import.quantization import dequantized, quantized


def _real(builder: Builder, node: OnnxNode, first: int, axis: int = 0) -> Value:
    """The real numbers of the three inputs value, scale, zero point from `first` on; `axis` has the scales."""
    x, scale = node.value(first), node.constant(first + 1, "scale")
    return dequantized(builder, _with_axis(node, axis), x, scale, node.optional_constant(first + 2, "zero point"))


def _integers(builder: Builder, node: OnnxNode, result: Value, scale_index: int) -> Value:
    """`result` quantized with the inputs scale and zero point (0 where absent) from `scale_index` on."""
    zero_point = node.optional_constant(scale_index + 1, "zero point")
    if zero_point is None:
        first = node.value(0)
        zero_point = np.zeros((), np.uint8 if first in builder.unsigned or first.dtype == "uint8" else np.int8)
    return quantized(builder, node, result, node.constant(scale_index, "scale"), zero_point)


def _with_axis(node: OnnxNode, axis: int) -> OnnxNode:
    """The node as `dequantized` reads it: the attributes of a QLinear operator say nothing of a quantization axis."""
    attributes = {"axis": axis}
    return OnnxNode(node.op, node.domain, node.name, node.opset, node.inputs, node.output_names, attributes)


def _bias(builder: Builder, node: OnnxNode, index: int, x_scale: Array, w_scale: Array) -> Value | None:
    """The int32 bias as the real numbers that it stands for: its scale is the product of the two others."""
    bias = node.optional(index)
    if bias is None:
        return None
    integers = node.constant(index, "bias").reshape(-1)
    scale = (x_scale.reshape(-1) * w_scale.reshape(-1)).astype(np.float32)
    if scale.size == 1:
        quantization = Quantization.per_tensor(float(scale[0]), 0)
    else:
        quantization = Quantization.per_channel(scale.tolist(), [0] * scale.size, 0)
    return builder.emit("DequantizeLinear", [builder.constant(integers, bias.name, quantization)])


def _conv(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, weights = _real(builder, node, 0), _real(builder, node, 3)
    bias = _bias(builder, node, 8, node.constant(1, "scale"), node.constant(4, "scale"))
    return [_integers(builder, node, convolution(builder, node, x, weights, bias), 6)]


def _matmul(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    last = node.value(3).type.rank - 1
    a, b = _real(builder, node, 0), _real(builder, node, 3, last)
    return [_integers(builder, node, builder.emit("MatMul", [a, b]), 6)]


def _gemm(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    outputs_axis = 0 if node.integer("transB", 0) else 1
    a, b = _real(builder, node, 0), _real(builder, node, 3, outputs_axis)
    alpha = node.real("alpha", 1.0)
    bias = _bias(builder, node, 6, node.constant(1, "scale") * np.float32(alpha), node.constant(4, "scale"))
    result = general_multiplication(builder, node, a, b, bias)
    return [result if node.optional(7) is None else _integers(builder, node, result, 7)]


def _binary(op: str, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    a, b = _real(builder, node, 0), _real(builder, node, 3)
    return [_integers(builder, node, builder.emit(op, [a, b], UNCLAMPED), 6)]


def _sigmoid(builder: Builder, node: OnnxNode, x: Value) -> Value:
    del node
    return builder.emit("Sigmoid", [x])


def _leaky_relu(builder: Builder, node: OnnxNode, x: Value) -> Value:
    return builder.emit("LeakyRelu", [x], {"alpha": node.real("alpha", 0.01)})


def _softmax(builder: Builder, node: OnnxNode, x: Value) -> Value:
    axis = node.axis(node.integer("axis", -1), x.type.rank)
    if node.integer("opset", 13) < 13 and axis != x.type.rank - 1:
        raise Refusal("it flattens dimensions, as Softmax did before opset 13")
    return builder.emit("Softmax", [x], {"axis": axis})


def _unary(function: Callable[[Builder, OnnxNode, Value], Value], builder: Builder, node: OnnxNode) -> Sequence[Value]:
    if node.integer("channels_last", 0):
        raise Refusal("channels_last")
    return [_integers(builder, node, function(builder, node, _real(builder, node, 0)), 3)]


def _concat(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    values = [_real(builder, node, first) for first in range(2, len(node.inputs), 3)]
    axis = node.axis(int(node.required("axis")), values[0].type.rank)
    return [_integers(builder, node, builder.emit("Concat", values, {"axis": axis}), 0)]


QLINEAR_RULES: dict[tuple[str, str], Rule] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    ("com.microsoft", "QGemm"): _gemm,
    ("com.microsoft", "QLinearAdd"): partial(_binary, "Add"),
    ("com.microsoft", "QLinearMul"): partial(_binary, "Mul"),
    ("com.microsoft", "QLinearConcat"): _concat,
    ("com.microsoft", "QLinearGlobalAveragePool"): partial(_unary, global_average_pool),
    ("com.microsoft", "QLinearAveragePool"): partial(_unary, average_pool),
    ("com.microsoft", "QLinearSigmoid"): partial(_unary, _sigmoid),
    ("com.microsoft", "QLinearLeakyRelu"): partial(_unary, _leaky_relu),
    ("com.microsoft", "QLinearSoftmax"): partial(_unary, _softmax),
}
