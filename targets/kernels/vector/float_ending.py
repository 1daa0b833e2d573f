"""What fused float kernels do last: the clamp of the activation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Node
from tinyopt.targets.kernels.tir import Expr, maximum, minimum
from tinyopt.targets.kernels.vector.generic import splat


@dataclass(frozen=True)
class Clamp:
    """The levels of a fused Relu or Clip; infinite where there is no bound."""

    low: float
    high: float

    @classmethod
    def of(cls, node: Node) -> Clamp:
        """As the attributes of a float node say."""
        return cls.between(node.float("clamp_low"), node.float("clamp_high"), node.output.dtype)

    @classmethod
    def between(cls, low: float, high: float, dtype: str) -> Clamp:
        """Bounds for results of `dtype`; none where float16 does not reach."""
        if dtype != "float16":
            return cls(low, high)
        with np.errstate(over="ignore"):
            return cls(float(np.float16(low)), float(np.float16(high)))


def clamped(value: Expr, clamp: Clamp, width: int, dtype: str = "float32") -> Expr:
    """`value`, a vector of `width` floats (1: a scalar), within the bounds."""
    if not math.isinf(clamp.low):
        value = maximum(value, splat(clamp.low, dtype, width))
    if not math.isinf(clamp.high):
        value = minimum(value, splat(clamp.high, dtype, width))
    return value
