"""ReduceMean and ReduceSum (float32) and ReduceMax (any dtype) over one or more axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import one_per_input_element, present, require, require_axis, require_float32


def reduced_type(node: Node) -> TensorType:
    """The first input's type without the node's `axes`, or with size 1 there where `keepdims` is set."""
    x, axes = node.input(0), node.ints("axes")
    for axis in axes:
        require_axis(node, axis, x.type.rank)
    require(list(axes) == sorted(set(axes)), node, f"axes {axes} are not sorted, each once")
    if node.int("keepdims"):
        return TensorType(x.dtype, tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)))
    return TensorType(x.dtype, tuple(size for axis, size in enumerate(x.shape) if axis not in axes))


def _infer_float(node: Node) -> list[TensorType]:
    require_float32(node)
    return [reduced_type(node)]


def _infer_any(node: Node) -> list[TensorType]:
    return [reduced_type(node)]


def _operator(
    name: str,
    function: Callable[..., Array],
    infer: Callable[[Node], list[TensorType]],
    quantization: QuantizationRule,
) -> Operator:
    def evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        x = present(arrays[0])
        return [np.asarray(function(x, axis=node.ints("axes"), keepdims=bool(node.int("keepdims"))), x.dtype)]

    return Operator(
        name=name,
        infer=infer,
        evaluate=evaluate,
        macs=one_per_input_element,
        channels=ChannelRelation.OPAQUE,
        quantization=quantization,
        is_elementwise=False,
    )


REDUCE_OPERATORS = (
    _operator("ReduceMean", np.mean, _infer_float, QuantizationRule.OBSERVED),
    _operator("ReduceSum", np.sum, _infer_float, QuantizationRule.OBSERVED),
    _operator("ReduceMax", np.max, _infer_any, QuantizationRule.SAME_AS_INPUT),
)
