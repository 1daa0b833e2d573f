"""Round weights by what they do to their layer's output, not each to its nearest integer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tinyopt.ir import Array, Graph, Value
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.channel_links import label_of
from tinyopt.passes.quantization.layers import (
    FEWEST_SAMPLES,
    QuantizedLinear,
    comparison_samples,
    quantized_layers,
    split,
)
from tinyopt.passes.quantization.moments import Matrices, Moments, has_rows, measure_moments
from tinyopt.passes.quantization.rounding import Grid, codebook_grid, integer_grid, refit, round_rows
from tinyopt.passes.quantization.walk import Walk
from tinyopt.passes.quantization.weights import LARGEST_LEVEL

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
        2304 inputs or one that hardly varies, its weights are exact already (clustered ones) or are shared.
    Source: Frantar et al., GPTQ, arXiv:2210.17323; Li et al., GPTAQ, arXiv:2504.02692; Hassibi and Stork, NIPS 1992.
    """

    name: ClassVar[str] = "round-weights"

    def run(self, graph: Graph, context: PassContext) -> bool:
        if context.float_graph is None:
            context.declined("nothing was quantized here: integers that came with the model stay as they are")
            return False
        samples = comparison_samples(graph, context)
        if samples is None:
            context.declined(
                f"{len(context.samples)} calibration samples are too few to judge by: {FEWEST_SAMPLES} or more"
            )
            return False
        layers = quantized_layers(graph, context.float_graph)
        exact, rounded = Walk(context.float_graph, samples), Walk(graph, samples)
        is_changed = False
        # The matrices are small, and one product follows the other: threads would mostly wait for one another.
        with threadpool_limits(1):
            for done, layer in enumerate(layers):
                context.on_progress(self.name, done, len(layers))
                if reason := _refusal(context.float_graph, layer):
                    context.declined(f"{label_of(layer.node)}: {reason}", [layer.node])
                    continue
                exact.run_before(layer.twin)
                rounded.run_before(layer.node)
                is_changed |= _round(
                    layer, exact.arrays(layer.twin.input(0)), rounded.arrays(layer.node.input(0)), context
                )
        context.on_progress(self.name, len(layers), len(layers))
        return is_changed


def _refusal(float_graph: Graph, layer: QuantizedLinear) -> str | None:
    if not has_rows(layer.node):
        return f"the weights of {layer.node.op} are rounded to the nearest"
    if sum(value is layer.twin.input(1) for node in float_graph.nodes for value in node.inputs) > 1:
        return "its weights are shared"
    if layer.is_exact:
        return "its weights are exact already"
    inputs = layer.integer_rows.shape[2]
    return f"{inputs} inputs are too many" if inputs > _LARGEST_INPUTS else None


def _round(layer: QuantizedLinear, x: Sequence[Array], z: Sequence[Array], context: PassContext) -> bool:
    """Round the weights for inputs x of the float model and z of the quantized one; returns whether that was better."""
    used, held_out = split(len(x))
    moments = measure_moments(layer.node, x, z, used, with_exact=False)
    if not moments.varies:
        context.declined(f"{label_of(layer.node)}: its input hardly varies", [layer.node])
        return False
    judge = measure_moments(layer.node, x, z, held_out, with_exact=True)
    wanted, scale = layer.exact_rows, layer.row_scales
    present = integers = layer.integer_rows
    before = after = float(judge.error(wanted, present * scale).sum())
    for ridge, damping in _STRENGTHS:
        proposal = _rounded(wanted, scale, moments, _grid(layer.weights), ridge, damping)
        error = float(judge.error(wanted, proposal * scale).sum()) if proposal is not None else math.inf
        if proposal is not None and error < after:
            integers, after = proposal, error
    node = layer.node
    if integers is present:
        context.declined(f"{label_of(node)}: its integers are better as they are, on samples held out", [node])
        return False
    layer.store(integers)
    if layer.bias is not None:
        layer.store_bias(layer.twin.input(2).data + moments.bias_shift(wanted, integers * scale))
    signal = float(judge.signal(wanted).sum())
    gain = f"its sums' signal to noise {_decibels(signal, before)} -> {_decibels(signal, after)} dB"
    context.did(f"{label_of(node)}: {gain}", [node], [node])
    return True


def _rounded(
    wanted: Matrices, scale: Matrices, moments: Moments, grid: Grid, ridge: float, damping: float
) -> Matrices | None:
    """Integers for the weights, both [groups, channels, K]; None where damping is too weak to invert the moments."""
    try:
        parts = [
            round_rows(refit(weights, cross, own, ridge), steps, own, grid, damping)
            for weights, steps, cross, own in zip(wanted, scale, moments.cross, moments.rounded, strict=True)
        ]
    except np.linalg.LinAlgError:
        return None
    return np.stack(parts)


def _grid(levels: Value) -> Grid:
    if levels.clusters is None:
        return integer_grid(-LARGEST_LEVEL, LARGEST_LEVEL)
    return codebook_grid(levels.clusters.codebook)


def _decibels(signal: float, noise: float) -> str:
    return "inf" if noise <= 0 or signal <= 0 else f"{10 * math.log10(signal / noise):.1f}"
