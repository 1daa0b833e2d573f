"""ReduceMean, ReduceSum and ReduceMax, with axes as an attribute or (since opset 13 or 18) as an input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tinyopt.ir import Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.onnx_node import OnnxNode


def _reduce(op: str, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    rank = x.type.rank
    given = node.optional_constant(1, "axes")
    axes = node.integers("axes", ()) if given is None else tuple(int(axis) for axis in given.reshape(-1))
    if not axes and node.integer("noop_with_empty_axes", 0):
        return [builder.emit("Identity", [x])]
    chosen = tuple(sorted({node.axis(axis, rank) for axis in axes})) or tuple(range(rank))
    return [builder.emit(op, [x], {"axes": chosen, "keepdims": node.integer("keepdims", 1)})]


REDUCTION_RULES: dict[tuple[str, str], Rule] = {
    ("", op): partial(_reduce, op) for op in ("ReduceMean", "ReduceSum", "ReduceMax")
}
