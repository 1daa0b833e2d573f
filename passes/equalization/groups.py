"""Groups of channels that are scaled together, and scaling them.

A group is what one trial decides on: all channels that meet in some tensor. Each channel has one factor s; the layers
that give it are divided by s, those that read it are multiplied.

    y = W x + b, z = V y    ->    y / s = (W / s) x + b / s,  z = (V s) (y / s)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Graph, Node, Quantization, Value
from tinyopt.passes.channel_links import WeightUse, constant_source, label_of, weight_use
from tinyopt.passes.equalization.channels import ChannelMap, Ids, map_channels

_Item = TypeVar("_Item")

_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class ScaleGroup:
    """Channels that one set of factors scales.

    size: the number of free channels. places: for each tensor its channel axis and, along it, the number of the group's
    channel, or `size` where the channel is fixed. producers: layers that give them. readers: layers whose weights read
    them. inner: all nodes that give one of the tensors, the producers among them, in running order.
    """

    size: int
    places: Mapping[Value, tuple[int, Ids]]
    producers: tuple[WeightUse, ...]
    readers: tuple[WeightUse, ...]
    inner: tuple[Node, ...]

    @property
    def label(self) -> str:
        """The names of the layers that produce the channels, for remarks."""
        return ", ".join(label_of(use.node) for use in self.producers)

    def along(self, value: Value, numbers: NDArray[np.float64], fixed: float = 1.0) -> NDArray[np.float64]:
        """The number of each channel of `value`, `fixed` for those that are: [channels of the value] from [size]."""
        return np.append(numbers, fixed)[self.places[value][1]]

    def collect(self, value: Value, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The largest of the numbers of a tensor's channels that are one channel of the group: [size], 0 for none."""
        found = np.zeros(self.size + 1)
        np.maximum.at(found, self.places[value][1], numbers)
        return found[:-1]


def find_scale_groups(graph: Graph) -> tuple[list[ScaleGroup], list[tuple[WeightUse, str]]]:
    """The groups in running order, and the layers whose channels belong to none, with the reason."""
    channels = map_channels(graph)
    tensors = {value: channels.roots(placement) for value, placement in channels.placements.items()}
    together: nx.Graph[int] = nx.Graph()
    for roots in tensors.values():
        free = [int(root) for root in dict.fromkeys(roots.tolist()) if root not in channels.pinned]
        together.add_nodes_from(free)
        together.add_edges_from(itertools.pairwise(free))
    uses = [use for node in graph.nodes if (use := weight_use(node)) is not None]
    index = _Index.of(graph, uses, tensors)
    groups = [_group(sorted(part), tensors, channels, index) for part in nx.connected_components(together)]
    position = {id(node): index for index, node in enumerate(graph.nodes)}
    groups.sort(key=lambda group: position[id(group.inner[0])])
    return [group for group in groups if group.readers], _refusals(uses, tensors, channels, groups)


@dataclass(frozen=True, eq=False)
class _Index:
    """What belongs to a tensor or to the number of a channel, each with its place in the order of its kind."""

    holders: Mapping[int, Sequence[tuple[int, Value]]]  # the tensors in which a number is
    makers: Mapping[Value, tuple[int, Node]]
    givers: Mapping[Value, Sequence[tuple[int, WeightUse]]]
    readers: Mapping[Value, Sequence[tuple[int, WeightUse]]]

    @classmethod
    def of(cls, graph: Graph, uses: Sequence[WeightUse], tensors: Mapping[Value, Ids]) -> _Index:
        holders: dict[int, list[tuple[int, Value]]] = {}
        for place, (value, found) in enumerate(tensors.items()):
            for root in dict.fromkeys(found.tolist()):
                holders.setdefault(root, []).append((place, value))
        givers: dict[Value, list[tuple[int, WeightUse]]] = {}
        readers: dict[Value, list[tuple[int, WeightUse]]] = {}
        for place, use in enumerate(uses):
            givers.setdefault(use.node.output, []).append((place, use))
            readers.setdefault(use.node.input(0), []).append((place, use))
        makers = {value: (place, node) for place, node in enumerate(graph.nodes) for value in node.outputs}
        return cls(holders, makers, givers, readers)


def _group(roots: list[int], tensors: Mapping[Value, Ids], channels: ChannelMap, index: _Index) -> ScaleGroup:
    number = {root: place for place, root in enumerate(roots)}
    values = _in_order({holder for root in roots for holder in index.holders.get(root, ())})
    places: dict[Value, tuple[int, Ids]] = {}
    for value in values:
        ids = np.array([number.get(root, len(roots)) for root in tensors[value].tolist()], np.int64)
        places[value] = (channels.placements[value].axis, ids)
    return ScaleGroup(
        len(roots),
        places,
        _in_order(use for value in values for use in index.givers.get(value, ())),
        _in_order(use for value in values for use in index.readers.get(value, ())),
        _in_order({index.makers[value] for value in values if value in index.makers}),
    )


def _in_order(placed: Iterable[tuple[int, _Item]]) -> tuple[_Item, ...]:
    return tuple(item for _, item in sorted(placed, key=lambda pair: pair[0]))


def _refusals(
    uses: list[WeightUse], tensors: Mapping[Value, Ids], channels: ChannelMap, groups: list[ScaleGroup]
) -> list[tuple[WeightUse, str]]:
    refused: list[tuple[WeightUse, str]] = []
    unread = {use.node for group in groups if not group.readers for use in group.producers}
    for use in uses:
        reasons = [channels.pinned.get(root) for root in tensors[use.node.output].tolist()]
        if use.node in unread:
            refused.append((use, "no layer's weights read its channels"))
        elif (first := reasons[0]) is not None and all(reason is not None for reason in reasons):
            refused.append((use, first))
    return refused


def reader_weights(group: ScaleGroup, use: WeightUse, factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights of a layer with each column multiplied by the factor of the channel that it reads."""
    return np.asarray(use.weights.data * column_factors(group, use, factors))


def column_factors(group: ScaleGroup, use: WeightUse, factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each column of a reader's weights is multiplied by, shaped to broadcast over them."""
    return columns_of(use, group.along(use.node.input(0), factors))


def columns_of(use: WeightUse, columns: Array) -> Array:
    """Numbers of the input's channels, shaped to broadcast over the layer's weights."""
    shape = use.weights.shape
    if use.node.op == "ConvTranspose":
        return columns.reshape(-1, *[1] * (len(shape) - 1))  # I, KH, KW, O/group
    axis = use.channel_axis if use.node.op == "Conv" else 1
    rows_per_group = shape[0] // use.group
    by_row = np.repeat(columns.reshape(use.group, -1), rows_per_group, axis=0)  # O or 1, I/group
    return np.moveaxis(by_row.reshape(*by_row.shape, *[1] * (len(shape) - 2)), 1, axis)


def _by_row(use: WeightUse, rows: Array) -> Array:
    """Numbers of the output's channels, shaped to broadcast over the layer's weights."""
    rank = use.weights.type.rank
    if use.node.op != "ConvTranspose":
        return rows.reshape(-1, *[1] * (rank - 1))
    inputs = use.weights.shape[0]
    by_input = np.repeat(rows.reshape(use.group, -1), inputs // use.group, axis=0)  # I, O/group
    return np.moveaxis(by_input.reshape(*by_input.shape, *[1] * (rank - 2)), 1, use.output_axis)


def largest_in_column(group: ScaleGroup, use: WeightUse, factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each channel of the group, how large its weights are within their rows at most: [size], in 0..1.

    A row is what one weight scale stands for; the columns are multiplied by `factors` before.
    """
    magnitudes = np.abs(reader_weights(group, use, factors))
    rows = magnitudes.max(axis=_all_but(use), keepdims=True, initial=0.0)
    columns = np.zeros(use.node.input(0).shape[use.channel_axis])
    np.maximum.at(columns, _column_numbers(use).ravel(), (magnitudes / np.maximum(rows, _TINY)).ravel())
    return group.collect(use.node.input(0), columns)


def energy_in_column(group: ScaleGroup, use: WeightUse, factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each channel of a reader's input, what one unit of its energy adds to its rows', relative to these rows."""
    squares = reader_weights(group, use, factors) ** 2
    rows = squares.sum(axis=_all_but(use), keepdims=True)
    columns = np.zeros(use.node.input(0).shape[use.channel_axis])
    np.add.at(columns, _column_numbers(use).ravel(), (squares / np.maximum(rows, _TINY)).ravel())
    return np.asarray(columns / group.along(use.node.input(0), factors) ** 2)


def _all_but(use: WeightUse) -> tuple[int, ...]:
    return tuple(axis for axis in range(use.weights.type.rank) if axis != use.output_axis)


def _column_numbers(use: WeightUse) -> Ids:
    """For each weight, the input channel that it multiplies."""
    inputs = use.node.input(0).shape[use.channel_axis]
    return np.broadcast_to(columns_of(use, np.arange(inputs)), use.weights.shape)


def row_sums(use: WeightUse, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over the weights of each output channel: [output channels]."""
    outputs = use.node.output.shape[use.channel_axis]
    rows = np.broadcast_to(_by_row(use, np.arange(outputs)), use.weights.shape)
    found = np.zeros(outputs)
    np.add.at(found, rows.ravel(), numbers.ravel())
    return found


def largest_in_row(use: WeightUse) -> NDArray[np.float64]:
    """The largest magnitude among the weights of each output channel: [output channels]."""
    outputs = use.node.output.shape[use.channel_axis]
    numbers = np.broadcast_to(_by_row(use, np.arange(outputs)), use.weights.shape)
    found = np.zeros(outputs)
    np.maximum.at(found, numbers.ravel(), np.abs(use.weights.data).astype(np.float64).ravel())
    return found


def apply_factors(graph: Graph, group: ScaleGroup, factors: NDArray[np.float64]) -> None:
    """Divide the group's channels by `factors`, and multiply the weights that read them."""
    for use in map(_as_it_stands, group.producers):
        rows = 1 / group.along(use.node.output, factors)
        _scale_rows(graph, use, rows)
        bias = use.node.optional_input(2)
        if bias is not None:
            use.node.inputs[2] = _rescaled(graph, bias, bias.data * rows)
    for reader in group.readers:
        use = _as_it_stands(reader)
        use.node.inputs[1] = _rescaled(graph, use.weights, reader_weights(group, use, factors))


def _as_it_stands(use: WeightUse) -> WeightUse:
    """The use with the weights that the node reads now: another group may have replaced them."""
    return replace(use, weights=use.node.input(1))


def _scale_rows(graph: Graph, use: WeightUse, rows: NDArray[np.float64]) -> None:
    if use.weights.is_constant:
        use.node.inputs[1] = _rescaled(graph, use.weights, use.weights.data * _by_row(use, rows))
        return
    integers = constant_source(use.weights, graph.producers())
    old = None if integers is None else integers.quantization
    assert integers is not None, use.weights.name
    assert old is not None, integers.name
    scale = np.array(old.scale) * rows
    integers.quantization = Quantization.per_channel(scale, np.resize(old.zero_point, len(rows)), use.output_axis)


def _rescaled(graph: Graph, constant: Value, numbers: NDArray[np.float64]) -> Value:
    """The constant with other numbers; a new one where others need it as it is."""
    with np.errstate(over="ignore"):
        data = np.asarray(numbers, np.float32)
    data = np.where(np.abs(data) < _TINY, np.float32(0), data)  # a denormal weight is slow, and nothing in a sum
    if len(graph.consumers()[constant]) == 1 and not graph.is_output(constant):
        constant.constant = data
        return constant
    return replace(constant, name=graph.unique_name(f"{constant.name}_equalized"), constant=data)


def are_finite(group: ScaleGroup, factors: NDArray[np.float64]) -> bool:
    """Whether float32 holds all that `apply_factors` would write."""
    limit = float(np.finfo(np.float32).max)
    rows = [(use, 1 / group.along(use.node.output, factors)) for use in group.producers]
    largest = [np.abs(reader_weights(group, use, factors)).max(initial=0.0) for use in group.readers]
    largest += [np.abs(u.weights.data * _by_row(u, r)).max(initial=0.0) for u, r in rows if u.weights.is_constant]
    largest += [np.abs(b.data * r).max(initial=0.0) for u, r in rows if (b := u.node.optional_input(2)) is not None]
    return all(number < limit for number in largest)


def names_of(uses: Iterable[WeightUse]) -> str:
    """The layers' names for a remark."""
    return ", ".join(label_of(use.node) for use in uses)
