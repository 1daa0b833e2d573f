"""Which constants of a graph are trained, and how they are put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.passes.channel_links import weight_use
from tinyopt.passes.distillation.heads import Head

SUBSETS = ("all", "bias-scale", "last")

_MARK = ".distilled"  # ends the names of trained constants, so that a second run knows them

# for each operator the inputs that are trained where they are constants
_TRAINED = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Dense": (1, 2),
    "MatMul": (0, 1),
    "Add": (0, 1),
    "Sub": (0, 1),
    "Mul": (0, 1),
    "Div": (0, 1),
    "PRelu": (1,),
    "BatchNormalization": (1, 2),
}


@dataclass(frozen=True, eq=False)
class Trained:
    """A constant that is trained as it is; where there is a gain_axis, by one factor for each index along it."""

    value: Value
    gain_axis: int | None


def choose_parameters(graph: Graph, constants: Mapping[Value, Array], subset: str, heads: list[Head]) -> list[Trained]:
    """The constants that are trained, in running order, each once.

    constants: what the float constants of the graph hold, by the values that nodes read.
    subset: "all"; "bias-scale" for biases and a gain for each output channel; "last" for the last layers with weights
    before each output.
    """
    found: dict[Value, Trained] = {}
    for node in _last_layers(graph, heads) if subset == "last" else graph.nodes:
        for index in _TRAINED.get(node.op, ()):
            value = node.optional_input(index)
            if value is None or value in found or value not in constants or constants[value].dtype != np.float32:
                continue
            use = weight_use(node) if subset == "bias-scale" and index == 1 else None
            found[value] = Trained(value, None if use is None else use.output_axis)
    return list(found.values())


def _last_layers(graph: Graph, heads: list[Head]) -> Iterator[Node]:
    """On each way back from an output the first layer with weights, in running order."""
    waiting = {head.pruned for head in heads}
    last: list[Node] = []
    for node in reversed(graph.nodes):
        if waiting.isdisjoint(node.outputs):
            continue
        if weight_use(node) is not None:
            last.append(node)
        else:
            waiting.update(node.present_inputs)
    yield from reversed(last)


def find_trained(graph: Graph) -> Value | None:
    """A constant that was trained before."""
    return next((value for value in graph.constants() if _MARK in value.name), None)


def store(graph: Graph, arrays: Mapping[Value, Array]) -> None:
    """Put trained arrays in the place of constants; one behind a DequantizeLinear becomes a float constant."""
    producers = graph.producers()
    for value, array in arrays.items():
        trained = Value.of(graph.unique_name(value.name + _MARK), np.ascontiguousarray(array, np.float32))
        if not value.is_constant:
            graph.remove([producers[value]])
        graph.replace_uses(value, trained)
