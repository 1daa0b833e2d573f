"""What a graph takes for any number of units that its groups keep, from types alone: no constant is cut for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tinyopt.ir import Attribute, Graph, Node, TensorType, Value
from tinyopt.passes.channel_groups import ChannelGroup
from tinyopt.passes.channel_links import Dimension

Counts = tuple[int, ...]  # how many units each group keeps


class Widths:
    """The types of every value when each group keeps so many units."""

    def __init__(self, graph: Graph, groups: Sequence[ChannelGroup]) -> None:
        self.graph = graph
        self.groups = groups
        self._parts: dict[Dimension, list[tuple[int, int]]] = {}  # group and elements of one unit, of each dimension
        for index, group in enumerate(groups):
            for member in group.members:
                self._parts.setdefault((member.value, member.axis), []).append((index, member.places.shape[1]))
        self._groups_of = {id(node): self._scaled_with(node) for node in graph.nodes}

    @property
    def full(self) -> Counts:
        """All units of all groups."""
        return tuple(group.size for group in self.groups)

    def groups_of(self, node: Node) -> tuple[int, ...]:
        """The groups that the node's types depend on."""
        return self._groups_of[id(node)]

    def type_of(self, value: Value, counts: Counts) -> TensorType:
        """The value's type when the groups keep `counts` units."""
        shape = list(value.shape)
        for axis in range(len(shape)):
            for index, elements in self._parts.get((value, axis), ()):
                shape[axis] -= (self.groups[index].size - counts[index]) * elements
        return TensorType(value.dtype, tuple(shape))

    def node(self, node: Node, counts: Counts) -> Node:
        """A node of the types it would have; its values have no constants where these would be cut."""
        twins = {value: self._twin(value, counts) for value in (*node.present_inputs, *node.outputs)}
        return Node(
            node.op,
            node.name,
            [None if value is None else twins[value] for value in node.inputs],
            [twins[value] for value in node.outputs],
            {**node.attributes, **self._attributes(node, counts)},
            node.origins,
        )

    def _twin(self, value: Value, counts: Counts) -> Value:
        narrow = self.type_of(value, counts)
        return replace(value) if narrow == value.type else Value(value.name, narrow)

    def _attributes(self, node: Node, counts: Counts) -> dict[str, Attribute]:
        """Those that say a size."""
        shape = self.type_of(node.outputs[0], counts).shape
        match node.op:
            case "Reshape":
                return {"shape": shape}
            case "Resize":
                return {"sizes": shape}
            case "Slice":
                pairs = zip(node.ints("starts"), shape, node.output.shape, strict=True)
                starts = (start if narrow == wide else 0 for start, narrow, wide in pairs)
                return {"sizes": shape, "starts": tuple(starts)}
            case "Pad":
                return {"pads": self._pads(node, counts)}
            case "Split":
                axis = node.int("axis")
                return {"sizes": tuple(self.type_of(output, counts).shape[axis] for output in node.outputs)}
            case "Conv" | "ConvTranspose" if node.int("group") > 1:
                axis = 1 if node.str("layout") == "NCHW" else 3
                x = node.input(0)
                is_depthwise = node.int("group") == x.shape[axis]
                return {"group": self.type_of(x, counts).shape[axis]} if is_depthwise else {}
            case _:
                return {}

    def _pads(self, node: Node, counts: Counts) -> tuple[int, ...]:
        """As they are, or all at the end of an axis that changed: which units go is not known."""
        x, y, pads = node.input(0).type, node.output.type, node.ints("pads")
        narrow, wide = self.type_of(node.input(0), counts).shape, self.type_of(node.output, counts).shape
        is_same = [(x.shape[axis], y.shape[axis]) == (narrow[axis], wide[axis]) for axis in range(y.rank)]
        before = [pads[axis] if is_same[axis] else 0 for axis in range(y.rank)]
        return (*before, *(wide[axis] - before[axis] - narrow[axis] for axis in range(y.rank)))

    def _scaled_with(self, node: Node) -> tuple[int, ...]:
        found = {
            index
            for value in (*node.present_inputs, *node.outputs)
            for axis in range(value.type.rank)
            for index, _ in self._parts.get((value, axis), ())
        }
        return tuple(sorted(found))


class NodeCosts:
    """The sum of something over all nodes, for any counts; each node is asked once for each of its shapes."""

    def __init__(self, widths: Widths, cost: Callable[[Node], float]) -> None:
        self._widths = widths
        self._cost = cost
        self._known: dict[tuple[int, Counts], float] = {}
        self._fixed = sum(cost(node) for node in widths.graph.nodes if not widths.groups_of(node))
        self._nodes = [node for node in widths.graph.nodes if widths.groups_of(node)]

    def total(self, counts: Counts) -> float:
        """What the graph takes when the groups keep so many units."""
        return self._fixed + sum(self._of(index, counts) for index in range(len(self._nodes)))

    def _of(self, index: int, counts: Counts) -> float:
        node = self._nodes[index]
        key = (index, tuple(counts[group] for group in self._widths.groups_of(node)))
        if key not in self._known:
            self._known[key] = float(self._cost(self._widths.node(node, counts)))
        return self._known[key]


class WeightBytes:
    """Bytes of all constants, as int8 or as they are, for any counts."""

    def __init__(self, widths: Widths) -> None:
        self._widths = widths
        self._constants = widths.graph.constants()

    def total(self, counts: Counts) -> float:
        """Bytes of the constants when the groups keep so many units."""
        return float(sum(self._widths.type_of(value, counts).bytes for value in self._constants))


class LiveBytes:
    """The activations that are alive at each node, softly the largest: of two equal peaks each counts."""

    _SHARPNESS = 16.0

    def __init__(self, widths: Widths) -> None:
        self._widths = widths
        self._alive = _values_alive(widths.graph)

    def total(self, counts: Counts) -> float:
        """About the largest number of bytes alive at a node when the groups keep so many units."""
        bytes_of: dict[Value, int] = {}
        for value in {value for alive in self._alive for value in alive}:
            bytes_of[value] = self._widths.type_of(value, counts).bytes
        live = np.array([sum(bytes_of[value] for value in alive) for alive in self._alive], np.float64)
        peak = max(float(live.max(initial=0.0)), 1.0)
        return peak * float(np.linalg.norm(live / peak, self._SHARPNESS))


def _values_alive(graph: Graph) -> list[list[Value]]:
    """For each node the activations that must be held while it runs."""
    last: dict[Value, int] = dict.fromkeys(graph.outputs, len(graph.nodes))
    for position, node in enumerate(graph.nodes):
        for value in node.variable_inputs:
            last[value] = max(last.get(value, 0), position)
    alive = list(graph.inputs)
    result: list[list[Value]] = []
    for position, node in enumerate(graph.nodes):
        alive = [*(value for value in alive if last.get(value, -1) >= position), *node.outputs]
        result.append(list(dict.fromkeys(alive)))
    return result
