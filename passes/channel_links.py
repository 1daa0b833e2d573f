"""How one operator ties the dimensions of its tensors together: the facts under the channel groups.

A dimension is a pair (value, axis). A link says that two dimensions hold the same channels, so that a channel can only
be removed from both; a block says that a dimension must stay as it is, and why. Constants are values like all others,
so weights, biases and slopes are tied by the same links.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from tinyopt.ir import Graph, Node, Value
from tinyopt.ops import OPERATORS, ChannelRelation

Dimension: TypeAlias = tuple[Value, int]

_LONGEST_LABEL = 60  # converters join the names of all that they fused


@dataclass(frozen=True)
class Link:
    """`wide` holds the channels of `narrow`: index = (outer index, channel, inner index), of sizes outer, n, inner."""

    wide: Dimension
    narrow: Dimension
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True)
class Flattening:
    """One dimension that is the product of several others (a Reshape): each candidate says how it lies in it."""

    node: Node
    candidates: tuple[Link, ...]


@dataclass
class Links:
    """All ties of a graph."""

    links: list[Link] = field(default_factory=list[Link])
    flattenings: list[Flattening] = field(default_factory=list[Flattening])
    blocks: dict[Dimension, str] = field(default_factory=dict[Dimension, str])

    def join(self, a: Dimension, b: Dimension) -> None:
        """Say that two dimensions hold the same channels one to one."""
        self.links.append(Link(a, b))

    def block(self, dimension: Dimension, reason: str) -> None:
        """Say that a dimension must stay as it is; the first reason is kept."""
        self.blocks.setdefault(dimension, reason)

    def join_axes(self, a: Value, b: Value, axes: Iterable[int]) -> None:
        """Join the same axes of two values."""
        for axis in axes:
            self.join((a, axis), (b, axis))


@dataclass(frozen=True)
class WeightUse:
    """Where the weights of a layer keep their channels. `input_axis` is None where the layer is depthwise."""

    node: Node
    weights: Value  # as the node reads them: a constant, or what a DequantizeLinear gives
    output_axis: int
    input_axis: int | None
    channel_axis: int  # of the node's input 0 and of its output

    @property
    def is_depthwise(self) -> bool:
        return self.input_axis is None

    @property
    def group(self) -> int:
        return self.node.int("group") if "group" in self.node.attributes else 1


def weight_use(node: Node) -> WeightUse | None:
    """Where `node` keeps its channels; None where it is no Conv, ConvTranspose or Dense in float."""
    if node.op == "Dense":
        return WeightUse(node, node.input(1), 0, 1, node.output.type.rank - 1)
    if node.op not in ("Conv", "ConvTranspose"):
        return None
    axis = 1 if node.str("layout") == "NCHW" else 3
    if node.op == "ConvTranspose":
        return WeightUse(node, node.input(1), axis, 0, axis)
    is_depthwise = node.int("group") > 1 and node.int("group") == node.input(0).shape[axis]
    return WeightUse(node, node.input(1), 0, None if is_depthwise else axis, axis)


def label_of(node: Node) -> str:
    """The node's name for a remark: of a very long one its end, which is what tells it from others."""
    return node.name if len(node.name) <= _LONGEST_LABEL else f"...{node.name[-_LONGEST_LABEL:]}"


def constant_source(value: Value, producers: dict[Value, Node]) -> Value | None:
    """The constant that `value` is, or that it is dequantized from; None where it is computed from the inputs."""
    if value.is_constant:
        return value
    producer = producers.get(value)
    if producer is not None and producer.op == "DequantizeLinear" and producer.input(0).is_constant:
        return producer.input(0)
    return None


def collect_links(graph: Graph) -> Links:
    """The ties of every node, and the blocks at the graph's inputs and outputs."""
    links = Links()
    for value in graph.inputs:
        _block_all(links, [value], f"it reaches the graph's input '{value.name}'")
    for value in graph.outputs:
        _block_all(links, [value], f"it reaches the graph's output '{value.name}'")
    producers = graph.producers()
    for node in graph.nodes:
        _rule(node)(node, links)
        use = weight_use(node)
        if use is not None and constant_source(use.weights, producers) is None:
            _block_all(links, [use.weights], f"{_where(node)} computes its weights")
    return links


Rule: TypeAlias = Callable[[Node, Links], None]


def _where(node: Node) -> str:
    return f"{node.op} '{label_of(node)}'"


def _block_all(links: Links, values: Iterable[Value], reason: str) -> None:
    for value in values:
        for axis in range(value.type.rank):
            links.block((value, axis), reason)


def _rule(node: Node) -> Rule:
    if node.op in _RULES:
        return _RULES[node.op]
    operator = OPERATORS[node.op]
    if operator.is_elementwise and operator.channels is ChannelRelation.PER_CHANNEL:
        return _link_elementwise
    return _link_nothing


def _link_nothing(node: Node, links: Links) -> None:
    relation = OPERATORS[node.op].channels.value
    _block_all(links, [*node.present_inputs, *node.outputs], f"{_where(node)} has no channel rule ({relation})")


def _link_elementwise(node: Node, links: Links) -> None:
    for value in node.present_inputs:
        _link_broadcast(value, node.output, links)


def _link_broadcast(value: Value, output: Value, links: Links) -> None:
    offset = output.type.rank - value.type.rank
    for axis, size in enumerate(value.shape):
        if size == output.shape[axis + offset]:
            links.join((value, axis), (output, axis + offset))


def _link_conv(node: Node, links: Links) -> None:
    use = weight_use(node)
    assert use is not None
    x, y, axis = node.input(0), node.output, use.channel_axis
    links.join((x, 0), (y, 0))
    for value in (x, y):
        for spatial in {1, 2, 3} - {axis}:
            links.block((value, spatial), f"{_where(node)} slides over it")
    if use.is_depthwise:
        links.links.append(Link((y, axis), (x, axis), inner=y.shape[axis] // x.shape[axis]))
    elif use.group > 1:
        _block_all(links, [x, use.weights, y], f"{_where(node)} is a grouped convolution ({use.group} groups)")
    else:
        assert use.input_axis is not None
        links.join((use.weights, use.input_axis), (x, axis))
    if use.is_depthwise or use.group == 1:
        links.join((use.weights, use.output_axis), (y, axis))
    _link_bias_and_residual(node, axis, links)


def _link_dense(node: Node, links: Links) -> None:
    x, weights, y = node.input(0), node.input(1), node.output
    last = y.type.rank - 1
    links.join_axes(x, y, range(last))
    links.join((weights, 1), (x, last))
    links.join((weights, 0), (y, last))
    _link_bias_and_residual(node, last, links)


def _link_bias_and_residual(node: Node, axis: int, links: Links) -> None:
    bias, residual = node.optional_input(2), node.optional_input(3)
    if bias is not None:
        links.join((bias, 0), (node.output, axis))
    if residual is not None:
        links.join_axes(residual, node.output, range(node.output.type.rank))


def _link_pool(node: Node, links: Links) -> None:
    x, y = node.input(0), node.output
    axis = 1 if node.str("layout") == "NCHW" else 3
    links.join_axes(x, y, (0, axis))
    for spatial in {1, 2, 3} - {axis}:
        for value in (x, y):
            links.block((value, spatial), f"{_where(node)} slides over it")


def _link_batch_normalization(node: Node, links: Links) -> None:
    links.join_axes(node.input(0), node.output, range(node.output.type.rank))
    for parameter in node.present_inputs[1:]:
        links.join((parameter, 0), (node.output, node.int("axis")))


def _link_softmax(node: Node, links: Links) -> None:
    axis = node.int("axis")
    links.join_axes(node.input(0), node.output, range(node.output.type.rank))
    links.block((node.output, axis), f"{_where(node)} normalizes over it")


def _link_reduce(node: Node, links: Links) -> None:
    x, axes = node.input(0), node.ints("axes")
    kept = [axis for axis in range(x.type.rank) if axis not in axes]
    for position, axis in enumerate(kept):
        links.join((x, axis), (node.output, axis if node.int("keepdims") else position))
    for axis in axes:
        links.block((x, axis), f"{_where(node)} reduces it")


def _link_transpose(node: Node, links: Links) -> None:
    for axis, source in enumerate(node.ints("perm")):
        links.join((node.input(0), source), (node.output, axis))


def _link_concat(node: Node, links: Links) -> None:
    for value in [*node.present_inputs, node.output]:
        links.join_axes(value, node.output, (a for a in range(value.type.rank) if a != node.int("axis")))
        links.block((value, node.int("axis")), f"{_where(node)} lays it beside others")


def _link_split(node: Node, links: Links) -> None:
    for value in [node.input(0), *node.outputs]:
        links.join_axes(value, node.input(0), (a for a in range(value.type.rank) if a != node.int("axis")))
        links.block((value, node.int("axis")), f"{_where(node)} cuts it")


def _link_whole_axes(node: Node, links: Links, is_whole: Callable[[int], bool]) -> None:
    """Join the axes that pass through as they are, and block the others."""
    for axis in range(node.output.type.rank):
        if is_whole(axis):
            links.join((node.input(0), axis), (node.output, axis))
        else:
            links.block((node.input(0), axis), f"{_where(node)} changes its size or order")
            links.block((node.output, axis), f"{_where(node)} changes its size or order")


def _link_slice(node: Node, links: Links) -> None:
    steps, x, y = node.ints("steps"), node.input(0), node.output
    _link_whole_axes(node, links, lambda axis: steps[axis] == 1 and x.shape[axis] == y.shape[axis])


def _link_pad(node: Node, links: Links) -> None:
    x, y = node.input(0), node.output
    _link_whole_axes(node, links, lambda axis: x.shape[axis] == y.shape[axis])


def _link_resize(node: Node, links: Links) -> None:
    scales, x, y = node.attributes["scales"], node.input(0), node.output
    assert isinstance(scales, tuple)
    _link_whole_axes(node, links, lambda axis: scales[axis] == 1 and x.shape[axis] == y.shape[axis])


def _link_gather(node: Node, links: Links) -> None:
    x, indices, axis = node.input(0), node.input(1), node.int("axis")
    _block_all(links, [indices], f"{_where(node)} picks by it")
    links.block((x, axis), f"{_where(node)} picks from it")
    for other in range(x.type.rank):
        if other != axis:
            links.join((x, other), (node.output, other if other < axis else other + indices.type.rank - 1))
    for added in range(indices.type.rank):
        links.block((node.output, axis + added), f"{_where(node)} picks from it")


def _link_reshape(node: Node, links: Links) -> None:
    x, y = node.input(0), node.output
    for sources, targets in _reshape_blocks(x.shape, y.shape):
        if len(sources) == 1 and len(targets) == 1:
            links.join((x, sources[0]), (y, targets[0]))
        elif len(targets) == 1:
            links.flattenings.append(_flattening(node, (y, targets[0]), x, sources))
        elif len(sources) == 1:
            links.flattenings.append(_flattening(node, (x, sources[0]), y, targets))
        else:
            for dimension in [*((x, axis) for axis in sources), *((y, axis) for axis in targets)]:
                links.block(dimension, f"{_where(node)} regroups it")


def _flattening(node: Node, wide: Dimension, value: Value, axes: Sequence[int]) -> Flattening:
    candidates: list[Link] = []
    for position, axis in enumerate(axes):
        outer, inner = 1, 1
        for before in axes[:position]:
            outer *= value.shape[before]
        for after in axes[position + 1 :]:
            inner *= value.shape[after]
        candidates.append(Link(wide, (value, axis), outer, inner))
    return Flattening(node, tuple(candidates))


def _reshape_blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes with equal products, axes of size 1 left out."""
    blocks: list[tuple[list[int], list[int]]] = []
    sources = [axis for axis, size in enumerate(old) if size != 1]
    targets = [axis for axis, size in enumerate(new) if size != 1]
    while sources and targets:
        left, right = [sources.pop(0)], [targets.pop(0)]
        product_left, product_right = old[left[0]], new[right[0]]
        while product_left != product_right:
            if product_left < product_right:
                left.append(sources.pop(0))
                product_left *= old[left[-1]]
            else:
                right.append(targets.pop(0))
                product_right *= new[right[-1]]
        blocks.append((left, right))
    return blocks


_RULES: dict[str, Rule] = {
    "Conv": _link_conv,
    "ConvTranspose": _link_conv,
    "Dense": _link_dense,
    "MaxPool": _link_pool,
    "AveragePool": _link_pool,
    "BatchNormalization": _link_batch_normalization,
    "Softmax": _link_softmax,
    "LogSoftmax": _link_softmax,
    "ReduceMean": _link_reduce,
    "ReduceSum": _link_reduce,
    "ReduceMax": _link_reduce,
    "Reshape": _link_reshape,
    "Transpose": _link_transpose,
    "Concat": _link_concat,
    "Split": _link_split,
    "Slice": _link_slice,
    "Pad": _link_pad,
    "Resize": _link_resize,
    "Gather": _link_gather,
    "QuantizeLinear": _link_elementwise,
    "DequantizeLinear": _link_elementwise,
}
