"""Reductions over any axes: sums, means, products, extremes, norms, and logarithms of sums.

Sums, means, products and norms are float32, float64, int32 or int64, extremes of any type; what takes a root or a
logarithm is float32 or float64. No axes means that nothing is reduced: then ReduceL1 is the absolute value,
ReduceSumSquare the square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from tinyopt.ir import DTYPES, Array, Node, TensorType
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import one_per_input_element, present, require, require_axis

REALS = ("float32", "float64")
NUMBERS = (*REALS, "int32", "int64")
ANY = tuple(DTYPES)

REDUCED_DTYPES: dict[str, tuple[str, ...]] = {
    "ReduceMean": NUMBERS,
    "ReduceSum": NUMBERS,
    "ReduceMax": ANY,
    "ReduceMin": ANY,
    "ReduceProd": NUMBERS,
    "ReduceSumSquare": NUMBERS,
    "ReduceL1": NUMBERS,
    "ReduceL2": REALS,
    "ReduceLogSum": REALS,
    "ReduceLogSumExp": REALS,
}
"""The element types that each reduction takes and gives."""

SAME_OF_ONE = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"})
"""Reductions that give a single element as it is; the others give its square, its magnitude or its logarithm."""


class _Function(Protocol):
    def __call__(self, x: Array, axis: tuple[int, ...], *, keepdims: bool) -> Array: ...


def reduced_type(node: Node) -> TensorType:
    """The first input's type without the node's `axes`, or with size 1 there where `keepdims` is set."""
    return TensorType(node.input(0).dtype, reduced_shape(node, node.ints("axes")))


def reduced_shape(node: Node, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The first input's shape without `axes`, or with size 1 there where `keepdims` is set."""
    x = node.input(0)
    for axis in axes:
        require_axis(node, axis, x.type.rank)
    require(list(axes) == sorted(set(axes)), node, f"axes {axes} are not sorted, each once")
    if node.int("keepdims"):
        return tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    return tuple(size for axis, size in enumerate(x.shape) if axis not in axes)


def _infer(node: Node) -> list[TensorType]:
    x, taken = node.input(0), REDUCED_DTYPES[node.op]
    require(x.dtype in taken, node, f"input '{x.name}' is {x.dtype}, none of {', '.join(taken)}")
    return [reduced_type(node)]


def _mean(x: Array, axis: tuple[int, ...], *, keepdims: bool) -> Array:
    """The mean; of integers the part before the point."""
    if x.dtype.kind == "f":
        return np.asarray(np.mean(x, axis=axis, keepdims=keepdims))
    count = int(np.prod([x.shape[i] for i in axis], dtype=np.int64))
    return np.asarray(np.trunc(np.sum(x, axis=axis, keepdims=keepdims, dtype=x.dtype) / count))


def _sum(x: Array, axis: tuple[int, ...], *, keepdims: bool) -> Array:
    return np.asarray(np.sum(x, axis=axis, keepdims=keepdims, dtype=x.dtype))


def _product(x: Array, axis: tuple[int, ...], *, keepdims: bool) -> Array:
    return np.asarray(np.prod(x, axis=axis, keepdims=keepdims, dtype=x.dtype))


def _largest(x: Array, axis: tuple[int, ...], *, keepdims: bool) -> Array:
    return np.asarray(np.max(x, axis=axis, keepdims=keepdims))


def _smallest(x: Array, axis: tuple[int, ...], *, keepdims: bool) -> Array:
    return np.asarray(np.min(x, axis=axis, keepdims=keepdims))


def _sum_of_squares(x: Array, axis: tuple[int, ...], *, keepdims: bool) -> Array:
    return _sum(x * x, axis, keepdims=keepdims)


def _sum_of_magnitudes(x: Array, axis: tuple[int, ...], *, keepdims: bool) -> Array:
    return _sum(np.abs(x), axis, keepdims=keepdims)


def _euclidean_norm(x: Array, axis: tuple[int, ...], *, keepdims: bool) -> Array:
    return np.asarray(np.sqrt(_sum_of_squares(x, axis, keepdims=keepdims)))


def _logarithm_of_sum(x: Array, axis: tuple[int, ...], *, keepdims: bool) -> Array:
    return np.asarray(np.log(_sum(x, axis, keepdims=keepdims)))


def _logarithm_of_exponentials(x: Array, axis: tuple[int, ...], *, keepdims: bool) -> Array:
    """log(sum(exp(x))); the largest element is subtracted before, so that no exponential overflows."""
    largest = np.max(x, axis=axis, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0).astype(x.dtype)
    logarithms = np.asarray(np.log(_sum(np.exp(x - largest), axis, keepdims=True)) + largest)
    return logarithms if keepdims else logarithms.reshape(_without(x.shape, axis))


def _without(shape: Sequence[int], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _operator(name: str, function: _Function, quantization: QuantizationRule) -> Operator:
    def evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        x = present(arrays[0])
        return [np.asarray(function(x, node.ints("axes"), keepdims=bool(node.int("keepdims"))), x.dtype)]

    return Operator(
        name=name,
        infer=_infer,
        evaluate=evaluate,
        macs=one_per_input_element,
        channels=ChannelRelation.OPAQUE,
        quantization=quantization,
        is_elementwise=False,
    )


_FLOAT_ONLY: tuple[tuple[str, Callable[..., Array]], ...] = (
    ("ReduceMin", _smallest),
    ("ReduceProd", _product),
    ("ReduceSumSquare", _sum_of_squares),
    ("ReduceL1", _sum_of_magnitudes),
    ("ReduceL2", _euclidean_norm),
    ("ReduceLogSum", _logarithm_of_sum),
    ("ReduceLogSumExp", _logarithm_of_exponentials),
)

REDUCE_OPERATORS = (
    _operator("ReduceMean", _mean, QuantizationRule.OBSERVED),
    _operator("ReduceSum", _sum, QuantizationRule.OBSERVED),
    _operator("ReduceMax", _largest, QuantizationRule.SAME_AS_INPUT),
    *(_operator(name, function, QuantizationRule.FLOAT_ONLY) for name, function in _FLOAT_ONLY),
)
