"""Nodes of opsets before 7 as those of opset 7.

What ONNX says of most operators did not change with opset 7: then there is nothing to do. Of those that changed, the
versions of opset 6 are translated; those of earlier opsets are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import onnx

from tinyopt.ir import Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal

NEW_OPSET = 7  # operators broadcast as numpy does


def is_older(node: OnnxNode) -> bool:
    """Whether the node's operator has another definition in its opset than in opset 7."""
    return (
        node.opset < NEW_OPSET and node.domain == "" and _version(node.op, node.opset) != _version(node.op, NEW_OPSET)
    )


def as_newer(builder: Builder, node: OnnxNode) -> OnnxNode:
    """The node in the terms of opset 7; a Refusal where its version is not known."""
    if not is_older(node):
        return node
    if node.op not in _TRANSLATIONS or _version(node.op, node.opset) != _version(node.op, NEW_OPSET - 1):
        raise Refusal(
            f"its version of opset {node.opset} is not known: export the model with opset {NEW_OPSET} or later"
        )
    return replace(_TRANSLATIONS[node.op](builder, node), opset=NEW_OPSET)


def _version(op: str, opset: int) -> int:
    try:
        return int(onnx.defs.get_schema(op, max_inclusive_version=opset, domain="").since_version)
    except onnx.defs.SchemaError:
        return 0


def _unchanged(_builder: Builder, node: OnnxNode) -> OnnxNode:
    """Opset 7 allows more, and means the same by what was allowed."""
    return node


def _for_inference(_builder: Builder, node: OnnxNode) -> OnnxNode:
    if not node.integer("is_test", 0):
        raise Refusal("it is in training mode (is_test is 0): export the model for inference")
    return node


def _broadcast(builder: Builder, node: OnnxNode) -> OnnxNode:
    """With `axis`, the second operand's dimensions are those of the first from there on."""
    a, b = node.value(0), node.value(1)
    if not node.integer("broadcast", 0) and a.shape != b.shape:
        raise node.invalid(f"shapes {a.shape} and {b.shape} differ, and broadcast is 0")
    if not node.has("axis"):
        return node
    axis = node.axis(node.integer("axis", 0), a.type.rank)
    return _with_second(node, builder.reshape(b, (*b.shape, *(1,) * (a.type.rank - axis - b.type.rank))))


def _slope(builder: Builder, node: OnnxNode) -> OnnxNode:
    """One slope, or one for each channel: of dimension 1."""
    x, slope = node.value(0), node.value(1)
    if slope.type.elements == 1 or slope.type.rank != 1:
        return node
    shape = (*slope.shape, *(1,) * (x.type.rank - 2))
    if builder.is_fixed(slope):
        return _with_second(node, builder.rearranged(slope, lambda array: array.reshape(shape), (0,)))
    return _with_second(node, builder.reshape(slope, shape))


def _with_second(node: OnnxNode, second: Value) -> OnnxNode:
    return replace(node, inputs=(node.inputs[0], second, *node.inputs[2:]))


_TRANSLATIONS: Mapping[str, Callable[[Builder, OnnxNode], OnnxNode]] = {
    **dict.fromkeys("Add Sub Mul Div Pow And Or Xor Equal Greater Less".split(), _broadcast),
    "AveragePool": _unchanged,
    "Gemm": _unchanged,
    "BatchNormalization": _for_inference,
    "Dropout": _for_inference,
    "PRelu": _slope,
}
