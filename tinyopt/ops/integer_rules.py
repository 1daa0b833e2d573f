"""What all integer operators demand of their inputs, outputs and attributes.

An activation is int8 with a scale and a zero point, or int16 with a scale and the zero point 0. Each value has its own
type: an operator takes and gives any mix of the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyopt.ir import DTYPES, Node, TensorType, Value
from tinyopt.ops.requantize import LARGEST_SHIFT
from tinyopt.ops.rules import require

ACTIVATION_DTYPES = ("int8", "int16")


def require_activation(node: Node, value: Value) -> None:
    """The value is int8 or int16 with one scale and one zero point, which is 0 for int16."""
    require(value.dtype in ACTIVATION_DTYPES, node, f"'{value.name}' is {value.dtype}, not int8 or int16")
    _require_scale(node, value)


def require_int8(node: Node, value: Value) -> None:
    """The value is int8 with one scale and one zero point."""
    require(value.dtype == "int8", node, f"'{value.name}' is {value.dtype}, not int8")
    _require_scale(node, value)


def require_output(node: Node) -> None:
    """The output has one scale and one zero point (its type is for the shape rule to say)."""
    _require_scale(node, node.output)


def output_dtype(node: Node) -> str:
    """What an integer operator gives: int16 where its output is recorded as that, else int8."""
    return "int16" if node.output.dtype == "int16" else "int8"


def level_limits(dtype: str) -> tuple[int, int]:
    """The lowest and the highest level of an integer type."""
    limits = np.iinfo(DTYPES[dtype])
    return int(limits.min), int(limits.max)


def largest_magnitude(value: Value) -> int:
    """How far an activation's levels can lie from its zero point: 255 for int8, whatever that is, 32768 for int16."""
    return 255 if value.dtype == "int8" else 1 << 15


def _require_scale(node: Node, value: Value) -> None:
    quantization = value.quantization
    require(quantization is not None, node, f"'{value.name}' has no scale and zero point")
    require(quantization is not None and quantization.is_per_tensor, node, f"'{value.name}' has more than one scale")
    is_centred = value.dtype != "int16" or (quantization is not None and quantization.is_symmetric)
    require(is_centred, node, f"'{value.name}' is int16 with a zero point that is not 0")


def require_constant(node: Node, value: Value, dtype: str, shape: Sequence[int], role: str) -> None:
    """The value is a constant of this type; `role` says in the message what it is for."""
    require(value.is_constant, node, f"the {role} '{value.name}' is not a constant")
    wanted = TensorType(dtype, tuple(shape))
    require(value.type == wanted, node, f"the {role} '{value.name}' is {value.type}, not {wanted}")


def require_rounding(node: Node) -> None:
    """The attributes shift, low and high are within what requantization allows."""
    shift, low, high = node.int("shift"), node.int("low"), node.int("high")
    require(1 <= shift <= LARGEST_SHIFT, node, f"shift is {shift}, not one of 1..{LARGEST_SHIFT}")
    dtype = output_dtype(node)
    lowest, highest = level_limits(dtype)
    require(lowest <= low <= high <= highest, node, f"[{low}, {high}] is no range of {dtype} levels")


def zero_point(value: Value) -> int:
    """The zero point of an activation that `require_activation` accepts."""
    assert value.quantization is not None, value.name
    return value.quantization.zero_point[0]
