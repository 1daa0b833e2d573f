"""Integer operators that work element by element: QAdd, QMul, QPRelu, QRequantize, QLookup.

    QAdd    clamp((((a - za) * multiplier_a + (b - zb) * multiplier_b + 2^(shift-1)) >> shift) + zy)
    QMul    requantize((a - za) * (b - zb), multiplier)
    QPRelu  requantize(x - zx, multiplier where x >= zx, slope_multiplier elsewhere)
    QRequantize requantize(x - zx, multiplier)
    QLookup table[x + 128], x is int8 and the table has the output's type

The multipliers of QAdd are negative for a subtraction. Where all its values are int8 they stay below 2^21 in size, so
that the sum fits 32 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.integer_rules import (
    output_dtype,
    require_activation,
    require_constant,
    require_int8,
    require_output,
    require_rounding,
    zero_point,
)
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.requantize import MULTIPLIER_BITS, requantize, rounded_shift
from tinyopt.ops.rules import broadcast_shape, no_macs, one_per_output_element, present, require

ADD_MULTIPLIER_BITS = 21


def _infer_binary(node: Node) -> list[TensorType]:
    a, b = node.input(0), node.input(1)
    require_activation(node, a)
    require_activation(node, b)
    require_output(node)
    require_rounding(node)
    return [TensorType(output_dtype(node), broadcast_shape(node, a.shape, b.shape))]


def _infer_add(node: Node) -> list[TensorType]:
    is_narrow = all(value.dtype == "int8" for value in (node.input(0), node.input(1), node.output))
    bits = ADD_MULTIPLIER_BITS if is_narrow else MULTIPLIER_BITS
    for key in ("multiplier_a", "multiplier_b"):
        require(abs(node.int(key)) < 1 << bits, node, f"{key} does not fit {bits} bits")
    return _infer_binary(node)


def _evaluate_add(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    a = (present(inputs[0]).astype(np.int64) - zero_point(node.input(0))) * node.int("multiplier_a")
    b = (present(inputs[1]).astype(np.int64) - zero_point(node.input(1))) * node.int("multiplier_b")
    low, high = node.int("low"), node.int("high")
    return [rounded_shift(a + b, node.int("shift"), zero_point(node.output), low, high, node.output.dtype)]


def _evaluate_mul(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    a = present(inputs[0]).astype(np.int64) - zero_point(node.input(0))
    b = present(inputs[1]).astype(np.int64) - zero_point(node.input(1))
    return [_requantized(node, a * b, node.int("multiplier"))]


def _infer_prelu(node: Node) -> list[TensorType]:
    x, slope = node.input(0), node.input(1)
    require_activation(node, x)
    require_output(node)
    require_rounding(node)
    require_constant(node, slope, "int32", slope.shape, "slope multiplier")
    shape = broadcast_shape(node, x.shape, slope.shape)
    require(shape == x.shape, node, f"the slope's shape {slope.shape} does not broadcast to the input's {x.shape}")
    return [TensorType(output_dtype(node), x.shape)]


def _evaluate_prelu(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    centred = present(inputs[0]).astype(np.int64) - zero_point(node.input(0))
    return [_requantized(node, centred, np.where(centred >= 0, node.int("multiplier"), present(inputs[1])))]


def _requantized(node: Node, acc: Array, multiplier: Array | int) -> Array:
    low, high = node.int("low"), node.int("high")
    return requantize(acc, multiplier, node.int("shift"), zero_point(node.output), low, high, node.output.dtype)


def _infer_requantize(node: Node) -> list[TensorType]:
    x = node.input(0)
    require_activation(node, x)
    require_output(node)
    require_rounding(node)
    require(0 <= node.int("multiplier") < 1 << MULTIPLIER_BITS, node, f"multiplier is {node.int('multiplier')}")
    return [TensorType(output_dtype(node), x.shape)]


def _evaluate_requantize(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    centred = present(inputs[0]).astype(np.int64) - zero_point(node.input(0))
    return [_requantized(node, centred, node.int("multiplier"))]


def _infer_lookup(node: Node) -> list[TensorType]:
    x = node.input(0)
    require_int8(node, x)
    require_output(node)
    require_constant(node, node.input(1), output_dtype(node), (256,), "table")
    return [TensorType(output_dtype(node), x.shape)]


def _evaluate_lookup(_node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    return [present(inputs[1])[present(inputs[0]).astype(np.int64) + 128]]


INTEGER_ELEMENTWISE_OPERATORS = (
    Operator(
        name="QAdd",
        infer=_infer_add,
        evaluate=_evaluate_add,
        macs=one_per_output_element,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=True,
    ),
    Operator(
        name="QMul",
        infer=_infer_binary,
        evaluate=_evaluate_mul,
        macs=one_per_output_element,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=True,
    ),
    Operator(
        name="QPRelu",
        infer=_infer_prelu,
        evaluate=_evaluate_prelu,
        macs=one_per_output_element,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=True,
    ),
    Operator(
        name="QRequantize",
        infer=_infer_requantize,
        evaluate=_evaluate_requantize,
        macs=no_macs,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=True,
    ),
    Operator(
        name="QLookup",
        infer=_infer_lookup,
        evaluate=_evaluate_lookup,
        macs=no_macs,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=True,
    ),
)
