"""What int8 costs a group of channels with and without factors, measured at the outputs of the network.

Beside the float graph stand copies of what the group's rounding reaches: its tensors are rounded as they would be, the
layers that read them get the noise that rounding their weights makes, all the rest computes in float. The squared
differences at the outputs are summed up in the graph itself.

    y -> Mul 1/s -> QuantizeLinear -> DequantizeLinear -> Mul s -> reader + noise -> ... -> Sub <- the float output
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Attribute, Graph, Node, Quantization, TensorType, Value
from tinyopt.ops import OPERATORS, QuantizationRule
from tinyopt.passes.channel_links import WeightUse
from tinyopt.passes.equalization.groups import ScaleGroup, column_factors, columns_of, row_sums

_UNCLAMPED: Mapping[str, Attribute] = {"clamp_low": -math.inf, "clamp_high": math.inf}
_LEVELS = 127  # the largest int8 weight
_NORMALIZING = ("Softmax", "LogSoftmax")  # they hide errors where one class is certain: what they read is looked at
_SEED = 0


@dataclass(frozen=True, eq=False)
class Trial:
    """One set of factors for one group.

    quantizations: of each tensor that is rounded, its channels divided by the factors. noise: for each reader the
    standard deviation by output channel of what rounding its weights adds.
    """

    group: ScaleGroup
    factors: NDArray[np.float64]
    quantizations: Mapping[Value, Quantization]
    noise: Mapping[Node, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class TrialGraph:
    """A graph that measures trials: sums of squared errors of each tensor looked at, for each trial, and of signals."""

    graph: Graph
    errors: tuple[tuple[Value, ...], ...]
    signals: tuple[Value, ...]


def is_rounded(node: Node) -> bool:
    """Whether what the node gives is quantized by a range of its own."""
    return OPERATORS[node.op].quantization is QuantizationRule.OBSERVED


def weight_noise(
    group: ScaleGroup, use: WeightUse, factors: NDArray[np.float64], variance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The standard deviation of what rounding a reader's weights adds to each output channel.

    Each weight's rounding error counts by itself, with the variance of what it multiplies: how the errors of one row
    happen to add up is not the factors' merit, and a mean is taken up by the bias.
    variance: of the channels of the reader's input.
    """
    columns = column_factors(group, use, factors)
    scaled = use.weights.data * columns
    errors = ((_round_weights(use, scaled) - scaled) / columns) ** 2
    taps = 1
    if use.node.op == "ConvTranspose":  # an output position sees one tap in each stride x stride
        taps = math.prod(use.node.ints("strides"))
    return np.asarray(np.sqrt(row_sums(use, errors * columns_of(use, variance)) / taps))


def build_trials(graph: Graph, trials: Sequence[Trial]) -> TrialGraph:
    """A graph that shares its nodes with `graph` and measures the trials beside them."""
    builder = _Builder(graph.unique_name("trial"), list(graph.nodes))
    ends = _ends(graph)
    signals = tuple(builder.sum_of_squares(value) for value in ends)
    errors: list[tuple[Value, ...]] = []
    for trial in trials:
        real = _run_beside(builder, graph, trial)
        errors.append(tuple(builder.difference(real[value], value) for value in ends if value in real))
    outputs = list(dict.fromkeys([*signals, *(value for values in errors for value in values)]))
    return TrialGraph(Graph(graph.name, graph.inputs, outputs, builder.nodes), tuple(errors), signals)


def _ends(graph: Graph) -> list[Value]:
    producers = graph.producers()
    ends: list[Value] = []
    for value in graph.outputs:
        node = producers.get(value)
        ends.append(node.input(0) if node is not None and node.op in _NORMALIZING else value)
    return [value for value in dict.fromkeys(ends) if value in producers and value.dtype == "float32"]


@dataclass
class _Builder:
    """The graph with the trials beside it."""

    prefix: str
    nodes: list[Node]
    noises: dict[Value, Value] = field(default_factory=dict[Value, Value])  # of variance 1, for each output of a reader
    _count: Iterator[int] = field(default_factory=itertools.count)

    def name(self) -> str:
        return f"{self.prefix}.{next(self._count)}"

    def add(
        self, op: str, inputs: Sequence[Value | None], attributes: Mapping[str, Attribute], *types: TensorType
    ) -> list[Value]:
        outputs = [Value(self.name(), value_type) for value_type in types]
        self.nodes.append(Node(op, self.name(), list(inputs), outputs, dict(attributes)))
        return outputs

    def times(self, value: Value, factors: NDArray[np.float64], axis: int) -> Value:
        """The tensor with its channels multiplied."""
        shape = [1] * value.type.rank
        shape[axis] = len(factors)
        constant = Value.of(self.name(), factors.astype(np.float32).reshape(shape))
        return self.add("Mul", [value, constant], _UNCLAMPED, value.type)[0]

    def plus(self, a: Value, b: Value) -> Value:
        return self.add("Add", [a, b], _UNCLAMPED, a.type)[0]

    def rounded(self, value: Value, quantization: Quantization) -> Value:
        levels = self.add("QuantizeLinear", [value], {}, TensorType("int8", value.shape))[0]
        levels.quantization = quantization
        return self.add("DequantizeLinear", [levels], {}, value.type)[0]

    def noise(self, use: WeightUse, deviations: NDArray[np.float64]) -> Value:
        """Noise like a reader's output; the same for all trials but for its size."""
        output = use.node.output
        if output not in self.noises:
            drawn = np.random.default_rng(_SEED).standard_normal(output.shape, np.float32)
            self.noises[output] = Value.of(self.name(), drawn)
        return self.times(self.noises[output], deviations, use.channel_axis)

    def difference(self, value: Value, exact: Value) -> Value:
        """The sum of squared differences."""
        return self.sum_of_squares(self.add("Sub", [value, exact], _UNCLAMPED, exact.type)[0])

    def sum_of_squares(self, value: Value) -> Value:
        squares = self.add("Mul", [value, value], _UNCLAMPED, value.type)[0]
        axes = tuple(range(value.type.rank))
        return self.add("ReduceSum", [squares], {"axes": axes, "keepdims": 0}, TensorType("float32", ()))[0]


def _run_beside(builder: _Builder, graph: Graph, trial: Trial) -> dict[Value, Value]:
    """All that the group's rounding reaches, by the value that it stands beside."""
    real: dict[Value, Value] = {}
    readers = {use.node: use for use in trial.group.readers}
    inner = set(trial.group.inner)
    for node in graph.nodes:
        inputs = [value if value is None else real.get(value, value) for value in node.inputs]
        is_reached = inputs != node.inputs
        if not is_reached and node not in inner:
            continue
        outputs = node.outputs
        if is_reached:
            outputs = _rerun(builder, node, inputs, readers.get(node), trial)
        for value, found in zip(node.outputs, outputs, strict=True):
            real[value] = _rounded(builder, value, found, trial)
    return real


def _rerun(
    builder: _Builder, node: Node, inputs: list[Value | None], use: WeightUse | None, trial: Trial
) -> list[Value]:
    """A copy of the node that reads other inputs, the noise of its weights added before its clamp."""
    types = [value.type for value in node.outputs]
    if use is None:
        return builder.add(node.op, inputs, node.attributes, *types)
    noise = builder.noise(use, trial.noise[node])
    if node.op == "ConvTranspose":
        found = builder.add(node.op, inputs, {**node.attributes, **_UNCLAMPED}, *types)[0]
        clamp = {"low": node.float("clamp_low"), "high": node.float("clamp_high")}
        return builder.add("Clip", [builder.plus(found, noise)], clamp, *types)
    residual = inputs[3] if len(inputs) > 3 else None
    inputs = [*inputs[:3], *[None] * (3 - len(inputs)), noise if residual is None else builder.plus(residual, noise)]
    return builder.add(node.op, inputs, node.attributes, *types)


def _rounded(builder: _Builder, value: Value, found: Value, trial: Trial) -> Value:
    """What stands beside `value`, rounded if the group's tensors are, in its own units."""
    if value not in trial.quantizations:
        return found
    factors, axis = trial.group.along(value, trial.factors), trial.group.places[value][0]
    levels = builder.rounded(builder.times(found, 1 / factors, axis), trial.quantizations[value])
    return builder.times(levels, factors, axis)


def _round_weights(use: WeightUse, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights after quantization to int8, one scale for each output channel where these have an axis."""
    is_shared = use.node.op == "ConvTranspose" and use.group > 1
    over = tuple(axis for axis in range(weights.ndim) if is_shared or axis != use.output_axis)
    scale = np.abs(weights).max(axis=over, keepdims=True, initial=0.0) / _LEVELS
    scale = np.where(scale > 0, scale, 1.0)
    return np.asarray(np.rint(weights / scale) * scale)
