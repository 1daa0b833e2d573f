"""Operators that keep elements and change their place, for every dtype: Reshape, Transpose, Concat, Slice, ..."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tinyopt.ir import DTYPES, Array, Node, TensorType
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import like_input, no_macs, present, require, require_axis

PAD_MODES = ("constant", "reflect", "edge", "wrap")


def _infer_reshape(node: Node) -> list[TensorType]:
    x, shape = node.input(0), node.ints("shape")
    require(
        all(size >= 0 for size in shape) and math.prod(shape) == x.type.elements,
        node,
        f"{x.type.elements} elements of shape {x.shape} do not fit shape {shape}",
    )
    return [TensorType(x.dtype, shape)]


def _evaluate_reshape(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    return [present(arrays[0]).reshape(node.ints("shape"))]


def _infer_transpose(node: Node) -> list[TensorType]:
    x, perm = node.input(0), node.ints("perm")
    require(sorted(perm) == list(range(x.type.rank)), node, f"perm {perm} does not fit shape {x.shape}")
    return [TensorType(x.dtype, tuple(x.shape[axis] for axis in perm))]


def _evaluate_transpose(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    return [np.ascontiguousarray(present(arrays[0]).transpose(node.ints("perm")))]


def _infer_concat(node: Node) -> list[TensorType]:
    first, axis = node.input(0), node.int("axis")
    require_axis(node, axis, first.type.rank)
    for value in node.present_inputs:
        require(
            value.dtype == first.dtype
            and value.type.rank == first.type.rank
            and all(value.shape[i] == first.shape[i] for i in range(first.type.rank) if i != axis),
            node,
            f"'{value.name}' {value.dtype}{value.shape} does not join '{first.name}' {first.dtype}{first.shape}"
            f" along axis {axis}",
        )
    joined = sum(value.shape[axis] for value in node.present_inputs)
    return [TensorType(first.dtype, (*first.shape[:axis], joined, *first.shape[axis + 1 :]))]


def _evaluate_concat(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    return [np.concatenate([present(array) for array in arrays], axis=node.int("axis"))]


def _infer_split(node: Node) -> list[TensorType]:
    x, axis, sizes = node.input(0), node.int("axis"), node.ints("sizes")
    require_axis(node, axis, x.type.rank)
    require(
        min(sizes) > 0 and sum(sizes) == x.shape[axis] and len(sizes) == len(node.outputs),
        node,
        f"sizes {sizes} do not split axis {axis} of shape {x.shape} into {len(node.outputs)} outputs",
    )
    return [TensorType(x.dtype, (*x.shape[:axis], size, *x.shape[axis + 1 :])) for size in sizes]


def _evaluate_split(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    cuts = np.cumsum(node.ints("sizes"))[:-1]
    return [np.ascontiguousarray(part) for part in np.split(present(arrays[0]), cuts, axis=node.int("axis"))]


def _infer_slice(node: Node) -> list[TensorType]:
    x, starts, steps, sizes = node.input(0), node.ints("starts"), node.ints("steps"), node.ints("sizes")
    require(len(starts) == len(steps) == len(sizes) == x.type.rank, node, f"starts {starts} do not fit shape {x.shape}")
    for axis, (start, step, size) in enumerate(zip(starts, steps, sizes, strict=True)):
        last = start + (size - 1) * step
        require(
            size > 0 and step != 0 and 0 <= start < x.shape[axis] and 0 <= last < x.shape[axis],
            node,
            f"start {start}, step {step}, size {size} reach outside axis {axis} of shape {x.shape}",
        )
    return [TensorType(x.dtype, sizes)]


def _evaluate_slice(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    result = present(arrays[0])
    for axis, (start, step, size) in enumerate(
        zip(node.ints("starts"), node.ints("steps"), node.ints("sizes"), strict=True)
    ):
        result = result.take(start + step * np.arange(size), axis=axis)
    return [result]


def _infer_pad(node: Node) -> list[TensorType]:
    x, pads, mode = node.input(0), node.ints("pads"), node.str("mode")
    rank = x.type.rank
    require(len(pads) == 2 * rank and min(pads, default=0) >= 0, node, f"pads {pads} do not fit shape {x.shape}")
    require(mode in PAD_MODES, node, f"mode {mode!r} is none of {', '.join(PAD_MODES)}")
    if mode == "reflect":
        require(
            all(max(pads[i], pads[i + rank]) < x.shape[i] for i in range(rank)),
            node,
            f"pads {pads} reflect more than there is of shape {x.shape}",
        )
    return [TensorType(x.dtype, tuple(pads[i] + x.shape[i] + pads[i + rank] for i in range(rank)))]


def _evaluate_pad(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, pads, mode = present(arrays[0]), node.ints("pads"), node.str("mode")
    widths = [(pads[i], pads[i + x.ndim]) for i in range(x.ndim)]
    if mode == "constant":
        value = DTYPES[x.dtype.name].type(node.float("value"))
        return [np.pad(x, widths, constant_values=value)]
    return [_PADDED[mode](x, widths)]


_PADDED: Mapping[str, Callable[[Array, list[tuple[int, int]]], Array]] = {
    "reflect": lambda x, widths: np.pad(x, widths, mode="reflect"),
    "edge": lambda x, widths: np.pad(x, widths, mode="edge"),
    "wrap": lambda x, widths: np.pad(x, widths, mode="wrap"),
}


def padded_positions(size: int, begin: int, end: int, mode: str) -> Array:
    """int64: which of the `size` elements along an axis stands at each place after a Pad that is not constant."""
    return _PADDED[mode](np.arange(size, dtype=np.int64), [(begin, end)])


def _infer_gather(node: Node) -> list[TensorType]:
    x, indices, axis = node.input(0), node.input(1), node.int("axis")
    require_axis(node, axis, x.type.rank)
    require(indices.is_constant and indices.dtype == "int64", node, f"indices '{indices.name}' are no int64 constant")
    require(
        bool(np.all((indices.data >= 0) & (indices.data < x.shape[axis]))),
        node,
        f"indices '{indices.name}' reach outside axis {axis} of shape {x.shape}",
    )
    return [TensorType(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))]


def _evaluate_gather(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    return [np.take(present(arrays[0]), present(arrays[1]), axis=node.int("axis"))]


def _infer_expand(node: Node) -> list[TensorType]:
    x, shape = node.input(0), node.ints("shape")
    missing = len(shape) - x.type.rank
    fits = missing >= 0 and all(size in (1, whole) for size, whole in zip(x.shape, shape[missing:], strict=True))
    require(fits and min(shape, default=1) > 0, node, f"shape {x.shape} does not expand to {shape}")
    return [TensorType(x.dtype, shape)]


def _evaluate_expand(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    return [np.ascontiguousarray(np.broadcast_to(present(arrays[0]), node.ints("shape"))).reshape(node.ints("shape"))]


def _evaluate_identity(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    del node
    return [present(arrays[0])]


def _mover(
    name: str,
    infer: Callable[[Node], list[TensorType]],
    evaluate: Callable[[Node, Sequence[Array | None]], list[Array]],
    channels: ChannelRelation,
    quantization: QuantizationRule,
) -> Operator:
    return Operator(
        name=name,
        infer=infer,
        evaluate=evaluate,
        macs=no_macs,
        channels=channels,
        quantization=quantization,
        is_elementwise=name == "Identity",
    )


_SAME = QuantizationRule.SAME_AS_INPUT
_MOVING = ChannelRelation.MOVING

MOVEMENT_OPERATORS = (
    _mover("Reshape", _infer_reshape, _evaluate_reshape, _MOVING, _SAME),
    _mover("Transpose", _infer_transpose, _evaluate_transpose, _MOVING, _SAME),
    # The inputs' scales may differ: the output's is seen in calibration and the inputs are rescaled to it.
    _mover("Concat", _infer_concat, _evaluate_concat, ChannelRelation.CONCATENATING, QuantizationRule.OBSERVED),
    _mover("Split", _infer_split, _evaluate_split, _MOVING, _SAME),
    _mover("Slice", _infer_slice, _evaluate_slice, _MOVING, _SAME),
    _mover("Pad", _infer_pad, _evaluate_pad, _MOVING, _SAME),
    _mover("Gather", _infer_gather, _evaluate_gather, _MOVING, _SAME),
    _mover("Expand", _infer_expand, _evaluate_expand, ChannelRelation.OPAQUE, _SAME),
    _mover("Identity", like_input, _evaluate_identity, ChannelRelation.PER_CHANNEL, _SAME),
)
