"""Channel groups: the slices of weights and tensors that can only be removed together.

    conv1 -> Relu -> depthwise -> conv2, and conv1 -> + <- conv3: channel i of conv1's rows, of its bias, of the
    depthwise weights, of conv2's columns and of conv3's rows is one channel of one group.

A group is a connected component of the graph of linked dimensions (`channel_links`), with the place of each channel in
every member: after a flattening Reshape one channel is a block of columns.

Source: the dependency graphs of Fang et al., "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Clusters, Graph, Quantization, TensorType, Value
from tinyopt.passes.channel_links import Dimension, Link, Links, WeightUse, collect_links, label_of, weight_use

_SHAPE_ATTRIBUTES = {"Reshape": "shape", "Slice": "sizes", "Resize": "sizes"}


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of a group: index = (outer index, channel, inner index), of sizes `outer`, channels, `inner`."""

    value: Value
    axis: int
    outer: int
    inner: int

    def indices(self, channels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Where `channels` of a group of `count` lie along the axis, ascending."""
        outer = np.arange(self.outer)[:, None, None] * (count * self.inner)
        inner = np.arange(self.inner)[None, None, :]
        return np.asarray(outer + channels[None, :, None] * self.inner + inner, np.int64).reshape(-1)

    def by_channel(self, values: Array) -> Array:
        """Values along the axis as [outer, channel, inner]."""
        return values.reshape(self.outer, -1, self.inner)


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that stand or fall together.

    producers: layers whose weights have these channels as rows. depthwise: those that filter each of them alone.
    consumers: layers whose weights have them as columns. blocked: why none may be removed, or None.
    members is empty where the places of the channels contradict one another, which blocks the group.
    """

    size: int
    members: tuple[Member, ...]
    producers: tuple[WeightUse, ...]
    depthwise: tuple[WeightUse, ...]
    consumers: tuple[WeightUse, ...]
    blocked: str | None

    @property
    def label(self) -> str:
        """The names of the layers that produce the channels, for remarks."""
        return ", ".join(label_of(use.node) for use in self.producers)

    def member(self, value: Value, axis: int) -> Member:
        """The member that is this dimension; it must be one."""
        return next(member for member in self.members if member.value is value and member.axis == axis)


def find_channel_groups(graph: Graph) -> list[ChannelGroup]:
    """Every group that some Conv, ConvTranspose or Dense produces, in running order."""
    links = collect_links(graph)
    uses = [use for node in graph.nodes if (use := weight_use(node)) is not None]
    dimensions = _connect(graph, links)
    _resolve_flattenings(dimensions, links, uses)
    order = {dimension: position for position, dimension in enumerate(dimensions)}
    producing = {(use.weights, use.output_axis) for use in uses if not use.is_depthwise}
    components = [sorted(part, key=order.__getitem__) for part in nx.connected_components(dimensions)]
    components.sort(key=lambda part: order[part[0]])
    groups = [_group(part, dimensions, links, uses) for part in components if producing.intersection(part)]
    first_use = {id(use.node): position for position, use in enumerate(uses)}
    return sorted(groups, key=lambda group: first_use[id(group.producers[0].node)])


def keep_channels(graph: Graph, group: ChannelGroup, kept: Sequence[int]) -> None:
    """Remove all channels of `group` but `kept` (ascending).

    Constants, types, quantization and attributes are rewritten, those behind a DequantizeLinear too.
    """
    assert group.blocked is None, group.blocked
    assert kept, "a layer keeps at least one channel"
    channels = np.asarray(kept, np.int64)
    for member in group.members:
        _take(member.value, member.axis, member.indices(channels, group.size))
    touched = {id(member.value) for member in group.members}
    for node in graph.nodes:
        if not any(id(value) in touched for value in (*node.present_inputs, *node.outputs)):
            continue
        if node.op in _SHAPE_ATTRIBUTES:
            node.attributes[_SHAPE_ATTRIBUTES[node.op]] = node.output.shape
    for use in group.depthwise:
        use.node.attributes["group"] = use.node.input(0).shape[use.channel_axis]


def _connect(graph: Graph, links: Links) -> nx.Graph[Dimension]:
    dimensions: nx.Graph[Dimension] = nx.Graph()
    for value in graph.values():
        dimensions.add_nodes_from((value, axis) for axis in range(value.type.rank))
    for link in links.links:
        _add_link(dimensions, link)
    return dimensions


def _add_link(dimensions: nx.Graph[Dimension], link: Link) -> None:
    if link.wide != link.narrow:
        dimensions.add_edge(link.wide, link.narrow, link=link)


def _resolve_flattenings(dimensions: nx.Graph[Dimension], links: Links, uses: Sequence[WeightUse]) -> None:
    """Find the channels of each flattened image: they lie along the axis that some layer's weights share."""
    weighted = {(use.weights, use.output_axis) for use in uses}
    weighted |= {(use.weights, use.input_axis) for use in uses if use.input_axis is not None}
    for flattening in links.flattenings:
        chosen = [
            link
            for link in flattening.candidates
            if not weighted.isdisjoint(nx.node_connected_component(dimensions, link.narrow))
        ]
        if len(chosen) == 1:
            _add_link(dimensions, chosen[0])
        else:
            reason = (
                f"Reshape '{label_of(flattening.node)}' flattens it, and which axis holds the channels is not clear"
            )
            for link in flattening.candidates:
                links.block(link.wide, reason)
                links.block(link.narrow, reason)


def _group(
    part: Sequence[Dimension], dimensions: nx.Graph[Dimension], links: Links, uses: Sequence[WeightUse]
) -> ChannelGroup:
    members, problem = _members(part, dimensions)
    inside = set(part)
    blocked = next((links.blocks[dimension] for dimension in part if dimension in links.blocks), None)
    return ChannelGroup(
        size=min(value.shape[axis] for value, axis in part),
        members=members,
        producers=tuple(use for use in uses if not use.is_depthwise and (use.weights, use.output_axis) in inside),
        depthwise=tuple(use for use in uses if use.is_depthwise and (use.weights, use.output_axis) in inside),
        consumers=tuple(use for use in uses if use.input_axis is not None and (use.weights, use.input_axis) in inside),
        blocked=blocked or problem,
    )


def _members(part: Sequence[Dimension], dimensions: nx.Graph[Dimension]) -> tuple[tuple[Member, ...], str | None]:
    """Each dimension's place of the channels, walked from the narrowest one, and what contradicts itself."""
    root = min(part, key=lambda dimension: dimension[0].shape[dimension[1]])
    places: dict[Dimension, tuple[int, int]] = {root: (1, 1)}
    problem: str | None = None
    for source, target in nx.bfs_edges(dimensions, root):
        places[target] = _across(dimensions.edges[source, target]["link"], source, places[source])
    for source, target, link in dimensions.edges(part, data="link"):
        if 0 in places[target] or _across(link, source, places[source]) != places[target]:
            problem = f"its channels lie differently in '{source[0].name}' and '{target[0].name}'"
    return () if problem else tuple(Member(value, axis, *places[value, axis]) for value, axis in part), problem


def _across(link: Link, source: Dimension, place: tuple[int, int]) -> tuple[int, int]:
    """The place of the channels on the link's other side; (0, 0) where there is none."""
    outer, inner = place
    if source == link.narrow:
        return outer * link.outer, inner * link.inner
    if outer % link.outer or inner % link.inner:
        return 0, 0
    return outer // link.outer, inner // link.inner


def _take(value: Value, axis: int, indices: NDArray[np.int64]) -> None:
    shape = (*value.shape[:axis], len(indices), *value.shape[axis + 1 :])
    value.type = TensorType(value.dtype, shape)
    if value.constant is not None:
        value.constant = np.ascontiguousarray(np.take(value.constant, indices, axis))
    if value.quantization is not None and value.quantization.axis == axis:
        old = value.quantization
        scale, zero_point = (tuple(items[i] for i in indices) for items in (old.scale, old.zero_point))
        value.quantization = Quantization(scale, zero_point, axis)
    if value.clusters is not None:
        value.clusters = _take_clusters(value.clusters, axis, indices)


def _take_clusters(clusters: Clusters, axis: int, indices: NDArray[np.int64]) -> Clusters:
    taken = np.ascontiguousarray(np.take(clusters.indices, indices, axis))
    return replace(clusters, indices=taken, scale=clusters.scale[indices] if axis == 0 else clusters.scale)
