"""What a graph answers with: which of its outputs are classes, and where their logits are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tinyopt.ir import Graph, Node, Value

_SOFTMAX = ("Softmax", "LogSoftmax")
_KEEPING = ("Identity", "Reshape")  # between a Softmax and the output that it is for
_SCORING = ("Dense", "MatMul", "Add", "Conv")  # what logits come from


@dataclass(frozen=True, eq=False)
class Head:
    """One output of the pruned graph and of the one before pruning.

    pruned, original: the logits, where they are classes along `axis`; else the output itself, and axis is None.
    """

    pruned: Value
    original: Value
    axis: int | None


def find_heads(pruned: Graph, original: Graph) -> list[Head]:
    """A head for each output of two graphs with the same outputs.

    Classes are what goes through a Softmax, and a single vector of scores that is no picture of an input, as the
    output of an autoencoder is.
    """
    heads: list[Head] = []
    for output, twin in zip(pruned.outputs, original.outputs, strict=True):
        softmax, softmax_twin = _softmax_of(pruned, output), _softmax_of(original, twin)
        if softmax is not None and softmax_twin is not None:
            heads.append(Head(softmax.input(0), softmax_twin.input(0), softmax.int("axis")))
        elif _is_vector_of_scores(pruned, output):
            heads.append(Head(output, twin, output.type.rank - 1))
        else:
            heads.append(Head(output, twin, None))
    return heads


def _softmax_of(graph: Graph, output: Value) -> Node | None:
    producers = graph.producers()
    node = producers.get(output)
    while node is not None and node.op in _KEEPING:
        node = producers.get(node.input(0))
    return node if node is not None and node.op in _SOFTMAX else None


def _is_vector_of_scores(graph: Graph, output: Value) -> bool:
    """Whether the output is one vector of a weighted sum, of another size than each input."""
    node = graph.producers().get(output)
    while node is not None and node.op in _KEEPING:
        node = graph.producers().get(node.input(0))
    is_vector = output.type.rank >= 1 and 1 < output.type.elements == output.shape[-1]
    sizes = [math.prod(value.shape) for value in graph.inputs]
    return is_vector and node is not None and node.op in _SCORING and output.type.elements not in sizes
