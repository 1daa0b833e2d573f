"""The way to a plan: how many units each group keeps, and which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tinyopt.passes.pruning.allotment import Curve, descend, exchange, neighbours
from tinyopt.passes.pruning.goals import Goal
from tinyopt.passes.pruning.sensitivity import Sensitivity
from tinyopt.passes.pruning.swapping import swap
from tinyopt.passes.pruning.widths import Counts


def choose(known: Sensitivity, start: Counts, fixed: Sequence[float | None], goal: Goal) -> tuple[Counts, Sensitivity]:
    """The counts to keep, from `start` on, and what is known with the units in the order in which they should leave.

    fixed: what was asked of each group, which its count in `start` stands for; None for those that are free.
    """
    curves = [c.only(n) if f is not None else c for c, n, f in zip(known.curves, start, fixed, strict=True)]
    plan = goal.pick(list(descend(curves, start, goal.measure, goal.lowest)))
    if known.harm is None or not known.gone(plan):
        return plan, known
    exchanged = _exchanged(known, curves, plan, goal) if plan != start else plan
    if known.rehearsals is None:
        return exchanged, _swapped(known, exchanged)
    return _rehearsed(known, curves, [plan, exchanged], goal)


def _exchanged(known: Sensitivity, curves: Sequence[Curve], plan: Counts, goal: Goal) -> Counts:
    """A better plan by trials of whole plans, or the same."""
    harm = known.harm
    assert harm is not None, "only what was measured is exchanged"
    limit = max(goal.measure(plan), goal.lowest)
    better = exchange(curves, plan, goal.measure, limit, lambda counts: harm(known.gone(counts)), known.exchanges)
    return better if goal.is_met(better) or not goal.is_met(plan) else plan


def _rehearsed(
    known: Sensitivity, curves: Sequence[Curve], plans: Sequence[Counts], goal: Goal
) -> tuple[Counts, Sensitivity]:
    """The best of some plans and of the neighbours of the first, and with other units where these are better."""
    rehearsals = known.rehearsals
    assert rehearsals is not None, "only where there is time"
    if goal.verify is None:  # else no neighbour is sure to be small enough
        limit = max(goal.measure(plans[0]), goal.lowest)
        plans = [*plans, *neighbours(curves, plans[0], goal.measure, limit)]
    tried = list(dict.fromkeys(plans))[: rehearsals.most - 1]
    harms = {plan: rehearsals.harm(known.gone(plan)) for plan in tried}
    best = min(tried, key=harms.__getitem__)
    swapped = _swapped(known, best)
    return best, swapped if rehearsals.harm(swapped.gone(best)) < harms[best] else known


def _swapped(known: Sensitivity, plan: Counts) -> Sensitivity:
    """With the units that should rather leave, by trial."""
    assert known.harm is not None, "only what was measured is swapped"
    gone = known.gone(plan)
    orders = {group: ranking.order for group, ranking in zip(known.groups, known.rankings, strict=True)}
    better = swap(gone, orders, known.harm, known.swaps)
    rankings = tuple(
        ranking.starting_with(better[group]) if group in better else ranking
        for group, ranking in zip(known.groups, known.rankings, strict=True)
    )
    return replace(known, rankings=rankings)
