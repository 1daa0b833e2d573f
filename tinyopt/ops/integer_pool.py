"""Integer operators that add up elements of one input: QAveragePool, QReduceSum.

    acc = sum of (x - zx), over the cells of the window that lie inside the image, or along `axes`
    y = requantize(acc, multiplier)

QAveragePool has one multiplier, or one for each output position where windows of different size are averaged.
QReduceSum is a sum or a mean: the divisor is part of the multiplier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.integer_rules import (
    output_dtype,
    require_activation,
    require_constant,
    require_output,
    require_rounding,
    zero_point,
)
from tinyopt.ops.pool import pool_macs, pool_type
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.reduce import reduced_type
from tinyopt.ops.requantize import requantize
from tinyopt.ops.rules import one_per_input_element, present
from tinyopt.ops.windows import NHWC, reduce_windows, sliding_windows


def _infer_average_pool(node: Node) -> list[TensorType]:
    x, multiplier = node.input(0), node.input(1)
    require_activation(node, x)
    require_output(node)
    require_rounding(node)
    pooled = pool_type(node, NHWC)
    positions = 1 if multiplier.shape == (1,) else math.prod(pooled.shape[1:3])
    require_constant(node, multiplier, "int32", (positions,), "multiplier")
    return [TensorType(output_dtype(node), pooled.shape)]


def _evaluate_average_pool(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    centred = present(inputs[0]).astype(np.int32) - zero_point(node.input(0))
    windows = sliding_windows(
        centred, node.ints("kernel"), node.ints("strides"), node.ints("pads"), node.ints("dilations"), 0
    )
    acc = reduce_windows(windows, np.add)
    multiplier = present(inputs[1])
    by_position = multiplier.reshape(acc.shape[1:3] if multiplier.size > 1 else (1, 1))[:, :, None]  # OH, OW, C
    return [_requantized(node, acc, by_position)]


def _infer_reduce_sum(node: Node) -> list[TensorType]:
    require_activation(node, node.input(0))
    require_output(node)
    require_rounding(node)
    return [TensorType(output_dtype(node), reduced_type(node).shape)]


def _evaluate_reduce_sum(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    centred = present(inputs[0]).astype(np.int64) - zero_point(node.input(0))
    acc = np.asarray(np.sum(centred, axis=node.ints("axes"), keepdims=bool(node.int("keepdims"))))
    return [_requantized(node, acc, node.int("multiplier"))]


def _requantized(node: Node, acc: Array, multiplier: Array | int) -> Array:
    low, high = node.int("low"), node.int("high")
    return requantize(acc, multiplier, node.int("shift"), zero_point(node.output), low, high, node.output.dtype)


INTEGER_POOL_OPERATORS = (
    Operator(
        name="QAveragePool",
        infer=_infer_average_pool,
        evaluate=_evaluate_average_pool,
        macs=pool_macs,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=False,
    ),
    Operator(
        name="QReduceSum",
        infer=_infer_reduce_sum,
        evaluate=_evaluate_reduce_sum,
        macs=one_per_input_element,
        channels=ChannelRelation.OPAQUE,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=False,
    ),
)
