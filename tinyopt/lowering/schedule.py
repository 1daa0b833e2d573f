"""The order in which nodes run: one that keeps few bytes alive at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from tinyopt.ir import Graph, Node, Value
from tinyopt.lowering.lifetimes import Span
from tinyopt.lowering.overlaps import forbidden_distances
from tinyopt.lowering.program import ARENA_ALIGNMENT
from tinyopt.lowering.views import Views
from tinyopt.memory_plan import most_shared
from tinyopt.targets.kernel import Kernel, ScratchArgument

SEARCH_STATES = 12_000  # sets of finished nodes that the search looks at, at most: about a second
STATES_PER_LEVEL = 2_000


def schedule(graph: Graph, views: Views, kernels: Mapping[Node, Kernel], states: int = SEARCH_STATES) -> list[Node]:
    """A running order of the graph's nodes with a low peak of live bytes, scratch and overlaps counted.

    What is alive depends on which nodes have run, not on their order: dynamic programming over the sets of nodes that
    may have run, from none to all, is exact while those sets are few. Where there are more than `states`, the best of
    equal size are kept. An order that is no better than the present one is not taken.
    """
    model = _Model(graph, views, kernels)
    best = _peak(model, range(len(graph.nodes)))
    if best > model.unavoidable:
        found = _search(model, best, states)
        if found is not None:
            return [graph.nodes[index] for index in found]
    return graph.nodes


_Uses: TypeAlias = dict[Value, list[tuple[Span, int]]]


@dataclass(frozen=True, eq=False)
class _Memory:
    """Bytes of memory, with the sets of nodes (bit k for node k) that write to them, and that write or read them."""

    bytes: int
    writers: int
    users: int
    is_input: bool
    is_output: bool

    def is_alive(self, done: int) -> bool:
        is_born = self.is_input or bool(self.writers & done)
        return is_born and (self.is_output or bool(self.users & ~done))


@dataclass(frozen=True, eq=False)
class _State:
    """A set of nodes that have run, those that can run next, the bytes alive, the highest peak on the way, the way."""

    done: int
    ready: int
    live: int
    peak: int
    last: int
    before: _State | None


class _Model:
    """What running a node costs, by what has run before it."""

    def __init__(self, graph: Graph, views: Views, kernels: Mapping[Node, Kernel]) -> None:
        self.nodes = graph.nodes
        self.all = (1 << len(graph.nodes)) - 1
        makers = {value: index for index, node in enumerate(graph.nodes) for value in node.outputs}
        self.needs = [_bits(makers[v] for v in node.variable_inputs if v in makers) for node in graph.nodes]
        self._readers: list[list[int]] = [[] for _ in graph.nodes]
        for reader, needs in enumerate(self.needs):
            for index in _indices(needs):
                self._readers[index].append(reader)
        memories = _Memories(graph, views)
        self._reads = [memories.under(_runs(node, views), node.variable_inputs) for node in graph.nodes]
        self._writes = [memories.under(_runs(node, views), node.outputs) for node in graph.nodes]
        self._scratch = [_scratch_bytes(kernels.get(node)) for node in graph.nodes]
        self._shared = [_sharing(node, kernels.get(node), memories) for node in graph.nodes]
        live = sum(memory.bytes for memory in memories.all if memory.is_alive(0))
        self.start = _State(0, _bits(k for k, needs in enumerate(self.needs) if not needs), live, live, -1, None)

    @property
    def unavoidable(self) -> int:
        """Bytes that some step needs in any order."""
        return max(
            (
                sum(m.bytes for m in {*reads, *writes}) + scratch - sum(most for _, most in shared)
                for reads, writes, scratch, shared in zip(
                    self._reads, self._writes, self._scratch, self._shared, strict=True
                )
            ),
            default=0,
        )

    def run(self, state: _State, index: int) -> _State:
        """The state after `index` has run too."""
        done = state.done | 1 << index
        born = [m for m in self._writes[index] if not m.is_input and not m.writers & state.done]
        died = [m for m in {*self._reads[index], *self._writes[index]} if not m.is_alive(done)]
        needed = state.live + sum(m.bytes for m in born)
        shared = sum(min(most, sum(m.bytes for m in under if m in died)) for under, most in self._shared[index])
        peak = needed + self._scratch[index] - min(shared, sum(m.bytes for m in born))
        ready = state.ready & ~(1 << index) | _bits(k for k in self._readers[index] if not self.needs[k] & ~done)
        return _State(done, ready, needed - sum(m.bytes for m in died), max(peak, state.peak), index, state)


def _search(model: _Model, best: int, states: int) -> list[int] | None:
    """The order with the lowest peak that was found, None where none is below `best`."""
    width = max(8, min(STATES_PER_LEVEL, states // max(1, len(model.nodes))))
    levels: list[dict[int, _State]] = [{} for _ in range(len(model.nodes) + 1)]
    levels[0][0] = model.start
    for level in levels[:-1]:
        for state in sorted(level.values(), key=lambda s: (s.peak, s.live))[:width]:
            for following in _following(model, state):
                kept = levels[following.done.bit_count()].get(following.done)
                if following.peak < best and (kept is None or following.peak < kept.peak):
                    levels[following.done.bit_count()][following.done] = following
        level.clear()
    end = levels[-1].get(model.all)
    return None if end is None else _way(end)


def _following(model: _Model, state: _State) -> list[_State]:
    """The states one node later. A node that neither raises the peak nor leaves more alive is run at once.

    Exact: what it frees in time it frees at any later time too, and it never gets in another's way.
    """
    following: list[_State] = []
    for index in _indices(state.ready):
        following.append(model.run(state, index))
        if following[-1].live <= state.live and following[-1].peak <= state.peak:
            return following[-1:]
    return following


def _way(end: _State) -> list[int]:
    order: list[int] = []
    while end.before is not None:
        order.append(end.last)
        end = end.before
    return order[::-1]


def _peak(model: _Model, order: Sequence[int]) -> int:
    state = model.start
    for index in order:
        state = model.run(state, index)
    return state.peak


class _Memories:
    """The memory of all values, cut wherever one that lies inside another begins or ends."""

    def __init__(self, graph: Graph, views: Views) -> None:
        self._views = views
        self._inside: dict[Value, list[tuple[Span, _Memory]]] = {}
        writers, users = self._uses(graph, views)
        inputs, outputs = self._spans(graph.inputs), self._spans(graph.outputs)
        for root, spans in users.items():
            for cut in pairwise(sorted({place for span, _ in spans for place in span})):
                memory = _Memory(
                    bytes=cut[1] - cut[0],
                    writers=_bits(node for span, node in writers[root] if _covers(span, cut) and node >= 0),
                    users=_bits(node for span, node in spans if _covers(span, cut) and node >= 0),
                    is_input=any(_covers(span, cut) for span in inputs.get(root, ())),
                    is_output=any(_covers(span, cut) for span in outputs.get(root, ())),
                )
                self._inside.setdefault(root, []).append((cut, memory))

    @staticmethod
    def _uses(graph: Graph, views: Views) -> tuple[_Uses, _Uses]:
        """For each root the spans that are written, and that are written or read, and by which node; -1 for inputs."""
        written = [(value, -1) for value in graph.inputs]
        written += [(value, k) for k, node in enumerate(graph.nodes) if _runs(node, views) for value in node.outputs]
        read = [(v, k) for k, node in enumerate(graph.nodes) if _runs(node, views) for v in node.variable_inputs]
        read += [(value, -1) for value in graph.outputs]
        writers: _Uses = {}
        for value, node in written:
            writers.setdefault(views.root(value), []).append((views.span(value), node))
        users = {root: list(uses) for root, uses in writers.items()}
        for value, node in read:
            if views.root(value) in users:
                users[views.root(value)].append((views.span(value), node))
        return writers, users

    def _spans(self, values: Sequence[Value]) -> dict[Value, list[Span]]:
        spans: dict[Value, list[Span]] = {}
        for value in values:
            spans.setdefault(self._views.root(value), []).append(self._views.span(value))
        return spans

    @property
    def all(self) -> Iterator[_Memory]:
        return (memory for inside in self._inside.values() for _, memory in inside)

    def under(self, is_run: bool, values: Sequence[Value]) -> list[_Memory]:
        """The memory in which `values` lie, each piece once; none for a node that is not run."""
        found: dict[_Memory, None] = {}
        for value in values if is_run else ():
            span = self._views.span(value)
            inside = self._inside.get(self._views.root(value), ())  # constants have none
            found |= {memory: None for cut, memory in inside if _covers(span, cut)}
        return list(found)


def _covers(span: Span, cut: Span) -> bool:
    return span[0] <= cut[0] and cut[1] <= span[1]


def _runs(node: Node, views: Views) -> bool:
    return node not in views.nodes


def _sharing(node: Node, kernel: Kernel | None, memories: _Memories) -> list[tuple[list[_Memory], int]]:
    """For each input its memory, and how many bytes of it the (first) output may overwrite."""
    if kernel is None or not kernel.overlaps:
        return []
    shared: dict[Value, int] = {}
    for index, value in enumerate(node.inputs):
        if value is not None:
            sizes = node.outputs[0].type.bytes, value.type.bytes
            most = most_shared(*sizes, forbidden_distances(node, kernel, index), ARENA_ALIGNMENT)
            shared[value] = min(most, shared.get(value, most))
    return [(memories.under(True, [value]), most) for value, most in shared.items()]


def _scratch_bytes(kernel: Kernel | None) -> int:
    arguments = () if kernel is None else kernel.arguments
    return sum(argument.bytes for argument in arguments if isinstance(argument, ScratchArgument))


def _indices(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _bits(indices: Iterable[int]) -> int:
    mask = 0
    for index in indices:
        mask |= 1 << index
    return mask
