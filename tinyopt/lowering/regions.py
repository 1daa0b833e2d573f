"""Several memory regions: the buffers that are used most for their size lie in the fastest one that has room."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from tinyopt.errors import BudgetError
from tinyopt.lowering.program import ARENA_ALIGNMENT
from tinyopt.memory_plan import BufferLifetime, Meeting, conflicts
from tinyopt.memory_search import MemoryPlan, fill_regions, plan_memory
from tinyopt.options import MemoryRegion

SHUFFLES = 60

Places = list[tuple[int, int]]  # for each buffer its region and its offset there


def place_in_regions(
    buffers: Sequence[BufferLifetime],
    meetings: Sequence[Meeting],
    accesses: Sequence[float],
    memory: Sequence[MemoryRegion],
) -> Places:
    """A place for every buffer. memory: the fastest region first. accesses: bytes read and written, of each buffer.

    Of all orders of first fit that fit, the one that leaves the fewest accesses to slow regions. Deterministic.
    Raises BudgetError where none was found that fits.
    """
    capacities = [region.bytes // ARENA_ALIGNMENT * ARENA_ALIGNMENT for region in memory]
    distances = conflicts(buffers, meetings)
    best: tuple[float, Places] | None = None
    for order in _orders(buffers, accesses):
        places = fill_regions(buffers, distances, order, capacities, ARENA_ALIGNMENT)
        if places is not None:
            cost = sum(count * region for count, (region, _) in zip(accesses, places, strict=True))
            if best is None or cost < best[0]:
                best = cost, places
    if best is None:
        raise _too_small(buffers, meetings, accesses, memory, capacities)
    return _tightened(buffers, meetings, best[1], len(memory))


def _orders(buffers: Sequence[BufferLifetime], accesses: Sequence[float]) -> Iterator[list[int]]:
    """The most used first; the largest first, which fits best; and noise on both."""
    indices = range(len(buffers))
    heat = [count / max(buffer.bytes, 1) for count, buffer in zip(accesses, buffers, strict=True)]
    yield sorted(indices, key=lambda i: (-heat[i], -buffers[i].bytes))
    yield sorted(indices, key=lambda i: (-buffers[i].bytes, -heat[i]))
    generator = random.Random(0)
    for number in range(SHUFFLES):
        weight = 1 - number / SHUFFLES  # from heat alone to size alone
        keys = [
            weight * math.log(heat[i] + 1) + (1 - weight) * math.log(buffers[i].bytes + 1) + generator.uniform(-1, 1)
            for i in indices
        ]
        yield sorted(indices, key=lambda i: -keys[i])


def _tightened(buffers: Sequence[BufferLifetime], meetings: Sequence[Meeting], places: Places, regions: int) -> Places:
    """The same assignment to regions, each region planned as an arena where that makes it smaller."""
    tight = list(places)
    for region in range(regions):
        inside = [index for index, (its, _) in enumerate(places) if its == region]
        plan = _plan_of(buffers, meetings, inside)
        if plan.arena_bytes < max((places[i][1] + buffers[i].bytes for i in inside), default=0):
            for index, offset in zip(inside, plan.offsets, strict=True):
                tight[index] = region, offset
    return tight


def _plan_of(buffers: Sequence[BufferLifetime], meetings: Sequence[Meeting], inside: Sequence[int]) -> MemoryPlan:
    number = {index: position for position, index in enumerate(inside)}
    kept = [
        Meeting(number[m.later], number[m.earlier], m.forbidden)
        for m in meetings
        if m.later in number and m.earlier in number
    ]
    return plan_memory([buffers[index] for index in inside], ARENA_ALIGNMENT, kept)


def _too_small(
    buffers: Sequence[BufferLifetime],
    meetings: Sequence[Meeting],
    accesses: Sequence[float],
    memory: Sequence[MemoryRegion],
    capacities: Sequence[int],
) -> BudgetError:
    """What the largest region would have to be beside the others as they are, and what else would help."""
    largest = max(range(len(memory)), key=lambda i: memory[i].bytes)
    open_ended = [math.inf if i == largest else capacity for i, capacity in enumerate(capacities)]
    needed: list[int] = []
    distances = conflicts(buffers, meetings)
    for order in _orders(buffers, accesses):
        places = fill_regions(buffers, distances, order, open_ended, ARENA_ALIGNMENT)
        assert places is not None, "one region has no end"
        inside = [i for i, (region, _) in enumerate(places) if region == largest]
        needed.append(_plan_of(buffers, meetings, inside).arena_bytes)
    widest = max(buffers, key=lambda buffer: buffer.bytes)
    whole = plan_memory(buffers, ARENA_ALIGNMENT, meetings).arena_bytes
    return BudgetError(
        f"the model does not fit {', '.join(f'{region.name}={region.bytes}' for region in memory)}: "
        f"{memory[largest].name} would have to be {min(needed)} bytes, {min(needed) - memory[largest].bytes} more; "
        f"one region of {whole} bytes holds everything; the largest buffer is '{widest.name}' of {widest.bytes} bytes; "
        "what would help: a larger region, fewer and larger regions, --patches auto, --prune"
    )
