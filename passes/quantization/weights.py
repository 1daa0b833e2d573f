"""Weights as symmetric int8 for each output channel, biases as int32 in units of the products they are added to."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Clusters, Graph, Node, Quantization, TensorType, Value

LARGEST_LEVEL = 127
BIAS_BITS = 26  # of the 32 of an accumulator: a large bias over tiny weights makes their scale coarser
CLUSTERED_BIAS_BITS = 30


FEWEST_4_BIT_WEIGHTS = 64  # below that two to a byte and the table of 15 values save next to nothing
_LARGEST_4_BIT_LEVEL = 7
_SHRINKS = np.linspace(0.5, 1.0, 26)  # parts of the largest weight that are tried as the range of 4-bit weights


@dataclass(frozen=True)
class WeightOptions:
    """How weights are quantized. cost: how many times int8's instructions kernels may take to look 4-bit ones up."""

    bits: int = 8
    is_per_channel: bool = True
    cost: float = math.inf


INT8_PER_CHANNEL = WeightOptions()


class Names:
    """Names that are free in a graph and not given away yet."""

    def __init__(self, graph: Graph) -> None:
        self._taken = {value.name for value in graph.values()} | {node.name for node in graph.nodes}

    def unique(self, stem: str) -> str:
        """`stem`, or `stem_2`, `stem_3`, ..."""
        name = stem
        for count in itertools.count(2):
            if name not in self._taken:
                break
            name = f"{stem}_{count}"
        self._taken.add(name)
        return name


@dataclass(frozen=True)
class Quantized:
    """The constants that replace weight and bias, and the remark where clusters could not be kept."""

    weights: Value
    bias: Value | None
    remark: str | None


def quantize_parameters(
    names: Names, node: Node, input_scale: float, options: WeightOptions = INT8_PER_CHANNEL
) -> Quantized:
    """int8 weights and int32 bias of a Conv, Dense or ConvTranspose whose input has this scale."""
    weights, bias = node.input(1), node.optional_input(2)
    real_bias = None if bias is None else bias.data.astype(np.float64)
    lost = None
    clusters = weights.clusters
    if clusters is not None and node.op != "ConvTranspose":
        lost = _reason_to_lose_clusters(clusters, real_bias, input_scale)
        if lost is None:
            return _with_clusters(names, weights, clusters, bias, input_scale)
        lost = f"its clusters are lost: {lost}"
    elif options.bits == 4:
        found = _four_bit_clusters(node, weights.data, options)
        lost = found if isinstance(found, str) else _reason_to_lose_clusters(found, real_bias, input_scale)
        if not isinstance(found, str) and lost is None:
            return _with_clusters(names, weights, found, bias, input_scale)
        lost = f"its weights take 8 bits: {lost}"
    scale, axis = _scale(node, weights.data, real_bias, input_scale, options)
    quantization = Quantization.per_tensor(float(scale[0]), 0)
    if axis is not None:
        quantization = Quantization.per_channel(scale, [0] * len(scale), axis)
    levels = np.clip(np.rint(weights.data / quantization.scale_array(weights.type.rank)), -LARGEST_LEVEL, LARGEST_LEVEL)
    integers = Value.of(names.unique(f"{weights.name}_int8"), levels.astype(np.int8), quantization)
    return Quantized(integers, _bias(names, bias, quantization, input_scale), lost)


def dequantized(names: Names, constant: Value, node: Node) -> Node:
    """A DequantizeLinear that gives the constant as float32."""
    output = Value(names.unique(f"{constant.name}_real"), TensorType("float32", constant.shape))
    name = names.unique(f"{constant.name}_dequantize")
    return Node("DequantizeLinear", name, [constant], [output], {}, node.origins)


def _four_bit_clusters(node: Node, weights: Array, options: WeightOptions) -> Clusters | str:
    """The integers -7..7 as clusters, with the scales of least squared error; or the reason why not."""
    if node.op == "ConvTranspose":
        return "the scales of a ConvTranspose do not lie along the weights' first axis"
    if weights.size < FEWEST_4_BIT_WEIGHTS:
        return f"{weights.size} are too few to gain by it"
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    largest = np.abs(rows).max(axis=1) if options.is_per_channel else np.repeat(np.abs(rows).max(), len(rows))
    stand_in = float(largest[largest > 0].min()) if largest.any() else 1.0
    widest = np.where(largest > 0, largest, stand_in)[:, None] / _LARGEST_4_BIT_LEVEL  # [O, 1]
    errors = [np.sum((_four_bit_levels(rows, widest * part) * widest * part - rows) ** 2, axis=1) for part in _SHRINKS]
    best = (
        np.argmin(errors, axis=0) if options.is_per_channel else np.full(len(rows), np.argmin(np.sum(errors, axis=1)))
    )
    scale = (widest[:, 0] * _SHRINKS[best]).astype(np.float32)
    codebook = np.arange(-_LARGEST_4_BIT_LEVEL, _LARGEST_4_BIT_LEVEL + 1).astype(np.int8)
    indices = _four_bit_levels(rows, scale[:, None]) + _LARGEST_4_BIT_LEVEL
    return Clusters(indices.astype(np.uint8).reshape(weights.shape), codebook, scale, options.cost)


def _four_bit_levels(rows: NDArray[np.float64], scale: Array) -> NDArray[np.float64]:
    return np.clip(np.rint(rows / scale), -_LARGEST_4_BIT_LEVEL, _LARGEST_4_BIT_LEVEL)


def _scale(
    node: Node, weights: Array, bias: NDArray[np.float64] | None, input_scale: float, options: WeightOptions
) -> tuple[NDArray[np.float64], int | None]:
    """The scales and their axis: the output channels, or none where several channels have to share one."""
    axis = _channel_axis(node) if options.is_per_channel else None
    others = tuple(dim for dim in range(weights.ndim) if dim != axis)
    largest = np.atleast_1d(np.max(np.abs(weights.astype(np.float64)), axis=others, initial=0.0))
    scale = largest / LARGEST_LEVEL
    if bias is not None:
        magnitude = np.abs(bias) if len(largest) == len(bias) else np.max(np.abs(bias), initial=0.0)
        scale = np.maximum(scale, magnitude / input_scale / 2**BIAS_BITS)
    positive = scale[scale > 0]
    stand_in = float(positive.min()) if positive.size else 1.0 / 2**BIAS_BITS
    return np.where(scale > 0, scale, stand_in), axis


def _channel_axis(node: Node) -> int | None:
    if node.op != "ConvTranspose":
        return 0
    if node.int("group") != 1:
        return None
    return 3 if node.str("layout") == "NHWC" else 1


def _reason_to_lose_clusters(clusters: Clusters, bias: NDArray[np.float64] | None, input_scale: float) -> str | None:
    if not np.all(clusters.scale > 0):
        return "a channel's scale is zero"
    if bias is not None and np.any(np.abs(bias) / (clusters.scale * input_scale) > 2**CLUSTERED_BIAS_BITS):
        return "a bias is too large for the scale of its channel"
    return None


def _with_clusters(
    names: Names, weights: Value, clusters: Clusters, bias: Value | None, input_scale: float
) -> Quantized:
    quantization = Quantization.per_channel(clusters.scale, [0] * len(clusters.scale), 0)
    integers = Value.of(names.unique(f"{weights.name}_int8"), clusters.integers(), quantization)
    integers.clusters = clusters
    return Quantized(integers, _bias(names, bias, quantization, input_scale), None)


def _bias(names: Names, bias: Value | None, weights: Quantization, input_scale: float) -> Value | None:
    if bias is None:
        return None
    scale = np.array(weights.scale, np.float64) * input_scale
    quantization = Quantization.per_tensor(float(scale[0]), 0)
    if weights.axis is not None:
        quantization = Quantization.per_channel(scale, [0] * len(scale), 0)
    levels = np.rint(bias.data.astype(np.float64) / np.array(quantization.scale))
    return Value.of(names.unique(f"{bias.name}_int32"), levels.astype(np.int32), quantization)
