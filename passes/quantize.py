"""Quantize to int8: ranges from calibration samples become explicit QuantizeLinear and DequantizeLinear nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinyopt.errors import InvalidModelError, UsageError
from tinyopt.ir import Array, Graph, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.ops.integer_rules import ACTIVATION_DTYPES
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.quantization.insertion import make_explicit
from tinyopt.passes.quantization.parameters import choose, parameters_of
from tinyopt.passes.quantization.ranges import MinMaxObserver, PercentileObserver, RangeObserver
from tinyopt.samples import Sample

METHODS = ("minmax", "percentile")


@dataclass(frozen=True)
class Quantize(Pass):
    """Quantize weights and activations to int8.

    What: runs the calibration samples, observes the range of every activation, and puts QuantizeLinear and
        DequantizeLinear around every operator that has an integer form. Activations get one scale and zero point,
        weights one symmetric scale for each output channel, biases int32 in units of input scale times weight scale.
    Before -> After:
        x -> Conv(w) -> y    =>    x -> Q -> D -> Conv(D(int8 w)) -> Q -> D -> y    (Q, D: Quantize-, DequantizeLinear)
        with scale = (high - low) / 255 and zero_point = -128 - low / scale
    Exactness: approximate; a rounded value is off by half a step at most, unless it lies outside the calibrated range.
        Clustered weights lose nothing: their integers and scales stay as they are.
    Refuses when: there are no calibration samples or the graph is quantized already; operators without an integer form
        stay in float.
    Source: Jacob et al., arXiv:1712.05877, sections 2 and 3; Nagel et al., arXiv:2106.08295.
    """

    name: ClassVar[str] = "quantize"

    method: str = "percentile"
    percentile: float = 99.995  # of the four MLPerf Tiny models the errors are smallest about here, and never far off

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
        ranges = self._observe(graph, choice.activations(), context)
        known = set(graph.nodes)
        context.float_graph = graph.copy()
        make_explicit(graph, choice, parameters_of(graph, choice, ranges), context)
        context.did(
            f"quantized {len(choice.nodes)} operators with {self._ranges()} of {len(context.samples)} samples",
            choice.nodes,
            choice.nodes,
        )
        inserted = [node for node in graph.nodes if node not in known]
        context.did(f"inserted {len(inserted)} QuantizeLinear and DequantizeLinear around them", [], inserted)
        return True

    def _check_options(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"quantize.method is '{self.method}', not one of {', '.join(METHODS)}")
        if not 50.0 < self.percentile <= 100.0:
            raise UsageError(f"quantize.percentile is {self.percentile:g}, not above 50 and at most 100")

    def _ranges(self) -> str:
        return "the full ranges" if self.method == "minmax" else f"the {self.percentile:g} percentile ranges"

    def _observe(
        self, graph: Graph, values: Sequence[Value], context: PassContext
    ) -> Mapping[Value, tuple[float, float]]:
        """The range of each value over the samples."""
        observers = {value: self._observer() for value in values}
        for done, arrays in enumerate(_arrays_of(graph, values, context.samples)):
            for value, array in arrays.items():
                observers[value].add(array)
            context.on_progress("calibration", done + 1, len(context.samples))
        ranges = {value: observer.limits() for value, observer in observers.items()}
        for value, limits in ranges.items():
            if not np.all(np.isfinite(limits)):
                raise InvalidModelError(
                    f"'{value.name}' becomes NaN or infinite on the calibration samples: check their scaling"
                )
        return ranges

    def _observer(self) -> RangeObserver:
        return MinMaxObserver() if self.method == "minmax" else PercentileObserver(self.percentile)


def _arrays_of(graph: Graph, values: Sequence[Value], samples: Sequence[Sample]) -> Iterator[dict[Value, Array]]:
    """What `values` are for each sample, one sample at a time."""
    given = {value for value in values if any(value is x for x in graph.inputs)}
    session = OnnxSession(graph, [value for value in values if value not in given and not graph.is_output(value)])
    for sample in samples:
        results = session.run(sample)
        yield {value: sample[value.name] if value in given else results[value.name] for value in values}


def _reason_to_decline(graph: Graph, context: PassContext) -> str | None:
    if any(value.dtype in ACTIVATION_DTYPES and not value.is_constant for value in graph.values()):
        return "the model is quantized already"
    if not context.samples:
        return "no calibration data: give --calib FILE, or --calib random to try"
    return None
