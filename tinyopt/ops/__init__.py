"""Facts about operators, one file per family. `OPERATORS` is the table of all of them."""

from __future__ import annotations

from tinyopt.ops import integer_conv, integer_elementwise, integer_pool, integer_softmax, quantize
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule

__all__ = ["OPERATORS", "ChannelRelation", "Operator", "QuantizationRule"]

_FAMILIES: tuple[tuple[Operator, ...], ...] = (
    quantize.OPERATORS,
    integer_conv.OPERATORS,
    integer_elementwise.OPERATORS,
    integer_pool.OPERATORS,
    integer_softmax.OPERATORS,
)

OPERATORS: dict[str, Operator] = {operator.name: operator for family in _FAMILIES for operator in family}
