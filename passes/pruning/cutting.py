"""Cut units out of a graph, or out of a copy of it, and tell which channels stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Graph, Node
from tinyopt.passes.channel_groups import ChannelGroup, find_channel_groups, keep_channels
from tinyopt.passes.channel_links import weight_use

Kept = Mapping[ChannelGroup, Sequence[int]]  # the units that stay, ascending


def cut_copy(graph: Graph, kept: Kept) -> Graph:
    """A copy of the graph without the units of its groups that are not kept."""
    copy = graph.copy()
    twins = dict(zip(map(_key, find_channel_groups(graph)), find_channel_groups(copy), strict=True))
    keep_channels(copy, {twins[_key(group)]: units for group, units in kept.items()})
    return copy


def kept_channels(graph: Graph, kept: Kept) -> dict[str, NDArray[np.int64]]:
    """For each layer of the whole graph that will lose output channels, those that stay."""
    stays: dict[Node, NDArray[np.bool_]] = {}
    axes = {node.output: (node, use.channel_axis) for node in graph.nodes if (use := weight_use(node)) is not None}
    for group, units in kept.items():
        gone = np.setdiff1d(np.arange(group.size), units)
        for member in group.members:
            node, axis = axes.get(member.value, (None, -1))
            if node is not None and member.axis == axis:
                mask = stays.setdefault(node, np.ones(member.value.shape[axis], np.bool_))
                mask[member.places[gone]] = False
    return {node.name: np.flatnonzero(mask).astype(np.int64) for node, mask in stays.items()}


def _key(group: ChannelGroup) -> tuple[str, int, int]:
    """What tells the groups of a graph apart: a dimension that holds them, and where they begin in it."""
    first = group.members[0]
    return first.value.name, first.axis, int(first.places.min())
