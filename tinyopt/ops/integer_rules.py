"""What all integer operators demand of their inputs, outputs and attributes."""

from __future__ import annotations

from collections.abc import Sequence

from tinyopt.ir import Node, TensorType, Value
from tinyopt.ops.requantize import LARGEST_SHIFT
from tinyopt.ops.rules import require


def require_activation(node: Node, value: Value) -> None:
    """The value is int8 with one scale and one zero point."""
    require(value.dtype == "int8", node, f"'{value.name}' is {value.dtype}, not int8")
    _require_scale(node, value)


def require_output(node: Node) -> None:
    """The output has one scale and one zero point (its type is for the shape rule to say)."""
    _require_scale(node, node.output)


def _require_scale(node: Node, value: Value) -> None:
    quantization = value.quantization
    require(quantization is not None, node, f"'{value.name}' has no scale and zero point")
    require(quantization is not None and quantization.is_per_tensor, node, f"'{value.name}' has more than one scale")


def require_constant(node: Node, value: Value, dtype: str, shape: Sequence[int], role: str) -> None:
    """The value is a constant of this type; `role` says in the message what it is for."""
    require(value.is_constant, node, f"the {role} '{value.name}' is not a constant")
    wanted = TensorType(dtype, tuple(shape))
    require(value.type == wanted, node, f"the {role} '{value.name}' is {value.type}, not {wanted}")


def require_rounding(node: Node) -> None:
    """The attributes shift, low and high are within what requantization allows."""
    shift, low, high = node.int("shift"), node.int("low"), node.int("high")
    require(1 <= shift <= LARGEST_SHIFT, node, f"shift is {shift}, not one of 1..{LARGEST_SHIFT}")
    require(-128 <= low <= high <= 127, node, f"[{low}, {high}] is no range of int8 levels")


def zero_point(value: Value) -> int:
    """The zero point of an activation that `require_activation` accepts."""
    assert value.quantization is not None, value.name
    return value.quantization.zero_point[0]
