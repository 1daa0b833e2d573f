"""Building blocks of the shape rules: refusals that name the node, broadcasting, types taken over from an input.

Shape rules run for every node after every pass, so that those of common operators make no text unless they refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TypeAlias

import numpy as np

from tinyopt.errors import InvalidModelError
from tinyopt.ir import DTYPES, Array, Node, TensorType, Value

Evaluate: TypeAlias = Callable[[Node, Sequence[Array | None]], list[Array]]


def invalid(node: Node, what: str) -> InvalidModelError:
    """The error that says what is wrong with `node`."""
    return InvalidModelError(f"{node.op} '{node.name}': {what}")


def require(condition: bool, node: Node, what: str) -> None:
    """Raise InvalidModelError, naming `node`, unless `condition` holds."""
    if not condition:
        raise invalid(node, what)


def require_float32(node: Node) -> None:
    """Raise InvalidModelError unless every input is float32."""
    for value in node.present_inputs:
        if value.dtype != "float32":
            raise invalid(node, f"input '{value.name}' is {value.dtype}, not float32")


def require_float(node: Node) -> None:
    """Raise InvalidModelError unless every input is float32, or every one is float16."""
    dtype = node.input(0).dtype
    if dtype != "float16":
        require_float32(node)
        return
    for value in node.present_inputs:
        if value.dtype != dtype:
            raise invalid(node, f"input '{value.name}' is {value.dtype}, beside inputs of {dtype}")


def require_rank(node: Node, value: Value, rank: int) -> None:
    """Raise InvalidModelError unless `value`, an input of `node`, has `rank` dimensions."""
    if value.type.rank != rank:
        raise invalid(node, f"input '{value.name}' has shape {value.shape}, not {rank} dimensions")


def require_shape(node: Node, value: Value | None, shape: Sequence[int]) -> None:
    """Raise InvalidModelError unless `value`, where present, has `shape`."""
    if value is not None and value.shape != tuple(shape):
        raise invalid(node, f"input '{value.name}' has shape {value.shape}, not {tuple(shape)}")


def require_axis(node: Node, axis: int, rank: int) -> None:
    """Raise InvalidModelError unless `axis` counts a dimension of a tensor of `rank`."""
    require(0 <= axis < rank, node, f"axis {axis} is not in a tensor of {rank} dimensions")


def broadcast_shape(node: Node, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that `shapes` broadcast to by numpy's rules."""
    try:
        return tuple(int(size) for size in np.broadcast_shapes(*shapes))
    except ValueError:
        raise invalid(node, f"shapes {' and '.join(map(str, shapes))} do not broadcast") from None


def like_input(node: Node) -> list[TensorType]:
    """One output of the first input's type."""
    return [node.input(0).type]


def like_float_input(node: Node) -> list[TensorType]:
    """One output of the first input's type, which must be float32 or float16."""
    require_float(node)
    return [node.input(0).type]


def in_float32(evaluate: Evaluate) -> Evaluate:
    """`evaluate`, which is written for float32, for float16 as well: it computes in float32, and rounds results once.

    Kernels round to float16 each time they add to a sum: within 1 % of the largest magnitude of the result.
    """

    @wraps(evaluate)
    def evaluated(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        if node.input(0).dtype != "float16":
            return evaluate(node, arrays)
        results = evaluate(node, [None if array is None else array.astype(np.float32) for array in arrays])
        with np.errstate(over="ignore"):  # infinity is what float16 gives there
            return [result.astype(DTYPES[v.dtype]) for result, v in zip(results, node.outputs, strict=True)]

    return evaluated


def like_float32_input(node: Node) -> list[TensorType]:
    """One output of the first input's type, which must be float32."""
    require_float32(node)
    return [node.input(0).type]


def no_macs(node: Node) -> int:
    """For operators that only move data, or look values up."""
    del node
    return 0


def one_per_output_element(node: Node) -> int:
    """Multiply-accumulates of operators that count one for each output element."""
    return node.outputs[0].type.elements


def one_per_input_element(node: Node) -> int:
    """Multiply-accumulates of operators that count one for each input element."""
    return node.input(0).type.elements


def reals(node: Node, key: str) -> tuple[float, ...]:
    """The node's attribute `key`, a list of numbers."""
    value = node.attributes[key]
    assert isinstance(value, tuple), (key, value)
    return tuple(float(item) for item in value)


def present(array: Array | None) -> Array:
    """An input's array that the shape rule has already found to be there."""
    assert array is not None
    return array


def clamp(node: Node, result: Array) -> Array:
    """`result` within the node's clamp_low and clamp_high."""
    low, high = node.float("clamp_low"), node.float("clamp_high")
    if low == -np.inf and high == np.inf:
        return result
    return np.clip(result, np.float32(low), np.float32(high))
