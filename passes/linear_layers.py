"""Facts about the layers that compute weighted sums, shared by the passes that fold constants into them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Node, Quantization, Value
from tinyopt.passes.rewriting import is_unclamped

LAYERS_WITH_BIAS = ("Conv", "ConvTranspose", "Dense")
RESIDUAL = 3  # index of the residual input of Conv and Dense


def output_axis(node: Node) -> int:
    """The axis of the output channels in what a Conv, ConvTranspose, Dense or MatMul gives."""
    if node.op in ("Dense", "MatMul"):
        return node.output.type.rank - 1
    return 1 if node.str("layout") == "NCHW" else 3


def has_residual(node: Node) -> bool:
    """Whether another tensor is added before the clamp."""
    return node.op in ("Conv", "Dense") and node.optional_input(RESIDUAL) is not None


def is_finished(node: Node) -> bool:
    """Whether something that must stay last, a residual or a clamp, is already part of the layer."""
    return has_residual(node) or not is_unclamped(node)


def per_channel(array: Array, shape: Sequence[int], axis: int) -> Array | None:
    """`array` as one element per channel, where it broadcasts over `shape` along `axis` alone; else None."""
    if array.ndim > len(shape):
        return None
    full = (1,) * (len(shape) - array.ndim) + array.shape
    if any(size != 1 for dim, size in enumerate(full) if dim != axis) or full[axis] not in (1, shape[axis]):
        return None
    return np.broadcast_to(array.reshape(-1), (shape[axis],))


def scaled_weights(node: Node, weights: Array, factors: NDArray[np.float64]) -> Array:
    """The weights of a layer whose outputs are multiplied by `factors`, one per output channel."""
    if node.op == "MatMul":
        return np.asarray(weights * factors, np.float32)  # [K, N]
    if node.op != "ConvTranspose":
        return np.asarray(weights * factors.reshape(-1, *[1] * (weights.ndim - 1)), np.float32)  # [O, ...]
    group, inputs = node.int("group"), len(weights)
    outputs_last = np.moveaxis(weights, 1, -1) if node.str("layout") == "NCHW" else weights  # [I, KH, KW, O/group]
    by_group = outputs_last.reshape(group, inputs // group, *outputs_last.shape[1:])
    scaled = (by_group * factors.reshape(group, 1, 1, 1, -1)).reshape(outputs_last.shape)
    return np.asarray(np.moveaxis(scaled, -1, 1) if node.str("layout") == "NCHW" else scaled, np.float32)


def scaled_integers(node: Node, integers: Value, factors: NDArray[np.float64]) -> tuple[Array, Quantization] | None:
    """Integer weights of a layer whose outputs are multiplied by `factors`, one per output channel, and their scales.

    Exact but for the rounding of a scale to float32: only signs and scales change. None where that cannot be: output
    channels share integers, or a level has no negative.
    """
    quantization = integers.quantization
    axis = _weights_axis(node)
    if quantization is None or axis is None or quantization.axis not in (None, axis):
        return None
    shape = [-1 if dim == axis else 1 for dim in range(integers.type.rank)]
    signs = np.where(factors < 0, -1, 1)
    levels = integers.data.astype(np.int64) * signs.reshape(shape)
    limits = np.iinfo(integers.data.dtype)
    if levels.max(initial=0) > limits.max:
        return None
    count = integers.shape[axis]
    scale = np.broadcast_to(np.array(quantization.scale, np.float64), (count,)) * np.abs(factors)
    zero_point = np.broadcast_to(np.array(quantization.zero_point, np.int64), (count,)) * signs
    positive = np.where(scale > 0, scale, 1.0)  # a channel that becomes zero keeps no integers
    levels = np.where((scale > 0).reshape(shape), levels, zero_point.reshape(shape))
    return levels.astype(integers.data.dtype), Quantization.per_channel(positive, zero_point, axis)


def _weights_axis(node: Node) -> int | None:
    """The axis of the output channels in a layer's weights; None where channels of several groups share one index."""
    if node.op in ("Conv", "Dense"):
        return 0
    if node.op == "MatMul":
        return 1 if node.input(1).type.rank == 2 else None
    if node.int("group") != 1:
        return None
    return 1 if node.str("layout") == "NCHW" else 3
