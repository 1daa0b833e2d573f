"""How many units each group keeps: where the outputs suffer least for what is saved.

A curve says for each group how the outputs suffer when it alone gives up its first so many units. Step by step the
group gives some up whose harm is least for what they save. Then neighbours of that plan are measured as a whole: harms
do not simply add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tinyopt.passes.pruning.widths import Counts

Measure = Callable[[Counts], float]  # what a graph of so many units takes
Harm = Callable[[Counts], float]  # how far the outputs move

_NEIGHBOURS = 8  # that one round measures: those whose curves promise most
_MOST_GROUPS = 16  # of which several at once are changed to find a neighbour
_STEPS = 4  # that a group goes down at once
_LEAST_GAIN = 0.06  # of the harm: less is noise, and two exports of one network shall be pruned alike


@dataclass(frozen=True)
class Curve:
    """The harm done when a group alone keeps `counts` units, descending from all of them; ascending from 0.

    harms: of several groups they add up; with trials, the squares of how far the outputs move.
    """

    counts: tuple[int, ...]
    harms: tuple[float, ...]

    def harm(self, count: int) -> float:
        """For one of the counts, or one between them."""
        return float(np.interp(-count, [-each for each in self.counts], self.harms))

    def only(self, count: int) -> Curve:
        """That of a group whose count is settled."""
        return Curve((count,), (0.0,))

    def below(self, count: int) -> tuple[int, ...]:
        """The counts that are still less, the nearest first."""
        return tuple(each for each in self.counts if each < count)

    def next_above(self, count: int) -> int | None:
        """The nearest count that is more."""
        return min((each for each in self.counts if each > count), default=None)


def levels(size: int, lane: int, fewest: int) -> tuple[int, ...]:
    """All of `size` units, and each multiple of `lane` below that is at least `fewest`."""
    highest = (size - 1) // lane * lane
    return (size, *range(highest, max(fewest, lane, 1) - 1, -lane)) if highest > 0 else (size,)


def descend(curves: Sequence[Curve], start: Counts, measure: Measure, goal: float) -> Iterator[Counts]:
    """Plans from `start` on, each a step further down, until one measures no more than `goal` or nothing is left."""
    counts, size = start, measure(start)
    yield counts
    while size > goal:
        best: tuple[float, Counts, float] | None = None
        for index, curve in enumerate(curves):
            here = curve.harm(counts[index])
            for count in curve.below(counts[index])[:_STEPS]:
                trial = (*counts[:index], count, *counts[index + 1 :])
                saved = size - (left := measure(trial))
                if saved <= 0:
                    continue
                # what is saved beyond the goal is for nothing
                cost = (curve.harm(count) - here) / min(saved, size - goal)
                if best is None or cost < best[0]:
                    best = (cost, trial, left)
        if best is None:
            return
        _, counts, size = best
        yield counts


def exchange(
    curves: Sequence[Curve],
    plan: Counts,
    measure: Measure,
    goal: float,
    harm: Harm,
    most_trials: int,
) -> Counts:
    """The best neighbour of a plan, and of that, that measures no more than `goal`, by the harm of whole plans."""
    known = {plan: harm(plan)}
    best = plan
    while len(known) <= most_trials:
        promising = [each for each in neighbours(curves, best, measure, goal) if each not in known]
        found = promising[: min(_NEIGHBOURS, most_trials + 1 - len(known))]
        for each in found:
            known[each] = harm(each)
        better = min(found, key=known.__getitem__, default=best)
        if not known[better] < known[best] * (1 - _LEAST_GAIN):
            break
        best = better
    return best


def neighbours(curves: Sequence[Curve], plan: Counts, measure: Measure, goal: float) -> list[Counts]:
    """Plans within the goal in which one or two groups changed by some steps, and others paid for it or got it back.

    Those whose curves promise least harm come first.
    """
    ups = [(i, n) for i, curve in enumerate(curves) for n in _above(curve, plan[i])]
    downs = [(i, n) for i, curve in enumerate(curves) for n in curve.below(plan[i])[:_STEPS]]
    changes: list[tuple[tuple[int, int], ...]] = [(each,) for each in (*ups, *downs)]
    if len(curves) <= _MOST_GROUPS:
        changes += [(up, down) for up in ups for down in downs if up[0] != down[0]]
        first = [(i, curve.below(plan[i])[0]) for i, curve in enumerate(curves) if curve.below(plan[i])]
        pairs = [(a, b) for place, a in enumerate(first) for b in first[place + 1 :]]
        changes += [(up, *pair) for up in ups for pair in pairs if up[0] not in (pair[0][0], pair[1][0])]
    found: list[Counts] = []
    for change in changes:
        counts = _changed(plan, change)
        touched = {index for index, _ in change}
        free = [c.only(n) if i in touched else c for i, (c, n) in enumerate(zip(curves, counts, strict=True))]
        *_, low = descend(free, counts, measure, goal)
        if measure(low) <= goal:
            found.append(_ascend(curves, low, measure, goal, touched))
    others = [counts for counts in dict.fromkeys(found) if counts != plan]
    return sorted(others, key=lambda counts: sum(c.harm(n) for c, n in zip(curves, counts, strict=True)))


def _ascend(curves: Sequence[Curve], counts: Counts, measure: Measure, goal: float, settled: set[int]) -> Counts:
    """Give back what the goal allows, first where that spares most harm."""
    while True:
        ups = [(i, n) for i, curve in enumerate(curves) if i not in settled and (n := curve.next_above(counts[i]))]
        ups = [(i, n) for i, n in ups if measure(_changed(counts, [(i, n)])) <= goal]
        if not ups:
            return counts
        best = max(ups, key=lambda up: curves[up[0]].harm(counts[up[0]]) - curves[up[0]].harm(up[1]))
        counts = _changed(counts, [best])


def _above(curve: Curve, count: int) -> list[int]:
    first = curve.next_above(count)
    second = None if first is None else curve.next_above(first)
    return [each for each in (first, second) if each is not None]


def _changed(plan: Counts, changes: Sequence[tuple[int, int]]) -> Counts:
    result = list(plan)
    for index, count in changes:
        result[index] = count
    return tuple(result)
