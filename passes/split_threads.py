"""Cut large layers into bands of rows, which threads compute at the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, TypeAlias

from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Node, TensorType, Value
from tinyopt.ops import OPERATORS
from tinyopt.options import MOST_THREADS
from tinyopt.pass_manager import Pass, PassContext, TargetFacts
from tinyopt.passes.aligned_channels import align_channels
from tinyopt.passes.channel_links import label_of
from tinyopt.passes.output_channels import split_channels
from tinyopt.passes.row_bands import (
    ROWS,
    Rows,
    Segment,
    aligned_rows,
    band_borders,
    compute_bands,
    rows_read,
    unused_mark,
    why_not_spatial,
)

_WORTHWHILE_MACS = 100_000  # of a layer: below, calling a kernel twice costs more than is won
_MACS_OF_ELEMENT = 4  # which an elementwise operator's element takes about as long as
_MOST_SHARED = 0.6  # of a band: where neighbours read more of it, it is not worth computing that part first

Borders: TypeAlias = Mapping[Node, Sequence[int]]


@dataclass(frozen=True)
class SplitThreads(Pass):
    """Cut large layers into bands of rows, which threads compute at the same time.

    What: each convolution, pool or elementwise operator on one image that is worth a thread's time is copied, once for
        each thread: a copy reads the rows that its band of the result needs, pads only at the image's borders, and
        writes its rows of the result. The rows that a neighbour's windows reach for are computed before the rest of the
        band, so that threads need not wait for each other where they are about equally fast. A dense layer is cut by
        outputs. The copies share weights; rows are neither copied nor joined, where they begin at aligned bytes: for
        that a few channels of zeros are added to convolutions where need be. What else does not depend on each other
        runs at the same time as well.
    Before -> After:
        x -> QConv -> y  ->  Slice(x) -> QConv, for each thread -> Concat -> y
    Exactness: exact, for any number of threads: the same sums of the same numbers, each in the same order.
    Refuses when: `threads` is 1 (the default); the layer has less than 100,000 multiply-accumulates, more than one
        image, or too few rows; the target may compute it by Winograd's algorithm, whose rounding is another for a band.
    Source: bands with the rows that windows reach over: Alwani et al., Fused-layer CNN accelerators, MICRO 2016, for
        one layer each; what neighbours need first: overlap of communication and computation in stencil codes, e.g.
        Kamil et al., Implicit and explicit optimizations for stencil computations, MSPC 2006.
    """

    name: ClassVar[str] = "split-threads"

    threads: int = 1

    def run(self, graph: Graph, context: PassContext) -> bool:
        if not 1 <= self.threads <= MOST_THREADS:
            raise UsageError(f"{self.name}.threads is 1 to {MOST_THREADS}, not {self.threads}")
        if self.threads == 1:
            context.note("not asked for: --threads 2 lets two threads share the large layers")
            return False
        is_changed = False
        for node, channels in align_channels(graph, [node for node in graph.nodes if _is_worthwhile(node)]):
            context.did(f"{label_of(node)}: {channels} channels of zeros, for rows that begin at aligned bytes", [node])
            is_changed = True
        splitting = _Splitting(graph, self.threads, context.facts)
        nodes: list[Node] = []
        for node in graph.nodes:
            parts = splitting.parts(node) if _is_worthwhile(node) else [node]
            if isinstance(parts, str):
                context.declined(f"{label_of(node)}: one thread computes it: {parts}", [node])
                parts = [node]
            elif len(parts) > 1:
                count = sum(part.op == node.op for part in parts)
                context.did(f"{label_of(node)}: {count} bands", [node], parts)
            nodes += parts
        is_changed = is_changed or nodes != graph.nodes
        graph.nodes = [node for node in nodes if node not in splitting.replaced]
        return is_changed


def _is_worthwhile(node: Node) -> bool:
    operator = OPERATORS[node.op]
    elements = node.outputs[0].type.elements * _MACS_OF_ELEMENT if operator.is_elementwise else 0
    return max(operator.macs(node), elements) >= _WORTHWHILE_MACS


class _Splitting:
    """What is known of a graph whose layers are split one by one."""

    def __init__(self, graph: Graph, threads: int, facts: TargetFacts) -> None:
        self.replaced: set[Node] = set()  # nodes before split ones that each thread computes for itself
        self._threads = threads
        self._facts = facts
        self._mark = unused_mark(graph, "part")
        self._numbers = {node: number for number, node in enumerate(graph.nodes)}
        self._readers = graph.consumers()
        self._makers = graph.producers()
        self._results = frozenset(graph.outputs)
        self._borders: Borders = {
            node: band_borders(node.output, threads)
            for node in graph.nodes
            if _is_worthwhile(node) and self._why_not_rows(node) is None
        }

    def parts(self, node: Node) -> list[Node] | str:
        """The nodes in the place of a node, or why it is not split."""
        mark = f"{self._mark}{self._numbers[node]}_"
        if node.op in ("Dense", "QDense"):
            parts = split_channels(node, self._threads, mark)
            return self._with_own_inputs(parts, mark) if parts else "it has too few outputs, or a residual"
        if reason := self._why_not_rows(node):
            return reason
        if len(self._borders[node]) < 3:
            return "it has too few rows"
        return self._bands(node, mark) or "a band would be nothing but padding"

    def _with_own_inputs(self, parts: list[Node], mark: str) -> list[Node]:
        """A small layer before a dense one is computed once for each part: sooner than waiting for another thread."""
        *dense, joint = parts
        chain = self._small_layer(dense[0].input(0))
        copies = [[_copy(node, f"{mark}for{number}") for node in chain] for number in range(len(dense))]
        for part, own in zip(dense, copies, strict=True):
            for before, after in pairwise([*own, part]):
                after.inputs[0] = before.output
        self.replaced |= set(chain)
        return [*(node for same in zip(*copies, strict=True) for node in same), *dense, joint]

    def _small_layer(self, value: Value) -> list[Node]:
        """The layer that makes a value which nobody else reads, and views of its result; empty for a large layer."""
        chain: list[Node] = []
        while value in self._makers and value not in self._results:
            maker = self._makers[value]
            if len(self._readers[value]) > 1 or _is_worthwhile(maker) or maker.variable_inputs != maker.inputs[:1]:
                return []
            chain.insert(0, maker)
            if maker.op not in ("Reshape", "Identity"):
                return chain
            value = maker.input(0)
        return []

    def _why_not_rows(self, node: Node) -> str | None:
        if reason := why_not_spatial(node):
            return reason
        if self._facts.has_winograd and _may_be_winograd(node):
            return "a float convolution of 3 x 3 is computed in tiles, and rounds by where they begin"
        return None

    def _bands(self, node: Node, mark: str) -> list[Node] | None:
        """Parts that neighbours need, the other parts, and what joins them: first to bands, then to the result."""
        cuts = [self._cuts(node, number) for number in range(len(self._borders[node]) - 1)]
        borders = [0, *(end for rows in cuts for _, end in rows)]
        made = compute_bands(Segment((node,), node.input(0), node.output), borders, mark)
        if made is None:
            return None
        parts = iter(made)
        first: list[Node] = []
        later: list[Node] = []
        joints: list[Node] = []
        bands: list[Value] = []
        for number, rows in enumerate(cuts):
            own = [next(parts) for _ in rows]
            inner = max(range(len(rows)), key=lambda i: rows[i][1] - rows[i][0])
            for position, (nodes, _) in enumerate(own):
                (later if position == inner else first).extend(nodes)
            bands.append(own[0][1])
            if len(own) > 1:
                joints.append(_joint(node, [value for _, value in own], f"{mark}band{number}"))
                bands[-1] = joints[-1].output
        joints.append(Node("Concat", f"{node.name}_{mark}s", list(bands), [node.output], {"axis": ROWS}, node.origins))
        return [*first, *later, *joints]

    def _cuts(self, node: Node, number: int) -> list[Rows]:
        """The rows of a band: those at its borders apart that others read, where these are not most of it."""
        begin, end = self._borders[node][number : number + 2]
        unit = aligned_rows(node.output)
        top, bottom = begin, end
        for first, last in self._rows_read_by_others(node, number):
            if first <= begin < last:
                top = max(top, -(-last // unit) * unit)
            elif first < end <= last:
                bottom = min(bottom, first // unit * unit)
        if end - begin - (bottom - top) > _MOST_SHARED * (end - begin):
            return [(begin, end)]
        return [(a, b) for a, b in pairwise((begin, top, bottom, end)) if a < b]

    def _rows_read_by_others(self, node: Node, number: int) -> list[Rows]:
        """For each band of a reader that is another thread's the rows that it reads of the node's result."""
        owner = self._owner(node, number)
        return [
            rows_read(reader, index, rows)
            for reader in self._readers[node.output]
            for other, rows in enumerate(pairwise(self._borders.get(reader, ())))
            for index, value in enumerate(reader.inputs)
            if value is node.output and self._owner(reader, other) != owner
        ]

    def _owner(self, node: Node, number: int) -> int:
        """The thread that will run a band."""
        return number * self._threads // (len(self._borders[node]) - 1)


def _joint(node: Node, parts: Sequence[Value], mark: str) -> Node:
    result = node.output
    rows = sum(part.shape[ROWS] for part in parts)
    kind = TensorType(result.dtype, (1, rows, *result.shape[2:]))
    band = Value(f"{result.name}_{mark}", kind, None, result.quantization)
    return Node("Concat", f"{node.name}_{mark}", list(parts), [band], {"axis": ROWS}, node.origins)


def _copy(node: Node, suffix: str) -> Node:
    outputs = [replace(value, name=f"{value.name}_{suffix}") for value in node.outputs]
    return Node(node.op, f"{node.name}_{suffix}", list(node.inputs), outputs, dict(node.attributes), node.origins)


def _may_be_winograd(node: Node) -> bool:
    if node.op != "Conv" or node.int("group") != 1:
        return False
    return node.input(1).shape[1:3] == (3, 3) and node.ints("strides") == node.ints("dilations") == (1, 1)
