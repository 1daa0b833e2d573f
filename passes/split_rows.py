"""Compute the first layers band by band, so that their large results never exist as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Node
from tinyopt.ops import OPERATORS
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.row_bands import (
    Segment,
    band_borders,
    leading_segments,
    split_into_bands,
    unused_mark,
    why_not_spatial,
)

WORTH = 0.75  # of the arena as it was: what automatic bands must reach
BANDS_TRIED = (2, 3, 4, 6, 8, 12, 16, 24)
SEGMENTS_TRIED = 8
SEGMENTS_REFINED = 2


@dataclass(frozen=True)
class SplitRows(Pass):
    """Compute the first layers band by band, so that their large results never exist as a whole.

    What: a run of convolutions, pools and elementwise operators from the graph's first one on is copied for each band
        of rows of its last result: each copy reads the rows that its band needs (with the halo that windows reach
        over), pads only at the image's borders, and writes its rows of the result. The bands share weights, and code
        where kernels take sizes as arguments. Rows are neither copied nor joined: the memory plan lets them lie in the
        image and in the result, and rows of the image that no band reads any more are overwritten. The run's length
        and the number of bands are those with the smallest product of arena (planned) and MACs (the halos' included).
    Before -> After:
        x -> QConv -> QConv -> y  ->  Slice(x) -> QConv -> QConv, twice -> Concat -> y
    Exactness: exact: the same sums of the same numbers, in any order of rows.
    Refuses when: with `auto` the arena would not shrink by a quarter; the graph does not begin with operators that are
        computed row by row; only padding would be left of a band.
    Source: Lin et al., MCUNetV2: Memory-efficient Patch-based Inference for Tiny Deep Learning, arXiv:2110.15352,
        section 3; Alwani et al., Fused-layer CNN accelerators, MICRO 2016.
    """

    name: ClassVar[str] = "split-rows"

    bands: str = "off"  # off, auto, or how many

    def run(self, graph: Graph, context: PassContext) -> bool:
        counts = self._counts()
        if not counts:
            context.note("not asked for: --patches auto tries it")
            return False
        segments = _promising(leading_segments(graph))
        if not segments:
            first = graph.nodes[:1]
            reason = why_not_spatial(first[0]) if first else "the graph has no nodes"
            context.declined(f"no first layers to split: {reason or 'other layers read what is between them'}", first)
            return False
        if context.arena_bytes is None:
            context.declined("no memory plan to ask what it would save")
            return False
        return _split_best(graph, segments, counts, self.bands == "auto", context)

    def _counts(self) -> tuple[int, ...]:
        if self.bands in ("off", "auto"):
            return BANDS_TRIED if self.bands == "auto" else ()
        if not self.bands.isdecimal() or int(self.bands) < 2:
            raise UsageError(f"{self.name}.bands is 'off', 'auto' or a number from 2 on, not '{self.bands}'")
        return (int(self.bands),)


@dataclass(frozen=True, eq=False)
class _Trial:
    """A graph with some of its first layers in bands, and what it takes."""

    graph: Graph
    segment: Segment  # of the graph as it was
    bands: int
    arena_bytes: int
    macs: int

    @property
    def cost(self) -> float:
        return self.arena_bytes * float(self.macs)


def _promising(segments: Iterable[Segment]) -> list[Segment]:
    """Those that end in a smaller result than all shorter ones: a larger one has to be kept as a whole."""
    found: list[Segment] = []
    for segment in segments:
        if not found or segment.result.type.bytes < found[-1].result.type.bytes:
            found.append(segment)
    return found[:SEGMENTS_TRIED]


def _split_best(
    graph: Graph, segments: Sequence[Segment], counts: Sequence[int], is_automatic: bool, context: PassContext
) -> bool:
    assert context.arena_bytes is not None, "the caller looked"
    before = context.arena_bytes(graph)
    rough = counts[len(counts) // 2]
    trials = [trial for segment in segments if (trial := _try(graph, segment, rough, context)) is not None]
    for best in sorted(trials, key=lambda trial: trial.cost)[:SEGMENTS_REFINED]:
        others = (_try(graph, best.segment, count, context) for count in counts if count != rough)
        trials += [trial for trial in others if trial is not None]
    if not trials:
        context.declined("only padding would be left of a band", segments[0].nodes)
        return False
    worth = [trial for trial in trials if trial.arena_bytes <= WORTH * before] if is_automatic else trials
    best = min(worth or trials, key=lambda trial: trial.cost)
    more = f"{best.macs - _macs(graph):,} MACs more (+{100 * (best.macs / max(_macs(graph), 1) - 1):.1f} %)"
    figures = f"the arena takes {best.arena_bytes:,} B instead of {before:,} B, for {more}"
    if not worth:
        context.declined(
            f"{best.bands} bands of {_extent(best.segment)}: {figures}: not a quarter less", best.segment.nodes
        )
        return False
    new = [node for node in best.graph.nodes if node.name not in {old.name for old in graph.nodes}]
    context.did(f"{_extent(best.segment)} in {best.bands} bands of rows: {figures}", best.segment.nodes, new)
    graph.nodes = _with_bands(graph, best.segment, best.bands) or graph.nodes
    return True


def _extent(segment: Segment) -> str:
    return f"{len(segment.nodes)} layers up to '{segment.nodes[-1].name}'"


def _try(graph: Graph, segment: Segment, bands: int, context: PassContext) -> _Trial | None:
    assert context.arena_bytes is not None, "the caller looked"
    nodes = _with_bands(graph, segment, bands)
    if nodes is None:
        return None
    trial = Graph(graph.name, graph.inputs, graph.outputs, nodes)
    borders = band_borders(segment.result, bands)
    return _Trial(trial, segment, len(borders) - 1, context.arena_bytes(trial), _macs(trial))


def _with_bands(graph: Graph, segment: Segment, bands: int) -> list[Node] | None:
    """The graph's nodes with the segment in bands; None where that cannot be."""
    borders = band_borders(segment.result, bands)
    new = split_into_bands(segment, borders, unused_mark(graph, "band")) if len(borders) > 2 else None
    if new is None:
        return None
    start = graph.nodes.index(segment.nodes[0])
    inside = set(segment.nodes)
    return [*graph.nodes[:start], *new, *(node for node in graph.nodes[start:] if node not in inside)]


def _macs(graph: Graph) -> int:
    return sum(OPERATORS[node.op].macs(node) for node in graph.nodes)
