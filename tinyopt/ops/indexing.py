"""Operators whose indices are known at run time only: gathers, scatters, OneHot, ReverseSequence; and Trilu.

Indices may be int32 or int64, and negative ones count from the end, as in ONNX. An index outside of its dimension,
for which ONNX defines nothing, is taken as the nearest one inside: nothing outside of a tensor is read or written.
(OneHot is the exception that ONNX makes: such an index gives a row without a one.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tinyopt.ir import Array, Node, TensorType, Value
from tinyopt.ops.record import opaque_float_operator
from tinyopt.ops.rules import no_macs, present, require, require_axis

INDEX_DTYPES = ("int32", "int64")
REDUCTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "mul": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
}
"""What a scatter may do with the element that is there; "none" overwrites it."""
_UNREDUCED_DTYPES = ("bool", "float16")


def clamped_indices(indices: Array, size: int) -> Array:
    """int64 indices from 0 to `size` - 1."""
    wide = indices.astype(np.int64)
    return np.clip(np.where(wide < 0, wide + size, wide), 0, size - 1)


def _require_indices(node: Node, indices: Value) -> None:
    require(indices.dtype in INDEX_DTYPES, node, f"indices '{indices.name}' are {indices.dtype}, not int32 or int64")


def _infer_dynamic_gather(node: Node) -> list[TensorType]:
    x, indices, axis = node.input(0), node.input(1), node.int("axis")
    require_axis(node, axis, x.type.rank)
    _require_indices(node, indices)
    return [TensorType(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))]


def _evaluate_dynamic_gather(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, axis = present(arrays[0]), node.int("axis")
    return [np.take(x, clamped_indices(present(arrays[1]), x.shape[axis]), axis=axis)]


def _infer_gather_elements(node: Node) -> list[TensorType]:
    x, indices, axis = node.input(0), node.input(1), node.int("axis")
    _require_indices(node, indices)
    _require_elements(node, x, indices, axis)
    return [TensorType(x.dtype, indices.shape)]


def _require_elements(node: Node, x: Value, indices: Value, axis: int) -> None:
    """Indices of single elements of `x` along `axis`: in other dimensions there may be fewer of them."""
    require_axis(node, axis, x.type.rank)
    fits = indices.type.rank == x.type.rank and all(
        i == axis or size <= x.shape[i] for i, size in enumerate(indices.shape)
    )
    require(fits, node, f"indices '{indices.name}' of shape {indices.shape} do not fit shape {x.shape}, axis {axis}")


def _places(indices: Array, size: int, axis: int) -> tuple[Array, ...]:
    """An index array for each dimension, for single elements along `axis`."""
    places = [np.asarray(along) for along in np.indices(indices.shape)]
    places[axis] = clamped_indices(indices, size)
    return tuple(places)


def _evaluate_gather_elements(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, indices, axis = present(arrays[0]), present(arrays[1]), node.int("axis")
    return [x[_places(indices, x.shape[axis], axis)]]


def _infer_gather_nd(node: Node) -> list[TensorType]:
    x, indices, batch = node.input(0), node.input(1), node.int("batch_dims")
    _require_indices(node, indices)
    require(
        0 <= batch < min(x.type.rank, indices.type.rank)
        and x.shape[:batch] == indices.shape[:batch]
        and 1 <= indices.shape[-1] <= x.type.rank - batch,
        node,
        f"indices '{indices.name}' of shape {indices.shape} do not fit shape {x.shape} with {batch} batch dimensions",
    )
    return [TensorType(x.dtype, (*indices.shape[:-1], *x.shape[batch + indices.shape[-1] :]))]


def flat_places(indices: Array, sizes: Sequence[int]) -> Array:
    """int64: indices[..., i] is one along a dimension of sizes[i]; their places in row-major order."""
    flat = np.zeros(indices.shape[:-1], np.int64)
    for i, size in enumerate(sizes):
        flat = flat * size + clamped_indices(indices[..., i], size)
    return flat


def _evaluate_gather_nd(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, indices, batch = present(arrays[0]), present(arrays[1]), node.int("batch_dims")
    depth = indices.shape[-1]
    outer, sizes, inner = math.prod(x.shape[:batch]), x.shape[batch : batch + depth], x.shape[batch + depth :]
    slices = x.reshape((outer, math.prod(sizes), *inner))
    flat = flat_places(indices, sizes).reshape(outer, -1)
    taken = slices[np.arange(outer)[:, None], flat]
    return [taken.reshape((*indices.shape[:-1], *inner))]


def _require_updates(node: Node, shape: tuple[int, ...]) -> None:
    """Updates of `shape` and the data's type, with a reduction that is defined for it."""
    x, updates, reduction = node.input(0), node.input(2), node.str("reduction")
    require(
        updates.dtype == x.dtype and updates.shape == shape,
        node,
        f"updates '{updates.name}' are {updates.dtype}{updates.shape}, not {x.dtype}{shape}",
    )
    require(reduction in ("none", *REDUCTIONS), node, f"reduction {reduction!r} is unknown")
    require(
        reduction == "none" or x.dtype not in _UNREDUCED_DTYPES, node, f"reduction {reduction!r} of {x.dtype} elements"
    )


def _scattered(node: Node, x: Array, places: tuple[Array, ...], updates: Array) -> Array:
    """`x` with the updates at `places`, one after the other in row-major order."""
    result = x.copy()
    if node.str("reduction") == "none":
        result[places] = updates  # numpy, too, lets the last of several at one place win
        return result
    reduce = REDUCTIONS[node.str("reduction")]
    assert isinstance(reduce, np.ufunc)
    with np.errstate(all="ignore"):  # what float32 defines is no defect
        reduce.at(result, places, updates)
    return result


def _infer_scatter_elements(node: Node) -> list[TensorType]:
    x, indices = node.input(0), node.input(1)
    _require_indices(node, indices)
    _require_elements(node, x, indices, node.int("axis"))
    _require_updates(node, indices.shape)
    return [x.type]


def _evaluate_scatter_elements(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, indices, axis = present(arrays[0]), present(arrays[1]), node.int("axis")
    return [_scattered(node, x, _places(indices, x.shape[axis], axis), present(arrays[2]))]


def _infer_scatter_nd(node: Node) -> list[TensorType]:
    x, indices = node.input(0), node.input(1)
    _require_indices(node, indices)
    require(
        indices.type.rank >= 1 and 1 <= indices.shape[-1] <= x.type.rank,
        node,
        f"indices '{indices.name}' of shape {indices.shape} do not fit shape {x.shape}",
    )
    _require_updates(node, (*indices.shape[:-1], *x.shape[indices.shape[-1] :]))
    return [x.type]


def _evaluate_scatter_nd(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, indices, updates = present(arrays[0]), present(arrays[1]), present(arrays[2])
    depth = indices.shape[-1]
    flat = flat_places(indices, x.shape[:depth]).reshape(-1)
    rows = x.reshape(math.prod(x.shape[:depth]), -1)
    return [_scattered(node, rows, (flat,), updates.reshape(len(flat), -1)).reshape(x.shape)]


def _infer_one_hot(node: Node) -> list[TensorType]:
    indices, values, axis, depth = node.input(0), node.input(1), node.int("axis"), node.int("depth")
    require(indices.dtype in (*INDEX_DTYPES, "float32"), node, f"indices '{indices.name}' are {indices.dtype}")
    require(values.shape == (2,), node, f"values '{values.name}' have shape {values.shape}, not (2,)")
    require(0 <= axis <= indices.type.rank and depth > 0, node, f"axis {axis} or depth {depth} is impossible")
    return [TensorType(values.dtype, (*indices.shape[:axis], depth, *indices.shape[axis:]))]


def _evaluate_one_hot(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    indices, values, axis, depth = present(arrays[0]), present(arrays[1]), node.int("axis"), node.int("depth")
    wide = np.expand_dims(indices, axis)
    steps = np.arange(depth).reshape([-1 if i == axis else 1 for i in range(wide.ndim)])
    return [np.where((wide == steps) | (wide == steps - depth), values[1], values[0])]


def _infer_trilu(node: Node) -> list[TensorType]:
    x = node.input(0)
    require(x.type.rank >= 2, node, f"input '{x.name}' of shape {x.shape} holds no matrices")
    return [x.type]


def _evaluate_trilu(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    take = np.triu if node.int("upper") else np.tril
    return [take(present(arrays[0]), node.int("k"))]


def _infer_reverse_sequence(node: Node) -> list[TensorType]:
    x, lengths, time = node.input(0), node.input(1), node.int("time_axis")
    _require_indices(node, lengths)
    require(time in (0, 1) and x.type.rank >= 2, node, f"time axis {time} is not in shape {x.shape}")
    require(lengths.shape == (x.shape[1 - time],), node, f"lengths '{lengths.name}' do not fit shape {x.shape}")
    return [x.type]


def _evaluate_reverse_sequence(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, time = present(arrays[0]), node.int("time_axis")
    steps = x.shape[time]
    lengths = np.clip(present(arrays[1]).astype(np.int64), 0, steps)[:, None]
    at = np.arange(steps)
    source = np.where(at < lengths, lengths - 1 - at, at)  # [batch, time]
    rows = np.moveaxis(x, time, 1)
    taken = rows[np.arange(len(source))[:, None], source]
    return [np.ascontiguousarray(np.moveaxis(taken, 1, time))]


INDEXING_OPERATORS = (
    opaque_float_operator("DynamicGather", _infer_dynamic_gather, _evaluate_dynamic_gather, no_macs),
    opaque_float_operator("GatherElements", _infer_gather_elements, _evaluate_gather_elements, no_macs),
    opaque_float_operator("GatherND", _infer_gather_nd, _evaluate_gather_nd, no_macs),
    opaque_float_operator("ScatterElements", _infer_scatter_elements, _evaluate_scatter_elements, no_macs),
    opaque_float_operator("ScatterND", _infer_scatter_nd, _evaluate_scatter_nd, no_macs),
    opaque_float_operator("OneHot", _infer_one_hot, _evaluate_one_hot, no_macs),
    opaque_float_operator("Trilu", _infer_trilu, _evaluate_trilu, no_macs),
    opaque_float_operator("ReverseSequence", _infer_reverse_sequence, _evaluate_reverse_sequence, no_macs),
)
