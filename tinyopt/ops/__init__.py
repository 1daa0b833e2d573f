"""Facts about operators, one file per family. `OPERATORS` is the table of all of them."""

from __future__ import annotations

from tinyopt.ops import quantize
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule

__all__ = ["OPERATORS", "ChannelRelation", "Operator", "QuantizationRule"]

_FAMILIES: tuple[tuple[Operator, ...], ...] = (
    quantize.OPERATORS,
)

OPERATORS: dict[str, Operator] = {operator.name: operator for family in _FAMILIES for operator in family}
