"""Gemm and MatMul. Gemm with constant weights becomes Dense, whose weights are [N, K]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array, Value
from tinyopt.onnx_import.builder import UNCLAMPED, Builder
from tinyopt.onnx_import.onnx_node import OnnxNode
from tinyopt.onnx_import.pointwise import cast


def import_matmul(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """MatMul of matrices: a vector becomes one, so that the output's last axis is always that of the columns."""
    a, b = node.value(0), node.value(1)
    if min(a.type.rank, b.type.rank) < 1:
        raise node.invalid(f"inputs of shapes {a.shape} and {b.shape} are no vectors or matrices")
    result = product(builder, _as_matrix(builder, a, 0), _as_matrix(builder, b, 1))
    rows, columns = a.shape[-2:-1], b.shape[1:][-1:]  # none of a vector
    return [builder.reshape(result, (*result.shape[:-2], *rows, *columns))]


def _as_matrix(builder: Builder, value: Value, new_axis: int) -> Value:
    """A vector as a matrix of one row (`new_axis` 0) or one column (1); others as they are."""
    if value.type.rank != 1:
        return value
    if builder.is_fixed(value):
        return builder.rearranged(value, lambda array: np.expand_dims(array, new_axis), (1 - new_axis,))
    return builder.reshape(value, (1, *value.shape) if new_axis == 0 else (*value.shape, 1))


def product(builder: Builder, a: Value, b: Value) -> Value:
    """a @ b, of floats or of whole numbers."""
    return builder.emit("MatMul" if a.dtype == "float32" else "IntegerMatMul", [a, b])


def import_matmul_integer(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """(a - zero points of a) @ (b - zero points of b) in int32; zero points of a, one for each row, are a column."""
    a = centred(builder, node.value(0), node.optional(2), -1)
    return [product(builder, a, centred(builder, node.value(1), node.optional(3), 0))]


def centred(builder: Builder, x: Value, zero_point: Value | None, axis: int) -> Value:
    """x as int32 without its zero points; where they are a vector, dimensions of size 1 go behind it up to `axis`."""
    whole = cast(builder, x, "int32")
    if zero_point is None:
        return whole
    offset = cast(builder, zero_point, "int32")
    if offset.type.elements == 1:
        offset = builder.reshape(offset, ())
    elif offset.type.rank == 1 and axis < 0 and x.type.rank > 1:
        offset = builder.reshape(offset, (*offset.shape, 1))
    return builder.pointwise("IntegerSub", [whole, offset])


def import_gemm(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [general_multiplication(builder, node, node.value(0), node.value(1), node.optional(2))]


def general_multiplication(builder: Builder, node: OnnxNode, a: Value, b: Value, c: Value | None) -> Value:
    """alpha * a @ b + beta * c with the attributes of the Gemm `node`."""
    if a.type.rank != 2 or b.type.rank != 2:
        raise node.invalid(f"inputs of shapes {a.shape} and {b.shape} are no matrices")
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    if node.integer("transA", 0):
        a = builder.emit("Transpose", [a], {"perm": (1, 0)})
    is_transposed = bool(node.integer("transB", 0))
    if b.is_constant or (builder.is_fixed(b) and alpha == 1):
        weights = _dense_weights(builder, b, is_transposed, alpha)
        bias = _bias(builder, c, weights.shape[0], beta)
        result = builder.emit("Dense", [a, weights, bias, None], UNCLAMPED)
        return result if bias is not None else _plus(builder, result, c, beta)
    if is_transposed:
        b = builder.emit("Transpose", [b], {"perm": (1, 0)})
    return _plus(builder, _scaled(builder, builder.emit("MatMul", [a, b]), alpha), c, beta)


def _dense_weights(builder: Builder, b: Value, is_transposed: bool, alpha: float) -> Value:
    if b.constant is not None and alpha != 1:
        array = b.constant if is_transposed else b.constant.T
        return builder.constant(array * np.float32(alpha), b.name)
    return b if is_transposed else builder.rearranged(b, np.transpose, (1, 0))


def _bias(builder: Builder, c: Value | None, outputs: int, beta: float) -> Value | None:
    """`c` as the bias [outputs] of a Dense; None where it is none: it varies, or differs from row to row."""
    if c is None or beta == 0 or not builder.is_fixed(c):
        return None
    if c.shape and c.type.elements != c.shape[-1]:
        return None
    if c.is_constant:
        return _constant_bias(builder, c, outputs, beta)
    if beta != 1 or c.type.elements != outputs:
        return None
    return c if c.type.rank == 1 else builder.rearranged(c, np.ravel, (0,) * c.type.rank)


def _constant_bias(builder: Builder, c: Value, outputs: int, beta: float) -> Value:
    if c.shape == (outputs,) and beta == 1:
        return c
    array: Array = np.broadcast_to(c.data.reshape(-1), (outputs,))
    return builder.constant(array * np.float32(beta), c.name)


def _plus(builder: Builder, result: Value, c: Value | None, beta: float) -> Value:
    if c is None or beta == 0:
        return result
    return builder.emit("Add", [result, _scaled(builder, c, beta)], UNCLAMPED)


def _scaled(builder: Builder, value: Value, factor: float) -> Value:
    if factor == 1:
        return value
    return builder.emit(
        "Mul", [value, builder.constant(np.array(factor, np.float32), f"{value.name}_factor")], UNCLAMPED
    )
