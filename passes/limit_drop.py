"""Give layers back int16 or float until the model's accuracy stays within a limit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from tinyopt.errors import AccuracyError, UsageError
from tinyopt.ir import Graph
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.accuracy import Accuracy, accuracy_of
from tinyopt.passes.back_off import BackOff, BackOffs
from tinyopt.quantization_error import ErrorReport, QuantizedModel, analyze_errors

_ROUNDING = 1e-9  # points: shares of samples are compared
_NAMED = 3  # suspects that an error names
_UNDONE = 32  # back-offs that are tried to be undone: each costs a measurement


@dataclass(frozen=True)
class LimitDrop(Pass):
    """Back layers off to int16 or float until accuracy is within --max-drop.

    What: measures how many points of top-1 the quantized model loses: on the labelled samples of --eval against the
        model as it came, else as agreement of top-1 with it on at most 512 calibration samples. Where that is more than
        the limit, the layers are ranked by what each costs the model's outputs alone; the first 1, 2, 4, ... of them
        are backed off: a layer whose output's rounding is to blame gives int16 where all beside it stay integer, any
        other is computed in float (with its readers where they would round what it gives). Back-offs that turn out
        needless are undone, the least guilty first.
    Before -> After:
        x -> Q -> D -> Conv(D(int8 w)) -> Q -> D -> y    =>    x -> Q -> D -> Conv(w) -> Q -> D -> y        in float
        ... -> Q(int8) -> D -> y                         =>    ... -> Q(int16) -> D -> y                    int16
    Exactness: the measured drop is that of the quantized graph in onnxruntime, with the integer operators' references
        for close decisions. With --eval the compiled model is measured whole at the end, and must be within the limit.
    Refuses when: there is no --max-drop, nothing was quantized here, or the model does not give one vector of class
        scores (an error). Fails with exit code 4 where no back-off is left and the limit is still not met.
    Source: Nagel et al., arXiv:2106.08295, section 3.5; Wu et al., arXiv:2004.09602, section 5.1.
    """

    name: ClassVar[str] = "limit-drop"

    max_drop: float = math.inf  # points of top-1
    allow_float: bool = True

    def run(self, graph: Graph, context: PassContext) -> bool:
        if self.max_drop < 0 or math.isnan(self.max_drop):
            raise UsageError(f"limit-drop.max_drop is {self.max_drop:g}, not 0 or more points")
        if math.isinf(self.max_drop):
            context.declined("no limit: give --max-drop")
            return False
        if context.float_graph is None:
            context.declined("nothing was quantized here: there are no float layers to go back to")
            return False
        search = _Search(self, QuantizedModel(context.float_graph, graph), context)
        found = search.run()
        graph.inputs, graph.outputs, graph.nodes = found.inputs, found.outputs, found.nodes
        return bool(search.kept)


@dataclass(eq=False)
class _Search:
    """One search for the layers to back off. kept: those that are, with the drop of the model without that back-off."""

    step: LimitDrop
    model: QuantizedModel
    context: PassContext
    kept: list[tuple[BackOff, float | None]] = field(default_factory=list[tuple[BackOff, float | None]])
    measurements: int = 0

    def run(self) -> Graph:
        """The graph that is within the limit. Raises AccuracyError where there is none."""
        accuracy = accuracy_of(self.context, self.context.original or self.model.float_graph)
        first = self._drop(accuracy, self.model.graph)
        if self._is_within(first):
            self.context.note(f"{_lost(first)} in int8, allowed are {_points(self.step.max_drop)}: {accuracy.unit}")
            return self.model.graph
        self._require_good_float(accuracy)
        report = analyze_errors(self.model, self.context.samples, on_progress=self.context.on_progress)
        back_offs = BackOffs(self.model, {layer.name: layer.largest for layer in report.layers})
        chosen, drop = self._smallest_prefix(accuracy, back_offs, report, first)
        drop = self._undo_needless(accuracy, back_offs, chosen, drop)
        self._remark(accuracy, back_offs, first, drop)
        return back_offs.graph(item for item, _ in self.kept)

    def _drop(self, accuracy: Accuracy, graph: Graph) -> float:
        """The points that a quantized graph loses; what seems good enough is looked at once more in integers."""
        self.measurements += 1
        drop = accuracy.drop(graph)
        return accuracy.drop_in_integers(graph) if self._is_within(drop) else drop

    def _is_within(self, drop: float) -> bool:
        return drop <= self.step.max_drop + _ROUNDING

    def _require_good_float(self, accuracy: Accuracy) -> None:
        drop = accuracy.drop(self.model.float_graph)
        if not self._is_within(drop):
            raise AccuracyError(
                f"{_points(drop)} are lost before quantization, by pruning or clustering; --max-drop allows "
                f"{_points(self.step.max_drop)} ({accuracy.unit}): prune and cluster less"
            )

    def _smallest_prefix(
        self, accuracy: Accuracy, back_offs: BackOffs, report: ErrorReport, first: float
    ) -> tuple[list[BackOff], float]:
        """As few of the first suspects backed off as meet the limit, and the drop with them."""
        best = first
        for ladder in self._ladders(back_offs, report):
            drops = {0: first}
            count = 0
            while count < len(ladder) and not self._is_within(drops[count]):
                count = min(max(2 * count, 1), len(ladder))
                drops[count] = self._drop(accuracy, back_offs.graph(ladder[:count]))
            best = min(best, *drops.values())
            if self._is_within(drops[count]):
                count = self._bisect(accuracy, back_offs, ladder, drops, count)
                return ladder[:count], drops[count]
        raise AccuracyError(self._failure(accuracy, report, best))

    def _bisect(
        self, accuracy: Accuracy, back_offs: BackOffs, ladder: list[BackOff], drops: dict[int, float], enough: int
    ) -> int:
        """The smallest count that is enough, above the last that was too few; `drops` grows by what is measured."""
        too_few = max(count for count in drops if count < enough)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            drops[middle] = self._drop(accuracy, back_offs.graph(ladder[:middle]))
            if self._is_within(drops[middle]):
                enough = middle
            else:
                too_few = middle
        return enough

    def _ladders(self, back_offs: BackOffs, report: ErrorReport) -> Iterator[list[BackOff]]:
        """Back-offs to try in this order, guilty layers first: int16 where it is of use, then everything in float."""
        suspects = report.suspects()
        mixed = [back_offs.in_int16(error) if error.is_output_guilty else None for error in suspects]
        if not self.step.allow_float:
            yield [item for item in mixed if item is not None]
            return
        floats = [back_offs.in_float(error) for error in suspects]
        if any(mixed):
            yield [wide or real for wide, real in zip(mixed, floats, strict=True)]
        yield floats

    def _undo_needless(self, accuracy: Accuracy, back_offs: BackOffs, chosen: list[BackOff], drop: float) -> float:
        """Leave out what is not needed, the least guilty first; returns the drop without it."""
        kept = list(chosen)
        without: dict[BackOff, float] = {}
        for item in chosen[: -_UNDONE - 1 : -1]:
            rest = [other for other in kept if other is not item]
            found = self._drop(accuracy, back_offs.graph(rest))
            if self._is_within(found):
                kept, drop = rest, found
            else:
                without[item] = found
        self.kept = [(item, without.get(item)) for item in kept]
        return drop

    def _remark(self, accuracy: Accuracy, back_offs: BackOffs, before: float, after: float) -> None:
        self.context.note(
            f"{_lost(before)} in int8, {_lost(after)} with {len(self.kept)} backed off, allowed are "
            f"{_points(self.step.max_drop)}: {accuracy.unit}, measured {self.measurements} times"
        )
        for item, without in self.kept:
            nodes = [node for node in self.model.graph.nodes if node.name in item.layers]
            gain = "" if without is None else f"; without that {_lost(without)}"
            self.context.did(
                f"{item.what}, for {back_offs.extra_bytes(item)} bytes of {item.memory} more: alone in int8 it leaves "
                f"the outputs at {_decibels(item.error.snr_model_db)}{gain}",
                nodes,
                nodes,
            )

    def _failure(self, accuracy: Accuracy, report: ErrorReport, best: float) -> str:
        worst = ", ".join(f"{layer.op} '{layer.name}'" for layer in report.suspects()[:_NAMED])
        what = "" if self.step.allow_float else " or let layers stay in float (--set limit-drop.allow_float=true)"
        return (
            f"{_points(best)} are lost at best; --max-drop allows {_points(self.step.max_drop)} ({accuracy.unit}); the "
            f"layers that cost most: {worst}; give more and more typical calibration samples,{what} or allow more"
        )


def _points(value: float) -> str:
    return f"{value:.2f} points"


def _lost(drop: float) -> str:
    return f"{_points(abs(drop))} {'lost' if drop >= 0 else 'won'}"


def _decibels(ratio: float | None) -> str:
    return "an unmeasured ratio of signal to noise" if ratio is None else f"{ratio:.1f} dB of signal to noise"
