"""Whether a graph from before clustering still is the one at hand, but for the clustered weights and their biases."""

from __future__ import annotations

import numpy as np

from tinyopt.ir import Array, Graph, Node, Value

_WEIGHTS, _BIAS = 1, 2


def is_same_but_clustered(graph: Graph, before: Graph) -> bool:
    """Whether `before` computes what `graph` would with the weights that its clusters stand for.

    Passes that run between clustering and quantization may change the graph: then it does not.
    """
    if len(graph.nodes) != len(before.nodes) or _names(graph.inputs) != _names(before.inputs):
        return False
    return _names(graph.outputs) == _names(before.outputs) and all(map(_is_same, graph.nodes, before.nodes))


def _is_same(node: Node, before: Node) -> bool:
    if (node.name, node.op, node.attributes) != (before.name, before.op, before.attributes):
        return False
    if _names(node.outputs) != _names(before.outputs) or _names(node.inputs) != _names(before.inputs):
        return False
    weights = node.optional_input(_WEIGHTS)
    for index, (value, old) in enumerate(zip(node.inputs, before.inputs, strict=True)):
        if value is None or old is None or not value.is_constant:
            continue
        is_clustered = index in (_WEIGHTS, _BIAS) and weights is not None and weights.clusters is not None
        if value.type != old.type or not (is_clustered or _is_equal(value.data, old.data)):
            return False
    return True


def _is_equal(array: Array, other: Array) -> bool:
    return array is other or np.array_equal(array, other)


def _names(values: list[Value] | list[Value | None]) -> list[str | None]:
    return [None if value is None else value.name for value in values]
