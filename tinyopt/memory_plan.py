"""Static memory planning: every buffer's place in one arena, fixed at compile time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

SHUFFLES = 200  # orders tried when no rule of thumb reaches the lower bound
SHUFFLED_BUFFERS_MAX = 200  # beyond that many buffers, trying orders costs more time than it saves bytes


@dataclass(frozen=True)
class BufferLifetime:
    """A buffer that must keep its content from step `first` to step `last`, both included."""

    name: str
    bytes: int
    first: int
    last: int

    def overlaps(self, other: BufferLifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets in the order of the buffers given; the arena's size; and the size that no plan can beat."""

    offsets: tuple[int, ...]
    arena_bytes: int
    lower_bound_bytes: int


def lower_bound(buffers: Sequence[BufferLifetime], alignment: int) -> int:
    """The largest sum of sizes that are alive at one step: no placement is smaller."""
    steps = {buffer.first for buffer in buffers}
    return max((sum(_aligned(b.bytes, alignment) for b in buffers if b.first <= s <= b.last) for s in steps), default=0)


def plan_memory(buffers: Sequence[BufferLifetime], alignment: int) -> MemoryPlan:
    """Place the buffers so that those alive at the same step do not overlap.

    First fit at the lowest free offset, over several orders (by size, by lifetime x size, by birth) and then over
    seeded random ones until the lower bound is reached. Deterministic. Greedy by size is the strategy of Pisarchyk and
    Lee, arXiv:2001.03288, section 5.
    """
    bound = lower_bound(buffers, alignment)
    best: tuple[int, tuple[int, ...]] | None = None
    for order in _orders(buffers):
        offsets = _place(buffers, order, alignment)
        size = max((o + _aligned(b.bytes, alignment) for o, b in zip(offsets, buffers, strict=True)), default=0)
        if best is None or size < best[0]:
            best = (size, offsets)
        if best[0] == bound:
            break
    assert best is not None, "there is always at least one order"
    return MemoryPlan(best[1], best[0], bound)


def _orders(buffers: Sequence[BufferLifetime]) -> list[list[int]]:
    """Orders in which to place the buffers, the most promising first."""
    indices = list(range(len(buffers)))
    keys = (
        lambda i: (-buffers[i].bytes, buffers[i].first),
        lambda i: (-buffers[i].bytes * (buffers[i].last - buffers[i].first + 1), buffers[i].first),
        lambda i: (buffers[i].first, -buffers[i].bytes),
        lambda i: (buffers[i].last, -buffers[i].bytes),
    )
    orders = [sorted(indices, key=key) for key in keys]
    if len(buffers) <= SHUFFLED_BUFFERS_MAX:
        generator = random.Random(0)
        for _ in range(SHUFFLES):
            # large buffers first, roughly: noise on the size explores the neighbourhood of the best rule
            orders.append(sorted(indices, key=lambda i: -buffers[i].bytes * generator.uniform(0.5, 1.5)))
    return orders


def _place(buffers: Sequence[BufferLifetime], order: Sequence[int], alignment: int) -> tuple[int, ...]:
    """First fit: each buffer at the lowest offset that is free during its whole life."""
    offsets = [0] * len(buffers)
    placed: list[int] = []
    for index in order:
        neighbours = sorted(
            (offsets[other], offsets[other] + _aligned(buffers[other].bytes, alignment))
            for other in placed
            if buffers[other].overlaps(buffers[index])
        )
        offset = 0
        for begin, end in neighbours:
            if offset + _aligned(buffers[index].bytes, alignment) <= begin:
                break
            offset = max(offset, end)
        offsets[index] = offset
        placed.append(index)
    return tuple(offsets)


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
