"""Between real numbers and integers: QuantizeLinear, DequantizeLinear, FlipSign.

The parameters are the quantization of the integer value: the output of QuantizeLinear, the input of DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array, Node, Quantization, TensorType, Value
from tinyopt.ops.integer_rules import output_dtype
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import invalid, no_macs, present, require

_FLIPPED = {"uint8": "int8", "int8": "uint8"}


def quantization_of(node: Node, value: Value) -> Quantization:
    """The quantization of one of the node's values; refused where it has none."""
    if value.quantization is None:
        raise invalid(node, f"'{value.name}' has no scale and zero point")
    return value.quantization


def _infer_quantize(node: Node) -> list[TensorType]:
    x = node.input(0)
    require(
        x.dtype in ("float32", "float16", "float64"), node, f"it reads '{x.name}' of {x.dtype}: it takes floating point"
    )
    quantization_of(node, node.output)
    return [TensorType(output_dtype(node), x.shape)]


def _evaluate_quantize(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    x = present(inputs[0])
    return [quantization_of(node, node.output).quantize(x, node.output.dtype)]


def _infer_dequantize(node: Node) -> list[TensorType]:
    x = node.input(0)
    is_taken = x.dtype in ("int8", "int16", "int32")
    require(is_taken, node, f"it reads '{x.name}' of {x.dtype}: it takes int8, int16 or int32")
    quantization_of(node, x)
    return [TensorType("float32", x.shape)]


def _evaluate_dequantize(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    x = present(inputs[0])
    return [quantization_of(node, node.input(0)).dequantize(x)]


def _infer_flip(node: Node) -> list[TensorType]:
    x = node.input(0)
    require(x.dtype in _FLIPPED, node, f"it reads '{x.name}' of {x.dtype}: it takes uint8 or int8")
    return [TensorType(_FLIPPED[x.dtype], x.shape)]


def _evaluate_flip(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    x = present(inputs[0])
    return [(x.view(np.uint8) ^ np.uint8(0x80)).view(_FLIPPED[x.dtype.name])]


QUANTIZE_OPERATORS = (
    Operator(
        name="QuantizeLinear",
        infer=_infer_quantize,
        evaluate=_evaluate_quantize,
        macs=no_macs,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=True,
    ),
    Operator(
        name="DequantizeLinear",
        infer=_infer_dequantize,
        evaluate=_evaluate_dequantize,
        macs=no_macs,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=True,
    ),
    Operator(
        name="FlipSign",
        infer=_infer_flip,
        evaluate=_evaluate_flip,
        macs=no_macs,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=True,
    ),
)
