"""Which kernels take int16 activations: the scalar ones all do, those of a table wrapped here as it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tinyopt.ir import Node, Value
from tinyopt.targets.kernel import Kernel, KernelPlanner, Refusal

PlannerTable = Mapping[str, tuple[KernelPlanner, ...]]


def without_int16(table: PlannerTable) -> PlannerTable:
    """The planners of `table`, each of which refuses a node that reads or gives int16."""
    return _guarded(table, lambda node: (*node.present_inputs, *node.outputs))


def reading_int8(table: PlannerTable) -> PlannerTable:
    """The planners of `table`, each of which refuses a node that reads int16; it may give int16."""
    return _guarded(table, lambda node: node.present_inputs)


def _guarded(table: PlannerTable, values: Callable[[Node], Sequence[Value]]) -> PlannerTable:
    return {
        operator: tuple(partial(_unless_int16, planner, values) for planner in planners)
        for operator, planners in table.items()
    }


def _unless_int16(planner: KernelPlanner, values: Callable[[Node], Sequence[Value]], node: Node) -> Kernel | Refusal:
    for value in values(node):
        if value.dtype == "int16":
            return Refusal(f"'{value.name}' is int16")
    return planner(node)
