"""Which kernels take int16 or float16 activations: those of a table wrapped here as it says, the others any."""

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


def without_float16(table: PlannerTable) -> PlannerTable:
    """The planners of `table`, each of which refuses a node that reads float16."""
    return _guarded(table, lambda node: node.present_inputs, "float16")


def _guarded(table: PlannerTable, values: Callable[[Node], Sequence[Value]], refused: str = "int16") -> PlannerTable:
    return {
        operator: tuple(partial(_unless, refused, planner, values) for planner in planners)
        for operator, planners in table.items()
    }


def _unless(
    refused: str, planner: KernelPlanner, values: Callable[[Node], Sequence[Value]], node: Node
) -> Kernel | Refusal:
    for value in values(node):
        if value.dtype == refused:
            return Refusal(f"'{value.name}' is {refused}")
    return planner(node)
