"""Softmax on integers: exponentials from tables, one integer division for each element.

    m = max of x along the axis;  e_i = exponential(m - x_i);  S = sum of e
    y_i = clamp((e_i * ratio + S // 2) // S + zy, lowest level, highest level), ratio = round(1 / scale_y)

    int8:   exponential(d) = table[d],                                  table[d] = round(exp(-d * scale_x) * 2^20)
    int16:  exponential(d) = (table[d >> 8] * table[256 + (d & 255)] + 2^11) >> 12, of two tables in one:
            table[i] = round(exp(-256 * i * scale_x) * 65535),    table[256 + i] = round(exp(-i * scale_x) * 65535)

The largest element has e = 2^20 (less 32 for int16, where it is the square of 65535 that stands for 1), so S is never
zero, and e_i * ratio stays below 2^31 for ratios below 2^11. The product of two entries, with what rounds it, is below
2^32. Each entry is at most half a unit off, so that e is within 2^-16 of its value in units of the largest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.integer_rules import (
    level_limits,
    output_dtype,
    require_activation,
    require_constant,
    require_output,
    zero_point,
)
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import one_per_output_element, present, require, require_axis

EXPONENTIAL_BITS = 20
PRODUCT_SHIFT = 12  # of two entries of 16 bits, down to EXPONENTIAL_BITS
TABLE_ENTRIES = 256
_LARGEST_ENTRY = 65535


def exponential_table(scale: float) -> NDArray[np.int32]:
    """table[d] = round(exp(-d * scale) * 2^20), for an int8 input of this scale."""
    return np.asarray(np.rint(np.exp(-np.arange(TABLE_ENTRIES) * scale) * (1 << EXPONENTIAL_BITS)), np.int32)


def exponential_tables(scale: float) -> NDArray[np.uint16]:
    """round(exp(-d * scale) * 65535) for d = 0, 256, 512, ..., then for d = 0, 1, 2, ..., 255: for an int16 input."""
    low = np.arange(TABLE_ENTRIES)
    return np.asarray(np.rint(np.exp(-np.append(low * TABLE_ENTRIES, low) * scale) * _LARGEST_ENTRY), np.uint16)


def table_type(x_dtype: str) -> TensorType:
    """The type of the table for an input of this type."""
    return TensorType("int32", (TABLE_ENTRIES,)) if x_dtype == "int8" else TensorType("uint16", (2 * TABLE_ENTRIES,))


def _infer(node: Node) -> list[TensorType]:
    x = node.input(0)
    require_activation(node, x)
    require_output(node)
    table = table_type(x.dtype)
    require_constant(node, node.input(1), table.dtype, table.shape, "table")
    require_axis(node, node.int("axis"), x.type.rank)
    require(node.int("ratio") > 0, node, f"ratio is {node.int('ratio')}, not positive")
    return [TensorType(output_dtype(node), x.shape)]


def _exponentials(table: Array, distance: Array) -> NDArray[np.int64]:
    """e for distances from the largest element."""
    wide = table.astype(np.int64)
    if len(table) == TABLE_ENTRIES:
        return np.asarray(wide[distance])
    product = wide[distance >> 8] * wide[TABLE_ENTRIES + (distance & 255)]
    return np.asarray((product + (1 << (PRODUCT_SHIFT - 1))) >> PRODUCT_SHIFT)


def _evaluate(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    x, axis = present(inputs[0]).astype(np.int64), node.int("axis")
    exponentials = _exponentials(present(inputs[1]), np.max(x, axis=axis, keepdims=True) - x)
    total = np.sum(exponentials, axis=axis, keepdims=True)
    levels = (exponentials * node.int("ratio") + total // 2) // total + zero_point(node.output)
    low, high = level_limits(node.output.dtype)
    return [np.asarray(np.clip(levels, low, high), node.output.dtype)]


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
