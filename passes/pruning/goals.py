"""How small a graph shall become: what is measured on the way there, and what is verified at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tinyopt.ir import Graph, Node
from tinyopt.ops import OPERATORS
from tinyopt.pass_manager import PassContext
from tinyopt.passes.pruning.allotment import Measure
from tinyopt.passes.pruning.request import Budget
from tinyopt.passes.pruning.widths import Counts, LiveBytes, NodeCosts, WeightBytes, Widths


@dataclass(frozen=True, eq=False)
class Goal:
    """Steps are taken by `measure` until it is down to `limit`; where there is `verify`, it says which step suffices.

    limit: of `measure`; of `verify` where that is given, and then `measure` only tells better steps from worse ones.
    unit: what is counted. asked: as the user put it. before: what it was before layers were dropped, if they were.
    """

    measure: Measure
    limit: float
    unit: str
    asked: str
    verify: Callable[[Counts], float] | None = None
    before: float | None = None

    @property
    def lowest(self) -> float:
        """Where steps by `measure` end."""
        return self.limit if self.verify is None else 0.0

    def size(self, plan: Counts) -> float:
        """What counts in the end."""
        return self.measure(plan) if self.verify is None else self.verify(plan)

    def is_met(self, plan: Counts) -> bool:
        """Whether a plan is small enough."""
        return self.size(plan) <= self.limit

    def pick(self, path: Sequence[Counts]) -> Counts:
        """The first plan of a descent that is small enough, else the last."""
        low, high = 0, len(path) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.is_met(path[middle]) else (middle + 1, high)
        return path[low]

    def share_saved(self, full: Counts, index: int, count: int) -> float:
        """What the graph loses of `measure` when one group alone keeps `count` units."""
        whole = self.measure(full)
        return 1 - self.measure((*full[:index], count, *full[index + 1 :])) / max(whole, 1e-9)

    def report(self, full: Counts, plan: Counts, context: PassContext) -> None:
        """Before, after, and what was asked for."""
        before, after = self.before or self.size(full), self.size(plan)
        text = f"{before:,.0f} -> {after:,.0f} {self.unit}: {1 - after / max(before, 1e-9):.1%} removed"
        if after <= self.limit:
            context.note(f"{text}, {self.asked} asked for" if self.asked else text)
        else:
            context.declined(f"{text} of {self.asked} asked for: the groups that may be pruned have no more to give")


def goal_of(
    widths: Widths, ratio: float, budget: Budget | None, build: Callable[[Counts], Graph], context: PassContext
) -> Goal:
    """What the options ask for. build: makes the graph of a plan, where estimates from types are not enough."""
    costs = context.costs
    if budget is not None and budget.quantity in ("flash", "ram"):
        proxy: Measure = (WeightBytes if budget.quantity == "flash" else LiveBytes)(widths).total
        if costs is None:
            context.note(f"what the target takes is not known: {_PROXIES[budget.quantity]} stand for {budget.quantity}")
            return Goal(proxy, budget.limit, f"bytes of {budget.quantity}", budget.text)
        verify = costs.flash_bytes if budget.quantity == "flash" else costs.ram_bytes
        known: dict[Counts, float] = {}

        def verified(plan: Counts) -> float:
            if plan not in known:
                known[plan] = verify(build(plan))
            return known[plan]

        return Goal(proxy, budget.limit, f"bytes of {budget.quantity}", budget.text, verified)
    if budget is not None and budget.quantity == "macs":
        return Goal(NodeCosts(widths, _macs).total, budget.limit, "multiply-accumulates", budget.text)
    unit = "instructions"
    if costs is None:
        context.note("what the target takes is not known: multiply-accumulates stand for instructions")
        unit = "multiply-accumulates"
    cost = _macs if costs is None else costs.instructions
    measure = NodeCosts(widths, cost).total
    if budget is not None:
        return Goal(measure, budget.limit, unit, budget.text)
    if not ratio:
        return Goal(measure, math.inf, unit, "")
    whole = widths.graph if context.unpruned is None else context.unpruned.graph  # layers may be gone already
    before = sum(cost(node) for node in whole.nodes)
    return Goal(measure, before * (1 - ratio), unit, f"{ratio:.1%}", before=before)


_PROXIES = {"flash": "the bytes of the constants", "ram": "the bytes of live activations"}


def _macs(node: Node) -> float:
    return OPERATORS[node.op].macs(node)
