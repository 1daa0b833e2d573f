"""What ties the dimensions of a graph's tensors together: the vocabulary of the channel groups.

A dimension is a pair (value, axis). A link says which indices of two dimensions are the same channel, so that they can
only be removed together; a block says which indices must stay, and why. Constants are values like all others, so
weights, biases and slopes are tied by the same links. `channel_rules` says which links each operator makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Node, Value

Dimension: TypeAlias = tuple[Value, int]
Places: TypeAlias = NDArray[np.int64]

_LONGEST_LABEL = 60  # converters join the names of all that they fused


@dataclass(frozen=True, eq=False)
class Link:
    """Index `places[i]` of `dimension` and index `other_places[i]` of `other` are the same channel, for each i."""

    dimension: Dimension
    places: Places
    other: Dimension
    other_places: Places


@dataclass(frozen=True, eq=False)
class Product:
    """Index (i, channel, j) of `wide`, of sizes `outer`, channels and `inner`, is channel of `narrow`."""

    wide: Dimension
    narrow: Dimension
    outer: int
    inner: int

    @property
    def channels(self) -> int:
        return self.narrow[0].shape[self.narrow[1]]

    def link(self) -> Link:
        everywhere = np.arange(self.outer * self.channels * self.inner)
        return Link(self.wide, everywhere, self.narrow, everywhere // self.inner % self.channels)


@dataclass(frozen=True, eq=False)
class Flattening:
    """One dimension that is the product of several others (a Reshape), of which one may hold the channels.

    candidates: one for each of the others, in the order of their axes.
    """

    node: Node
    wide: Dimension
    candidates: tuple[Product, ...]


@dataclass(frozen=True, eq=False)
class Block:
    """Indices of a dimension that must stay; all where `places` is None."""

    dimension: Dimension
    places: Places | None
    reason: str


@dataclass
class Links:
    """All ties of a graph."""

    links: list[Link] = field(default_factory=list[Link])
    flattenings: list[Flattening] = field(default_factory=list[Flattening])
    blocks: list[Block] = field(default_factory=list[Block])  # of several for one index the first counts

    def join(self, a: Dimension, b: Dimension) -> None:
        """Say that two dimensions hold the same channels one to one."""
        everywhere = np.arange(a[0].shape[a[1]])
        assert len(everywhere) == b[0].shape[b[1]], (a[0].name, b[0].name)
        self.links.append(Link(a, everywhere, b, everywhere))

    def join_at(self, a: Dimension, places_in_a: Places, b: Dimension, places_in_b: Places) -> None:
        """Say which places of two dimensions hold the same channel."""
        self.links.append(Link(a, places_in_a, b, places_in_b))

    def join_product(self, wide: Dimension, narrow: Dimension, outer: int = 1, inner: int = 1) -> None:
        """Say that `wide` holds each channel of `narrow` outer * inner times: index = (outer, channel, inner)."""
        self.links.append(Product(wide, narrow, outer, inner).link())

    def join_axes(self, a: Value, b: Value, axes: Iterable[int]) -> None:
        """Join the same axes of two values."""
        for axis in axes:
            self.join((a, axis), (b, axis))

    def tie_groups(self, dimension: Dimension, groups: int) -> None:
        """Say that of `groups` equal parts of a dimension each must lose the same places."""
        everywhere = np.arange(dimension[0].shape[dimension[1]])
        self.links.append(Link(dimension, everywhere, dimension, everywhere % (len(everywhere) // groups)))

    def block(self, dimension: Dimension, reason: str, places: Places | None = None) -> None:
        """Say that a dimension, or some places of it, must stay as they are."""
        self.blocks.append(Block(dimension, places, reason))

    def block_all(self, values: Iterable[Value], reason: str) -> None:
        """Say that every dimension of some values must stay as it is."""
        for value in values:
            for axis in range(value.type.rank):
                self.block((value, axis), reason)


@dataclass(frozen=True)
class WeightUse:
    """Where the weights of a layer keep their channels. `input_axis` is None where the layer is depthwise.

    The weights of a layer of several groups hold along one axis only the channels of one group: the input's for Conv
    (O, I/group), the output's for ConvTranspose (I, O/group).
    """

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


def removable_use(node: Node) -> WeightUse | None:
    """As `weight_use`, but a ConvTranspose that filters each channel alone is depthwise, its weights' axis 0 the
    channels: they leave it as they leave a depthwise Conv."""
    use = weight_use(node)
    is_depthwise = use is not None and node.op == "ConvTranspose" and 1 < use.group == use.weights.shape[0]
    return replace(use, output_axis=0, input_axis=None) if use is not None and is_depthwise else use


def label_of(node: Node) -> str:
    """The node's name for a remark: of a very long one its end, which is what tells it from others."""
    return node.name if len(node.name) <= _LONGEST_LABEL else f"...{node.name[-_LONGEST_LABEL:]}"


def matches(node: Node, pattern: str) -> bool:
    """Whether a pattern of the shell names the node, or an ONNX node that it came from."""
    return any(fnmatchcase(name, pattern) for name in (node.name, *node.origins))


def constant_source(value: Value, producers: dict[Value, Node]) -> Value | None:
    """The constant that `value` is, or that it is dequantized from; None where it is computed from the inputs."""
    if value.is_constant:
        return value
    producer = producers.get(value)
    if producer is not None and producer.op == "DequantizeLinear" and producer.input(0).is_constant:
        return producer.input(0)
    return None
