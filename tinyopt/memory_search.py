"""Static memory planning: every buffer's place in one arena, fixed at compile time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tinyopt.memory_plan import BufferLifetime, Meeting, aligned, conflicts, lower_bound

SHUFFLES = 200  # orders near rules of thumb, before the best order found is improved step by step
SEARCH_VISITS = 2_000_000  # pairs of buffers looked at in the search: about a second
SEARCH_ORDERS = 4_000
KEPT = 12  # placements that are improved


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets in the order of the buffers given; the arena's size; and a size that no plan can beat."""

    offsets: tuple[int, ...]
    arena_bytes: int
    lower_bound_bytes: int


def plan_memory(
    buffers: Sequence[BufferLifetime], alignment: int, meetings: Sequence[Meeting] = (), orders: int = SEARCH_ORDERS
) -> MemoryPlan:
    """Place the buffers so that those alive at the same step do not overlap but where a meeting lets them.

    First fit at the lowest offset that is permitted, over several orders (by size, by lifetime x size, by birth), then
    over seeded random ones, then over changes of the best one, until the lower bound or a limit of work is reached:
    `orders` at most. Deterministic. Greedy by size is the strategy of Pisarchyk and Lee, arXiv:2001.03288, section 5.
    """
    bound = lower_bound(buffers, alignment, meetings)
    if not buffers:
        return MemoryPlan((), 0, bound)
    best = _Search(buffers, alignment, meetings, bound, orders).run()
    return MemoryPlan(tuple(best.offsets), best.arena_bytes, bound)


def fill_regions(
    buffers: Sequence[BufferLifetime],
    distances: Sequence[Sequence[tuple[int, int, int]]],
    order: Sequence[int],
    capacities: Sequence[float],
    alignment: int,
) -> list[tuple[int, int]] | None:
    """First fit in the first region with room, buffer by buffer in `order`: (region, offset) of each; None: no room.

    distances: what `conflicts` says of the buffers.
    """
    places: list[tuple[int, int]] = [(-1, 0)] * len(buffers)
    for index in order:
        size = aligned(buffers[index].bytes, alignment)
        for region, capacity in enumerate(capacities):
            forbidden = sorted(
                (places[other][1] + low, places[other][1] + high)
                for other, low, high in distances[index]
                if places[other][0] == region
            )
            offset = _lowest_permitted(forbidden, alignment)
            if offset + size <= capacity:
                places[index] = region, offset
                break
        else:
            return None
    return places


@dataclass(frozen=True)
class _Placement:
    """What first fit made of an order."""

    arena_bytes: int
    order: list[int]
    offsets: list[int]


class _Search:
    """First fit by many orders, of which the best are improved step by step, each for itself."""

    def __init__(
        self,
        buffers: Sequence[BufferLifetime],
        alignment: int,
        meetings: Sequence[Meeting],
        bound: int,
        orders: int,
    ) -> None:
        self._buffers = buffers
        self._alignment = alignment
        self._sizes = [aligned(buffer.bytes, alignment) for buffer in buffers]
        self._conflicts = conflicts(buffers, meetings)
        self._bound = bound
        self._generator = random.Random(0)
        self._orders_left = max(1, min(orders, SEARCH_VISITS // max(1, sum(map(len, self._conflicts)))))
        self._kept: list[_Placement] = []  # the best first, as far as rules have been tried

    def run(self) -> _Placement:
        """Rules of thumb, then noise, then small changes of what was best: steps sideways lead out of corners."""
        for order in self._orders():
            self._keep(self._first_fit(order, self._limit))
            if self._is_done:
                return self._best
        while not self._is_done:
            number = self._generator.randrange(len(self._kept))
            changed = self._first_fit(self._changed(self._kept[number]), self._kept[number].arena_bytes)
            if changed is not None:
                self._kept[number] = changed
        return self._best

    @property
    def _best(self) -> _Placement:
        return min(self._kept, key=lambda placement: placement.arena_bytes)

    @property
    def _is_done(self) -> bool:
        return self._best.arena_bytes == self._bound or self._orders_left <= 0

    @property
    def _limit(self) -> int:
        """What a placement must not exceed to be kept; any does while few are."""
        return self._kept[-1].arena_bytes if len(self._kept) == KEPT else sum(self._sizes)

    def _keep(self, placement: _Placement | None) -> None:
        if placement is not None:
            self._kept = sorted([*self._kept, placement], key=lambda p: p.arena_bytes)[:KEPT]

    def _orders(self) -> Iterator[list[int]]:
        """Orders in which to place the buffers, the most promising first."""
        buffers, crowd = self._buffers, _crowds(self._buffers)
        span = max(buffer.last for buffer in buffers) + 1
        rules: tuple[Callable[[int], Any], ...] = (
            lambda i: (-buffers[i].bytes, buffers[i].first),
            lambda i: (-buffers[i].bytes * (buffers[i].last - buffers[i].first + 1), buffers[i].first),
            lambda i: (buffers[i].first, -buffers[i].bytes),
            lambda i: (-buffers[i].last, -buffers[i].bytes),
            lambda i: (-crowd[i], -buffers[i].first, -buffers[i].bytes),
        )
        # noise explores the neighbourhood of a rule: in the fullest steps first, large ones first, the last ones first
        noisy: tuple[Callable[[int, float], float], ...] = (
            lambda i, noise: -crowd[i] * 2 ** (0.3 * noise),
            lambda i, noise: -buffers[i].bytes * 2 ** (2 * noise),
            lambda i, noise: -buffers[i].last + 0.1 * noise * span,
        )
        for rule in rules:
            yield sorted(range(len(buffers)), key=rule)
        for number in range(SHUFFLES):
            rough = noisy[number % len(noisy)]
            keys = [rough(i, self._generator.uniform(-1, 1)) for i in range(len(buffers))]
            yield sorted(range(len(buffers)), key=keys.__getitem__)

    def _changed(self, placement: _Placement) -> list[int]:
        """The order of `placement` with some buffers moved elsewhere: mostly those that reach the arena's end."""
        order = list(placement.order)
        ends = ((i, at + self._sizes[i]) for i, at in enumerate(placement.offsets))
        highest = [i for i, end in ends if end == placement.arena_bytes]
        for _ in range(self._generator.choice((1, 1, 2, 3))):
            moved = self._generator.choice(highest if self._generator.random() < 0.5 else order)
            order.remove(moved)
            order.insert(self._generator.randrange(len(order) + 1), moved)
        return order

    def _first_fit(self, order: list[int], limit: int) -> _Placement | None:
        """Each buffer at the lowest offset that is permitted beside those placed before; None beyond `limit`."""
        self._orders_left -= 1
        offsets, end = [-1] * len(order), 0
        for index in order:
            forbidden = [
                (offsets[other] + low, offsets[other] + high)
                for other, low, high in self._conflicts[index]
                if offsets[other] >= 0
            ]
            forbidden.sort()
            offsets[index] = _lowest_permitted(forbidden, self._alignment)
            end = max(end, offsets[index] + self._sizes[index])
            if end > limit:
                return None
        return _Placement(end, order, offsets)


def _crowds(buffers: Sequence[BufferLifetime]) -> list[int]:
    """For each buffer how many bytes are alive at the fullest of its steps."""
    alive = [0] * (max(buffer.last for buffer in buffers) + 1)
    for buffer in buffers:
        for part in buffer.pieces:
            for step in range(part.first, part.last + 1):
                alive[step] += part.bytes
    return [max(max(alive[part.first : part.last + 1]) for part in buffer.pieces) for buffer in buffers]


def _lowest_permitted(forbidden: Sequence[tuple[int, int]], alignment: int) -> int:
    """The lowest offset that is in none of the open intervals, which are sorted."""
    offset = 0
    for low, high in forbidden:
        if low >= offset:
            break
        if high > offset:
            offset = -(-high // alignment) * alignment
    return offset
