"""The layers whose weights can be clustered, and what they become."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Clusters, Graph, Node, Value
from tinyopt.passes.channel_links import WeightUse, constant_source, weight_use
from tinyopt.passes.clustering.codebooks import packed_bytes
from tinyopt.passes.clustering.fitting import Fit
from tinyopt.passes.quantization.moments import LARGEST_INPUTS, Matrices, groups_of, has_rows
from tinyopt.passes.quantization.weights import LARGEST_LEVEL

_FEWEST_WEIGHTS_PER_CLUSTER = 4


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer with constant weights. bias: None where it has none. readers: of the weights. bias_readers: of the bias.

    weights: float, or the integers that are dequantized for the layer.
    """

    use: WeightUse
    weights: Value
    bias: Value | None
    readers: int
    bias_readers: int

    @property
    def node(self) -> Node:
        return self.use.node

    @property
    def is_integer(self) -> bool:
        return self.weights.dtype == "int8"

    @property
    def scale(self) -> Matrices:
        """The scale of each output channel, [groups, channels, 1]: the integers' own, or the largest weight / 127."""
        rows = self.weights.shape[0]
        if self.is_integer:
            assert self.weights.quantization is not None
            scales = np.array(self.weights.quantization.scale, np.float32)
            return self._by_group(np.broadcast_to(scales, (rows,)))
        largest = np.abs(self.weights.data).reshape(rows, -1).max(axis=1)
        # Rows of zeros need a scale as well: their biases count in steps of it.
        stand_in = largest[largest > 0].min() if largest.any() else np.float32(1)
        return self._by_group(np.where(largest > 0, largest, stand_in) / np.float32(LARGEST_LEVEL))

    @property
    def wanted(self) -> Matrices:
        """The real weights, [groups, channels, K]."""
        rows = self._by_group(self.weights.data)
        return rows * self.scale if self.is_integer else rows

    def reason_to_take_nearest(self) -> str | None:
        """Why the layer's outputs cannot say which weight takes which value; None where they can."""
        if not has_rows(self.node):
            return f"a {self.node.op} in NCHW has no rows of operands"
        if self.readers > 1:
            return "several layers share its weights"
        inputs = self.wanted.shape[2]
        if inputs > LARGEST_INPUTS:
            return f"{inputs} inputs are too many"
        bias = self.bias
        if bias is not None and (bias.dtype != "float32" or not bias.is_constant or self.bias_readers > 1):
            return "its bias cannot make up for the means"
        return None

    def store(self, fit: Fit, cost: float) -> None:
        """Put what was found in the place of the weights: exactly codebook[indices] * scale."""
        self.store_in(self.weights, fit, cost)

    def store_in(self, weights: Value, fit: Fit, cost: float) -> None:
        """The same for the weights of a copy of the graph."""
        scale = fit.scale.reshape(-1).astype(np.float32)
        indices = np.searchsorted(fit.codebook, fit.integers).astype(np.uint8).reshape(weights.shape)
        weights.clusters = Clusters(indices, fit.codebook, scale, cost)
        integers = weights.clusters.integers()
        per_row = scale.reshape(-1, *[1] * (weights.type.rank - 1))  # O, 1, ...
        weights.constant = integers if self.is_integer else (integers.astype(np.float32) * per_row)

    def _by_group(self, array: Array) -> Matrices:
        groups = groups_of(self.node) if has_rows(self.node) else 1
        return array.astype(np.float64).reshape(groups, len(array) // groups, -1)


def layers_of(graph: Graph) -> Iterator[tuple[WeightUse, Layer | None]]:
    """The layers in running order; None where the weights are computed."""
    producers, consumers = graph.producers(), graph.consumers()
    for node in graph.nodes:
        use = weight_use(node)
        if use is None:
            continue
        constant = constant_source(use.weights, producers)
        if constant is None:
            yield use, None
            continue
        bias = node.optional_input(2)
        readers = len(consumers[use.weights]) * (1 if constant is use.weights else len(consumers[constant]))
        yield use, Layer(use, constant, bias, readers, 0 if bias is None else len(consumers[bias]))


def refusal(layer: Layer, clusters: int) -> str | None:
    """Why the layer is not clustered with so many values."""
    weights, use = layer.weights, layer.use
    elements = weights.type.elements
    if clusters == 0:
        return "it shall have no clusters"
    if weights.clusters is not None:
        return f"it has {len(weights.clusters.codebook)} clusters already"
    if use.output_axis != 0:
        return f"{use.node.op} has its scales along axis {use.output_axis} of its weights"
    if weights.dtype not in ("float32", "int8"):
        return f"its weights are {weights.dtype}"
    if elements < _FEWEST_WEIGHTS_PER_CLUSTER * clusters:
        return f"{elements} weights are too few for {clusters} clusters"
    if packed_bytes(elements, clusters) >= elements:
        return f"{packed_bytes(elements, clusters)} bytes of indices and codebook, {elements} as int8"
    if layer.is_integer:
        return _integer_refusal(layer)
    return None if np.all(np.isfinite(weights.data)) else "its weights hold NaN or infinite numbers"


def _integer_refusal(layer: Layer) -> str | None:
    quantization = layer.weights.quantization
    if quantization is None or not quantization.is_symmetric:
        return "its integer weights have a zero point"
    if quantization.axis not in (None, 0):
        return f"its integer weights have their scales along axis {quantization.axis}"
    return None
