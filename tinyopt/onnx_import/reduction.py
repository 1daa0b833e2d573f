"""The reductions, with axes as an attribute or (since opset 13 or 18) as an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from tinyopt.ir import DTYPES, Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.ops.reduce import REDUCED_DTYPES, SAME_OF_ONE

# What nothing at all is reduced to; extremes depend on the type.
_OF_NOTHING: Mapping[str, float] = {
    "ReduceMean": np.nan,
    "ReduceSum": 0,
    "ReduceProd": 1,
    "ReduceSumSquare": 0,
    "ReduceL1": 0,
    "ReduceL2": 0,
    "ReduceLogSum": -np.inf,
    "ReduceLogSumExp": -np.inf,
}


def _reduce(op: str, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    rank = x.type.rank
    given = node.optional_constant(1, "axes")
    axes = node.integers("axes", ()) if given is None else tuple(int(axis) for axis in given.reshape(-1))
    keepdims = node.integer("keepdims", 1)
    if not axes and node.integer("noop_with_empty_axes", 0):
        if op in SAME_OF_ONE:
            return [builder.emit("Identity", [x])]
        return [builder.emit(op, [x], {"axes": (), "keepdims": keepdims})]
    chosen = tuple(sorted({node.axis(axis, rank) for axis in axes})) or tuple(range(rank))
    if not x.type.elements:
        return [_reduced_nothing(op, builder, node, chosen)]
    return [builder.emit(op, [x], {"axes": chosen, "keepdims": keepdims})]


def _reduced_nothing(op: str, builder: Builder, node: OnnxNode, axes: tuple[int, ...]) -> Value:
    """The constant that a reduction of a tensor without elements gives."""
    x, dtype = node.value(0), builder.dtype(node.value(0))
    if op in _OF_NOTHING:
        fill = _OF_NOTHING[op]
    elif dtype == "bool":
        fill = op == "ReduceMin"
    elif dtype.startswith("float"):
        fill = np.inf if op == "ReduceMin" else -np.inf
    else:
        limits = np.iinfo(DTYPES[dtype])
        fill = limits.max if op == "ReduceMin" else limits.min
    if np.isnan(fill) and not dtype.startswith("float"):
        raise Refusal("it divides by the number of no elements")
    shape = [1 if i in axes else size for i, size in enumerate(x.shape)]
    if not node.integer("keepdims", 1):
        shape = [size for i, size in enumerate(x.shape) if i not in axes]
    return builder.constant(np.full(shape, fill, DTYPES[dtype]), node.name)


REDUCTION_RULES: dict[tuple[str, str], Rule] = {("", op): partial(_reduce, op) for op in REDUCED_DTYPES}
