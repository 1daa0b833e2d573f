"""Round weights by what they do to their layer's output, not each to its nearest integer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.calibration_samples import split
from tinyopt.passes.channel_links import label_of
from tinyopt.passes.quantization.layers import QuantizedLinear, change_layers
from tinyopt.passes.quantization.moments import LARGEST_INPUTS, decibels, has_rows, measure_moments
from tinyopt.passes.quantization.rounding import Grid, codebook_grid, integer_grid, strengths
from tinyopt.passes.quantization.weights import LARGEST_LEVEL

# Damping and ridges, the boldest first: few samples of many inputs want much of both.
_RIDGES: Mapping[float, tuple[float, ...]] = {0.01: (1.0, 10.0), 0.1: (10.0, 100.0), 1.0: (100.0,)}  # by damping


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
    is_costly: ClassVar[bool] = True

    def run(self, graph: Graph, context: PassContext) -> bool:
        reads = Counter(value for node in _float_nodes(context) for value in node.inputs)
        # The matrices are small, and one product follows the other: threads would mostly wait for one another.
        with threadpool_limits(1):
            return change_layers(
                self.name,
                graph,
                context,
                lambda layer: _refusal(layer, is_shared=reads[layer.twin.input(1)] > 1),
                lambda layer, x, z: _round(layer, x, z, context),
            )


def _float_nodes(context: PassContext) -> Sequence[Node]:
    return () if context.float_graph is None else context.float_graph.nodes


def _refusal(layer: QuantizedLinear, *, is_shared: bool) -> str | None:
    if not has_rows(layer.node):
        return f"the weights of {layer.node.op} are rounded to the nearest"
    if is_shared:
        return "its weights are shared"
    if layer.is_exact:
        return "its weights are exact already"
    inputs = layer.integer_rows.shape[2]
    return f"{inputs} inputs are too many" if inputs > LARGEST_INPUTS else None


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
    grid = _grid(layer.weights)
    for strength in strengths(wanted, moments, _RIDGES):
        proposal = strength.rounded(scale, grid)
        error = float(judge.error(wanted, proposal * scale).sum())
        if error < after:
            integers, after = proposal, error
    node = layer.node
    if integers is present:
        context.declined(f"{label_of(node)}: its integers are better as they are, on samples held out", [node])
        return False
    layer.store(integers)
    if layer.bias is not None:
        layer.store_bias(layer.twin.input(2).data + moments.bias_shift(wanted, integers * scale))
    signal = float(judge.signal(wanted).sum())
    gain = f"its sums' signal to noise {decibels(signal, before)} -> {decibels(signal, after)} dB"
    context.did(f"{label_of(node)}: {gain}", [node], [node])
    return True


def _grid(levels: Value) -> Grid:
    if levels.clusters is None:
        return integer_grid(-LARGEST_LEVEL, LARGEST_LEVEL)
    return codebook_grid(levels.clusters.codebook)
