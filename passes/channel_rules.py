"""How each operator ties the dimensions of its tensors together: the facts under the channel groups.

An operator without a rule blocks every channel that reaches it, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from tinyopt.ir import Graph, Node, Value
from tinyopt.ops import OPERATORS, ChannelRelation
from tinyopt.passes.channel_links import (
    Dimension,
    Flattening,
    Links,
    Product,
    WeightUse,
    constant_source,
    label_of,
    removable_use,
)

Rule: TypeAlias = Callable[[Node, Links], None]


def collect_links(graph: Graph) -> Links:
    """The ties of every node, and the blocks at the graph's inputs and outputs."""
    links = Links()
    for value in graph.inputs:
        links.block_all([value], f"it reaches the graph's input '{value.name}'")
    for value in graph.outputs:
        links.block_all([value], f"it reaches the graph's output '{value.name}'")
    producers = graph.producers()
    for node in graph.nodes:
        _rule(node)(node, links)
        use = removable_use(node)
        if use is not None and constant_source(use.weights, producers) is None:
            links.block_all([use.weights], f"{_where(node)} computes its weights")
    return links


def _where(node: Node) -> str:
    return f"{node.op} '{label_of(node)}'"


def _rule(node: Node) -> Rule:
    if node.op in _RULES:
        return _RULES[node.op]
    operator = OPERATORS[node.op]
    if operator.is_elementwise and operator.channels is ChannelRelation.PER_CHANNEL:
        return _link_elementwise
    return _link_nothing


def _link_nothing(node: Node, links: Links) -> None:
    relation = OPERATORS[node.op].channels.value
    links.block_all([*node.present_inputs, *node.outputs], f"{_where(node)} has no channel rule ({relation})")


def _link_elementwise(node: Node, links: Links) -> None:
    for value in node.present_inputs:
        _link_broadcast(value, node.output, links)


def _link_broadcast(value: Value, output: Value, links: Links) -> None:
    offset = output.type.rank - value.type.rank
    for axis, size in enumerate(value.shape):
        if size == output.shape[axis + offset]:
            links.join((value, axis), (output, axis + offset))


def _link_conv(node: Node, links: Links) -> None:
    use = removable_use(node)
    assert use is not None, node.op
    x, y, axis = node.input(0), node.output, use.channel_axis
    links.join((x, 0), (y, 0))
    for value in (x, y):
        for spatial in {1, 2, 3} - {axis}:
            links.block((value, spatial), f"{_where(node)} slides over it")
    if use.input_axis is None:
        for wide in ((y, axis), (use.weights, use.output_axis)):
            links.join_product(wide, (x, axis), inner=wide[0].shape[wide[1]] // x.shape[axis])
    else:
        _link_groups(use, (use.weights, use.input_axis), (x, axis), links)
        _link_groups(use, (use.weights, use.output_axis), (y, axis), links)
    _link_bias_and_residual(node, axis, links)


def _link_groups(use: WeightUse, weights: Dimension, tensor: Dimension, links: Links) -> None:
    """Tie a tensor's channels to the axis of the weights that holds those of all groups, or of one."""
    if use.group > 1:
        links.tie_groups(tensor, use.group)
    if weights[0].shape[weights[1]] == tensor[0].shape[tensor[1]]:
        links.join(weights, tensor)
    else:
        links.join_product(tensor, weights, outer=use.group)


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


def _link_parts(whole: Value, parts: Sequence[Value], axis: int, links: Links) -> None:
    """Parts of a tensor that lie one behind the other along an axis."""
    start = 0
    for part in parts:
        links.join_axes(part, whole, (other for other in range(whole.type.rank) if other != axis))
        places = np.arange(part.shape[axis])
        links.join_at((part, axis), places, (whole, axis), start + places)
        start += part.shape[axis]


def _link_concat(node: Node, links: Links) -> None:
    _link_parts(node.output, node.present_inputs, node.int("axis"), links)


def _link_split(node: Node, links: Links) -> None:
    _link_parts(node.input(0), node.outputs, node.int("axis"), links)


def _link_slice(node: Node, links: Links) -> None:
    x, y = node.input(0), node.output
    for axis, (start, step) in enumerate(zip(node.ints("starts"), node.ints("steps"), strict=True)):
        places = np.arange(y.shape[axis])
        if abs(step) == 1 or len(places) == 1:
            links.join_at((y, axis), places, (x, axis), start + step * places)
        else:  # what is left need not lie in even steps
            _block_both(node, axis, links, f"{_where(node)} takes one in {abs(step)} of it")


def _block_both(node: Node, axis: int, links: Links, reason: str) -> None:
    links.block((node.input(0), axis), reason)
    links.block((node.output, axis), reason)


def _link_pad(node: Node, links: Links) -> None:
    x, y, pads = node.input(0), node.output, node.ints("pads")
    for axis in range(x.type.rank):
        if x.shape[axis] == y.shape[axis] or node.str("mode") == "constant":
            places = np.arange(x.shape[axis])
            links.join_at((x, axis), places, (y, axis), pads[axis] + places)
        else:
            _block_both(node, axis, links, f"{_where(node)} repeats its ends")


def _link_resize(node: Node, links: Links) -> None:
    scales, x, y = node.attributes["scales"], node.input(0), node.output
    assert isinstance(scales, tuple)
    for axis in range(x.type.rank):
        if scales[axis] == 1 and x.shape[axis] == y.shape[axis]:
            links.join((x, axis), (y, axis))
        else:
            _block_both(node, axis, links, f"{_where(node)} changes its size")


def _link_gather(node: Node, links: Links) -> None:
    x, indices, axis = node.input(0), node.input(1), node.int("axis")
    for other in range(x.type.rank):
        if other != axis:
            links.join((x, other), (node.output, other if other < axis else other + indices.type.rank - 1))
    picked = indices.data.reshape(-1).astype(np.int64)
    if indices.type.rank == 1:
        links.join_at((node.output, axis), np.arange(len(picked)), (x, axis), picked)
        return
    links.block((x, axis), f"{_where(node)} picks from it", picked)
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
    candidates: list[Product] = []
    for position, axis in enumerate(axes):
        outer, inner = 1, 1
        for before in axes[:position]:
            outer *= value.shape[before]
        for after in axes[position + 1 :]:
            inner *= value.shape[after]
        candidates.append(Product(wide, (value, axis), outer, inner))
    return Flattening(node, wide, tuple(candidates))


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
