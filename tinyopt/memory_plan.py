"""Static memory planning: every buffer's place in one arena, fixed at compile time."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

SHUFFLES = 100  # orders near the largest-first one, before the best order found is improved step by step
SEARCH_VISITS = 600_000  # pairs of buffers looked at in the search: about a second
SEARCH_ORDERS = 4_000


@dataclass(frozen=True)
class Part:
    """So many bytes of a buffer, from `offset` on, that keep their content from step `first` to step `last`."""

    offset: int
    bytes: int
    first: int
    last: int

    def lies_in(self, span: tuple[int, int] | None) -> bool:
        return span is None or (span[0] <= self.offset and self.offset + self.bytes <= span[1])


@dataclass(frozen=True)
class BufferLifetime:
    """A buffer that must keep its content from step `first` to step `last`, both included.

    parts: where its bytes do not all live that long, how long each does; together they are the whole buffer.
    """

    name: str
    bytes: int
    first: int
    last: int
    parts: tuple[Part, ...] = ()

    def overlaps(self, other: BufferLifetime) -> bool:
        return self.first <= other.last and other.first <= self.last

    @property
    def pieces(self) -> tuple[Part, ...]:
        return self.parts or (Part(0, self.bytes, self.first, self.last),)


@dataclass(frozen=True)
class Meeting:
    """Two buffers that share one step, in which `later` is written while `earlier` is read for the last time.

    They may overlap there, but not anyhow. later, earlier: their indices. forbidden: open intervals: where `later`
    begins more than `low` and less than `high` bytes after `earlier` begins, bytes would be overwritten that are still
    read. later_span, earlier_span: the first byte and the end of what is written and read; None for the whole buffer.
    """

    later: int
    earlier: int
    forbidden: tuple[tuple[int, int], ...]
    later_span: tuple[int, int] | None = None
    earlier_span: tuple[int, int] | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets in the order of the buffers given; the arena's size; and a size that no plan can beat."""

    offsets: tuple[int, ...]
    arena_bytes: int
    lower_bound_bytes: int


def lower_bound(buffers: Sequence[BufferLifetime], alignment: int, meetings: Sequence[Meeting] = ()) -> int:
    """The largest number of bytes that are alive at one step, for any placement: no arena is smaller.

    An output that meets inputs shares with each at most what its meeting permits, and with all of them at most itself.
    """
    end = max((buffer.last for buffer in buffers), default=-1) + 1
    growth = [0] * (end + 1)
    for buffer in buffers:
        for part in buffer.pieces:
            size = part.bytes if buffer.parts else _aligned(part.bytes, alignment)
            growth[part.first] += size
            growth[part.last + 1] -= size
    shared: dict[tuple[int, int], int] = {}
    for meeting in meetings:
        step, size, most = _shared_at(meeting, buffers, alignment)
        shared[meeting.later, step] = min(size, shared.get((meeting.later, step), 0) + most)
    savings = [0] * (end + 1)
    for (_, step), most in shared.items():
        savings[step] += most
    alive, bound = 0, 0
    for step in range(end):
        alive += growth[step]
        bound = max(bound, alive - savings[step])
    return _aligned(bound, alignment)


def _shared_at(meeting: Meeting, buffers: Sequence[BufferLifetime], alignment: int) -> tuple[int, int, int]:
    """The step of a meeting, the size of what is written there, and how much of it may lie on what is read."""
    later, earlier = buffers[meeting.later], buffers[meeting.earlier]
    ours, theirs = meeting.later_span or (0, later.bytes), meeting.earlier_span or (0, earlier.bytes)
    shift = ours[0] - theirs[0]
    forbidden = [(low + shift, high + shift) for low, high in meeting.forbidden]
    step = min(part.first for part in later.pieces if part.lies_in(meeting.later_span))
    return (
        step,
        _aligned(ours[1] - ours[0], alignment),
        most_shared(ours[1] - ours[0], theirs[1] - theirs[0], forbidden, alignment),
    )


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
    search = _Search(buffers, alignment, meetings, bound, orders)
    search.run()
    return MemoryPlan(tuple(search.offsets), search.arena_bytes, bound)


def fill_regions(
    buffers: Sequence[BufferLifetime],
    order: Sequence[int],
    capacities: Sequence[float],
    alignment: int,
    meetings: Sequence[Meeting],
) -> list[tuple[int, int]] | None:
    """First fit in the first region with room, buffer by buffer in `order`: (region, offset) of each; None: no room."""
    sizes = [_aligned(buffer.bytes, alignment) for buffer in buffers]
    conflicts = _conflicts(buffers, meetings)
    places: list[tuple[int, int]] = [(-1, 0)] * len(buffers)
    for index in order:
        for region, capacity in enumerate(capacities):
            forbidden = sorted(
                (places[other][1] + low, places[other][1] + high)
                for other, low, high in conflicts[index]
                if places[other][0] == region
            )
            offset = _lowest_permitted(forbidden, alignment)
            if offset + sizes[index] <= capacity:
                places[index] = region, offset
                break
        else:
            return None
    return places


class _Search:
    """The best placement found so far, and the order of first fit that gave it."""

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
        self._sizes = [_aligned(buffer.bytes, alignment) for buffer in buffers]
        self._conflicts = _conflicts(buffers, meetings)
        self._bound = bound
        self._generator = random.Random(0)
        self._orders_left = max(1, min(orders, SEARCH_VISITS // max(1, sum(map(len, self._conflicts)))))
        self._order = list(range(len(buffers)))
        self.offsets: list[int] = []
        self.arena_bytes = sum(self._sizes) + 1  # more than any first fit needs

    @property
    def _is_done(self) -> bool:
        return self.arena_bytes == self._bound or self._orders_left <= 0

    def run(self) -> None:
        """Rules of thumb, then noise, then small changes of what was best."""
        for order in self._orders():
            self._try(order)
            if self._is_done:
                return
        while not self._is_done:
            self._try(self._changed())

    def _orders(self) -> Iterator[list[int]]:
        """Orders in which to place the buffers, the most promising first."""
        buffers, indices = self._buffers, range(len(self._buffers))
        keys = (
            lambda i: (-buffers[i].bytes, buffers[i].first),
            lambda i: (-buffers[i].bytes * (buffers[i].last - buffers[i].first + 1), buffers[i].first),
            lambda i: (buffers[i].first, -buffers[i].bytes),
            lambda i: (-buffers[i].last, -buffers[i].bytes),
        )
        for key in keys:
            yield sorted(indices, key=key)
        for _ in range(SHUFFLES):
            # large buffers first, roughly: noise on the size explores the neighbourhood of the best rule
            yield sorted(indices, key=lambda i: -buffers[i].bytes * self._generator.uniform(0.5, 1.5))

    def _changed(self) -> list[int]:
        """The best order with one buffer moved to an earlier place: mostly one of those that reach the arena's end."""
        order = list(self._order)
        highest = [i for i, at in enumerate(self.offsets) if at + self._sizes[i] == self.arena_bytes]
        for _ in range(self._generator.choice((1, 1, 2, 3))):
            moved = self._generator.choice(highest if self._generator.random() < 0.5 else order)
            order.remove(moved)
            order.insert(self._generator.randrange(len(order) + 1), moved)
        return order

    def _try(self, order: list[int]) -> None:
        """Keep the placement by `order` where it is not worse than the best one: steps sideways lead out of corners."""
        self._orders_left -= 1
        offsets = self._first_fit(order)
        if offsets is None:
            return
        self.offsets, self._order = offsets, order
        self.arena_bytes = max(at + size for at, size in zip(offsets, self._sizes, strict=True))

    def _first_fit(self, order: Sequence[int]) -> list[int] | None:
        """Each buffer at the lowest offset that is permitted beside those placed before; None if this takes more."""
        offsets = [-1] * len(order)
        alignment = self._alignment
        for index in order:
            forbidden = sorted(
                (offsets[other] + low, offsets[other] + high)
                for other, low, high in self._conflicts[index]
                if offsets[other] >= 0
            )
            offset = _lowest_permitted(forbidden, alignment)
            if offset + self._sizes[index] > self.arena_bytes:
                return None
            offsets[index] = offset
        return offsets


def _lowest_permitted(forbidden: Sequence[tuple[int, int]], alignment: int) -> int:
    """The lowest offset that is in none of the open intervals, which are sorted."""
    offset = 0
    for low, high in forbidden:
        if low >= offset:
            break
        if high > offset:
            offset = -(-high // alignment) * alignment
    return offset


def _conflicts(buffers: Sequence[BufferLifetime], meetings: Sequence[Meeting]) -> list[list[tuple[int, int, int]]]:
    """For each buffer (other, low, high): it must not begin between low and high bytes after the other, both open."""
    met: dict[tuple[int, int], list[Meeting]] = {}
    for meeting in meetings:
        met.setdefault((meeting.later, meeting.earlier), []).append(meeting)
    found: list[list[tuple[int, int, int]]] = [[] for _ in buffers]
    alive: list[int] = []
    for later in sorted(range(len(buffers)), key=lambda i: buffers[i].first):
        alive = [earlier for earlier in alive if buffers[earlier].last >= buffers[later].first]
        for earlier in alive:
            pair = buffers[later], buffers[earlier]
            for low, high in _forbidden(*pair, met.get((later, earlier), ()), met.get((earlier, later), ())):
                found[later].append((earlier, low, high))
                found[earlier].append((later, -high, -low))
        alive.append(later)
    return found


def _forbidden(
    ours: BufferLifetime, theirs: BufferLifetime, written: Sequence[Meeting], read: Sequence[Meeting]
) -> list[tuple[int, int]]:
    """Distances from the begin of `theirs` to that of `ours` at which bytes that live together would overlap.

    written: the meetings in which `ours` is the later one; read: those in which it is the earlier one.
    """
    intervals: set[tuple[int, int]] = set()
    for a in ours.pieces:
        for b in theirs.pieces:
            if a.first > b.last or b.first > a.last:
                continue
            writing = [
                m for m in written if a.first == b.last and a.lies_in(m.later_span) and b.lies_in(m.earlier_span)
            ]
            reading = [m for m in read if b.first == a.last and b.lies_in(m.later_span) and a.lies_in(m.earlier_span)]
            intervals.update(interval for m in writing for interval in m.forbidden)
            intervals.update((-high, -low) for m in reading for low, high in m.forbidden)
            if not writing and not reading:
                intervals.add((b.offset - a.offset - a.bytes, b.offset - a.offset + b.bytes))
    return _merged(intervals)


def _merged(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Open intervals that overlap as one; those that only touch leave the point between them."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(intervals):
        if merged and low < merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return merged


def most_shared(later: int, earlier: int, forbidden: Sequence[tuple[int, int]], alignment: int) -> int:
    """The most bytes that buffers of these sizes share at any distance that their meeting permits."""
    ours, theirs = _aligned(later, alignment), _aligned(earlier, alignment)
    # what is shared grows and falls linearly with the distance: its maximum is at a corner
    corners = {0, theirs - ours}
    for low, high in forbidden:
        corners |= {low // alignment * alignment, -(-high // alignment) * alignment}
    permitted = [d for d in corners if not any(low < d < high for low, high in forbidden)]
    return max((min(d + ours, theirs) - max(d, 0) for d in permitted), default=0)


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
