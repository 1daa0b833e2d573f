"""What the page knows of a graph: its nodes with the facts that their cards show, and what flows between them.

`picture_of` makes one from the compiler's graph; others (two ONNX files that are compared) can make their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyopt.ir import Array, Attribute, Clusters, Graph, Node, Value
from tinyopt.ops import OPERATORS
from tinyopt.ops.facts import constant_bytes
from tinyopt.report.figures import are_same_values, content, is_same_node, is_same_value
from tinyopt.targets.costs import InstructionCosts

BINS = 40
MOST_DRAWN_NODES = 1_000  # of the model as it came: larger drawings say little, and browsers take long over them
_SMALL_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "FlipSign", "Identity"})


@dataclass(frozen=True, eq=False)
class NodePicture:
    """One node. key: equal before and after a pass where it is the same node. content: differs where the node does.

    reads, gives: names of the values that flow. facts: what its card shows, ready for JSON.
    """

    key: str
    op: str
    content: str
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    facts: Mapping[str, Any]
    channels: Array | None = None  # one row of numbers for each output channel, to see which ones are gone

    @property
    def is_small(self) -> bool:
        """Whether it is drawn as a chip, because it only marks a change of type."""
        return self.op in _SMALL_OPS


@dataclass(frozen=True, eq=False)
class GraphPicture:
    """A graph: nodes in running order; inputs and outputs with their types as text, by name."""

    nodes: tuple[NodePicture, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    by_key: Mapping[str, NodePicture] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_key", {node.key: node for node in self.nodes})


def drawn_origins(original: Graph) -> Set[str] | None:
    """What the first nodes of a model with very many came from; None where all are drawn."""
    if len(original.nodes) <= MOST_DRAWN_NODES:
        return None
    return {origin for node in original.nodes[:MOST_DRAWN_NODES] for origin in node.origins}


def picture_of(graph: Graph, costs: InstructionCosts) -> GraphPicture:
    """The compiler's graph as a picture."""
    return Pictures(costs).of(graph)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What a node's picture was made of, and the picture."""

    node: Node
    stored: Sequence[Value]
    picture: NodePicture

    def shows(self, node: Node, stored: Sequence[Value]) -> bool:
        return is_same_node(self.node, node) and are_same_values(self.stored, stored)


class Pictures:
    """The pictures of graphs that come from one another.

    A node that stays what it is has one picture in all of them, and constants that stay are looked through once.
    """

    def __init__(self, costs: InstructionCosts, origins: Set[str] | None = None) -> None:
        """origins: nodes with one of these alone are drawn, where they are given."""
        self._costs = costs
        self._origins = origins
        self._drawn: dict[str, _Drawn] = {}  # by the name of the node
        self._weights: dict[str, tuple[Value, dict[str, Any]]] = {}  # the last ones of each name, and their facts

    def of(self, graph: Graph) -> GraphPicture:
        """The compiler's graph as a picture. The graph must stay as it is."""
        producers, origins = graph.producers(), self._origins
        nodes = [node for node in graph.nodes if origins is None or not origins.isdisjoint(node.origins)]
        return GraphPicture(
            tuple(self._node(node, producers) for node in nodes),
            {value.name: type_text(value.dtype, value.shape) for value in graph.inputs},
            {value.name: type_text(value.dtype, value.shape) for value in graph.outputs},
        )

    def _node(self, node: Node, producers: Mapping[Value, Node]) -> NodePicture:
        stored = [found for value in node.present_inputs if (found := _stored(value, producers)) is not None]
        drawn = self._drawn.get(node.name)
        if drawn is None or not drawn.shows(node, stored):
            weights = max(stored, key=lambda value: value.type.elements, default=None)
            facts = _facts(node, weights, self._costs) | self._distribution(weights)
            reads, gives = (tuple(value.name for value in values) for values in (node.variable_inputs, node.outputs))
            picture = NodePicture(node.name, node.op, content(node), reads, gives, facts, _channels(node, stored))
            drawn = self._drawn[node.name] = _Drawn(node, stored, picture)
        return drawn.picture

    def _distribution(self, weights: Value | None) -> dict[str, Any]:
        """The share of zeros among a node's weights, and how they are spread; None without weights."""
        if weights is None or weights.type.elements < 2:
            return {"zeros": None, "weights": None}
        known = self._weights.get(weights.name)
        if known is None or not is_same_value(known[0], weights):
            known = weights, {"zeros": _share_of_zeros(weights), "weights": weight_facts(weights)}
            self._weights[weights.name] = known
        return known[1]


def type_text(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {'×'.join(map(str, shape)) or 'scalar'}"


def _facts(node: Node, weights: Value | None, costs: InstructionCosts) -> dict[str, Any]:
    return {
        "name": node.name,
        "op": node.op,
        "detail": _detail(node, weights),
        "reads": [_value(value) for value in node.variable_inputs],
        "gives": [_value(value) for value in node.outputs],
        "attributes": {key: _text(value) for key, value in sorted(node.attributes.items())},
        "origins": list(node.origins),
        "macs": OPERATORS[node.op].macs(node),
        "weight_bytes": sum(constant_bytes(value) for value in node.present_inputs if value.is_constant),
        "estimated_instructions": costs.instructions(node),
    }


def _stored(value: Value, producers: Mapping[Value, Node]) -> Value | None:
    """The constant that a node reads, directly or as integers behind a DequantizeLinear."""
    if value.is_constant:
        return value
    maker = producers.get(value)
    if maker is not None and maker.op == "DequantizeLinear" and maker.input(0).is_constant:
        return maker.input(0)
    return None


def _detail(node: Node, weights: Value | None) -> str:
    """What tells the node from others of its operator, in a few characters: `3×3 /2`."""
    if node.op in ("Conv", "QConv", "ConvTranspose", "QConvTranspose") and weights is not None:
        layout = str(node.attributes.get("layout", "NHWC"))
        kernel = weights.shape[2:4] if layout == "NCHW" else weights.shape[1:3]
    elif "kernel" in node.attributes:
        kernel = node.ints("kernel")
    elif weights is not None and node.op in ("Dense", "QDense", "MatMul"):
        return "×".join(map(str, weights.shape))
    else:
        return ""
    strides = node.ints("strides") if "strides" in node.attributes else (1, 1)
    if tuple(kernel) == strides:  # a pool over disjoint windows, as most are
        strides = (1, 1)
    group = " dw" if node.attributes.get("group", 1) != 1 else ""
    stride = "" if max(strides) == 1 else f" /{strides[0]}" if len(set(strides)) == 1 else f" /{_text(strides)}"
    return "×".join(map(str, kernel)) + stride + group


def _value(value: Value) -> dict[str, Any]:
    quantization = value.quantization
    return {
        "name": value.name,
        "type": type_text(value.dtype, value.shape),
        "bytes": value.type.bytes,
        "scale": None if quantization is None else quantization.scale[0],
        "zero_point": None if quantization is None else quantization.zero_point[0],
    }


def _text(value: Attribute) -> str:
    if isinstance(value, tuple):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, float):
        return ("-∞" if value < 0 else "∞") if math.isinf(value) else f"{value:.6g}"
    return str(value)


def _share_of_zeros(weights: Value) -> float:
    return round(1 - float(np.count_nonzero(weights.data)) / weights.type.elements, 6)


def weight_facts(value: Value) -> dict[str, Any]:
    """The distribution of a constant: bins, or how often each value of its codebook is used."""
    data = value.data
    found: dict[str, Any] = {
        "name": value.name,
        "type": type_text(value.dtype, value.shape),
        "bytes": constant_bytes(value),
        "low": _number(data.min(initial=0)),
        "high": _number(data.max(initial=0)),
    }
    if value.clusters is not None:
        return found | _codebook(value.clusters)
    low, high = (-128.0, 128.0) if value.dtype == "int8" else (found["low"], found["high"])
    if not (np.isfinite(low) and np.isfinite(high) and np.all(np.isfinite(data))) or low == high:
        return found | {"bins": []}
    counts, _ = np.histogram(data.astype(np.float64), BINS, (low, high))
    return found | {"bins": counts.tolist(), "from": low, "to": high}


def _codebook(clusters: Clusters) -> dict[str, Any]:
    counts = np.bincount(clusters.indices.ravel(), minlength=len(clusters.codebook))
    return {"codebook": clusters.codebook.tolist(), "uses": counts.tolist(), "index_bits": clusters.index_bits}


def _number(number: Any) -> float:
    return float(f"{float(number):.7g}") if np.isfinite(number) else 0.0


def _channels(node: Node, stored: Sequence[Value]) -> Array | None:
    """For a layer with weights, one row per output channel: its bias where there is one, else all its weights."""
    if node.op not in ("Conv", "Dense", "QConv", "QDense") or not stored or stored[0].type.rank < 2:
        return None
    count = stored[0].shape[0]
    bias = next((v for v in stored[1:] if v.shape == (count,)), None)
    if bias is not None and len(np.unique(bias.data)) == count:
        return bias.data.reshape(count, 1)
    return stored[0].data.reshape(count, -1)
