"""Numbers about a whole graph: multiply-accumulates and bytes of constants."""

from __future__ import annotations

from tinyopt.ir import Graph, Value
from tinyopt.ops import OPERATORS


def graph_macs(graph: Graph) -> int:
    """Multiply-accumulates of one run."""
    return sum(OPERATORS[node.op].macs(node) for node in graph.nodes)


def constant_bytes(value: Value) -> int:
    """Bytes of one constant; a clustered one as packed indices, codebook and scales."""
    if value.clusters is None:
        return value.type.bytes
    clusters = value.clusters
    packed = (clusters.indices.size * clusters.index_bits + 7) // 8
    return packed + clusters.codebook.nbytes + clusters.scale.nbytes


def weight_bytes(graph: Graph) -> int:
    """Bytes of all constants that some node reads, each once."""
    return sum(constant_bytes(value) for value in graph.constants())
