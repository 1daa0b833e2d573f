"""A dense layer on one vector, cut by its outputs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from tinyopt.ir import Node, Quantization, TensorType, Value

_UNIT = 64  # outputs at whose multiples parts begin: whole tiles of kernels, and aligned bytes


def split_channels(node: Node, parts: int, mark: str) -> list[Node] | None:
    """Nodes that compute about equally many outputs each of a Dense or QDense, and a Concat; None where it is too small
    or has several rows or a residual.

    mark: what the names of new nodes and values have in them, and no other name has.
    """
    channels, result = node.output.shape[-1], node.output
    borders = sorted({0, channels, *(round(channels * part / parts / _UNIT) * _UNIT for part in range(1, parts))})
    residual = node.inputs[4 if node.op == "QDense" else 3]
    if len(borders) < 3 or result.type.elements != channels or residual is not None:
        return None
    nodes: list[Node] = []
    for number, (begin, end) in enumerate(pairwise(borders)):
        suffix = f"{mark}{number}"
        weighted = [None if value is None else channels_of(value, begin, end, suffix) for value in node.inputs[1:]]
        part = replace(
            result, name=f"{result.name}_{suffix}", type=TensorType(result.dtype, (*result.shape[:-1], end - begin))
        )
        inputs = [node.inputs[0], *weighted]
        nodes.append(Node(node.op, f"{node.name}_{suffix}", inputs, [part], dict(node.attributes), node.origins))
    axis = result.type.rank - 1
    made = [part.output for part in nodes]
    return [*nodes, Node("Concat", f"{node.name}_{mark}s", list(made), [result], {"axis": axis}, node.origins)]


def channels_of(value: Value, begin: int, end: int, suffix: str) -> Value:
    """Some output channels of a constant: the first axis."""
    clusters, quantization = value.clusters, value.quantization
    if clusters is not None:
        clusters = replace(clusters, indices=clusters.indices[begin:end], scale=clusters.scale[begin:end])
    if quantization is not None and quantization.axis == 0:
        quantization = Quantization(quantization.scale[begin:end], quantization.zero_point[begin:end], 0)
    data = value.data[begin:end]
    return Value(f"{value.name}_{suffix}", TensorType.of(data), data, quantization, clusters)
