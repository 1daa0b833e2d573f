"""What fused float kernels do last: the clamp of the activation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernels.tir import Expr, broadcast, constant, maximum, minimum


@dataclass(frozen=True)
class Clamp:
    """The levels of a fused Relu or Clip; infinite where there is no bound."""

    low: float
    high: float

    @classmethod
    def of(cls, node: Node) -> Clamp:
        """As the attributes of a float node say."""
        return cls(node.float("clamp_low"), node.float("clamp_high"))


def clamped(value: Expr, clamp: Clamp, width: int) -> Expr:
    """`value`, a vector of `width` floats (1: a scalar), within the bounds."""
    if not math.isinf(clamp.low):
        value = maximum(value, splat(clamp.low, width))
    if not math.isinf(clamp.high):
        value = minimum(value, splat(clamp.high, width))
    return value


def splat(value: float, width: int) -> Expr:
    """A float literal in all lanes."""
    literal = constant(value, "float32")
    return literal if width == 1 else broadcast(literal, width)
