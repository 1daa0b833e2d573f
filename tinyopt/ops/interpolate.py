"""Interpolate: weighted sums of a few elements along one axis, which ones and how much each counts given by tables.

    y[..., j, ...] = sum over k of weights[j, k] * x[..., indices[j, k], ...]

What Resize does beyond nearest and linear is a chain of these, one for each axis that changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.record import opaque_float_operator
from tinyopt.ops.rules import present, require, require_axis


def _infer(node: Node) -> list[TensorType]:
    x, indices, weights, axis = node.input(0), node.input(1), node.input(2), node.int("axis")
    require(x.dtype == "float32", node, f"input '{x.name}' is {x.dtype}, not float32")
    require_axis(node, axis, x.type.rank)
    is_table = indices.is_constant and indices.dtype == "int64" and indices.type.rank == 2 and indices.type.elements > 0
    require(is_table, node, f"'{indices.name}' is no int64 table")
    require(
        bool(np.all((indices.data >= 0) & (indices.data < x.shape[axis]))),
        node,
        f"indices '{indices.name}' reach outside axis {axis} of shape {x.shape}",
    )
    require(
        weights.is_constant and weights.type == TensorType("float32", indices.shape),
        node,
        f"'{weights.name}' is no float32 table of shape {indices.shape}",
    )
    return [TensorType("float32", (*x.shape[:axis], indices.shape[0], *x.shape[axis + 1 :]))]


def _evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, indices, weights = (present(array) for array in arrays)
    axis = node.int("axis")
    column = tuple(-1 if i == axis else 1 for i in range(x.ndim))
    result = x.take(indices[:, 0], axis=axis) * weights[:, 0].reshape(column)
    for k in range(1, indices.shape[1]):
        result = result + x.take(indices[:, k], axis=axis) * weights[:, k].reshape(column)
    return [result]


def _macs(node: Node) -> int:
    return node.output.type.elements * node.input(1).shape[1]


INTERPOLATE_OPERATORS = (opaque_float_operator("Interpolate", _infer, _evaluate, _macs),)
