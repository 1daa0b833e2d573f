"""How operators whose indices are known at run time only are written in ONNX.

ONNX leaves undefined what an index outside of its dimension gives, and onnxruntime refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from tinyopt.ir import Node, Value
from tinyopt.onnx_export.emitter import Emitter, ExportRule


def _indices(value: Value, emit: Emitter) -> str:
    """int64, the only type that all of these operators take."""
    if value.dtype != "int32":
        return emit.value(value)
    if value.is_constant:
        return emit.derived(value, "/int64", lambda array: array.astype(np.int64))
    return emit("Cast", value.name, to=TensorProto.INT64)


def _dynamic_gather(node: Node, emit: Emitter) -> None:
    indices = _indices(node.input(1), emit)
    emit.bind(emit("Gather", emit.value(node.input(0)), indices, name=node.name, axis=node.int("axis")), node.output)


def _gather_elements(node: Node, emit: Emitter) -> None:
    inputs = (emit.value(node.input(0)), _indices(node.input(1), emit))
    emit.bind(emit("GatherElements", *inputs, name=node.name, axis=node.int("axis")), node.output)


def _gather_nd(node: Node, emit: Emitter) -> None:
    inputs = (emit.value(node.input(0)), _indices(node.input(1), emit))
    emit.bind(emit("GatherND", *inputs, name=node.name, batch_dims=node.int("batch_dims")), node.output)


def _scatter(node: Node, emit: Emitter) -> None:
    inputs = (emit.value(node.input(0)), _indices(node.input(1), emit), emit.value(node.input(2)))
    axis = {"axis": node.int("axis")} if node.op == "ScatterElements" else {}
    emit.bind(emit(node.op, *inputs, name=node.name, reduction=node.str("reduction"), **axis), node.output)


def _one_hot(node: Node, emit: Emitter) -> None:
    indices, depth = _indices(node.input(0), emit), emit.ints((node.int("depth"),), f"{node.name}/depth")
    result = emit("OneHot", indices, depth, emit.value(node.input(1)), name=node.name, axis=node.int("axis"))
    emit.bind(result, node.output)


def _trilu(node: Node, emit: Emitter) -> None:
    k = emit.array(np.array(node.int("k"), np.int64), f"{node.name}/k")
    emit.bind(emit("Trilu", emit.value(node.input(0)), k, name=node.name, upper=node.int("upper")), node.output)


def _reverse_sequence(node: Node, emit: Emitter) -> None:
    time = node.int("time_axis")
    inputs = (emit.value(node.input(0)), _indices(node.input(1), emit))
    result = emit("ReverseSequence", *inputs, name=node.name, time_axis=time, batch_axis=1 - time)
    emit.bind(result, node.output)


def _interpolate(node: Node, emit: Emitter) -> None:
    """A product with the matrix of all weights, along the last axis."""
    x, indices, weights, axis = node.input(0), node.input(1).data, node.input(2).data, node.int("axis")
    matrix = np.zeros((x.shape[axis], indices.shape[0]), np.float32)
    np.add.at(matrix, (indices, np.arange(len(indices))[:, None]), weights)
    perm = [*(i for i in range(x.type.rank) if i != axis), axis]
    product = emit("MatMul", emit.transposed(x, perm), emit.array(matrix, f"{node.name}/weights"), name=node.name)
    back = emit("Transpose", product, perm=[perm.index(i) for i in range(len(perm))])
    emit.bind(back, node.output)


def _grid_sample(node: Node, emit: Emitter) -> None:
    result = emit(
        "GridSample",
        emit.value(node.input(0)),
        emit.value(node.input(1)),
        name=node.name,
        mode=node.str("mode"),
        padding_mode=node.str("padding"),
        align_corners=node.int("align_corners"),
    )
    emit.bind(result, node.output)


INDEXING_RULES: Mapping[str, ExportRule] = {
    "DynamicGather": _dynamic_gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "OneHot": _one_hot,
    "Trilu": _trilu,
    "GridSample": _grid_sample,
    "Interpolate": _interpolate,
    "ReverseSequence": _reverse_sequence,
}
