"""One ONNX node as the rules see it: inputs as IR values, attributes and outputs with typed access."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinyopt.errors import InvalidModelError
from tinyopt.ir import Array, Value


class Refusal(Exception):  # noqa: N818 - it is a reason, not an error: the importer collects all of them
    """Why a rule does not take a node."""


@dataclass(frozen=True)
class OnnxNode:
    """A node of an ONNX graph. `output_names` holds "" for outputs that nobody reads."""

    op: str
    domain: str
    name: str
    opset: int
    inputs: tuple[Value | None, ...]
    output_names: tuple[str, ...]
    attributes: Mapping[str, Any]

    def optional(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def value(self, index: int) -> Value:
        """Input `index`, which the operator's definition demands."""
        value = self.optional(index)
        if value is None:
            raise self.invalid(f"input {index} is missing")
        return value

    def optional_constant(self, index: int, what: str) -> Array | None:
        """The array of input `index`, None where it is absent; a Refusal where it is not known at compile time."""
        value = self.optional(index)
        if value is None:
            return None
        if value.constant is None:
            raise Refusal(f"non-constant {what} '{value.name}'")
        return value.constant

    def constant(self, index: int, what: str) -> Array:
        """The array of input `index`; a Refusal where it is not known at compile time."""
        self.value(index)
        array = self.optional_constant(index, what)
        assert array is not None
        return array

    def integers_of(self, index: int, what: str) -> tuple[int, ...]:
        """The constant input `index` as a list of integers."""
        array = self.constant(index, what)
        if array.dtype.kind not in "iu" or array.ndim > 1:
            raise self.invalid(f"{what} is {array.dtype.name} of {array.ndim} dimensions, not a list of integers")
        return tuple(int(item) for item in array.reshape(-1))

    def scalar_of(self, index: int, what: str) -> float | None:
        """The constant input `index` of one element as a number, None where it is absent."""
        array = self.optional_constant(index, what)
        if array is None or array.size == 0:
            return None
        if array.size != 1:
            raise self.invalid(f"{what} has {array.size} elements, not one")
        return float(array.reshape(-1)[0])

    def required_scalar(self, index: int, what: str) -> float:
        """The constant input `index` of one element as a number, which the operator's definition demands."""
        self.constant(index, what)
        number = self.scalar_of(index, what)
        if number is None:
            raise self.invalid(f"{what} is empty")
        return number

    def has(self, attribute: str) -> bool:
        return attribute in self.attributes

    def integer(self, attribute: str, default: int) -> int:
        return int(self.attributes.get(attribute, default))

    def real(self, attribute: str, default: float) -> float:
        return float(self.attributes.get(attribute, default))

    def text(self, attribute: str, default: str) -> str:
        return str(self.attributes.get(attribute, default))

    def integers(self, attribute: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(item) for item in self.attributes.get(attribute, default))

    def required(self, attribute: str) -> Any:
        if attribute not in self.attributes:
            raise self.invalid(f"attribute '{attribute}' is missing")
        return self.attributes[attribute]

    def is_used(self, output: int) -> bool:
        """Whether anybody reads output `output`."""
        return output < len(self.output_names) and self.output_names[output] != ""

    def axis(self, axis: int, rank: int) -> int:
        """`axis` counted from the front; negative ones count from the end of `rank` dimensions."""
        if not -rank <= axis < rank:
            raise self.invalid(f"axis {axis} is not in a tensor of {rank} dimensions")
        return axis % rank if rank else 0

    def invalid(self, what: str) -> InvalidModelError:
        """The error that says what is wrong with this node."""
        return InvalidModelError(f"{self.op} '{self.name}': {what}")
