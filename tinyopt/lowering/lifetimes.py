"""How long each value must stay in memory, and what a graph's arena would be if it ran as it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinyopt.ir import Graph, Node, Value
from tinyopt.lowering.program import ARENA_ALIGNMENT
from tinyopt.memory_plan import BufferLifetime, lower_bound

VIEWS = frozenset({"Reshape", "Identity"})  # the output is the input's memory under another shape: no kernel


@dataclass(frozen=True, eq=False)
class Views:
    """Which values are other values' memory. shared: for each such value the one that it looks at."""

    shared: Mapping[Value, Value]

    @classmethod
    def of(cls, graph: Graph) -> Views:
        """The views among the outputs of the graph's nodes."""
        return cls({node.output: node.input(0) for node in graph.nodes if node.op in VIEWS})

    def root(self, value: Value) -> Value:
        """The value whose memory `value` lies in."""
        while value in self.shared:
            value = self.shared[value]
        return value


def value_lifetimes(graph: Graph, steps: Sequence[Node], views: Views) -> dict[Value, BufferLifetime]:
    """The life of every value that has memory of its own, in order of birth.

    Inputs live from step 0, node k of `steps` is step k + 1, outputs live until after the last node.
    """
    end = len(steps) + 1
    birth: dict[Value, int] = dict.fromkeys(graph.inputs, 0)
    death: dict[Value, int] = dict.fromkeys(graph.inputs, 0)
    for position, node in enumerate(steps, start=1):
        for output in node.outputs:
            owner = views.root(output)
            birth.setdefault(owner, position)
            death[owner] = max(death.get(owner, 0), position)
        for value in node.variable_inputs:
            death[views.root(value)] = position
    for output in graph.outputs:
        if not views.root(output).is_constant:
            death[views.root(output)] = end
    return {value: BufferLifetime(value.name, value.type.bytes, first, death[value]) for value, first in birth.items()}


def estimate_arena(graph: Graph) -> int:
    """The most activation bytes alive at a time if the nodes ran one by one, in their present order.

    What is computed from constants alone counts as a constant. Kernels' scratch and outputs that take over their
    input's memory are not known before kernels are chosen; the plan of the lowered program has them.
    """
    fixed = _computed_from_constants(graph)
    steps = [node for node in graph.nodes if node.op not in VIEWS and node.outputs[0] not in fixed]
    lives = value_lifetimes(graph, steps, Views.of(graph))
    return lower_bound([life for value, life in lives.items() if value not in fixed], ARENA_ALIGNMENT)


def _computed_from_constants(graph: Graph) -> set[Value]:
    fixed: set[Value] = set()
    for node in graph.nodes:
        if all(value.is_constant or value in fixed for value in node.present_inputs):
            fixed.update(node.outputs)
    return fixed
