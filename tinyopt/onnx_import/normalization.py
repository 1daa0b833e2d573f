"""BatchNormalization, Softmax and LogSoftmax, Dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from tinyopt.ir import Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal


def _batch_normalization(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    if node.integer("training_mode", 0) or any(node.is_used(index) for index in range(1, 5)):
        raise Refusal("it is in training mode: export the model for inference")
    if not node.integer("spatial", 1):
        raise Refusal("it normalizes every element by itself (spatial=0)")
    node = builder.with_constants(node)
    parameters = [node.value(index) for index in range(1, 5)]
    for value in parameters:
        if not value.is_constant:
            raise Refusal(f"non-constant parameter '{value.name}'")
    attributes = {"epsilon": node.real("epsilon", 1e-5), "axis": 1}
    return [builder.emit("BatchNormalization", [node.value(0), *parameters], attributes)]


def _softmax(op: str, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    rank = x.type.rank
    if node.opset >= 13:
        return [builder.emit(op, [x], {"axis": node.axis(node.integer("axis", -1), rank)})]
    axis = node.axis(node.integer("axis", 1), rank)
    if axis == rank - 1:
        return [builder.emit(op, [x], {"axis": axis})]
    # Before opset 13 the dimensions from `axis` on are one.
    flat = builder.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
    return [builder.reshape(builder.emit(op, [flat], {"axis": 1}), x.shape)]


def _dropout(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    if node.is_used(1):
        raise Refusal("its second output, the mask, is used")
    training = node.optional_constant(2, "training mode")
    if training is not None and training.any():
        raise Refusal("it is in training mode: export the model for inference")
    return [builder.emit("Identity", [node.value(0)])]


NORMALIZATION_RULES: dict[tuple[str, str], Rule] = {
    ("", "BatchNormalization"): _batch_normalization,
    ("", "Softmax"): partial(_softmax, "Softmax"),
    ("", "LogSoftmax"): partial(_softmax, "LogSoftmax"),
    ("", "Dropout"): _dropout,
}
