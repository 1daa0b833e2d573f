"""What must lie in the arena, for how long, and which outputs may overwrite which inputs; then its plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tinyopt.ir import Graph, Node, Value
from tinyopt.lowering.lifetimes import section_steps, value_lifetimes
from tinyopt.lowering.overlaps import forbidden_distances
from tinyopt.lowering.program import ARENA_ALIGNMENT, ArenaBuffer, ArenaSlot, UsedRegion
from tinyopt.lowering.regions import place_in_regions
from tinyopt.lowering.sections import Section, sections_of
from tinyopt.lowering.views import Views
from tinyopt.memory_plan import BufferLifetime, Meeting, lower_bound
from tinyopt.memory_search import plan_memory
from tinyopt.ops import OPERATORS
from tinyopt.options import MemoryRegion
from tinyopt.targets.kernel import Kernel, ScratchArgument

# Multiply-accumulates by which a thread may be ahead of another before it waits for memory to be free: some tens of
# microseconds, in which one wakes up; and no more than a share of the model's, for they cost memory.
_MOST_LEAD = 6_000_000
_LEAD_SHARE = 50

Step: TypeAlias = tuple[Node, Kernel]
BufferKey: TypeAlias = "Value | tuple[Node, int]"  # a value with memory of its own, or a kernel's argument: scratch


@dataclass(frozen=True, eq=False)
class Arena:
    """The planned arena, or memory regions.

    slots: the place of every value that has memory of its own, and of every kernel's scratch.
    bytes, lower_bound_bytes: of all regions together. regions: those that the user gave.
    """

    slots: Mapping[BufferKey, ArenaSlot]
    buffers: tuple[ArenaBuffer, ...]
    bytes: int
    lower_bound_bytes: int
    regions: tuple[UsedRegion, ...]


@dataclass(frozen=True, eq=False)
class ArenaProblem:
    """What has to be placed. keys, buffers: one for each other.

    steps: the nodes that run, with their kernels. sections: those together that do not depend on each other.
    """

    steps: tuple[Step, ...]
    sections: tuple[Section, ...]
    views: Views
    keys: tuple[BufferKey, ...]
    buffers: tuple[BufferLifetime, ...]
    meetings: tuple[Meeting, ...]

    @classmethod
    def of(cls, graph: Graph, kernels: Mapping[Node, Kernel], views: Views, threads: int = 1) -> ArenaProblem:
        """All that changes at run time. Call k is step k + 1; scratch lives while its kernel's section runs."""
        steps = tuple((node, kernels[node]) for node in graph.nodes if node not in views.nodes)
        sections = sections_of((node for node, _ in steps), views, threads)
        lifetimes = _lifetimes(graph, sections, kernels, views, _lead(sections))
        indices = {key: index for index, key in enumerate(lifetimes)}
        # what runs at the same time as others must leave their inputs alone
        together = {node for section in sections if len(section) > 1 for node in section}
        meetings = (
            meeting
            for position, (node, kernel) in enumerate(steps, start=1)
            if node not in together
            for meeting in _meetings(node, kernel, position, views, lifetimes, indices)
        )
        return cls(steps, tuple(sections), views, tuple(lifetimes), tuple(lifetimes.values()), tuple(meetings))

    @property
    def lower_bound(self) -> int:
        return lower_bound(self.buffers, ARENA_ALIGNMENT, self.meetings)


def plan_arena(problem: ArenaProblem) -> Arena:
    """Place everything in one arena."""
    plan = plan_memory(problem.buffers, ARENA_ALIGNMENT, problem.meetings)
    return _arena(problem, [(0, offset) for offset in plan.offsets], plan.lower_bound_bytes, ())


def plan_regions(problem: ArenaProblem, memory: Sequence[MemoryRegion]) -> Arena:
    """Place everything in the regions of `memory`. Raises BudgetError where they are too small."""
    accesses = _accesses(problem)
    heat = [accesses[key] for key in problem.keys]
    return _arena(
        problem, place_in_regions(problem.buffers, problem.meetings, heat, memory), problem.lower_bound, memory
    )


def _lead(sections: Sequence[Section]) -> int:
    if all(len(section) == 1 for section in sections):
        return 0
    return min(
        _MOST_LEAD, sum(OPERATORS[node.op].macs(node) for section in sections for node in section) // _LEAD_SHARE
    )


def _lifetimes(
    graph: Graph, sections: Sequence[Section], kernels: Mapping[Node, Kernel], views: Views, lead: int
) -> dict[BufferKey, BufferLifetime]:
    lifetimes: dict[BufferKey, BufferLifetime] = {}
    for section, (begin, end) in zip(sections, section_steps(sections, lead), strict=True):
        for node in section:
            for number, argument in enumerate(kernels[node].arguments):
                if isinstance(argument, ScratchArgument):
                    lifetimes[node, number] = BufferLifetime(f"scratch of {node.name}", argument.bytes, begin, end)
    lifetimes.update(value_lifetimes(graph, sections, views, lead).items())
    return lifetimes


def _arena(
    problem: ArenaProblem, places: Sequence[tuple[int, int]], bound: int, memory: Sequence[MemoryRegion]
) -> Arena:
    used = [0] * max(len(memory), 1)
    slots: dict[BufferKey, ArenaSlot] = {}
    buffers: list[ArenaBuffer] = []
    for (key, life), (region, offset) in zip(zip(problem.keys, problem.buffers, strict=True), places, strict=True):
        slots[key] = ArenaSlot(offset, life.bytes, region)
        for part in life.pieces:
            buffers.append(ArenaBuffer(life.name, offset + part.offset, part.bytes, part.first, part.last, region))
        used[region] = max(used[region], -(-(offset + life.bytes) // ARENA_ALIGNMENT) * ARENA_ALIGNMENT)
    regions = (UsedRegion(given.name, need, given.bytes) for given, need in zip(memory, used, strict=False))
    return Arena(slots, tuple(buffers), sum(used), bound, tuple(regions))


def _accesses(problem: ArenaProblem) -> dict[BufferKey, float]:
    """About how many bytes of each buffer are read or written in one run."""
    views, counts = problem.views, dict.fromkeys(problem.keys, 0.0)
    for node, kernel in problem.steps:
        macs, output = OPERATORS[node.op].macs(node), node.outputs[0]
        channels = output.shape[-1] if output.shape else 1
        for value in node.variable_inputs:  # a window's cells are read once for all channels of an output pixel
            if views.root(value) in counts:
                counts[views.root(value)] += max(value.type.bytes, macs / channels)
        for value in node.outputs:
            counts[views.root(value)] += value.type.bytes
        for number, argument in enumerate(kernel.arguments):
            if isinstance(argument, ScratchArgument):  # working memory is where the inner loops read
                counts[node, number] += max(argument.bytes, macs / 2)
    return counts


def _meetings(
    node: Node,
    kernel: Kernel,
    position: int,
    views: Views,
    lifetimes: Mapping[BufferKey, BufferLifetime],
    indices: Mapping[BufferKey, int],
) -> Iterator[Meeting]:
    """The first output with each input in another memory that is not read any more afterwards."""
    later, later_span = views.root(node.outputs[0]), views.span(node.outputs[0])
    is_born = any(part.first == position for part in lifetimes[later].pieces if part.lies_in(later_span))
    if not (kernel.overlaps and is_born):
        return
    for index, value in enumerate(node.inputs):
        if value is None or views.root(value) is later or views.root(value) not in lifetimes:  # constants are not
            continue
        earlier, span = views.root(value), views.span(value)
        if any(part.last == position for part in lifetimes[earlier].pieces if part.lies_in(span)):
            shift = span[0] - later_span[0]
            forbidden = tuple((low + shift, high + shift) for low, high in forbidden_distances(node, kernel, index))
            yield Meeting(indices[later], indices[earlier], forbidden, later_span, span)
