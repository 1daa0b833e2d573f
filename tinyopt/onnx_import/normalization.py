"""BatchNormalization."""

from __future__ import annotations

from collections.abc import Sequence

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


NORMALIZATION_RULES: dict[tuple[str, str], Rule] = {
    ("", "BatchNormalization"): _batch_normalization,
}
