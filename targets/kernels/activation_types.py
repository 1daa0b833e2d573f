"""Which kernels take int16 activations: those of a table wrapped here do not, the scalar kernels all do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel, KernelPlanner, Refusal

PlannerTable = Mapping[str, tuple[KernelPlanner, ...]]


def without_int16(table: PlannerTable) -> PlannerTable:
    """The planners of `table`, each of which refuses a node that reads or gives int16."""
    return {
        operator: tuple(partial(_unless_int16, planner) for planner in planners) for operator, planners in table.items()
    }


def _unless_int16(planner: KernelPlanner, node: Node) -> Kernel | Refusal:
    for value in (*node.present_inputs, *node.outputs):
        if value.dtype == "int16":
            return Refusal(f"'{value.name}' is int16")
    return planner(node)
