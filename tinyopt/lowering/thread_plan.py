"""Which thread runs which call, and whom it waits for: nobody but who writes what it reads, or reads what it writes.

Each thread has a list of calls for the whole run. Before a call it waits until other threads have got so far that
nothing they still do touches the same bytes, unless both only read them. Such waits come from where the calls read and
write in the planned arena, so that they keep memory that is used again safe as well.

Sources: waits between the two ends of a dependence in place of barriers, and which of them others imply: Midkiff and
Padua, Compiler algorithms for synchronization, IEEE Transactions on Computers C-36, 1987. Vectors of counts that tell
what a thread knows to be over: Mattern, Virtual time and global states of distributed systems, 1989.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tinyopt.ir import Node, Value
from tinyopt.lowering.program import ArenaSlot, KernelCall, Location, Turn, Wait
from tinyopt.lowering.sections import Section
from tinyopt.lowering.views import Views

Span: TypeAlias = tuple[int, int]  # the first byte and the end


def owners_of(sections: Sequence[Section], views: Views, threads: int) -> tuple[int, ...]:
    """For each node in running order the thread that runs it.

    Part k of n that are joined goes to thread k * threads / n, and so do the nodes of a section. Any other node goes to
    the thread that has written most of what it reads.
    """
    parts = _parts(views)
    owners: dict[Node, int] = {}
    writers: dict[Value, list[tuple[Span, int]]] = {}
    for section in sections:
        for position, node in enumerate(section):
            if len(section) > 1:
                number, count = parts.get(node.outputs[0], (position, len(section)))
            else:
                number, count = parts.get(node.outputs[0], (_nearest(node, views, writers), threads))
            owners[node] = number * threads // count
            for value in node.outputs:
                writers.setdefault(views.root(value), []).append((views.span(value), owners[node]))
    return tuple(owners.values())


def _parts(views: Views) -> Mapping[Value, tuple[int, int]]:
    """For each value that is joined with others its number and their count, at the outermost of nested joints."""
    parts: dict[Value, tuple[int, int]] = {}
    for node in reversed(views.concats):
        count = len(node.inputs)
        for number, value in enumerate(node.present_inputs):
            parts[value] = parts.get(node.output, (number, count))
    return parts


def _nearest(node: Node, views: Views, writers: Mapping[Value, Sequence[tuple[Span, int]]]) -> int:
    """The thread that has written most of what the node reads, the first one for what nobody has."""
    amounts: dict[int, int] = {0: 0}
    for value in node.variable_inputs:
        for span, owner in writers.get(views.root(value), ()):
            amounts[owner] = amounts.get(owner, 0) + max(_common(span, views.span(value)), 0)
    return max(amounts, key=lambda owner: (amounts[owner], -owner))


def _common(a: Span, b: Span) -> int:
    return min(a[1], b[1]) - max(a[0], b[0])


def turns_of(calls: Sequence[KernelCall], owners: Sequence[int], threads: int) -> tuple[tuple[Turn, ...], ...]:
    """For each thread its calls, with what it waits for before each.

    A wait is left out where what the thread has waited for before implies it.
    """
    turns: list[list[Turn]] = [[] for _ in range(threads)]
    known = [[0] * threads for _ in range(threads)]  # known[a][b]: how many calls of thread b are over, as a can tell
    known_after: list[list[Sequence[int]]] = [[] for _ in range(threads)]  # by thread and its call
    uses = [_Uses.of(call) for call in calls]
    for index, owner in enumerate(owners):
        waits: list[Wait] = []
        for other, needed in _needed(index, owner, uses, turns, known[owner]):
            if needed > known[owner][other]:
                waits.append(Wait(other, needed))
                known[owner] = list(map(max, known[owner], known_after[other][needed - 1]))
        turns[owner].append(Turn(index, tuple(sorted(waits, key=lambda wait: wait.thread))))
        known[owner][owner] += 1
        known_after[owner].append(tuple(known[owner]))
    return tuple(map(tuple, turns))


def _needed(
    index: int, owner: int, uses: Sequence[_Uses], turns: Sequence[Sequence[Turn]], known: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """(thread, how many of its calls must be over), the latest call first, for it may imply the others."""
    found: list[tuple[int, int, int]] = []
    for other, done in enumerate(turns):
        for count in range(len(done), known[other] if other != owner else len(done), -1):
            if uses[done[count - 1].call].collide(uses[index]):
                found.append((done[count - 1].call, other, count))
                break
    yield from ((other, count) for _, other, count in sorted(found, reverse=True))


@dataclass(frozen=True)
class _Uses:
    """The bytes of the arena that a call touches."""

    read: tuple[Span, ...]
    written: tuple[Span, ...]

    @classmethod
    def of(cls, call: KernelCall) -> _Uses:
        spans: dict[bool, list[Span]] = {False: [], True: []}
        for argument in call.arguments:
            if isinstance(argument, Location) and isinstance(argument.place, ArenaSlot):
                begin = argument.place.offset
                spans[argument.is_written].append((begin, begin + argument.place.bytes))
        return cls(tuple(spans[False]), tuple(spans[True]))

    def collide(self, other: _Uses) -> bool:
        """Whether one writes what the other touches: they must not run at the same time, nor change places."""
        touched = (*other.read, *other.written)
        return any(_common(a, b) > 0 for a in self.written for b in touched) or any(
            _common(a, b) > 0 for a in self.read for b in other.written
        )
