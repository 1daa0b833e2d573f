"""Softmax and LogSoftmax along one axis, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import one_per_input_element, present, require_axis, require_float32


def _infer(node: Node) -> list[TensorType]:
    require_float32(node)
    require_axis(node, node.int("axis"), node.input(0).type.rank)
    return [node.input(0).type]


def _softmax(shifted: Array, axis: int) -> Array:
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=axis, keepdims=True))


def _log_softmax(shifted: Array, axis: int) -> Array:
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def _operator(name: str, function: Callable[[Array, int], Array], quantization: QuantizationRule) -> Operator:
    def evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        x, axis = present(arrays[0]), node.int("axis")
        return [function(x - x.max(axis=axis, keepdims=True), axis)]

    return Operator(
        name=name,
        infer=_infer,
        evaluate=evaluate,
        macs=one_per_input_element,
        channels=ChannelRelation.OPAQUE,
        quantization=quantization,
        is_elementwise=False,
    )


SOFTMAX_OPERATORS = (
    _operator("Softmax", _softmax, QuantizationRule.UNIT_INTERVAL),
    _operator("LogSoftmax", _log_softmax, QuantizationRule.FLOAT_ONLY),
)
