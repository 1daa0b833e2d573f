"""Facts about the layers that compute weighted sums, shared by the passes that fold constants into them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Node
from tinyopt.passes.rewriting import is_unclamped

LAYERS_WITH_BIAS = ("Conv", "ConvTranspose", "Dense")
_RESIDUAL = 3  # index of the residual input of Conv and Dense


def output_axis(node: Node) -> int:
    """The axis of the output channels in what a Conv, ConvTranspose, Dense or MatMul gives."""
    if node.op in ("Dense", "MatMul"):
        return node.output.type.rank - 1
    return 1 if node.str("layout") == "NCHW" else 3


def has_residual(node: Node) -> bool:
    """Whether another tensor is added before the clamp."""
    return node.op in ("Conv", "Dense") and node.optional_input(_RESIDUAL) is not None


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
