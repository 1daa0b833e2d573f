"""A float graph and the QDQ graph that was made of it, with their layers matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tinyopt.ir import Graph, Node, Quantization, Value
from tinyopt.ops import OPERATORS, ChannelRelation, QuantizationRule
from tinyopt.samples import Sample

INPUT = "Input"  # stands for the operator of a graph input, which is rounded like a layer's output


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """A graph input, or an operator that computes, of which something is quantized.

    name: the node's, or the graph input's. value: what it gives, in the QDQ graph before it is rounded.
    exact: the same value in the float graph. levels: `value` rounded to integers, None where it stays float.
    constants: for each input of the node that is quantized as a constant, its integers in the QDQ graph.
    """

    name: str
    op: str
    value: Value
    exact: Value
    levels: Value | None
    constants: dict[int, Value]
    node: Node | None  # of the QDQ graph; None for a graph input
    exact_node: Node | None

    @property
    def quantization(self) -> Quantization | None:
        """How the output is rounded."""
        return None if self.levels is None else self.levels.quantization


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """A float graph and its QDQ form; computing nodes have the same names in both.

    Operators that only move values are no layers: what they give was rounded before. What the float graph rounds
    already, because the model came with parts of it quantized, counts as exact.
    """

    float_graph: Graph
    graph: Graph

    @cached_property
    def layers(self) -> tuple[QuantizedLayer, ...]:
        """Graph inputs first, then nodes in running order."""
        exact_inputs = {value.name: value for value in self.float_graph.inputs}
        exact_nodes = {node.name: node for node in self.float_graph.nodes}
        producers, readers, exact_readers = self.graph.producers(), self.graph.consumers(), self.float_graph.consumers()
        found: list[QuantizedLayer] = []
        for value in self.graph.inputs:
            exact = exact_inputs.get(value.name)
            levels = levels_of(value, readers)
            if exact is not None and levels is not None and levels_of(exact, exact_readers) is None:
                found.append(QuantizedLayer(value.name, INPUT, value, exact, levels, {}, None, None))
        for node in self.graph.nodes:
            twin = exact_nodes.get(node.name)
            if twin is None or not is_computing(node) or len(node.outputs) != 1:
                continue
            levels = levels_of(node.output, readers) if levels_of(twin.output, exact_readers) is None else None
            constants = _quantized_constants(node, twin, producers)
            if levels is not None or constants:
                found.append(
                    QuantizedLayer(node.name, node.op, node.output, twin.output, levels, constants, node, twin)
                )
        return tuple(found)


def is_computing(node: Node) -> bool:
    """Whether the node gives float numbers that it did not only move or convert."""
    is_integer = OPERATORS[node.op].quantization is QuantizationRule.INTEGER
    return not is_integer and not is_moving(node) and node.outputs[0].dtype == "float32"


def is_moving(node: Node) -> bool:
    """Whether the node gives float numbers that it took as they are."""
    operator = OPERATORS[node.op]
    if node.outputs[0].dtype != "float32" or (node.op == "Resize" and node.str("mode") != "nearest"):
        return False
    return operator.quantization is QuantizationRule.SAME_AS_INPUT or operator.channels is ChannelRelation.CONCATENATING


def levels_of(value: Value, readers: dict[Value, list[Node]]) -> Value | None:
    """The integers that the first QuantizeLinear makes of a value."""
    return next((reader.output for reader in readers[value] if reader.op == "QuantizeLinear"), None)


def evenly_spaced(samples: Sequence[Sample], count: int) -> list[int]:
    """The indices of at most `count` samples, spread over all of them; no sample is read."""
    chosen = min(count, len(samples))
    return [index * len(samples) // chosen for index in range(chosen)]


def _quantized_constants(node: Node, twin: Node, producers: dict[Value, Node]) -> dict[int, Value]:
    """The integer constants of `node` in whose place `twin` reads float ones."""
    found: dict[int, Value] = {}
    for index, (value, exact) in enumerate(zip(node.inputs, twin.inputs, strict=False)):
        producer = None if value is None else producers.get(value)
        if producer is None or producer.op != "DequantizeLinear" or exact is None:
            continue
        if producer.input(0).is_constant and exact.is_constant:
            found[index] = producer.input(0)
    return found
