"""MACs and memory of a model from what its file says, for models with operators that tinyopt does not know."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tinyopt.ir import DTYPES, Graph, Node, TensorType, Value
from tinyopt.lowering.lifetimes import estimate_arena
from tinyopt.outline import Operation, Outline, Tensor

_WEIGHT_INPUT: Mapping[str, int] = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_MATRIX_INPUTS: Mapping[str, int] = {"MatMul": 0, "Gemm": 0, "MatMulInteger": 0, "QLinearMatMul": 0}
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
_COPIED = frozenset({"float32", "float64", "float16", "int8", "uint8"})  # such as quantization makes a byte of


def outline_macs(outline: Outline) -> list[int]:
    """For each node its multiply-accumulates: those of convolutions and matrix products, 0 for all others."""
    return [_macs(operation) for operation in outline.operations]


def _macs(operation: Operation) -> int:
    if not operation.outputs:
        return 0
    output = _static(operation.outputs[0])
    if operation.op in _WEIGHT_INPUT:
        weight = _shape_of(operation, _WEIGHT_INPUT[operation.op])  # O, I / group, kernel
        return math.prod(output) * math.prod(weight[1:]) if output and weight else 0
    if operation.op == "ConvTranspose":
        data, weight = _shape_of(operation, 0), _shape_of(operation, 1)  # I, O / group, kernel
        return math.prod(data) * math.prod(weight[1:]) if data and weight else 0
    if operation.op in _MATRIX_INPUTS:
        left = _shape_of(operation, _MATRIX_INPUTS[operation.op])
        inner = left[-2 if operation.attributes.get("transA") else -1] if len(left) > 1 else math.prod(left)
        return math.prod(output) * inner if output and left else 0
    return 0


def _shape_of(operation: Operation, position: int) -> tuple[int, ...]:
    tensor = operation.inputs[position] if position < len(operation.inputs) else None
    return () if tensor is None else _static(tensor)


def _static(tensor: Tensor) -> tuple[int, ...]:
    """The shape where it is fully known, else none."""
    shape = tensor.shape or ()
    return tuple(size for size in shape if isinstance(size, int)) if all(isinstance(s, int) for s in shape) else ()


def outline_arena(outline: Outline, element_bytes: int) -> int | None:
    """The estimate of `estimate_arena`, with so many bytes for each element; None where a shape is not known."""
    values: dict[int, Value] = {}
    tensors = [*outline.inputs, *(t for item in outline.operations for t in (*item.inputs, *item.outputs) if t)]
    for tensor in tensors:
        if tensor.shape is None or not all(isinstance(size, int) for size in tensor.shape):
            return None
        values[id(tensor)] = _value(tensor, element_bytes)
    nodes = [
        Node(
            "Reshape" if item.op in _VIEWS else item.op,
            f"n{number}",
            [None if tensor is None else values[id(tensor)] for tensor in item.inputs],
            [values[id(tensor)] for tensor in item.outputs[: 1 if item.op in _VIEWS else None]],
        )
        for number, item in enumerate(outline.operations)
        if item.outputs
    ]
    outputs = [values[id(tensor)] for tensor in outline.outputs if id(tensor) in values]
    return estimate_arena(Graph(outline.name, [values[id(tensor)] for tensor in outline.inputs], outputs, nodes))


def _value(tensor: Tensor, element_bytes: int) -> Value:
    dtype = tensor.dtype if tensor.dtype in DTYPES else "float32"
    if dtype in _COPIED:
        dtype = {1: "int8", 4: "float32"}[element_bytes]
    return Value(tensor.name, TensorType(dtype, _static(tensor)), tensor.array)
