"""What a memory plan must respect: which bytes live when, which may overlap all the same, and how small it can be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


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


def lower_bound(buffers: Sequence[BufferLifetime], alignment: int, meetings: Sequence[Meeting] = ()) -> int:
    """The largest number of bytes that are alive at one step, for any placement: no arena is smaller.

    An output that meets inputs shares with each at most what its meeting permits, and with all of them at most itself.
    """
    end = max((buffer.last for buffer in buffers), default=-1) + 1
    growth = [0] * (end + 1)
    for buffer in buffers:
        for part in buffer.pieces:
            size = part.bytes if buffer.parts else aligned(part.bytes, alignment)
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
    return aligned(bound, alignment)


def _shared_at(meeting: Meeting, buffers: Sequence[BufferLifetime], alignment: int) -> tuple[int, int, int]:
    """The step of a meeting, the size of what is written there, and how much of it may lie on what is read."""
    later, earlier = buffers[meeting.later], buffers[meeting.earlier]
    ours, theirs = meeting.later_span or (0, later.bytes), meeting.earlier_span or (0, earlier.bytes)
    shift = ours[0] - theirs[0]
    forbidden = [(low + shift, high + shift) for low, high in meeting.forbidden]
    step = min(part.first for part in later.pieces if part.lies_in(meeting.later_span))
    read = (part.bytes for part in earlier.parts if part.last == step and part.lies_in(meeting.earlier_span))
    most = most_shared(ours[1] - ours[0], theirs[1] - theirs[0], forbidden, alignment)
    return step, aligned(ours[1] - ours[0], alignment), min(most, sum(read)) if earlier.parts else most


def conflicts(buffers: Sequence[BufferLifetime], meetings: Sequence[Meeting]) -> list[list[tuple[int, int, int]]]:
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
    ours, theirs = aligned(later, alignment), aligned(earlier, alignment)
    # what is shared grows and falls linearly with the distance: its maximum is at a corner
    corners = {0, theirs - ours}
    for low, high in forbidden:
        corners |= {low // alignment * alignment, -(-high // alignment) * alignment}
    permitted = [d for d in corners if not any(low < d < high for low, high in forbidden)]
    return max((min(d + ours, theirs) - max(d, 0) for d in permitted), default=0)


def aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
