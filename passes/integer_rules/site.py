"""One float operator between DequantizeLinear and QuantizeLinear, as the lowering rules see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import UnsupportedOperatorError
from tinyopt.ir import Array, Attribute, Node, Quantization, Value
from tinyopt.ops.integer_rules import ACTIVATION_DTYPES
from tinyopt.ops.requantize import LARGEST_SHIFT, MULTIPLIER_BITS, multiplier_and_shift
from tinyopt.passes.rewriting import Rewriter

ACCUMULATOR_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Refusal:
    """Why an operator stays in float."""

    reason: str


@dataclass(frozen=True)
class Site:
    """A float operator whose inputs are dequantized integers and whose output is quantized.

    operands: for each input the integers behind its DequantizeLinear, a float constant as itself, None where absent.
    output: the int8 or int16 value that QuantizeLinear makes of the result.
    """

    rewriter: Rewriter
    node: Node
    operands: tuple[Value | None, ...]
    output: Value

    def operand(self, index: int) -> Value:
        """Operand `index`, which the operator cannot do without."""
        value = self.operands[index]
        assert value is not None, (self.node.name, index)
        return value

    def constant(self, role: str, array: Array) -> Value:
        """A new constant named after the node."""
        return Value.of(self.rewriter.unique_name(f"{self.node.name}_{role}"), array)

    def replaced_by(self, op: str, inputs: Sequence[Value | None], attributes: Mapping[str, Attribute]) -> Node:
        """The integer node that takes this operator's place."""
        return Node(op, self.node.name, list(inputs), [self.output], dict(attributes), self.node.origins)

    def kept(self, *keys: str) -> dict[str, Attribute]:
        """Attributes that the integer operator has too."""
        return {key: self.node.attributes[key] for key in keys}

    def levels(self) -> dict[str, Attribute]:
        """low and high: the output's levels of the clamp, for round(clip(x)) = clip(round(x))."""
        limits = [self.node.float(key) for key in ("clamp_low", "clamp_high") if key in self.node.attributes]
        low, high = quantization_of(self.output).quantize(np.array(limits or [-np.inf, np.inf]), self.output.dtype)
        return {"low": int(low), "high": int(high)}


Rule: TypeAlias = Callable[[Site], Node | Refusal]


def quantization_of(value: Value) -> Quantization:
    """The quantization of a value that is known to be quantized."""
    assert value.quantization is not None, value.name
    return value.quantization


def scale_of(value: Value) -> float:
    """The one scale of an activation."""
    return quantization_of(value).scale[0]


def zero_point_of(value: Value) -> int:
    """The one zero point of an activation."""
    return quantization_of(value).zero_point[0]


def is_activation(value: Value) -> bool:
    """Whether the value is int8 or int16 with one scale and zero point (0 for int16), constant or not."""
    quantization = value.quantization
    if value.dtype not in ACTIVATION_DTYPES or quantization is None or not quantization.is_per_tensor:
        return False
    return value.dtype == "int8" or quantization.is_symmetric


def real_data(value: Value) -> Array:
    """A constant operand as real numbers."""
    return value.data if value.quantization is None else value.quantization.dequantize(value.data)


def activations(site: Site, *indices: int) -> Refusal | None:
    """The refusal where one of these operands is not int8 or int16 with one scale."""
    for index in indices:
        value = site.operand(index)
        if not is_activation(value):
            return Refusal(f"'{value.name}' is {value.dtype} without one scale and zero point")
    return None


def multipliers(
    scales: Sequence[float] | NDArray[np.float64], bits: int = MULTIPLIER_BITS, largest_shift: int = LARGEST_SHIFT
) -> tuple[NDArray[np.int32], int] | Refusal:
    """`multiplier_and_shift`, with a refusal where the scales lie too far apart."""
    try:
        return multiplier_and_shift(np.asarray(scales, np.float64), bits, largest_shift)
    except UnsupportedOperatorError as error:
        return Refusal(str(error))
