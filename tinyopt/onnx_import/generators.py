"""Operators that make constants of shapes and attributes, and Dropout, whose mask is one when a model only infers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from tinyopt.ir import DTYPES, Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal

_FIRST_BOOLEAN_MASK = 10  # before this opset, Dropout's mask has the type of its input


def _eye_like(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, k = node.value(0), node.integer("k", 0)
    if x.type.rank != 2:
        raise node.invalid(f"input '{x.name}' of shape {x.shape} is no matrix")
    given = "uint8" if x in builder.unsigned else x.dtype
    dtype = dtype_of(node, node.integer("dtype", 0)) if node.has("dtype") else given
    rows, columns = x.shape
    clipped = min(max(k, -rows), columns)  # numpy counts diagonals in 64 bits, a model may count further
    return [builder.constant(np.eye(rows, columns, clipped, dtype=DTYPES[dtype]), node.name)]


def dtype_of(node: OnnxNode, element_type: int) -> str:
    """numpy's name of an ONNX element type. Raises Refusal where tinyopt has no tensors of it."""
    try:
        name = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_type)).name
    except (KeyError, TypeError) as error:
        raise node.invalid(f"its type {element_type} is no element type") from error
    if name not in DTYPES:
        raise Refusal(f"its output is of type {name}")
    return name


def _dropout(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, ratio = node.value(0), node.scalar_of(1, "ratio")
    training = node.optional_constant(2, "training mode")
    if training is not None and training.any() and ratio != 0:
        raise Refusal("it is in training mode, in which it is random: export the model for inference")
    result = builder.emit("Identity", [x])
    if not node.is_used(1):
        return [result]
    dtype = "bool" if node.opset >= _FIRST_BOOLEAN_MASK else x.dtype
    return [result, builder.constant(np.ones(x.shape, DTYPES[dtype]), f"{node.name}_mask")]


GENERATOR_RULES: dict[tuple[str, str], Rule] = {
    ("", "EyeLike"): _eye_like,
    ("", "Dropout"): _dropout,
}
