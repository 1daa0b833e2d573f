"""The smallest harm within a flash budget: measures every layer with every number of values, and allots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tinyopt.ir import Graph, Node
from tinyopt.pass_manager import PassContext
from tinyopt.passes.calibration_samples import chosen_samples, split, too_few
from tinyopt.passes.clustering.allotment import LADDER, Judge, Ladder, allot, constant_bytes, measure_ladder
from tinyopt.passes.clustering.fitting import Fit, nearest_fit, quick_fit
from tinyopt.passes.clustering.layers import Layer, refusal
from tinyopt.passes.clustering.walks import problem_of
from tinyopt.passes.quantization.walk import Walk
from tinyopt.samples import Sample

_JUDGED = 32  # samples, of those held out


@dataclass(frozen=True, eq=False)
class Automatic:
    """A search for numbers of values. pinned: those that the user gave. cost: `Clusters.cost_limit`."""

    graph: Graph
    layers: Sequence[Layer]
    pinned: Mapping[Node, int]
    max_flash: int
    cost: float
    seed: int

    def clusters(self, context: PassContext, name: str) -> dict[Node, int] | None:
        """For each layer its number of values; None, with a remark, where there are too few samples."""
        if reason := too_few(context.samples):
            context.declined(f"which layers bear few values is not known: {reason}")
            return None
        ladders = self._ladders(chosen_samples(self.graph, context.samples), context, name)
        found, fits = allot(ladders, self.max_flash, lambda chosen: self._flash_bytes(ladders, chosen, context))
        what = f"{found.flash_bytes:,} bytes of flash at {self.max_flash:,} allowed"
        if note := "constants alone" if context.costs is None else context.costs.flash_note:
            what += f", {note}"
        if fits:
            context.note(f"estimated: {what}")
        else:
            context.declined(f"no numbers of values fit; the nearest: {what}")
        return dict(found.clusters)

    def _ladders(self, samples: Sequence[Sample], context: PassContext, name: str) -> list[Ladder]:
        held_out = split(len(samples))[1][:_JUDGED]
        walk, judge = Walk(self.graph, samples), Judge(self.graph, [samples[index] for index in held_out])
        found: list[Ladder] = []
        for number, layer in enumerate(self.layers):
            context.on_progress(f"{name}, sensitivities", number, len(self.layers))
            walk.run_before(layer.node)
            ladder = measure_ladder(layer, self._fits(layer, walk), judge)
            found.append(replace(ladder, rungs=ladder.rungs[-1:]) if layer.node in self.pinned else ladder)
        return found

    def _rungs(self, layer: Layer) -> list[int]:
        wanted = LADDER if layer.node not in self.pinned else (self.pinned[layer.node],)
        return [clusters for clusters in wanted if clusters and refusal(layer, clusters) is None]

    def _fits(self, layer: Layer, walk: Walk) -> dict[int, Fit]:
        """Of the layer on what it reads in the float model, by numbers of values, descending."""
        rungs, problem = self._rungs(layer), None
        if rungs and layer.reason_to_take_nearest() is None:
            x = walk.arrays(layer.node.input(0))
            problem = problem_of(layer, x, x, rungs[0], self.seed)
        if problem is None:
            return {clusters: nearest_fit(layer.wanted, layer.scale, clusters, self.seed) for clusters in rungs}
        return {clusters: quick_fit(replace(problem, clusters=clusters)) for clusters in rungs}

    def _flash_bytes(self, ladders: Sequence[Ladder], chosen: Mapping[Node, int], context: PassContext) -> int:
        """What the library takes with these numbers of values."""
        draft = self.graph.copy()
        constants = {value.name: value for value in draft.constants()}
        for ladder in ladders:
            if clusters := chosen[ladder.layer.node]:
                layer = ladder.layer
                layer.store_in(constants[layer.weights.name], ladder.fits[clusters], self.cost)
        return constant_bytes(draft) if context.costs is None else context.costs.flash_bytes(draft)
