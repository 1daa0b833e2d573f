"""Gathers, scatters, OneHot, Trilu, ReverseSequence and Compress.

Constant indices are checked and become a Gather of constant places, which has no index to read at run time. Other
indices are clamped into their dimension when the model runs (see `tinyopt.ops.indexing`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array, Attribute, Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.ops.indexing import INDEX_DTYPES, flat_places


def _gather(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, indices = node.value(0), _indices(node, 1)
    axis = node.axis(node.integer("axis", 0), x.type.rank)
    if indices.constant is None:
        return [builder.emit("DynamicGather", [x, indices], {"axis": axis})]
    places = _from_the_front(node, indices.constant, x.shape[axis])
    return [builder.emit("Gather", [x, builder.constant(places, indices.name)], {"axis": axis})]


def _gather_elements(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, indices = node.value(0), _indices(node, 1)
    axis = node.axis(node.integer("axis", 0), x.type.rank)
    if indices.constant is None:
        return [builder.emit("GatherElements", [x, indices], {"axis": axis})]
    _check_elements(node, x, indices.constant, axis)
    places = list(np.indices(indices.shape))
    places[axis] = _from_the_front(node, indices.constant, x.shape[axis])
    flat = np.asarray(np.ravel_multi_index(tuple(places), x.shape), np.int64)
    return [_picked(builder, x, flat, x.shape, indices)]


def _gather_nd(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, indices, batch = node.value(0), _indices(node, 1), node.integer("batch_dims", 0)
    rank = min(x.type.rank, indices.type.rank)
    if not 0 <= batch < rank or x.shape[:batch] != indices.shape[:batch]:
        raise node.invalid(f"indices of shape {indices.shape} do not fit shape {x.shape} with {batch} batch dimensions")
    if indices.constant is None:
        return [builder.emit("GatherND", [x, indices], {"batch_dims": batch})]
    sizes = _indexed_sizes(node, indices, x.shape[batch:])
    outer, slices = math.prod(x.shape[:batch]), math.prod(sizes)
    flat = flat_places(_vectors_from_the_front(node, indices.constant, sizes), sizes)
    flat = flat + (np.arange(outer) * slices).reshape((*x.shape[:batch], *(1,) * (flat.ndim - batch)))
    return [_picked(builder, x, flat, x.shape[: batch + len(sizes)], indices)]


def _picked(builder: Builder, x: Value, flat: Array, merged: tuple[int, ...], indices: Value) -> Value:
    """The slices of `x` at the places `flat`, which count all dimensions of the sizes `merged` as one."""
    inner = x.shape[len(merged) :]
    rows = builder.reshape(x, (math.prod(merged), *inner))
    return builder.emit("Gather", [rows, builder.constant(flat, indices.name)], {"axis": 0})


def _scatter_elements(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, indices = node.value(0), _indices(node, 1)
    axis = node.axis(node.integer("axis", 0), x.type.rank)
    if indices.constant is not None:
        _check_elements(node, x, indices.constant, axis)
        places = _from_the_front(node, indices.constant, x.shape[axis])
        indices = builder.constant(places, indices.name)
    return [_scattered(builder, node, "ScatterElements", indices, {"axis": axis})]


def _scatter_nd(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, indices = node.value(0), _indices(node, 1)
    if indices.constant is not None:
        sizes = _indexed_sizes(node, indices, x.shape)
        places = _vectors_from_the_front(node, indices.constant, sizes)
        indices = builder.constant(places, indices.name)
    return [_scattered(builder, node, "ScatterND", indices, {})]


def _scattered(builder: Builder, node: OnnxNode, op: str, indices: Value, attributes: dict[str, int]) -> Value:
    x, updates, reduction = node.value(0), node.value(2), node.text("reduction", "none")
    attributes_with_reduction: dict[str, Attribute] = {**attributes, "reduction": reduction}
    if reduction == "none":
        return builder.emit(op, [x, indices, updates], attributes_with_reduction)
    if x.dtype in ("float16", "bool") or (x.dtype == "float64" and reduction in ("min", "max")):
        raise Refusal(f"reduction '{reduction}' of {x.dtype} elements")
    return builder.pointwise(op, [x, indices, updates], attributes_with_reduction)


def _indices(node: OnnxNode, index: int) -> Value:
    indices = node.value(index)
    if indices.dtype not in INDEX_DTYPES:
        raise node.invalid(f"indices '{indices.name}' are {indices.dtype}, not int32 or int64")
    return indices


def _indexed_sizes(node: OnnxNode, indices: Value, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of the dimensions that index vectors go into."""
    depth = indices.shape[-1] if indices.shape else 0
    if not 1 <= depth <= len(shape):
        raise node.invalid(f"indices of shape {indices.shape} do not fit shape {shape}")
    return shape[:depth]


def _check_elements(node: OnnxNode, x: Value, indices: Array, axis: int) -> None:
    fits = indices.ndim == x.type.rank and all(i == axis or n <= x.shape[i] for i, n in enumerate(indices.shape))
    if not fits or not indices.size:
        raise node.invalid(f"indices of shape {indices.shape} do not fit shape {x.shape} along axis {axis}")


def _from_the_front(node: OnnxNode, indices: Array, size: int) -> Array:
    """int64 indices of 0 and more. Raises InvalidModelError where one is outside of the dimension."""
    wide = indices.astype(np.int64)
    if np.any((wide < -size) | (wide >= size)):
        raise node.invalid(f"its indices reach outside of a dimension of {size}")
    return np.where(wide < 0, wide + size, wide)


def _vectors_from_the_front(node: OnnxNode, indices: Array, sizes: Sequence[int]) -> Array:
    columns = [_from_the_front(node, indices[..., i], size) for i, size in enumerate(sizes)]
    return np.stack(columns, axis=-1)


def _one_hot(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    indices, values = node.value(0), node.value(2)
    given = node.scalar_of(1, "depth")
    depth = 0 if given is None or not math.isfinite(given) else int(given)
    if depth < 1 or values.shape != (2,):
        raise node.invalid(f"depth {given} is not positive, or values of shape {values.shape} are not two")
    rank = indices.type.rank + 1
    axis = node.axis(node.integer("axis", -1), rank)
    if indices.dtype not in (*INDEX_DTYPES, "float32"):
        raise Refusal(f"indices '{indices.name}' are {indices.dtype}; tinyopt takes int32, int64 and float32")
    return [builder.emit("OneHot", [indices, values], {"axis": axis, "depth": depth})]


def _trilu(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, k = node.value(0), node.scalar_of(1, "k")
    if x.type.rank < 2:
        raise node.invalid(f"input '{x.name}' of shape {x.shape} holds no matrices")
    attributes = {"upper": node.integer("upper", 1), "k": 0 if k is None else int(k)}
    return [builder.pointwise("Trilu", [x], attributes)]


def _reverse_sequence(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, lengths = node.value(0), _indices(node, 1)
    time, batch = node.integer("time_axis", 0), node.integer("batch_axis", 1)
    if (time, batch) not in ((0, 1), (1, 0)) or x.type.rank < 2:
        raise node.invalid(f"time axis {time} and batch axis {batch} of shape {x.shape} are not 0 and 1")
    if lengths.constant is not None and np.any((lengths.constant < 0) | (lengths.constant > x.shape[time])):
        raise node.invalid(f"sequence lengths {lengths.constant.tolist()[:8]} are not in 0 to {x.shape[time]}")
    return [builder.emit("ReverseSequence", [x, lengths], {"time_axis": time})]


def _compress(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, condition = node.value(0), node.value(1)
    if condition.constant is None:
        raise Refusal(f"non-constant condition '{condition.name}': the output's shape would depend on the data")
    axis = 0
    if node.has("axis"):
        axis = node.axis(node.integer("axis", 0), x.type.rank)
    else:
        x = builder.reshape(x, (x.type.elements,))
    chosen = np.flatnonzero(condition.constant.reshape(-1)[: x.shape[axis]])
    if not chosen.size:
        raise Refusal("it takes nothing")
    return [builder.emit("Gather", [x, builder.constant(chosen.astype(np.int64), condition.name)], {"axis": axis})]


INDEXING_RULES: dict[tuple[str, str], Rule] = {
    ("", "Gather"): _gather,
    ("", "GatherElements"): _gather_elements,
    ("", "GatherND"): _gather_nd,
    ("", "Scatter"): _scatter_elements,
    ("", "ScatterElements"): _scatter_elements,
    ("", "ScatterND"): _scatter_nd,
    ("", "OneHot"): _one_hot,
    ("", "Trilu"): _trilu,
    ("", "ReverseSequence"): _reverse_sequence,
    ("", "Compress"): _compress,
}
