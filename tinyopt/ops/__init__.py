"""Facts about operators, one file per family. `OPERATORS` is the table of all of them."""

from __future__ import annotations

from tinyopt.ops import integer_conv, integer_elementwise, integer_pool, integer_softmax, quantize
from tinyopt.ops.conv import CONV_OPERATORS
from tinyopt.ops.dense import DENSE_OPERATORS
from tinyopt.ops.elementwise import ELEMENTWISE_OPERATORS
from tinyopt.ops.movement import MOVEMENT_OPERATORS
from tinyopt.ops.normalization import NORMALIZATION_OPERATORS
from tinyopt.ops.pool import POOL_OPERATORS
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.reduce import REDUCE_OPERATORS
from tinyopt.ops.resize import RESIZE_OPERATORS
from tinyopt.ops.softmax import SOFTMAX_OPERATORS

__all__ = ["OPERATORS", "ChannelRelation", "Operator", "QuantizationRule"]

_FAMILIES: tuple[tuple[Operator, ...], ...] = (
    CONV_OPERATORS,
    DENSE_OPERATORS,
    POOL_OPERATORS,
    NORMALIZATION_OPERATORS,
    ELEMENTWISE_OPERATORS,
    SOFTMAX_OPERATORS,
    REDUCE_OPERATORS,
    MOVEMENT_OPERATORS,
    RESIZE_OPERATORS,
    quantize.OPERATORS,
    integer_conv.OPERATORS,
    integer_elementwise.OPERATORS,
    integer_pool.OPERATORS,
    integer_softmax.OPERATORS,
)

OPERATORS: dict[str, Operator] = {operator.name: operator for family in _FAMILIES for operator in family}
