"""A float graph as a PyTorch function: constants are tensors, of which some can be replaced by parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.passes.channel_links import constant_source
from tinyopt.passes.distillation.operators import RULES
from tinyopt.passes.distillation.torch_door import Tensor, load_torch

torch = load_torch()


def unsupported_node(graph: Graph) -> Node | None:
    """The first node that has no rule here, or None. A DequantizeLinear of a constant is a constant here."""
    producers = graph.producers()
    for node in graph.nodes:
        if node.op not in RULES and constant_source(node.outputs[0], producers) is None:
            return node
    return None


def real_constants(graph: Graph) -> dict[Value, Array]:
    """All constants by the values that nodes read: dequantized where they stand behind a DequantizeLinear."""
    producers = graph.producers()
    found: dict[Value, Array] = {}
    for node in graph.nodes:
        for value in node.present_inputs:
            source = constant_source(value, producers)
            if source is None or node.op == "DequantizeLinear":
                continue
            scales = None if source is value else source.quantization
            found[value] = source.data if scales is None else scales.dequantize(source.data)
    return found


class TorchGraph:
    """A graph that runs in PyTorch on many samples at once: one more axis in front of every value."""

    def __init__(self, graph: Graph) -> None:
        """The graph must have a rule for each of its nodes (`unsupported_node`)."""
        self._graph = graph
        self._constants = {value: to_tensor(array[None]) for value, array in real_constants(graph).items()}
        self._nodes = [node for node in graph.nodes if node.op in RULES]

    def run(
        self, inputs: Mapping[str, Tensor], wanted: Sequence[Value], parameters: Mapping[Value, Tensor] | None = None
    ) -> list[Tensor]:
        """What the `wanted` values are for inputs [samples, ...] by name.

        parameters: tensors, with an axis of 1 in front, in the place of constants. Nothing that is not needed is
        computed, and each tensor is let go when its last reader has run.
        """
        known: dict[Value, Tensor] = {**self._constants, **(parameters or {})}
        known.update((value, inputs[value.name]) for value in self._graph.inputs)
        nodes = self._needed(wanted)
        last_readers = {value: node for node in nodes for value in node.present_inputs}
        for node in nodes:
            results = RULES[node.op](node, [None if value is None else known[value] for value in node.inputs])
            known.update(zip(node.outputs, results, strict=True))
            for value in node.variable_inputs:
                if last_readers[value] is node and value not in wanted:
                    known.pop(value, None)
        return [known[value] for value in wanted]

    def _needed(self, wanted: Sequence[Value]) -> list[Node]:
        needed = set(wanted)
        nodes: list[Node] = []
        for node in reversed(self._nodes):
            if not needed.isdisjoint(node.outputs):
                nodes.append(node)
                needed.update(node.present_inputs)
        return nodes[::-1]


def to_tensor(array: Array) -> Tensor:
    """A copy, in memory of its own."""
    return torch.from_numpy(np.array(array))
