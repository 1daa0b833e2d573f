"""Complete the quantization of models that arrive partly quantized, so that they lower whole to integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Node, Value
from tinyopt.ops.integer_rules import ACTIVATION_DTYPES
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.quantization.channel_scaling import depthwise_from_scaling
from tinyopt.passes.quantization.completion import Completion
from tinyopt.passes.quantization.known_scales import Rounding, Scales, Wiring, structural_refusal
from tinyopt.passes.quantization.observing import observe_anew
from tinyopt.passes.quantization.parameters import from_range
from tinyopt.passes.quantization.ranges import percentile
from tinyopt.passes.rewriting import rewrite

_MOST_SAMPLES = 512


@dataclass(frozen=True)
class InferScales(Pass):
    """Find the scales that a quantized model does not say, and round by them.

    What: scales and zero points that come in the model are kept. Where an activation has none, it gets one from its
        neighbours: the input's through Relu, Clip, pools, averages and all that moves values; the output's back through
        reshapes, transposes, pads and concatenations; the range of a function over the 256 levels of its input; 1/256
        for Sigmoid and Softmax, 1/128 for Tanh; a clamp's two ends. What is left is observed on the calibration
        samples, if there are any. Float weights beside quantized activations are quantized, zero points of weights
        taken away, and a multiplication by one constant for each channel becomes a depthwise convolution.
    Before -> After:
        int8 -> D -> MaxPool -> v -> Conv(D(int8 w))    =>    int8 -> D -> MaxPool -> v -> Q -> D -> Conv(D(int8 w))
        with the scale of the int8 (Q, D: QuantizeLinear, DequantizeLinear)
    Exactness: a scale that is carried on loses nothing where values only move, and half a step elsewhere. Weights with
        zero points stay exact in channels where they fit int8 without them, and are rounded elsewhere.
    Refuses when: nothing in the model is quantized (`quantize` does that), or the scale of something that an operator
        reads or gives follows from nothing and there are no calibration samples: it then stays in float.
    Source: Jacob et al., arXiv:1712.05877, section 3; the ONNX operators QuantizeLinear and DequantizeLinear.
    """

    name: ClassVar[str] = "infer-scales"

    percentile: float = 99.995  # of what has to be observed

    def run(self, graph: Graph, context: PassContext) -> bool:
        if not 50.0 < self.percentile <= 100.0:
            raise UsageError(f"infer-scales.percentile is {self.percentile:g}, not above 50 and at most 100")
        if not any(value.dtype in ACTIVATION_DTYPES and not value.is_constant for value in graph.values()):
            return False
        is_changed = rewrite(graph, context, (depthwise_from_scaling,))
        wiring = Wiring(graph)
        refusals = {node: structural_refusal(wiring, node) for node in wiring.float_nodes()}
        candidates = [node for node, refusal in refusals.items() if refusal is None]
        scales = Scales(wiring)
        scales.infer()
        self._observe_missing(graph, wiring, scales, candidates, context)
        missing = {node: _unknown(wiring, scales, node) for node in candidates}
        for node, values in missing.items():
            if values:
                names = ", ".join(f"'{value.name}'" for value in values)
                context.declined(f"{node.op} '{node.name}' stays in float: nothing tells the scale of {names}", [node])
        capable = {node for node in candidates if not missing[node]}
        is_changed |= Completion(graph, wiring, scales, capable, context).complete()
        graph.sort()
        for node in refusals:
            is_changed |= node not in capable and _compute_in_float(graph, wiring, node, context)
        return is_changed | bool(graph.remove_unused())

    def _observe_missing(
        self, graph: Graph, wiring: Wiring, scales: Scales, candidates: Sequence[Node], context: PassContext
    ) -> None:
        """Observe what cannot be inferred, in running order: one observed scale may tell the next."""
        unknown = dict.fromkeys(value for node in candidates for value in _unknown(wiring, scales, node))
        if not unknown or not context.samples:
            return
        count = min(len(context.samples), _MOST_SAMPLES)
        indices = np.linspace(0, len(context.samples) - 1, count).astype(int)
        samples = (context.samples[int(index)] for index in indices)
        seen = observe_anew(graph, list(unknown), samples, count, context)
        for value, observer in seen.items():
            low, high = percentile(observer, self.percentile)
            if scales.rounding(value) is None:
                scales.set(
                    value, Rounding(from_range(low, high)), "observed on the calibration samples, for nothing tells it"
                )
                scales.infer()


def _unknown(wiring: Wiring, scales: Scales, node: Node) -> list[Value]:
    """The activations that the node reads or gives and whose scale is not known."""
    return [value for value in [*wiring.activations(node), *node.outputs] if scales.rounding(value) is None]


def _compute_in_float(graph: Graph, wiring: Wiring, node: Node, context: PassContext) -> bool:
    """Store the weights of a layer that reads float activations as floats: no run has to dequantize them."""
    producers = graph.producers()
    makers = [producers.get(value) for value in wiring.activations(node)]
    if any(maker is not None and maker.op == "DequantizeLinear" for maker in makers):
        return False
    stored = [(i, v) for i, v in enumerate(node.inputs) if v is not None and wiring.integers(v) is not None]
    for index, value in stored:
        node.inputs[index] = Value.of(graph.unique_name(f"{value.name}_float"), wiring.real(value))
    if stored:
        context.did(f"the integers of {node.op} '{node.name}' are stored as floats: what it reads is not quantized")
    return bool(stored)
