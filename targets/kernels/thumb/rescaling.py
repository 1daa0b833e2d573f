"""How the micro-kernels rescale accumulators: every shift made 32, and what must hold for their arithmetic to be exact.

    y = min(max(((acc * M + added + 2^31) >> 32) + zero_point - low, 0), high - low) + low

Multipliers of another shift are multiplied by 2^(32 - shift), which changes no bit of the result. `added` is what a
residual brings: its distance from its zero point times its multiplier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Refusal
from tinyopt.targets.kernels.requantize import zero_point_of

LARGEST_DISTANCE = 255  # of an int8 from its zero point


@dataclass(frozen=True, eq=False)
class Rescaling:
    """One layer's. Arrays are int64, one entry for each output channel.

    residual_zero_point, residual_multiplier: those of the node, of its own shift; None without a residual.
    """

    bias: Array
    multiplier: Array
    largest_sum: int
    zero_point: int
    low: int
    high: int
    shift: int
    residual: tuple[int, int] | None

    @classmethod
    def of(cls, node: Node) -> Rescaling:
        """That of a QConv or QDense."""
        weights = node.input(1).data
        bias = node.input(2).data.astype(np.int64)
        reach = 128 * np.abs(weights.astype(np.int64)).reshape(len(weights), -1).sum(axis=1)
        shift = node.int("shift")
        residual = node.optional_input(4)
        return cls(
            bias=bias,
            multiplier=node.input(3).data.astype(np.int64) << (32 - shift),
            largest_sum=int((np.abs(bias) + reach).max()),
            zero_point=zero_point_of(node, node.output),
            low=node.int("low"),
            high=node.int("high"),
            shift=shift,
            residual=None if residual is None else (zero_point_of(node, residual), node.int("residual_multiplier")),
        )

    @property
    def pairs(self) -> Array:
        """int32 [channels, 2]: bias and multiplier."""
        return np.stack([self.bias, self.multiplier], axis=1).astype(np.int32)

    @property
    def clamp(self) -> tuple[int, int, int]:
        """zero_point - low, high - low, low."""
        return self.zero_point - self.low, self.high - self.low, self.low


def halves(rescaling: Rescaling) -> tuple[int, int, int] | Refusal:
    """The numbers of a residual where products are put together from halves of 16 bits, and zeros without one.

    What is added before the last shift by 16 must fit 32 bits.
    """
    zero_point, multiplier = rescaling.residual or (0, 0)
    rest, low = divmod(multiplier << (32 - rescaling.shift), 1 << 16)
    largest = int(rescaling.multiplier.max())
    middle = (
        ((rescaling.largest_sum >> 16) + 1) * 0xFFFF
        + 0xFFFF * ((largest >> 16) + 1)
        + LARGEST_DISTANCE * (abs(rest) + 2)
    )
    if largest >= 1 << 31 or middle + (1 << 17) >= 1 << 31:
        return Refusal("its sums or multipliers are too large for products of 16-bit halves")
    return zero_point, low, rest


def whole(rescaling: Rescaling) -> tuple[int, int, int] | Refusal:
    """The numbers of a residual where there is a 64-bit multiplication, and zeros without one."""
    zero_point, multiplier = rescaling.residual or (0, 0)
    raised = 32 - rescaling.shift
    if int(rescaling.multiplier.max()) >= 1 << 31 or rescaling.largest_sum >= 1 << 31:
        return Refusal("its sums or multipliers do not fit 32 bits")
    if rescaling.residual is not None and raised > 20:
        return Refusal("its residual's multiplier is too large")
    return zero_point, multiplier, raised
