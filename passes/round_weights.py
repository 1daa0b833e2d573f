"""Round weights by what they do to their layer's output, not each to its nearest integer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tinyopt.ir import Clusters, Graph, Node, Quantization, Value
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.channel_links import constant_source, label_of
from tinyopt.passes.quantization.moments import Matrices, Moments, has_rows, measure_moments, weight_rows
from tinyopt.passes.quantization.rounding import Grid, codebook_grid, integer_grid, refit, round_rows
from tinyopt.passes.quantization.walk import Walk, affordable_samples, by_name
from tinyopt.passes.quantization.weights import LARGEST_LEVEL
from tinyopt.quantization_error import evenly_spaced

_FEWEST_SAMPLES = 10  # below that nothing could be held out
_HELD_OUT = 5  # every fifth sample judges what the others proposed
# Ridge and damping, the boldest first: few samples of many inputs want much of both.
_STRENGTHS = ((1.0, 0.01), (10.0, 0.01), (10.0, 0.1), (100.0, 0.1), (100.0, 1.0))
_LARGEST_INPUTS = 2304  # the factor of their moments would take minutes and gigabytes


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Round weights by what they do to their layer's output, not each to its nearest integer.

    What: layer after layer, in the quantized graph as it stands so far, the weights are first moved to where they make
        up for the errors in the layer's inputs (least squares with a ridge) and then rounded one by one, each one's
        error being spread over those still to come. The bias takes over the mean that is left.
        Of several strengths a layer keeps the one with the least error on a fifth of the samples that was held out.
    Before -> After:
        int8 w = round(W / s)    =>    int8 w with the least E |W x - s w z|^2    (x: input, z: as rounded to int8)
    Exactness: approximate as before; the scales, and so the size and the speed of the model, do not change. The remark
        of each layer gives the error at its output before and after, on the samples held out.
    Refuses when: fewer than 10 samples; nothing was quantized here; the layer is not a Conv or Dense, has more than
        2304 inputs, its weights are exact already (clustered ones, and those that came as integers) or are shared.
    Source: Frantar et al., GPTQ, arXiv:2210.17323; Li et al., GPTAQ, arXiv:2504.02692; Hassibi and Stork, NIPS 1992.
    """

    name: ClassVar[str] = "round-weights"

    def run(self, graph: Graph, context: PassContext) -> bool:
        if context.float_graph is None:
            context.declined("nothing was quantized here: integers that came with the model stay as they are")
            return False
        count = min(len(context.samples), affordable_samples(graph))
        if len(context.samples) < _FEWEST_SAMPLES:
            context.declined(
                f"{len(context.samples)} calibration samples are too few to judge by: {_FEWEST_SAMPLES} or more"
            )
            return False
        samples = [context.samples[i] for i in evenly_spaced(context.samples, max(count, _FEWEST_SAMPLES))]
        work = _Rounding(self, graph, context.float_graph, context, len(samples))
        # The matrices are small, and one product follows the other: threads would mostly wait for one another.
        with threadpool_limits(1):
            return work.run(Walk(context.float_graph, samples), Walk(graph, samples))


@dataclass(frozen=True, eq=False)
class _Rounding:
    """One run over a graph. float_graph has the weights as they were."""

    step: RoundWeights
    graph: Graph
    float_graph: Graph
    context: PassContext
    samples: int

    def run(self, exact: Walk, rounded: Walk) -> bool:
        twins, producers = by_name(self.float_graph), self.graph.producers()
        layers = [
            node for node in self.graph.nodes if node.name in twins and node.op in ("Conv", "ConvTranspose", "Dense")
        ]
        is_changed = False
        for done, node in enumerate(layers):
            self.context.on_progress(self.step.name, done, len(layers))
            twin = twins[node.name]
            levels = _integers(producers, node.input(1))
            if levels is None or not twin.input(1).is_constant:
                continue  # the layer is in float
            if reason := self._refusal(node, twin, levels):
                self.context.declined(f"{label_of(node)}: {reason}", [node])
                continue
            exact.run_before(twin)
            rounded.run_before(node)
            is_changed |= self._round(node, twin, exact, rounded, levels, _integers(producers, node.optional_input(2)))
        self.context.on_progress(self.step.name, len(layers), len(layers))
        return is_changed

    def _refusal(self, node: Node, twin: Node, levels: Value) -> str | None:
        if not has_rows(node):
            return f"the weights of {node.op} are rounded to the nearest"
        if sum(other is levels for n in self.graph.nodes for other in n.inputs) > 1:
            return "its weights are shared"
        if _dequantized(levels, twin.input(1)):
            return "its weights are exact already"
        inputs = levels.type.elements // levels.shape[0]
        return f"{inputs} inputs are too many" if inputs > _LARGEST_INPUTS else None

    def _round(self, node: Node, twin: Node, exact: Walk, rounded: Walk, levels: Value, bias: Value | None) -> bool:
        x, z = exact.arrays(twin.input(0)), rounded.arrays(node.input(0))
        held_out = range(0, self.samples, _HELD_OUT)
        used = measure_moments(node, x, z, [i for i in range(self.samples) if i % _HELD_OUT], with_exact=False)
        judge = measure_moments(node, x, z, held_out, with_exact=True)
        wanted, scale = weight_rows(twin, twin.input(1).data), _row_scales(node, levels)
        nearest = weight_rows(node, levels.data)
        before = float(judge.error(wanted, nearest * scale).sum())
        integers, after = nearest, before
        for ridge, damping in _STRENGTHS:
            proposal = _rounded(wanted, scale, used, _grid(levels), ridge, damping)
            error = float(judge.error(wanted, proposal * scale).sum())
            if error < after:
                integers, after = proposal, error
        if after >= before:
            self.context.declined(f"{label_of(node)}: its integers are better as they are, on samples held out", [node])
            return False
        _store(levels, integers)
        if bias is not None:
            _shift_bias(bias, used.bias_shift(wanted, integers * scale) + twin.input(2).data)
        signal = float(judge.signal(wanted).sum())
        self.context.did(
            f"{label_of(node)}: its sums' signal to noise {_decibels(signal, before)} -> {_decibels(signal, after)} dB",
            [node],
            [node],
        )
        return True


def _rounded(wanted: Matrices, scale: Matrices, moments: Moments, grid: Grid, ridge: float, damping: float) -> Matrices:
    """Integers for the weights, both [groups, channels, K]."""
    parts = [
        round_rows(refit(weights, cross, own, ridge), steps, own, grid, damping)
        for weights, steps, cross, own in zip(wanted, scale, moments.cross, moments.rounded, strict=True)
    ]
    return np.stack(parts)


def _integers(producers: dict[Value, Node], value: Value | None) -> Value | None:
    """The constant that a layer's weights or bias are dequantized from; None where they are float or absent."""
    constant = None if value is None else constant_source(value, producers)
    return constant if constant is not None and constant.quantization is not None else None


def _grid(levels: Value) -> Grid:
    if levels.clusters is None:
        return integer_grid(-LARGEST_LEVEL, LARGEST_LEVEL)
    return codebook_grid(levels.clusters.codebook)


def _row_scales(node: Node, levels: Value) -> Matrices:
    """The scale of each output channel, [groups, channels, 1]."""
    quantization = _quantization(levels)
    scales = np.broadcast_to(np.array(quantization.scale, np.float64), (levels.shape[0],))
    return weight_rows(node, scales[:, None])


def _quantization(levels: Value) -> Quantization:
    assert levels.quantization is not None, levels.name
    return levels.quantization


def _dequantized(levels: Value, weights: Value) -> bool:
    """Whether the integers say exactly what the float weights are."""
    return np.array_equal(_quantization(levels).dequantize(levels.data), weights.data)


def _store(levels: Value, integers: Matrices) -> None:
    data = integers.reshape(levels.shape).astype(np.int8)
    if levels.clusters is not None:
        old = levels.clusters
        indices = np.searchsorted(old.codebook, data).astype(np.uint8)
        levels.clusters = Clusters(indices, old.codebook, old.scale, old.cost_limit)
    levels.constant = data


def _shift_bias(bias: Value, real: Matrices) -> None:
    """Store a real bias as the integers of its constant."""
    limits = np.iinfo(np.int32)
    steps = np.rint(real / np.array(_quantization(bias).scale, np.float64))
    bias.constant = np.clip(steps, limits.min, limits.max).astype(np.int32)


def _decibels(signal: float, noise: float) -> str:
    return "inf" if noise <= 0 or signal <= 0 else f"{10 * math.log10(signal / noise):.1f}"
