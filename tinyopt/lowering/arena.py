"""What must lie in the arena, for how long, and which outputs may overwrite which inputs; then its plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tinyopt.ir import Graph, Node, Value
from tinyopt.lowering.lifetimes import Views, value_lifetimes
from tinyopt.lowering.overlaps import forbidden_distances
from tinyopt.lowering.program import ARENA_ALIGNMENT, ArenaBuffer, ArenaSlot
from tinyopt.memory_plan import BufferLifetime, Meeting, plan_memory
from tinyopt.targets.kernel import Kernel, ScratchArgument

Step: TypeAlias = tuple[Node, Kernel]
BufferKey: TypeAlias = "Value | tuple[Node, int]"  # a value with memory of its own, or a kernel's argument: scratch


@dataclass(frozen=True, eq=False)
class Arena:
    """The planned arena. slots: the place of every value that has memory of its own, and of every kernel's scratch."""

    slots: Mapping[BufferKey, ArenaSlot]
    buffers: tuple[ArenaBuffer, ...]
    bytes: int
    lower_bound_bytes: int


def plan_arena(graph: Graph, steps: Sequence[Step], views: Views) -> Arena:
    """Place all that changes at run time. Call k is step k + 1; scratch lives while its kernel runs."""
    lifetimes: dict[BufferKey, BufferLifetime] = {}
    for position, (node, kernel) in enumerate(steps, start=1):
        for number, argument in enumerate(kernel.arguments):
            if isinstance(argument, ScratchArgument):
                name = f"scratch of {node.name}"
                lifetimes[node, number] = BufferLifetime(name, argument.bytes, position, position)
    lifetimes.update(value_lifetimes(graph, [node for node, _ in steps], views).items())
    indices = {key: index for index, key in enumerate(lifetimes)}
    meetings = [
        Meeting(indices[later], indices[earlier], forbidden)
        for position, step in enumerate(steps, start=1)
        for later, earlier, forbidden in _meetings(step, position, lifetimes, views)
    ]
    plan = plan_memory(list(lifetimes.values()), ARENA_ALIGNMENT, meetings)
    placed = list(zip(lifetimes.items(), plan.offsets, strict=True))
    return Arena(
        {key: ArenaSlot(offset, life.bytes) for (key, life), offset in placed},
        tuple(ArenaBuffer(life.name, offset, life.bytes, life.first, life.last) for (_, life), offset in placed),
        plan.arena_bytes,
        plan.lower_bound_bytes,
    )


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
