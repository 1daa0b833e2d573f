"""LayerNormalization and RMSNormalization over the last dimensions, and LRN over neighbouring channels, in float32.

LayerNormalization: y = (x - mean) / sqrt(variance + epsilon) * scale + bias, over the dimensions from `axis` on;
    with three outputs it gives the means and 1 / sqrt(variance + epsilon), too, with size 1 from `axis` on.
RMSNormalization: y = x / sqrt(mean of squares + epsilon) * scale.
    scale and bias have the shape of those dimensions, or are None.
LRN: y = x / (bias + alpha / size * sum of squares over `size` channels)^beta, channels at axis 1
    (Krizhevsky et al., "ImageNet classification with deep convolutional neural networks", NIPS 2012, section 3.3).
Sources: Ba et al., arXiv:1607.06450; Zhang and Sennrich, arXiv:1910.07467.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.record import opaque_float_operator
from tinyopt.ops.rules import (
    like_float32_input,
    one_per_output_element,
    present,
    require,
    require_axis,
    require_float32,
    require_shape,
)


def _infer(node: Node) -> list[TensorType]:
    require_float32(node)
    x, axis = node.input(0), node.int("axis")
    require_axis(node, axis, x.type.rank)
    for index in range(1, len(node.inputs)):
        require_shape(node, node.optional_input(index), x.shape[axis:])
    statistics = TensorType("float32", (*x.shape[:axis], *(1,) * (x.type.rank - axis)))
    counts = (1, 3) if node.op == "LayerNormalization" else (1,)
    require(len(node.outputs) in counts, node, f"it has {len(node.outputs)} outputs")
    return [x.type, statistics, statistics][: len(node.outputs)]


def _axes(node: Node, x: Array) -> tuple[int, ...]:
    return tuple(range(node.int("axis"), x.ndim))


def _evaluate_layer(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, scale, bias = present(arrays[0]), arrays[1], arrays[2]
    mean = np.mean(x, axis=_axes(node, x), keepdims=True)
    centred = x - mean
    variance = np.mean(centred * centred, axis=_axes(node, x), keepdims=True)
    inverse = 1 / np.sqrt(variance + np.float32(node.float("epsilon")))
    y = centred * inverse
    y = y if scale is None else y * scale
    y = y if bias is None else y + bias
    return [np.asarray(array, np.float32) for array in (y, mean, inverse)[: len(node.outputs)]]


def _evaluate_rms(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, scale = present(arrays[0]), arrays[1]
    squares = np.mean(x * x, axis=_axes(node, x), keepdims=True)
    y = x / np.sqrt(squares + np.float32(node.float("epsilon")))
    return [np.asarray(y if scale is None else y * scale, np.float32)]


def neighbours(size: int) -> tuple[int, int]:
    """How many channels before and behind its own an LRN of `size` looks at."""
    return (size - 1) // 2, math.ceil((size - 1) / 2)


def _infer_lrn(node: Node) -> list[TensorType]:
    require(node.input(0).type.rank >= 2, node, f"input of shape {node.input(0).shape} has no channels")
    require(node.int("size") > 0, node, f"size is {node.int('size')}")
    return like_float32_input(node)


def _evaluate_lrn(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, size = present(arrays[0]), node.int("size")
    before, behind = neighbours(size)
    squares = x * x
    sums = np.zeros_like(x)
    for channel in range(x.shape[1]):
        sums[:, channel] = squares[:, max(channel - before, 0) : channel + behind + 1].sum(axis=1)
    factor = np.float32(node.float("alpha") / size)
    return [np.asarray(x / (np.float32(node.float("bias")) + factor * sums) ** np.float32(node.float("beta")))]


def _lrn_macs(node: Node) -> int:
    return node.output.type.elements * node.int("size")


LAYER_NORMALIZATION_OPERATORS = (
    opaque_float_operator("LayerNormalization", _infer, _evaluate_layer, one_per_output_element),
    opaque_float_operator("RMSNormalization", _infer, _evaluate_rms, one_per_output_element),
    opaque_float_operator("LRN", _infer_lrn, _evaluate_lrn, _lrn_macs),
)
