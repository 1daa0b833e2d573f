"""Softmax on int8: exponentials from a table, one integer division for each element.

    m = max of x along the axis;  e_i = table[m - x_i], table[d] = round(exp(-d * scale_x) * 2^20);  S = sum of e
    y_i = clamp((e_i * ratio + S // 2) // S + zy, -128, 127), ratio = round(1 / scale_y)

The largest element has e = 2^20, so S is never zero, and e_i * ratio stays below 2^31 for ratios below 2^11.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.integer_rules import require_activation, require_constant, require_output, zero_point
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import one_per_output_element, present, require, require_axis

_ONE = 1 << 20


def exponential_table(scale: float) -> NDArray[np.int32]:
    """table[d] = round(exp(-d * scale) * 2^20), for an input of this scale."""
    return np.asarray(np.rint(np.exp(-np.arange(256, dtype=np.float64) * scale) * _ONE), np.int32)


def _infer(node: Node) -> list[TensorType]:
    x = node.input(0)
    require_activation(node, x)
    require_output(node)
    require_constant(node, node.input(1), "int32", (256,), "table")
    require_axis(node, node.int("axis"), x.type.rank)
    require(node.int("ratio") > 0, node, f"ratio is {node.int('ratio')}, not positive")
    return [TensorType("int8", x.shape)]


def _evaluate(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    x, axis = present(inputs[0]).astype(np.int64), node.int("axis")
    exponentials = present(inputs[1]).astype(np.int64)[np.max(x, axis=axis, keepdims=True) - x]
    total = np.sum(exponentials, axis=axis, keepdims=True)
    levels = (exponentials * node.int("ratio") + total // 2) // total + zero_point(node.output)
    return [np.asarray(np.clip(levels, -128, 127), np.int8)]


INTEGER_SOFTMAX_OPERATORS = (
    Operator(
        name="QSoftmax",
        infer=_infer,
        evaluate=_evaluate,
        macs=one_per_output_element,
        channels=ChannelRelation.OPAQUE,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=False,
    ),
)
