"""Arithmetic on two tensors and activation functions of one, in float32; sums, products, Relu, Clip in float16 too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import (
    broadcast_shape,
    clamp,
    in_float32,
    like_float32_input,
    like_float_input,
    no_macs,
    one_per_output_element,
    present,
    require,
    require_float,
    require_float32,
)


def _infer_binary(node: Node) -> list[TensorType]:
    require_float(node)
    a, b = node.input(0), node.input(1)
    return [TensorType(a.dtype, broadcast_shape(node, a.shape, b.shape))]


def _infer_division(node: Node) -> list[TensorType]:
    require_float32(node)
    return _infer_binary(node)


def _binary(
    name: str,
    function: Callable[[Array, Array], Array],
    quantization: QuantizationRule,
    infer: Callable[[Node], list[TensorType]] = _infer_binary,
) -> Operator:
    @in_float32
    def evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        with np.errstate(divide="ignore", invalid="ignore"):  # x / 0 is an infinity or NaN, as in C
            return [clamp(node, function(present(arrays[0]), present(arrays[1])))]

    return Operator(
        name=name,
        infer=infer,
        evaluate=evaluate,
        macs=one_per_output_element,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=quantization,
        is_elementwise=True,
    )


def _activation(
    name: str,
    function: Callable[[Node, Array], Array],
    quantization: QuantizationRule = QuantizationRule.OBSERVED,
    infer: Callable[[Node], list[TensorType]] = like_float32_input,
) -> Operator:
    @in_float32
    def evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        return [np.asarray(function(node, present(arrays[0])), np.float32)]

    return Operator(
        name=name,
        infer=infer,
        evaluate=evaluate,
        macs=no_macs,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=quantization,
        is_elementwise=True,
    )


def _relu(node: Node, x: Array) -> Array:
    del node
    return np.maximum(x, 0)


def _clip(node: Node, x: Array) -> Array:
    return np.minimum(np.maximum(x, np.float32(node.float("low"))), np.float32(node.float("high")))


def _leaky_relu(node: Node, x: Array) -> Array:
    return np.where(x < 0, x * np.float32(node.float("alpha")), x)


def _sigmoid(node: Node, x: Array) -> Array:
    del node
    return np.asarray(np.exp(-np.logaddexp(0, -x)))  # 1 / (1 + e^-x) without overflow


def _tanh(node: Node, x: Array) -> Array:
    del node
    return np.asarray(np.tanh(x))


def _hard_sigmoid(node: Node, x: Array) -> Array:
    return np.asarray(np.clip(x * np.float32(node.float("alpha")) + np.float32(node.float("beta")), 0, 1))


def _hard_swish(node: Node, x: Array) -> Array:
    del node
    return np.asarray(x * np.clip(x / np.float32(6) + np.float32(0.5), 0, 1))


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu_exact(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


_GELU: dict[str, Callable[[Array], Array]] = {"none": _gelu_exact, "tanh": _gelu_tanh}


def _gelu(node: Node, x: Array) -> Array:
    return _GELU[node.str("approximate")](x)


def _infer_prelu(node: Node) -> list[TensorType]:
    require_float32(node)
    x, slope = node.input(0), node.input(1)
    require(
        broadcast_shape(node, x.shape, slope.shape) == x.shape,
        node,
        f"slope {slope.shape} does not broadcast to input '{x.name}' of shape {x.shape}",
    )
    return [x.type]


def _evaluate_prelu(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    del node
    x = present(arrays[0])
    return [np.where(x < 0, x * present(arrays[1]), x)]


ELEMENTWISE_OPERATORS = (
    _binary("Add", np.add, QuantizationRule.OBSERVED),
    _binary("Sub", np.subtract, QuantizationRule.OBSERVED),
    _binary("Mul", np.multiply, QuantizationRule.OBSERVED),
    _binary("Div", np.divide, QuantizationRule.FLOAT_ONLY, _infer_division),
    _activation("Relu", _relu, infer=like_float_input),
    _activation("Clip", _clip, infer=like_float_input),
    _activation("LeakyRelu", _leaky_relu),
    Operator(
        name="PRelu",
        infer=_infer_prelu,
        evaluate=_evaluate_prelu,
        macs=one_per_output_element,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.OBSERVED,
        is_elementwise=True,
    ),
    _activation("Sigmoid", _sigmoid, QuantizationRule.UNIT_INTERVAL),
    _activation("Tanh", _tanh, QuantizationRule.SIGNED_UNIT_INTERVAL),
    _activation("HardSigmoid", _hard_sigmoid, QuantizationRule.UNIT_INTERVAL),
    _activation("HardSwish", _hard_swish),
    _activation("Gelu", _gelu),
)
