"""What each layer was made of: the nodes of the model as it came, with what they cost there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinyopt.ir import Graph, Node
from tinyopt.ops import OPERATORS
from tinyopt.ops.facts import constant_bytes


def layer_sources(original: Graph, layers: Sequence[Node]) -> list[dict[str, Any]]:
    """For each layer the operators, MACs and weight bytes of the original nodes that it stands for.

    A node that several layers come from counts for the first of them, a constant for the first node that reads it: the
    sums are those of the original model, less the nodes that left no trace.
    """
    by_origin: dict[str, list[Node]] = {}
    position = {id(node): i for i, node in enumerate(original.nodes)}
    for node in original.nodes:
        for origin in node.origins:
            by_origin.setdefault(origin, []).append(node)
    taken: set[int] = set()
    sources: list[dict[str, Any]] = []
    for layer in layers:
        nodes = {id(node): node for origin in layer.origins for node in by_origin.get(origin, ())}
        fresh = sorted((node for key, node in nodes.items() if key not in taken), key=lambda n: position[id(n)])
        taken.update(nodes)
        sources.append(_source(fresh, taken))
    return sources


def _source(nodes: Sequence[Node], taken: set[int]) -> dict[str, Any]:
    constants = {id(value): value for node in nodes for value in node.present_inputs if value.is_constant}
    fresh = [value for key, value in constants.items() if key not in taken]
    taken.update(constants)
    return {
        "operators": [node.op for node in nodes],
        "macs": sum(OPERATORS[node.op].macs(node) for node in nodes),
        "weight_bytes": sum(constant_bytes(value) for value in fresh),
    }
