"""Cut large layers into bands of rows, which threads compute at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Node
from tinyopt.ops import OPERATORS
from tinyopt.pass_manager import Pass, PassContext, TargetFacts
from tinyopt.passes.channel_links import label_of
from tinyopt.passes.row_bands import Segment, band_borders, split_into_bands, unused_mark, why_not_spatial

MOST_THREADS = 64
_WORTHWHILE_MACS = 400_000  # of a layer: waking a thread takes about as long as so many in vectors


@dataclass(frozen=True)
class SplitThreads(Pass):
    """Cut large layers into bands of rows, which threads compute at the same time.

    What: each convolution, pool or elementwise operator on one image that is worth a thread's time is copied, once for
        each thread: a copy reads the rows that its band of the result needs, pads only at the image's borders, and
        writes its rows of the result. The copies share weights; rows are neither copied nor joined, where they begin at
        aligned bytes. What else does not depend on each other runs at the same time as well.
    Before -> After:
        x -> QConv -> y  ->  Slice(x) -> QConv, for each thread -> Concat -> y
    Exactness: exact, for any number of threads: the same sums of the same numbers, each in the same order.
    Refuses when: `threads` is 1 (the default); the layer has less than 400,000 multiply-accumulates, more than one
        image, or too few rows; the target may compute it by Winograd's algorithm, whose rounding is another for a band.
    Source: bands with the rows that windows reach over: Alwani et al., Fused-layer CNN accelerators, MICRO 2016, for
        one layer each; sections that threads fork into and join after, as OpenMP's.
    """

    name: ClassVar[str] = "split-threads"

    threads: int = 1

    def run(self, graph: Graph, context: PassContext) -> bool:
        if not 1 <= self.threads <= MOST_THREADS:
            raise UsageError(f"{self.name}.threads is 1 to {MOST_THREADS}, not {self.threads}")
        if self.threads == 1:
            context.note("not asked for: --threads 2 lets two threads share the large layers")
            return False
        mark = unused_mark(graph, "part")
        nodes: list[Node] = []
        for index, node in enumerate(graph.nodes):
            if OPERATORS[node.op].macs(node) < _WORTHWHILE_MACS:
                nodes.append(node)
                continue
            parts = self._parts(node, f"{mark}{index}_", context.facts)
            if isinstance(parts, str):
                context.declined(f"{label_of(node)}: one thread computes it: {parts}", [node])
                nodes.append(node)
                continue
            bands = sum(part.op == node.op for part in parts)
            context.did(f"{label_of(node)}: {bands} bands of rows", [node], parts)
            nodes += parts
        is_changed = nodes != graph.nodes
        graph.nodes = nodes
        return is_changed

    def _parts(self, node: Node, mark: str, facts: TargetFacts) -> list[Node] | str:
        """The nodes in the place of a node, or why it is not split."""
        if reason := why_not_spatial(node):
            return reason
        if facts.has_winograd and _may_be_winograd(node):
            return "a float convolution of 3 x 3 is computed in tiles, and rounds by where they begin"
        segment = Segment((node,), node.input(0), node.output)
        borders = band_borders(segment.result, self.threads)
        if len(borders) < 3:
            return "it has too few rows"
        return split_into_bands(segment, borders, mark) or "a band would be nothing but padding"


def _may_be_winograd(node: Node) -> bool:
    if node.op != "Conv" or node.int("group") != 1:
        return False
    return node.input(1).shape[1:3] == (3, 3) and node.ints("strides") == node.ints("dilations") == (1, 1)
