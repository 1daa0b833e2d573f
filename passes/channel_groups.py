"""Channel groups: the slices of weights and tensors that can only be removed together.

    conv1 -> Relu -> depthwise -> conv2, and conv1 -> + <- conv3: channel i of conv1's rows, of its bias, of the
    depthwise weights, of conv2's columns and of conv3's rows is one unit of one group.

A unit is everything that one channel drags along: after a flattening Reshape a block of columns, at a grouped
convolution the same place in each of its groups. Units that lie in the same dimensions, equally often, form a group; a
dimension may hold units of several groups, and others that must stay: after a Concat those of each of its inputs.

Source: the dependency graphs of Fang et al., "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Clusters, Graph, Node, Quantization, TensorType, Value
from tinyopt.passes.channel_links import Dimension, Places, WeightUse, label_of, removable_use
from tinyopt.passes.channel_rules import collect_links
from tinyopt.passes.channel_units import Units, find_units

_SHAPE_ATTRIBUTES = {"Reshape": "shape", "Resize": "sizes"}


@dataclass(frozen=True, eq=False)
class Member:
    """One dimension of a group. places: int64 [units, multiplicity], where each unit lies along the axis, ascending."""

    value: Value
    axis: int
    places: Places

    def sums(self, values: Array) -> Array:
        """For each unit the sum of `values`, one for each index along the axis: [units]."""
        return np.asarray(values[self.places].sum(axis=1))

    def where_all(self, values: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """For each unit whether `values`, one for each index along the axis, are all true: [units]."""
        return np.asarray(values[self.places].all(axis=1))

    def indices(self, units: Sequence[int] | Places) -> Places:
        """Where some units lie along the axis, ascending."""
        return np.sort(self.places[np.asarray(units, np.int64)], axis=None)


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Units that lie alike everywhere; each may leave without the others.

    producers: layers whose weights have these channels as rows. depthwise: those that filter each of them alone.
    consumers: layers whose weights have them as columns. blocked: why none may be removed, or None.
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
        return self._by_dimension[value, axis]

    @cached_property
    def _by_dimension(self) -> Mapping[Dimension, Member]:
        return {(member.value, member.axis): member for member in self.members}


def find_channel_groups(graph: Graph) -> list[ChannelGroup]:
    """Every group that some Conv, ConvTranspose or Dense produces, in running order."""
    uses = [use for node in graph.nodes if (use := removable_use(node)) is not None]
    rows = [(use.weights, use.output_axis) for use in uses if not use.is_depthwise]
    columns = [(use.weights, use.input_axis) for use in uses if use.input_axis is not None]
    uses_of: dict[Dimension, list[int]] = {}
    for position, use in enumerate(uses):
        for axis in {use.output_axis, use.input_axis} - {None}:
            assert axis is not None
            uses_of.setdefault((use.weights, axis), []).append(position)
    units = find_units(graph, collect_links(graph), [*rows, *columns], rows)
    groups = [_group(found, uses, uses_of) for found in units]
    first_use = {id(use.node): position for position, use in enumerate(uses)}
    return sorted(groups, key=lambda group: (first_use[id(group.producers[0].node)], _first_row(group)))


def _group(units: Units, uses: Sequence[WeightUse], uses_of: Mapping[Dimension, Sequence[int]]) -> ChannelGroup:
    inside = units.places
    touched = [uses[i] for i in sorted({i for dimension in inside for i in uses_of.get(dimension, ())})]
    producers = tuple(use for use in touched if not use.is_depthwise and (use.weights, use.output_axis) in inside)
    rows = inside[producers[0].weights, producers[0].output_axis]
    order = np.argsort(rows[:, 0], kind="stable")
    is_knot = len(rows) == 1 and rows.size > 1
    return ChannelGroup(
        size=len(rows),
        members=tuple(Member(value, axis, places[order]) for (value, axis), places in inside.items()),
        producers=producers,
        depthwise=tuple(use for use in touched if use.is_depthwise and (use.weights, use.output_axis) in inside),
        consumers=tuple(
            use for use in touched if use.input_axis is not None and (use.weights, use.input_axis) in inside
        ),
        blocked=units.blocked or ("its channels all hang together" if is_knot else None),
    )


def _first_row(group: ChannelGroup) -> int:
    use = group.producers[0]
    return int(group.member(use.weights, use.output_axis).places[0, 0])


def keep_channels(graph: Graph, kept: Mapping[ChannelGroup, Sequence[int]]) -> None:
    """Remove from each group all units but those given, ascending, at least one; other groups stay whole.

    The groups are those of one `find_channel_groups(graph)`: afterwards they no longer fit the graph. Constants, types,
    quantization, clusters and attributes are rewritten, those behind a DequantizeLinear too.
    """
    cut = _Cut()
    for group, units in kept.items():
        cut.remove(group, units)
    touched = {value for value, _ in cut.kept}
    for node in graph.nodes:
        if node.op == "Gather" and not touched.isdisjoint((node.input(0), node.output)):
            _renumber_gather(graph, node, cut)
    for (value, axis), mask in cut.kept.items():
        _take(value, axis, np.flatnonzero(mask))
    for node in graph.nodes:
        if not touched.isdisjoint((*node.present_inputs, *node.outputs)):
            _rewrite_attributes(node, cut)
    for use in {use.node: use for group in kept for use in group.depthwise}.values():
        use.node.attributes["group"] = use.node.input(0).shape[use.channel_axis]


class _Cut:
    """Which indices of each dimension stay."""

    def __init__(self) -> None:
        self.kept: dict[Dimension, NDArray[np.bool_]] = {}

    def remove(self, group: ChannelGroup, kept: Sequence[int]) -> None:
        """Remove all units of a group but `kept`."""
        assert group.blocked is None, group.blocked
        assert len(kept), f"{group.label}: a group keeps at least one channel"
        gone = np.setdiff1d(np.arange(group.size), np.asarray(kept, np.int64))
        for member in group.members if len(gone) else ():
            dimension = (member.value, member.axis)
            if dimension not in self.kept:
                self.kept[dimension] = np.ones(member.value.shape[member.axis], np.bool_)
            self.kept[dimension][member.places[gone]] = False

    def stays(self, value: Value, axis: int) -> NDArray[np.bool_]:
        """Which indices stay of a dimension that something is removed from."""
        return self.kept[value, axis]

    def count_before(self, value: Value, axis: int, index: int) -> int:
        """How many of the first `index` indices stay."""
        mask = self.kept.get((value, axis))
        return index if mask is None else int(np.count_nonzero(mask[:index]))

    def first(self, value: Value, axis: int) -> int:
        """The first index that stays."""
        mask = self.kept.get((value, axis))
        return 0 if mask is None else int(np.argmax(mask))


def _rewrite_attributes(node: Node, cut: _Cut) -> None:
    if node.op in _SHAPE_ATTRIBUTES:
        node.attributes[_SHAPE_ATTRIBUTES[node.op]] = node.output.shape
    elif node.op == "Split":
        axis = node.int("axis")
        node.attributes["sizes"] = tuple(value.shape[axis] for value in node.outputs)
    elif node.op == "Slice":
        _rewrite_slice(node, cut)
    elif node.op == "Pad":
        _rewrite_pad(node, cut)


def _rewrite_slice(node: Node, cut: _Cut) -> None:
    x, y = node.input(0), node.output
    starts = [
        cut.count_before(x, axis, start + step * cut.first(y, axis))
        for axis, (start, step) in enumerate(zip(node.ints("starts"), node.ints("steps"), strict=True))
    ]
    node.attributes["starts"], node.attributes["sizes"] = tuple(starts), y.shape


def _rewrite_pad(node: Node, cut: _Cut) -> None:
    y, pads = node.output, node.ints("pads")
    before = [cut.count_before(y, axis, pads[axis]) for axis in range(y.type.rank)]
    after = [y.shape[axis] - before[axis] - node.input(0).shape[axis] for axis in range(y.type.rank)]
    node.attributes["pads"] = (*before, *after)


def _renumber_gather(graph: Graph, node: Node, cut: _Cut) -> None:
    """Let a Gather pick what is left by its new numbers."""
    x, indices, y, axis = node.input(0), node.input(1), node.output, node.int("axis")
    if (x, axis) not in cut.kept and (y, axis) not in cut.kept:
        return
    picked = indices.data
    if indices.type.rank == 1 and (y, axis) in cut.kept:
        picked = picked[cut.stays(y, axis)]
    if (x, axis) in cut.kept:
        picked = np.cumsum(cut.stays(x, axis))[picked] - 1
    node.inputs[1] = Value.of(graph.unique_name(indices.name), np.asarray(picked, np.int64))


def _take(value: Value, axis: int, indices: Places) -> None:
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


def _take_clusters(clusters: Clusters, axis: int, indices: Places) -> Clusters:
    taken = np.ascontiguousarray(np.take(clusters.indices, indices, axis))
    return replace(clusters, indices=taken, scale=clusters.scale[indices] if axis == 0 else clusters.scale)
