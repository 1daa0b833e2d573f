"""Facts about operators, one file per family. `OPERATORS` is the table of all of them."""

from __future__ import annotations

from tinyopt.ops.along_axis import ALONG_AXIS_OPERATORS
from tinyopt.ops.conv import CONV_OPERATORS
from tinyopt.ops.dense import DENSE_OPERATORS
from tinyopt.ops.elementwise import ELEMENTWISE_OPERATORS
from tinyopt.ops.grid_sample import GRID_SAMPLE_OPERATORS
from tinyopt.ops.indexing import INDEXING_OPERATORS
from tinyopt.ops.integer_conv import INTEGER_CONV_OPERATORS
from tinyopt.ops.integer_elementwise import INTEGER_ELEMENTWISE_OPERATORS
from tinyopt.ops.integer_pool import INTEGER_POOL_OPERATORS
from tinyopt.ops.integer_softmax import INTEGER_SOFTMAX_OPERATORS
from tinyopt.ops.interpolate import INTERPOLATE_OPERATORS
from tinyopt.ops.layer_normalization import LAYER_NORMALIZATION_OPERATORS
from tinyopt.ops.movement import MOVEMENT_OPERATORS
from tinyopt.ops.nd import ND_OPERATORS
from tinyopt.ops.normalization import NORMALIZATION_OPERATORS
from tinyopt.ops.pointwise import POINTWISE_OPERATORS
from tinyopt.ops.pool import POOL_OPERATORS
from tinyopt.ops.quantize import QUANTIZE_OPERATORS
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.recurrent import RECURRENT_OPERATORS
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
    POINTWISE_OPERATORS,
    SOFTMAX_OPERATORS,
    REDUCE_OPERATORS,
    ALONG_AXIS_OPERATORS,
    RECURRENT_OPERATORS,
    LAYER_NORMALIZATION_OPERATORS,
    ND_OPERATORS,
    MOVEMENT_OPERATORS,
    INDEXING_OPERATORS,
    RESIZE_OPERATORS,
    INTERPOLATE_OPERATORS,
    GRID_SAMPLE_OPERATORS,
    QUANTIZE_OPERATORS,
    INTEGER_CONV_OPERATORS,
    INTEGER_ELEMENTWISE_OPERATORS,
    INTEGER_POOL_OPERATORS,
    INTEGER_SOFTMAX_OPERATORS,
)

OPERATORS: dict[str, Operator] = {operator.name: operator for family in _FAMILIES for operator in family}
