"""Quantize to int8: ranges from calibration samples become explicit QuantizeLinear and DequantizeLinear nodes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Value
from tinyopt.ops.integer_rules import ACTIVATION_DTYPES
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.clustering.original import is_same_but_clustered
from tinyopt.passes.quantization.insertion import make_explicit
from tinyopt.passes.quantization.observing import observe
from tinyopt.passes.quantization.parameters import Choice, choose, fixed, logits, parameters_of
from tinyopt.passes.quantization.range_trials import best_ranges
from tinyopt.passes.quantization.ranges import AUTO, METHODS, Observer, Range, minmax, percentile
from tinyopt.passes.quantization.weights import WeightOptions


@dataclass(frozen=True)
class Quantize(Pass):
    """Quantize weights and activations to int8.

    What: runs the calibration samples, observes every activation, and puts QuantizeLinear and DequantizeLinear around
        every operator that has an integer form. Activations get one scale and zero point, weights one symmetric scale
        for each output channel (per_channel=false: one for all), biases int32 in units of input scale times weight
        scale. method says where a range ends: minmax, moving-average, percentile, entropy, mse; auto tries them all and
        takes, for each activation, what rounds with the least error at the outputs of the layers that read it.
        What goes to Softmax alone is int16 (wide_logits). weight_bits=4 keeps weights within -7..7, two to a byte where
        the target's kernels look them up; layers that give int16 keep 8 bits, for no kernel looks theirs up.
    Before -> After:
        x -> Conv(w) -> y    =>    x -> Q -> D -> Conv(D(int8 w)) -> Q -> D -> y    (Q, D: Quantize-, DequantizeLinear)
        with scale = (high - low) / 255 and zero_point = -128 - low / scale
    Exactness: approximate; a rounded value is off by half a step at most, unless it lies outside the calibrated range.
        Clustered weights lose nothing: their integers and scales stay as they are.
    Refuses when: there are no calibration samples or the graph is quantized already; operators without an integer form
        stay in float.
    Source: Jacob et al., arXiv:1712.05877, sections 2 and 3; Nagel et al., arXiv:2106.08295, section 3.1; Migacz, 8-bit
        inference with TensorRT, GTC 2017 (entropy).
    """

    name: ClassVar[str] = "quantize"
    is_costly: ClassVar[bool] = True

    method: str = "auto"
    percentile: float = 99.995  # of method=percentile
    weight_bits: int = 8
    wide_logits: bool = True
    per_channel: bool = True
    cost: float = math.inf  # how many times the instructions of int8 weights a layer may take to look 4-bit ones up

    def run(self, graph: Graph, context: PassContext) -> bool:
        self._check_options()
        reason = _reason_to_decline(graph, context)
        if reason is not None:
            context.declined(reason)
            return False
        choice, declined = choose(graph)
        for node, why in declined:
            context.declined(f"{node.op} '{node.name}' stays in float: {why}", [node])
        if not choice.nodes:
            return False
        seen = observe(graph, choice.activations(), context.samples, context)
        wide = {value: minmax(seen[value]) for value in (logits(graph, choice) if self.wide_logits else ())}
        ranges = self._ranges(graph, choice, seen, {*wide, *fixed(graph, choice)}, context)
        known = set(graph.nodes)
        context.float_graph = _float_graph(graph, context)
        weights = WeightOptions(self.weight_bits, self.per_channel, self.cost)
        make_explicit(graph, choice, parameters_of(graph, choice, ranges, wide), weights, context)
        context.did(
            f"quantized {len(choice.nodes)} operators over {len(context.samples)} samples", choice.nodes, choice.nodes
        )
        for value in wide:
            context.note(f"'{value.name}' is int16: classes that lie close to one another depend on each of its steps")
        inserted = [node for node in graph.nodes if node not in known]
        context.did(f"inserted {len(inserted)} QuantizeLinear and DequantizeLinear around them", [], inserted)
        return True

    def _check_options(self) -> None:
        if self.method not in (AUTO, *METHODS):
            raise UsageError(f"quantize.method is '{self.method}', not one of {', '.join((AUTO, *METHODS))}")
        if not 50.0 < self.percentile <= 100.0:
            raise UsageError(f"quantize.percentile is {self.percentile:g}, not above 50 and at most 100")
        if self.weight_bits not in (4, 8):
            raise UsageError(f"quantize.weight_bits is {self.weight_bits}, not 4 or 8")
        if not self.cost >= 1:
            raise UsageError(f"quantize.cost is a factor of at least 1, not {self.cost:g}")

    def _ranges(
        self,
        graph: Graph,
        choice: Choice,
        seen: Mapping[Value, Observer],
        settled: Collection[Value],
        context: PassContext,
    ) -> Mapping[Value, Range]:
        """The range of each activation."""
        if self.method == AUTO:
            return best_ranges(graph, choice, seen, settled, context)
        method = METHODS[self.method] if self.method != "percentile" else partial(percentile, percent=self.percentile)
        context.note(f"ranges by {self.method}{f' {self.percentile:g}' if self.method == 'percentile' else ''}")
        return {value: method(observer) for value, observer in seen.items()}


def _float_graph(graph: Graph, context: PassContext) -> Graph:
    """A copy of the graph, or what it was before clustering: later passes bring the outputs back to that."""
    before = context.unclustered
    if before is None:
        return graph.copy()
    if is_same_but_clustered(graph, before):
        return before
    context.note("the graph was changed since its weights were clustered: they are not compared with what they were")
    return graph.copy()


def _reason_to_decline(graph: Graph, context: PassContext) -> str | None:
    if any(value.dtype in ACTIVATION_DTYPES and not value.is_constant for value in graph.values()):
        return "the model is quantized already"
    if not context.samples:
        return "no calibration data: give --calib FILE, or --calib random to try"
    return None
