"""Operators that go along one axis: ArgMax, ArgMin, TopK, CumSum, CumProd, Hardmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.record import opaque_float_operator
from tinyopt.ops.reduce import NUMBERS, reduced_shape
from tinyopt.ops.rules import one_per_input_element, present, require, require_axis

ORDERED = ("float32", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def _check(node: Node, taken: Sequence[str]) -> None:
    x = node.input(0)
    require(x.dtype in taken, node, f"input '{x.name}' is {x.dtype}, none of {', '.join(taken)}")
    require_axis(node, node.int("axis"), x.type.rank)


def _infer_arg(node: Node) -> list[TensorType]:
    _check(node, ORDERED)
    require(node.input(0).shape[node.int("axis")] > 0, node, "it selects from no elements")
    return [TensorType("int64", reduced_shape(node, (node.int("axis"),)))]


def _arg(function: Callable[..., Array]) -> Callable[[Node, Sequence[Array | None]], list[Array]]:
    def evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        """The first or, with `select_last`, the last place of the extreme."""
        x, axis, keepdims = present(arrays[0]), node.int("axis"), bool(node.int("keepdims"))
        if not node.int("select_last"):
            return [np.asarray(function(x, axis=axis, keepdims=keepdims), np.int64)]
        last = x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis, keepdims=keepdims)
        return [np.asarray(last, np.int64)]

    return evaluate


def _infer_top_k(node: Node) -> list[TensorType]:
    _check(node, ORDERED)
    x, axis, k = node.input(0), node.int("axis"), node.int("k")
    require(0 < k <= x.shape[axis], node, f"k = {k} is not in 1..{x.shape[axis]}, the size of axis {axis}")
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    return [TensorType(x.dtype, shape), TensorType("int64", shape)]


def _evaluate_top_k(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    """Sorted; equal elements in the order in which they stand."""
    x, axis = present(arrays[0]), node.int("axis")
    ranked = x if not node.int("largest") else -x if x.dtype.kind == "f" else ~x  # ~x reverses the order of integers
    places = np.argsort(ranked, axis=axis, kind="stable").take(np.arange(node.int("k")), axis=axis)
    return [np.take_along_axis(x, places, axis), np.asarray(places, np.int64)]


def _infer_cumulative(node: Node) -> list[TensorType]:
    _check(node, NUMBERS)
    return [node.input(0).type]


def _cumulative(function: Callable[..., Array], neutral: int) -> Callable[[Node, Sequence[Array | None]], list[Array]]:
    def evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        axis = node.int("axis")
        x = np.flip(present(arrays[0]), axis) if node.int("reverse") else present(arrays[0])
        result = function(x, axis=axis, dtype=x.dtype)
        if node.int("exclusive"):
            first = np.full_like(result.take([0], axis=axis), neutral)
            result = np.concatenate([first, result.take(np.arange(x.shape[axis] - 1), axis=axis)], axis)
        return [np.ascontiguousarray(np.flip(result, axis) if node.int("reverse") else result)]

    return evaluate


def _infer_hardmax(node: Node) -> list[TensorType]:
    _check(node, ("float32",))
    return [node.input(0).type]


def _evaluate_hardmax(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    """1 where the first of the largest elements stands, 0 elsewhere."""
    x, axis = present(arrays[0]), node.int("axis")
    result = np.zeros_like(x)
    np.put_along_axis(result, np.argmax(x, axis=axis, keepdims=True), 1, axis)
    return [result]


ALONG_AXIS_OPERATORS = (
    opaque_float_operator("ArgMax", _infer_arg, _arg(np.argmax), one_per_input_element),
    opaque_float_operator("ArgMin", _infer_arg, _arg(np.argmin), one_per_input_element),
    opaque_float_operator("TopK", _infer_top_k, _evaluate_top_k, one_per_input_element),
    opaque_float_operator("CumSum", _infer_cumulative, _cumulative(np.cumsum, 0), one_per_input_element),
    opaque_float_operator("CumProd", _infer_cumulative, _cumulative(np.cumprod, 1), one_per_input_element),
    opaque_float_operator("Hardmax", _infer_hardmax, _evaluate_hardmax, one_per_input_element),
)
