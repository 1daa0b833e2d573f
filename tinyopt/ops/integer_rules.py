"""What all integer operators demand of their inputs, outputs and attributes."""

from __future__ import annotations

from collections.abc import Sequence

from tinyopt.errors import InvalidModelError
from tinyopt.ir import Array, Node, TensorType, Value
from tinyopt.ops.requantize import LARGEST_SHIFT


def invalid(node: Node, why: str) -> InvalidModelError:
    """The error to raise, with the node's name."""
    return InvalidModelError(f"{node.op} '{node.name}': {why}")


def require(node: Node, claim: bool, otherwise: str) -> None:
    """Raise InvalidModelError that names the node unless `claim` holds."""
    if not claim:
        raise invalid(node, otherwise)


def require_activation(node: Node, value: Value) -> None:
    """The value is int8 with one scale and one zero point."""
    require(node, value.dtype == "int8", f"'{value.name}' is {value.dtype}, not int8")
    quantization = value.quantization
    require(node, quantization is not None, f"'{value.name}' has no scale and zero point")
    require(node, quantization is not None and quantization.is_per_tensor, f"'{value.name}' has more than one scale")


def require_constant(node: Node, value: Value, dtype: str, shape: Sequence[int], role: str) -> None:
    """The value is a constant of this type; `role` says in the message what it is for."""
    require(node, value.is_constant, f"the {role} '{value.name}' is not a constant")
    wanted = TensorType(dtype, tuple(shape))
    require(node, value.type == wanted, f"the {role} '{value.name}' is {value.type}, not {wanted}")


def require_rounding(node: Node) -> None:
    """The attributes shift, low and high are within what requantization allows."""
    shift, low, high = node.int("shift"), node.int("low"), node.int("high")
    require(node, 1 <= shift <= LARGEST_SHIFT, f"shift is {shift}, not one of 1..{LARGEST_SHIFT}")
    require(node, -128 <= low <= high <= 127, f"[{low}, {high}] is no range of int8 levels")


def zero_point(value: Value) -> int:
    """The zero point of an activation that `require_activation` accepts."""
    assert value.quantization is not None, value.name
    return value.quantization.zero_point[0]


def array(inputs: Sequence[Array | None], index: int) -> Array:
    """The array of an input that must be there."""
    given = inputs[index]
    assert given is not None, index
    return given
