"""The weighted sums of a QDQ graph beside the float layers that they were made of, and samples to compare them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Clusters, Graph, Node, Quantization, Value
from tinyopt.pass_manager import PassContext
from tinyopt.passes.calibration_samples import chosen_samples, too_few
from tinyopt.passes.channel_links import constant_source, label_of
from tinyopt.passes.linear_layers import LAYERS_WITH_BIAS
from tinyopt.passes.quantization.moments import Matrices, weight_rows
from tinyopt.passes.quantization.walk import Walk


@dataclass(frozen=True, eq=False)
class QuantizedLinear:
    """A Conv, ConvTranspose or Dense. twin: the same in the float graph.

    weights, bias: its integers in the QDQ graph; bias is None where there is none, or a float one.
    """

    node: Node
    twin: Node
    weights: Value
    bias: Value | None

    @property
    def exact_rows(self) -> Matrices:
        """The float weights, [groups, channels, K]."""
        return weight_rows(self.twin, self.twin.input(1).data)

    @property
    def integer_rows(self) -> Matrices:
        """The integers, [groups, channels, K]."""
        return weight_rows(self.node, self.weights.data)

    @property
    def row_scales(self) -> Matrices:
        """The scale of each output channel, [groups, channels, 1]."""
        scales = np.broadcast_to(np.array(_quantization(self.weights).scale, np.float64), (self.weights.shape[0],))
        return weight_rows(self.node, scales[:, None])

    @property
    def is_exact(self) -> bool:
        """Whether the integers say exactly what the float weights are."""
        return np.array_equal(_quantization(self.weights).dequantize(self.weights.data), self.twin.input(1).data)

    def store(self, integers: Matrices) -> None:
        """Put integers [groups, channels, K] in the place of the weights; clustered ones are values of the codebook."""
        data = integers.reshape(self.weights.shape).astype(np.int8)
        if (old := self.weights.clusters) is not None:
            indices = np.searchsorted(old.codebook, data).astype(np.uint8)
            self.weights.clusters = Clusters(indices, old.codebook, old.scale, old.cost_limit)
        self.weights.constant = data

    @property
    def real_bias(self) -> NDArray[np.float64]:
        """What the integers of the bias stand for."""
        assert self.bias is not None, self.node.name
        return _quantization(self.bias).dequantize(self.bias.data).astype(np.float64)

    def store_bias(self, real: NDArray[np.float64]) -> None:
        """Round a real bias, one number for each output channel, to the integers of the bias."""
        assert self.bias is not None, self.node.name
        limits = np.iinfo(np.int32)
        steps = np.rint(real / np.array(_quantization(self.bias).scale, np.float64))
        self.bias.constant = np.clip(steps, limits.min, limits.max).astype(np.int32)


def quantized_layers(graph: Graph, float_graph: Graph) -> list[QuantizedLinear]:
    """The layers of the QDQ graph with constant weights that are quantized, in running order."""
    twins = {node.name: node for node in float_graph.nodes}
    producers = graph.producers()
    found: list[QuantizedLinear] = []
    for node in graph.nodes:
        twin = twins.get(node.name)
        if twin is None or node.op not in LAYERS_WITH_BIAS or not twin.input(1).is_constant:
            continue
        weights = _integers(producers, node.input(1))
        if weights is not None:
            found.append(QuantizedLinear(node, twin, weights, _integers(producers, node.optional_input(2))))
    return found


def change_layers(
    name: str,
    graph: Graph,
    context: PassContext,
    refusal: Callable[[QuantizedLinear], str | None],
    change: Callable[[QuantizedLinear, Sequence[Array], Sequence[Array]], bool],
) -> bool:
    """Change layer after layer of the QDQ graph by what it reads; returns whether any was changed.

    name: of the pass, for the progress. change: is given a layer, its inputs in the float model and those in the
    quantized one as it stands by then, one array for each sample. Layers with a refusal are left with a remark.
    """
    if context.float_graph is None:
        context.declined("nothing was quantized here: integers that came with the model stay as they are")
        return False
    if reason := too_few(context.samples):
        context.declined(reason)
        return False
    samples = chosen_samples(graph, context.samples)
    layers = quantized_layers(graph, context.float_graph)
    exact, rounded = Walk(context.float_graph, samples), Walk(graph, samples)
    is_changed = False
    for done, layer in enumerate(layers):
        context.on_progress(name, done, len(layers))
        if reason := refusal(layer):
            context.declined(f"{label_of(layer.node)}: {reason}", [layer.node])
            continue
        exact.run_before(layer.twin)
        rounded.run_before(layer.node)
        is_changed |= change(layer, exact.arrays(layer.twin.input(0)), rounded.arrays(layer.node.input(0)))
    context.on_progress(name, len(layers), len(layers))
    return is_changed


def _integers(producers: dict[Value, Node], value: Value | None) -> Value | None:
    """The constant that a layer's weights or bias are dequantized from; None where they are float or absent."""
    constant = None if value is None else constant_source(value, producers)
    return constant if constant is not None and constant.quantization is not None else None


def _quantization(value: Value) -> Quantization:
    assert value.quantization is not None, value.name
    return value.quantization
