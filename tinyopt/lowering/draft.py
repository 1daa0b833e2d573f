"""Drafts: what a float graph will be once it is quantized and lowered, without the time that observing it takes.

A draft has ranges from a few samples, or made-up ones, and made-up weights where those are absent. Its types, shapes,
kernels, arena and the sizes of its constants are those of the graph to come; its numbers are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Graph, Node, Quantization, TensorType, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.ops.integer_rules import ACTIVATION_DTYPES
from tinyopt.pass_manager import Pass, PassContext, TargetFacts
from tinyopt.passes.integer_rules.movers import is_float_mover
from tinyopt.passes.lower_integer import LowerInteger
from tinyopt.passes.quantization.insertion import make_explicit
from tinyopt.passes.quantization.parameters import (
    PARAMETER_INPUTS,
    Choice,
    activation_inputs,
    choose,
    logits,
    parameters_of,
)
from tinyopt.passes.quantization.weights import WeightOptions
from tinyopt.passes.quantize import Quantize
from tinyopt.quantization_error import evenly_spaced
from tinyopt.samples import Sample

_SPAN = 1.0  # of inputs: they lie within -1 to 1
_OBSERVED = 16  # samples: enough to tell the powers of two between scales
_WEIGHT = 0.25  # the largest made-up one
_INT8 = Quantization.per_tensor(2 * _SPAN / 255, 0)


@dataclass(frozen=True)
class Drafting:
    """What will be done with float graphs. quantize: None where they stay float. lowering: what runs after it.

    samples: those for calibration, of which a few are looked at: some kernels exist once for each shift, which follows
    from the scales.
    """

    facts: TargetFacts
    quantize: Quantize | None
    lowering: tuple[Pass, ...]
    samples: Sequence[Sample] = ()

    @classmethod
    def of_nodes(cls, facts: TargetFacts, is_quantized: bool) -> Drafting:
        """For nodes by themselves, with the default options."""
        return cls(facts, Quantize(), (LowerInteger("int8"),)) if is_quantized else cls(facts, None, ())

    def draft(self, graph: Graph, context: PassContext | None = None) -> Graph:
        """A copy of the fused NHWC `graph`, quantized if it will be, and lowered; `context` for the passes that do."""
        context = context or PassContext(self.facts)
        drafted = graph.copy()
        is_made_up = _make_up_parameters(drafted)
        if self.quantize is not None and not _is_quantized(drafted):
            observed = {} if is_made_up else _observed_ranges(drafted, self.samples)
            _quantize(drafted, self.quantize, observed, context)
        for step in self.lowering:
            step.run(drafted, context)
        return drafted

    def draft_node(self, node: Node) -> list[Node]:
        """The nodes that `node` will be where its neighbours are quantized as well.

        Its values need types but no constants.
        """
        alone = _alone(node)
        if self.quantize is not None and is_float_mover(node):
            return [_moving_int8(alone.nodes[0])]
        return self.draft(alone).nodes


def _is_quantized(graph: Graph) -> bool:
    return any(value.dtype in ACTIVATION_DTYPES and not value.is_constant for value in graph.values())


def _alone(node: Node) -> Graph:
    """A graph of `node` alone: each variable that it reads becomes an input."""
    parameters = PARAMETER_INPUTS.get(node.op, ())
    copies = {value: Value(f"v{i}", value.type) for i, value in enumerate(node.variable_inputs)}
    inputs = [value if value is None or value.is_constant else copies[value] for value in node.inputs]
    outputs = [Value(f"y{i}", value.type) for i, value in enumerate(node.outputs)]
    variables = [
        value for i, value in enumerate(inputs) if value is not None and not value.is_constant and i not in parameters
    ]
    copy = Node(node.op, "alone", inputs, outputs, dict(node.attributes))
    return Graph("alone", list(dict.fromkeys(variables)), list(outputs), [copy])


def _moving_int8(node: Node) -> Node:
    """A mover of float values as one of int8 values."""

    def as_int8(value: Value | None) -> Value | None:
        if value is None or value.dtype != "float32":
            return value
        constant = None if value.constant is None else np.zeros(value.shape, np.int8)
        return Value(value.name, TensorType("int8", value.shape), constant, _INT8)

    attributes = dict(node.attributes) | ({"value": 0} if node.op == "Pad" else {})
    outputs = [Value(value.name, TensorType("int8", value.shape), None, _INT8) for value in node.outputs]
    return Node(node.op, node.name, [as_int8(value) for value in node.inputs], outputs, attributes, node.origins)


def _make_up_parameters(graph: Graph) -> bool:
    """Give weights and biases that are absent values, without which no kernel is planned; returns whether any was."""
    known, is_made_up = {*graph.inputs, *graph.producers()}, False
    for node in graph.nodes:
        for index in PARAMETER_INPUTS.get(node.op, ()):
            value = node.optional_input(index)
            if value is not None and not value.is_constant and value not in known:
                value.constant, is_made_up = _made_up(value.shape), True
    return is_made_up


def _made_up(shape: tuple[int, ...]) -> Array:
    """Float32 numbers spread as weights are: many small ones, few that are zero in int8."""
    spread = ((np.arange(math.prod(shape)) * 97 + 1) % 255 - 127) / 127
    return np.asarray((_WEIGHT * spread * np.abs(spread)).reshape(shape), np.float32)


def _observed_ranges(graph: Graph, samples: Sequence[Sample]) -> dict[Value, tuple[float, float]]:
    """The least and the largest value of each activation over the samples; none without samples."""
    if not samples:
        return {}
    choice, _ = choose(graph)
    given = {value.name: value for value in choice.activations()}
    inner = [value for value in given.values() if value not in graph.inputs and not graph.is_output(value)]
    session = OnnxSession(graph, inner)
    ranges: dict[Value, tuple[float, float]] = {}
    for index in evenly_spaced(samples, _OBSERVED):
        sample = samples[index]
        for name, array in {**sample, **session.run(sample)}.items():
            if name in given:
                low, high = ranges.get(given[name], (0.0, 0.0))
                ranges[given[name]] = min(low, float(array.min())), max(high, float(array.max()))
    return {value: ends for value, ends in ranges.items() if all(map(math.isfinite, ends)) and ends[0] < ends[1]}


def _quantize(
    graph: Graph, step: Quantize, observed: Mapping[Value, tuple[float, float]], context: PassContext
) -> None:
    """What the pass `step` does, with ranges that are made up where none was observed."""
    choice, _ = choose(graph)
    if not choice.nodes:
        return
    ranges = {**_made_up_ranges(graph, choice), **observed}
    wide = {value: ranges[value] for value in (logits(graph, choice) if step.wide_logits else ())}
    weights = WeightOptions(step.weight_bits, step.per_channel, step.cost)
    make_explicit(graph, choice, parameters_of(graph, choice, ranges, wide), weights, context)


def _made_up_ranges(graph: Graph, choice: Choice) -> Mapping[Value, tuple[float, float]]:
    """As wide as the weights and clamps before an activation make it, for inputs within -1 to 1.

    So factors between scales are about what they will be, and a kernel need not clamp what ends where the levels do.
    """
    ranges: dict[Value, tuple[float, float]] = {}
    for node in graph.nodes:
        read = [ranges.get(value, (-_SPAN, _SPAN)) for value in activation_inputs(node)]
        low, high = _range_of(node, read) if read else (-_SPAN, _SPAN)
        low, high = max(low, _limit(node, _LOW, low)), min(high, _limit(node, _HIGH, high))
        for output in node.outputs:
            ranges[output] = (low, high) if low < high else (-_SPAN, _SPAN)
    return {value: ranges.get(value, (-_SPAN, _SPAN)) for value in choice.activations()}


_LOW, _HIGH = ("clamp_low", "low"), ("clamp_high", "high")


def _range_of(node: Node, read: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Of what `node` gives, before it is clamped."""
    reaches = [max(-low, high) for low, high in read]
    if node.op in ("Conv", "Dense", "ConvTranspose"):
        return _both_ways(math.hypot(reaches[0] * _gain(node), *reaches[1:]))  # what is left is the residual
    if node.op in ("Add", "Sub"):
        return sum(low for low, _ in read), sum(high for _, high in read)
    low, high = min(low for low, _ in read), max(high for _, high in read)
    return (max(low, 0.0), high) if node.op == "Relu" else (low, high)


def _gain(node: Node) -> float:
    """How much wider a weighted sum of independent numbers spreads than they do: the largest norm of a channel."""
    weights = node.input(1).data.astype(np.float64)
    axis = 0 if node.op != "ConvTranspose" else weights.ndim - 1
    squares = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1) ** 2
    return float(np.sqrt(squares.sum(axis=1).max(initial=0.0)))


def _both_ways(reach: float) -> tuple[float, float]:
    """-reach to reach, as far as scales can express it."""
    limited = min(max(reach, _SPAN / 1e6), _SPAN * 1e6) if math.isfinite(reach) else _SPAN
    return -limited, limited


def _limit(node: Node, keys: tuple[str, str], otherwise: float) -> float:
    """A clamp's end, where the node has one that is finite."""
    found = next((node.float(key) for key in keys if key in node.attributes), otherwise)
    return found if math.isfinite(found) else otherwise
