"""BatchNormalization with the statistics of training: (x - mean) / sqrt(variance + epsilon) * scale + bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import one_per_output_element, present, require_axis, require_float32, require_shape


def _infer(node: Node) -> list[TensorType]:
    require_float32(node)
    x, axis = node.input(0), node.int("axis")
    require_axis(node, axis, x.type.rank)
    for index in range(1, 5):
        require_shape(node, node.input(index), (x.shape[axis],))
    return [x.type]


def _evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x = present(arrays[0])
    along_axis = [x.shape[axis] if axis == node.int("axis") else 1 for axis in range(x.ndim)]
    scale, bias, mean, variance = (present(array).reshape(along_axis) for array in arrays[1:5])
    return [(x - mean) / np.sqrt(variance + np.float32(node.float("epsilon"))) * scale + bias]


NORMALIZATION_OPERATORS = (
    Operator(
        name="BatchNormalization",
        infer=_infer,
        evaluate=_evaluate,
        macs=one_per_output_element,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.FLOAT_ONLY,
        is_elementwise=False,
    ),
)
