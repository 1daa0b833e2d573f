"""Dense (weights [N, K], as a convolution keeps them; float32, float16), MatMul (float32), IntegerMatMul (integers)."""

from __future__ import annotations

from collections.abc import Sequence

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import (
    broadcast_shape,
    clamp,
    in_float32,
    present,
    require,
    require_float,
    require_float32,
    require_rank,
    require_shape,
)

WHOLE = ("int32", "uint32", "int64", "uint64", "float64")
"""What IntegerMatMul takes; integers wrap around."""


def _infer_dense(node: Node) -> list[TensorType]:
    require_float(node)
    x, weights = node.input(0), node.input(1)
    require_rank(node, weights, 2)
    require(
        x.type.rank >= 1 and x.shape[-1] == weights.shape[1],
        node,
        f"weights {weights.shape} do not fit input '{x.name}' of shape {x.shape}",
    )
    output = TensorType(x.dtype, (*x.shape[:-1], weights.shape[0]))
    require_shape(node, node.optional_input(2), (weights.shape[0],))
    require_shape(node, node.optional_input(3), output.shape)
    return [output]


@in_float32
def _evaluate_dense(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    result = present(arrays[0]) @ present(arrays[1]).T
    if arrays[2] is not None:
        result = result + arrays[2]
    if arrays[3] is not None:
        result = result + arrays[3]
    return [clamp(node, result)]


def _dense_macs(node: Node) -> int:
    return node.output.type.elements * node.input(1).shape[1]


def matmul_type(node: Node) -> TensorType:
    """The type of numpy.matmul of the node's two inputs."""
    a, b = node.input(0), node.input(1)
    require(a.type.rank >= 1 and b.type.rank >= 1, node, "a scalar cannot be multiplied as a matrix")
    left = a.shape if a.type.rank > 1 else (1, *a.shape)
    right = b.shape if b.type.rank > 1 else (*b.shape, 1)
    require(left[-1] == right[-2], node, f"shapes {a.shape} and {b.shape} do not multiply")
    rows = (left[-2],) if a.type.rank > 1 else ()
    columns = (right[-1],) if b.type.rank > 1 else ()
    return TensorType(a.dtype, (*broadcast_shape(node, left[:-2], right[:-2]), *rows, *columns))


def _infer_matmul(node: Node) -> list[TensorType]:
    require_float32(node)
    return [matmul_type(node)]


def _evaluate_matmul(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    del node
    return [present(arrays[0]) @ present(arrays[1])]


def _matmul_macs(node: Node) -> int:
    return node.output.type.elements * node.input(0).shape[-1]


def _infer_integer_matmul(node: Node) -> list[TensorType]:
    a, b = node.input(0), node.input(1)
    require(a.dtype == b.dtype and a.dtype in WHOLE, node, f"inputs are {a.dtype} and {b.dtype}")
    return [matmul_type(node)]


DENSE_OPERATORS = (
    Operator(
        name="Dense",
        infer=_infer_dense,
        evaluate=_evaluate_dense,
        macs=_dense_macs,
        channels=ChannelRelation.MIXING,
        quantization=QuantizationRule.OBSERVED,
        is_elementwise=False,
    ),
    Operator(
        name="MatMul",
        infer=_infer_matmul,
        evaluate=_evaluate_matmul,
        macs=_matmul_macs,
        channels=ChannelRelation.OPAQUE,
        quantization=QuantizationRule.OBSERVED,
        is_elementwise=False,
    ),
    Operator(
        name="IntegerMatMul",
        infer=_infer_integer_matmul,
        evaluate=_evaluate_matmul,
        macs=_matmul_macs,
        channels=ChannelRelation.OPAQUE,
        quantization=QuantizationRule.FLOAT_ONLY,
        is_elementwise=False,
    ),
)
