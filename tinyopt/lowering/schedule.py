"""The order in which nodes run: one that keeps few bytes alive at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tinyopt.ir import Graph, Node, Value
from tinyopt.lowering.lifetimes import Views
from tinyopt.lowering.overlaps import forbidden_distances
from tinyopt.lowering.program import ARENA_ALIGNMENT
from tinyopt.memory_plan import most_shared
from tinyopt.targets.kernel import Kernel, ScratchArgument

SEARCH_STATES = 40_000  # sets of finished nodes that the search looks at, at most: about a second
STATES_PER_LEVEL = 2_000


def schedule(graph: Graph, views: Views, kernels: Mapping[Node, Kernel]) -> list[Node]:
    """A running order of the graph's nodes with a low peak of live bytes, scratch and overlaps counted.

    What is alive depends on which nodes have run, not on their order: dynamic programming over the sets of nodes that
    may have run, from none to all, is exact while those sets are few. Beyond STATES_PER_LEVEL sets of equal size the
    best are kept. An order that is no better than the present one is not taken.
    """
    model = _Model(graph, views, kernels)
    best = _peak(model, range(len(graph.nodes)))
    if best > model.unavoidable:
        found = _search(model, best)
        if found is not None:
            return [graph.nodes[index] for index in found]
    return graph.nodes


@dataclass(frozen=True, eq=False)
class _Memory:
    """A value's memory, with the sets of nodes (bit k for node k) that write to it, and that write or read it."""

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
        self._memories = _memories(graph, views)
        self._reads = [_memories_of(node.variable_inputs, views, self._memories) for node in graph.nodes]
        self._writes = [_memories_of(node.outputs, views, self._memories) for node in graph.nodes]
        self._scratch = [_scratch_bytes(kernels.get(node)) for node in graph.nodes]
        self._shared = [self._sharing(node, kernels.get(node), views) for node in graph.nodes]
        live = sum(memory.bytes for memory in self._memories.values() if memory.is_alive(0))
        self.start = _State(0, _bits(k for k, needs in enumerate(self.needs) if not needs), live, live, -1, None)

    def _sharing(self, node: Node, kernel: Kernel | None, views: Views) -> dict[_Memory, int]:
        """For each memory that the node reads how many bytes of it the (first) output may overwrite."""
        if kernel is None or not kernel.overlaps:
            return {}
        later = views.root(node.outputs[0])
        shared: dict[_Memory, int] = {}
        for earlier in {views.root(value) for value in node.variable_inputs} & set(self._memories):
            forbidden = list(forbidden_distances(node, kernel, later, earlier, views))
            sizes = later.type.bytes, earlier.type.bytes
            shared[self._memories[earlier]] = most_shared(*sizes, forbidden, ARENA_ALIGNMENT)
        return shared

    @property
    def unavoidable(self) -> int:
        """Bytes that some step needs in any order."""
        return max(
            (
                sum(m.bytes for m in {*reads, *writes}) + scratch - sum(shared.values())
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
        shared = sum(self._shared[index].get(m, 0) for m in died) if born else 0
        peak = needed + self._scratch[index] - min(shared, sum(m.bytes for m in born[:1]))
        ready = state.ready & ~(1 << index) | _bits(k for k in self._readers[index] if not self.needs[k] & ~done)
        return _State(done, ready, needed - sum(m.bytes for m in died), max(peak, state.peak), index, state)


def _search(model: _Model, best: int) -> list[int] | None:
    """The order with the lowest peak that was found, None where none is below `best`."""
    width = max(8, min(STATES_PER_LEVEL, SEARCH_STATES // max(1, len(model.nodes))))
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


def _memories(graph: Graph, views: Views) -> dict[Value, _Memory]:
    writers: dict[Value, int] = dict.fromkeys(graph.inputs, 0)
    users: dict[Value, int] = dict(writers)
    for index, node in enumerate(graph.nodes):
        for output in node.outputs:
            root = views.root(output)
            writers[root] = writers.get(root, 0) | 1 << index
            users[root] = users.get(root, 0) | 1 << index
        for value in node.variable_inputs:
            users[views.root(value)] = users.get(views.root(value), 0) | 1 << index
    outputs = {views.root(value) for value in graph.outputs}
    inputs = set(graph.inputs)
    return {
        root: _Memory(root.type.bytes, writers[root], users[root], root in inputs, root in outputs)
        for root in writers
        if not root.is_constant
    }


def _memories_of(values: Sequence[Value], views: Views, memories: Mapping[Value, _Memory]) -> list[_Memory]:
    roots = dict.fromkeys(views.root(value) for value in values)
    return [memories[root] for root in roots if root in memories]


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
