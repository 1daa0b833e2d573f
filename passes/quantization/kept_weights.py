"""Weights that arrive as integers, in the form that integer kernels take: int8 without zero points.

w = s * (q - z) stays exactly what it is where q - z fits -127..127; elsewhere its channel gets a coarser scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Node, Quantization, Value
from tinyopt.passes.quantization.weights import BIAS_BITS, LARGEST_LEVEL


@dataclass(frozen=True, eq=False)
class Symmetric:
    """Weights without zero points. levels: int8, output channels first. rounded: how many channels are not exact."""

    levels: NDArray[np.int8]
    quantization: Quantization
    rounded: int


def is_usable(node: Node, integers: Value, bias: Array | None, input_scale: float) -> bool:
    """Whether the kernels take these weights as they are, and the bias in units of their products."""
    quantization = integers.quantization
    assert quantization is not None, integers.name
    if integers.dtype != "int8" or not quantization.is_symmetric or min(quantization.scale) <= 0:
        return False
    if node.op == "ConvTranspose":
        return True  # which axes it takes is the lowering's to say: they depend on its groups
    return quantization.axis in (None, 0) and not _has_large_bias(np.array(quantization.scale), bias, input_scale)


def symmetric(integers: Value, bias: Array | None, input_scale: float) -> Symmetric:
    """The weights [output channels, ...] with one scale for each channel, exact wherever the integers fit."""
    quantization = integers.quantization
    assert quantization is not None, integers.name
    rank = integers.type.rank
    centred = (integers.data.astype(np.int64) - quantization.zero_point_array(rank)).reshape(integers.shape[0], -1)
    steps = np.broadcast_to(quantization.scale_array(rank).astype(np.float64), integers.shape).reshape(centred.shape)
    real = centred * steps
    first = steps[:, :1]
    largest = np.max(np.abs(real), axis=1, initial=0.0)
    floor = np.zeros(len(largest)) if bias is None else np.abs(bias) / input_scale / 2**BIAS_BITS
    is_exact = (
        np.all(steps == first, axis=1)
        & (np.max(np.abs(centred), axis=1, initial=0) <= LARGEST_LEVEL)
        & (first[:, 0] >= floor)
        & (first[:, 0] > 0)
    )
    coarser = np.maximum(largest / LARGEST_LEVEL, floor)
    scale = np.where(is_exact, first[:, 0], np.where(coarser > 0, coarser, 2.0**-BIAS_BITS)).astype(np.float32)
    levels = np.clip(np.rint(real / scale[:, None].astype(np.float64)), -LARGEST_LEVEL, LARGEST_LEVEL)
    is_lost = ~is_exact & (largest > 0)
    return Symmetric(
        levels.astype(np.int8).reshape(integers.shape),
        Quantization.per_channel(scale, [0] * len(scale), 0),
        int(np.count_nonzero(is_lost)),
    )


def _has_large_bias(scale: NDArray[np.float64], bias: Array | None, input_scale: float) -> bool:
    return bias is not None and bool(np.any(np.abs(bias) > scale * input_scale * 2.0 ** (BIAS_BITS + 3)))
