"""Which channels of which tensors have to be divided by the same factor.

    conv1 -> Relu -> depthwise -> conv2: channel i of conv1 has a factor of its own, and so has channel i of depthwise
    conv1 -> + <- conv3: channel i of conv1 and channel i of conv3 are divided by one factor

Every channel of a layer is a number of its own; operators that a positive factor passes through unchanged hand the
numbers on, sums unite them, and everything else pins them: a pinned channel's factor is 1. This differs from the groups
of `channel_groups`, where a channel is removed from all layers of a depthwise chain or from none.

Source: Nagel et al., arXiv:1906.04721, section 4.1: f(s x) = s f(x) for s > 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.ops import OPERATORS
from tinyopt.passes.channel_links import WeightUse, constant_source, label_of, weight_use
from tinyopt.passes.simplify_arithmetic import clamp_of

Ids: TypeAlias = NDArray[np.int64]

_FIXED = (
    0  # the number of everything that no layer gives: inputs, constants, results of operators that are not followed
)
_ENDS = (-math.inf, 0.0, math.inf)  # limits that a positive factor leaves where they are


@dataclass(frozen=True, eq=False)
class Placement:
    """The numbers of a tensor's channels, one for each index along `axis`."""

    axis: int
    ids: Ids


@dataclass
class ChannelMap:
    """The channels of every tensor, and which of them are one and the same (union-find)."""

    placements: dict[Value, Placement] = field(default_factory=dict[Value, Placement])
    pinned: dict[int, str] = field(default_factory=lambda: {_FIXED: "it comes from no layer"})  # root: why
    _parents: list[int] = field(default_factory=lambda: [_FIXED])

    def root(self, channel: int) -> int:
        """The number that stands for all that are united with `channel`."""
        while self._parents[channel] != channel:
            self._parents[channel] = self._parents[self._parents[channel]]
            channel = self._parents[channel]
        return channel

    def roots(self, placement: Placement) -> Ids:
        """The roots of all channels of a tensor."""
        return np.array([self.root(int(channel)) for channel in placement.ids], np.int64)

    def reason(self, channel: int) -> str | None:
        """Why a channel is pinned; None where it is free."""
        return self.pinned.get(self.root(channel))

    def fresh(self, value: Value, axis: int) -> Placement:
        """New channels along `axis` of `value`."""
        first = len(self._parents)
        self._parents.extend(range(first, first + value.shape[axis]))
        placement = Placement(axis, np.arange(first, len(self._parents)))
        self.placements[value] = placement
        return placement

    def pin(self, value: Value | None, reason: str) -> None:
        """Say that the channels of `value` must stay as they are; the first reason is kept."""
        placement = None if value is None else self.placements.get(value)
        for channel in () if placement is None else placement.ids:
            self.pinned.setdefault(self.root(int(channel)), reason)

    def unite(self, a: Value, b: Value, reason: str) -> None:
        """Say that `a` and `b` have the same channels; both are pinned, with the reason, where one has none there."""
        left, right = self.placements.get(a), self.placements.get(b)
        if left is None or right is None or left.axis != right.axis or len(left.ids) != len(right.ids):
            self.pin(a, reason)
            self.pin(b, reason)
            return
        for one, other in zip(left.ids, right.ids, strict=True):
            self._unite(self.root(int(one)), self.root(int(other)))

    def _unite(self, kept: int, gone: int) -> None:
        if kept == gone:
            return
        if gone == _FIXED:
            kept, gone = gone, kept
        self._parents[gone] = kept
        reason = self.pinned.pop(gone, None)
        if reason is not None:
            self.pinned.setdefault(kept, reason)


@dataclass(frozen=True, eq=False)
class _Scope:
    """What a rule may know of the graph around its node."""

    channels: ChannelMap
    producers: dict[Value, Node]
    readers: dict[Value, list[Node]]


_Rule: TypeAlias = Callable[[Node, _Scope], None]


def map_channels(graph: Graph) -> ChannelMap:
    """Follow every layer's channels through the graph."""
    scope = _Scope(ChannelMap(), graph.producers(), graph.consumers())
    for node in graph.nodes:
        _RULES.get(node.op, _pin_inputs)(node, scope)
    for value in graph.outputs:
        scope.channels.pin(value, f"it reaches the graph's output '{value.name}'")
    return scope.channels


def is_homogeneous(node: Node) -> bool:
    """Whether the node's clamp, fused or its own, lets a positive factor pass."""
    low, high = clamp_of(node) or (
        float(node.attributes.get("clamp_low", -math.inf)),  # type: ignore[arg-type]
        float(node.attributes.get("clamp_high", math.inf)),  # type: ignore[arg-type]
    )
    return low in _ENDS and high in _ENDS


def _where(node: Node) -> str:
    return f"{node.op} '{label_of(node)}'"


def _pin_inputs(node: Node, scope: _Scope) -> None:
    for value in node.present_inputs:
        scope.channels.pin(value, f"{_where(node)} gives something else for scaled inputs")


def _layer(node: Node, scope: _Scope) -> None:
    use = weight_use(node)
    assert use is not None, node.op
    _pin_columns(use, scope)
    axis = use.channel_axis
    scope.channels.fresh(node.output, axis)
    reason = _row_refusal(use, scope)
    if reason is not None:
        scope.channels.pin(node.output, reason)
    residual = node.optional_input(3)
    if residual is not None:
        scope.channels.unite(node.output, residual, f"{_where(node)} adds something to it that cannot be scaled")


def _pin_columns(use: WeightUse, scope: _Scope) -> None:
    x = use.node.input(0)
    placement = scope.channels.placements.get(x)
    if placement is None:
        return
    if placement.axis != use.channel_axis:
        scope.channels.pin(x, f"{_where(use.node)} sums over another axis")
    elif not use.weights.is_constant:
        scope.channels.pin(x, f"{_where(use.node)} holds integer weights, whose columns have no scales of their own")
    elif reason := _constant_refusal(use.weights, use, scope):
        scope.channels.pin(x, reason)


def _row_refusal(use: WeightUse, scope: _Scope) -> str | None:
    node = use.node
    if not is_homogeneous(node):
        low, high = node.float("clamp_low"), node.float("clamp_high")
        return f"the clamp of {_where(node)} to {low:g}..{high:g} does not scale"
    if node.output.shape[use.channel_axis] == 1:
        return f"{_where(node)} has one channel"
    for value in (use.weights, node.optional_input(2)):
        source = None if value is None else constant_source(value, scope.producers)
        if value is not None and source is None:
            return f"{_where(node)} computes its weights or bias"
        for part in () if value is None or source is None else {value, source}:
            if reason := _constant_refusal(part, use, scope):
                return reason
    return None


def _constant_refusal(value: Value, use: WeightUse, scope: _Scope) -> str | None:
    """Why a constant of a layer, or what dequantizes it, cannot be scaled."""
    if value.type.rank > 1 and len(scope.readers[value]) > 1:
        return f"{_where(use.node)} shares its weights with another layer"
    if value.clusters is not None:
        return f"the weights of {_where(use.node)} are clustered"
    if value.dtype == "int8" and value.type.rank > 1:
        is_interleaved = use.node.op == "ConvTranspose" and use.group > 1
        if value.quantization is None or value.quantization.axis not in (None, use.output_axis) or is_interleaved:
            return f"the integer weights of {_where(use.node)} have no scale for each output channel"
        return None
    if value.dtype != "float32":
        return f"'{value.name}' is {value.dtype}"
    if value.is_constant and not np.all(np.isfinite(value.data)):
        return f"'{value.name}' holds NaN or infinite numbers"
    return None


def _same(node: Node, scope: _Scope) -> None:
    """The output's channels are those of the first input, at the same places."""
    placement = scope.channels.placements.get(node.input(0))
    if placement is None:
        return
    if not is_homogeneous(node):
        _pin_inputs(node, scope)
        return
    scope.channels.placements[node.output] = placement


def _prelu(node: Node, scope: _Scope) -> None:
    if node.input(1).is_constant:
        _same(node, scope)
    else:
        _pin_inputs(node, scope)


def _pool(node: Node, scope: _Scope) -> None:
    placement = scope.channels.placements.get(node.input(0))
    if placement is not None and placement.axis == (1 if node.str("layout") == "NCHW" else 3):
        _same(node, scope)
    else:
        _pin_inputs(node, scope)


def _sum(node: Node, scope: _Scope) -> None:
    """A sum's operands have to be divided by one factor; a constant, or one that is repeated, cannot be."""
    operands = node.present_inputs
    is_plain = all(value.shape == node.output.shape for value in operands)
    if is_plain and is_homogeneous(node):
        scope.channels.unite(operands[0], operands[1], f"{_where(node)} adds something to it that cannot be scaled")
        _same(node, scope)
    else:
        _pin_inputs(node, scope)


def _product(node: Node, scope: _Scope) -> None:
    """The product carries the factors of one operand; those of the other are pinned."""
    carrier = next(
        (v for v in node.present_inputs if v.shape == node.output.shape and v in scope.channels.placements), None
    )
    if carrier is None or not is_homogeneous(node):
        _pin_inputs(node, scope)
        return
    for value in node.present_inputs:
        if value is not carrier:
            scope.channels.pin(value, f"{_where(node)} multiplies by it")
    if all(value is carrier for value in node.present_inputs):
        _pin_inputs(node, scope)
        return
    scope.channels.placements[node.output] = scope.channels.placements[carrier]


def _reduce(node: Node, scope: _Scope) -> None:
    placement, axes = scope.channels.placements.get(node.input(0)), node.ints("axes")
    if placement is None or placement.axis in axes:
        _pin_inputs(node, scope)
        return
    gone = 0 if node.int("keepdims") else sum(axis < placement.axis for axis in axes)
    scope.channels.placements[node.output] = Placement(placement.axis - gone, placement.ids)


def _resized(node: Node, scope: _Scope) -> None:
    """Pad and Resize along other axes than the channels': a padding of zeros is zero whatever the factor."""
    x = node.input(0)
    placement = scope.channels.placements.get(x)
    is_scaled = placement is not None and x.shape[placement.axis] == node.output.shape[placement.axis]
    if is_scaled and (node.op == "Resize" or node.str("mode") != "constant" or node.float("value") == 0):
        _same(node, scope)
    else:
        _pin_inputs(node, scope)


def _mover(node: Node, scope: _Scope) -> None:
    """Let the operator move the numbers of the channels as it moves the elements."""
    placements = scope.channels.placements
    if not any(value in placements for value in node.present_inputs):
        return
    arrays = [None if v is None else _spread(v, placements.get(v), is_index) for is_index, v in _operands(node)]
    for value, moved in zip(node.outputs, OPERATORS[node.op].evaluate(node, arrays), strict=True):
        placement = _collapsed(moved)
        if placement is None:
            _pin_inputs(node, scope)
            return
        placements[value] = placement


def _operands(node: Node) -> Iterable[tuple[bool, Value | None]]:
    return ((node.op == "Gather" and index == 1, value) for index, value in enumerate(node.inputs))


def _spread(value: Value, placement: Placement | None, is_index: bool) -> Array:
    """An array of the tensor's shape that holds each element's channel number."""
    if is_index:
        return value.data
    if placement is None:
        return np.broadcast_to(np.int64(_FIXED), value.shape)
    along = placement.ids.reshape([-1 if axis == placement.axis else 1 for axis in range(value.type.rank)])
    return np.broadcast_to(along, value.shape)


def _collapsed(ids: Array) -> Placement | None:
    """The axis along which alone the numbers differ; None where there is no such axis."""
    for axis in range(ids.ndim):
        along = ids[tuple(slice(None) if dim == axis else slice(0, 1) for dim in range(ids.ndim))]
        if np.all(ids == along) and (len(np.unique(along)) > 1 or ids.shape[axis] == ids.size):
            return Placement(axis, along.reshape(-1).astype(np.int64))
    return None


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Dense"), _layer),
    **dict.fromkeys(("Identity", "Relu", "LeakyRelu", "Clip"), _same),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("Add", "Sub"), _sum),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax"), _reduce),
    **dict.fromkeys(("Pad", "Resize"), _resized),
    **dict.fromkeys(("Reshape", "Transpose", "Concat", "Split", "Slice", "Gather"), _mover),
    "PRelu": _prelu,
    "Mul": _product,
}
