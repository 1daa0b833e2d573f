"""What must lie in the arena, for how long, and which outputs may overwrite which inputs; then its plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tinyopt.ir import Graph, Node, Value
from tinyopt.lowering.lifetimes import Views, value_lifetimes
from tinyopt.lowering.overlaps import forbidden_distances
from tinyopt.lowering.program import ARENA_ALIGNMENT, ArenaBuffer, ArenaSlot, UsedRegion
from tinyopt.lowering.regions import place_in_regions
from tinyopt.memory_plan import BufferLifetime, Meeting, lower_bound, plan_memory
from tinyopt.ops import OPERATORS
from tinyopt.options import MemoryRegion
from tinyopt.targets.kernel import Kernel, ScratchArgument

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


def plan_arena(graph: Graph, steps: Sequence[Step], views: Views, memory: Sequence[MemoryRegion] = ()) -> Arena:
    """Place all that changes at run time. Call k is step k + 1; scratch lives while its kernel runs.

    Raises BudgetError where `memory` is given and too small.
    """
    lifetimes = _lifetimes(graph, steps, views)
    indices = {key: index for index, key in enumerate(lifetimes)}
    meetings = [
        Meeting(indices[later], indices[earlier], forbidden)
        for position, step in enumerate(steps, start=1)
        for later, earlier, forbidden in _meetings(step, position, lifetimes, views)
    ]
    buffers = list(lifetimes.values())
    if not memory:
        plan = plan_memory(buffers, ARENA_ALIGNMENT, meetings)
        return _arena(lifetimes, [(0, offset) for offset in plan.offsets], plan.lower_bound_bytes, ())
    accesses = _accesses(steps, lifetimes, views)
    places = place_in_regions(buffers, meetings, [accesses[key] for key in lifetimes], memory)
    return _arena(lifetimes, places, lower_bound(buffers, ARENA_ALIGNMENT, meetings), memory)


def _lifetimes(graph: Graph, steps: Sequence[Step], views: Views) -> dict[BufferKey, BufferLifetime]:
    lifetimes: dict[BufferKey, BufferLifetime] = {}
    for position, (node, kernel) in enumerate(steps, start=1):
        for number, argument in enumerate(kernel.arguments):
            if isinstance(argument, ScratchArgument):
                name = f"scratch of {node.name}"
                lifetimes[node, number] = BufferLifetime(name, argument.bytes, position, position)
    lifetimes.update(value_lifetimes(graph, [node for node, _ in steps], views).items())
    return lifetimes


def _arena(
    lifetimes: Mapping[BufferKey, BufferLifetime],
    places: Sequence[tuple[int, int]],
    bound: int,
    memory: Sequence[MemoryRegion],
) -> Arena:
    used = [0] * max(len(memory), 1)
    slots: dict[BufferKey, ArenaSlot] = {}
    buffers: list[ArenaBuffer] = []
    for (key, life), (region, offset) in zip(lifetimes.items(), places, strict=True):
        slots[key] = ArenaSlot(offset, life.bytes, region)
        buffers.append(ArenaBuffer(life.name, offset, life.bytes, life.first, life.last, region))
        used[region] = max(used[region], -(-(offset + life.bytes) // ARENA_ALIGNMENT) * ARENA_ALIGNMENT)
    regions = (UsedRegion(given.name, need, given.bytes) for given, need in zip(memory, used, strict=False))
    return Arena(slots, tuple(buffers), sum(used), bound, tuple(regions))


def _accesses(
    steps: Sequence[Step], lifetimes: Mapping[BufferKey, BufferLifetime], views: Views
) -> dict[BufferKey, float]:
    """About how many bytes of each buffer are read or written in one run."""
    counts: dict[BufferKey, float] = dict.fromkeys(lifetimes, 0.0)
    for node, kernel in steps:
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
    step: Step, position: int, lifetimes: Mapping[BufferKey, BufferLifetime], views: Views
) -> Iterator[tuple[Value, Value, tuple[tuple[int, int], ...]]]:
    """The output's memory with that of each input which nobody reads any more afterwards."""
    node, kernel = step
    later = views.root(node.outputs[0])
    if not kernel.overlaps or lifetimes[later].first != position:
        return
    for earlier in dict.fromkeys(views.root(value) for value in node.variable_inputs):
        if earlier in lifetimes and lifetimes[earlier].last == position:  # constants are not
            yield later, earlier, tuple(forbidden_distances(*step, later, earlier, views))
