"""Interval analysis: between which two numbers every channel of every tensor must lie, whatever the input holds.

Each operator maps the intervals of its inputs to that of its output (Moore, Interval Analysis, 1966). Arrays of bounds
broadcast over the tensor: each of their axes has the tensor's size or 1. What no rule is written for may be anything,
so the answer is always safe. Computed in float64; rounding in float32 is not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import DTYPES, Graph, Node, Value
from tinyopt.ops import OPERATORS

Bounds: TypeAlias = NDArray[np.float64]

_LEVEL_SLACK = 1e-3  # in quantization steps: how near to the middle between two levels a bound counts as either of them


@dataclass(frozen=True, eq=False)
class Interval:
    """low <= element <= high, for every element under each bound."""

    low: Bounds
    high: Bounds

    def along(self, axis: int, size: int) -> Interval:
        """The bounds of each of the `size` slices along `axis`, as vectors."""
        others = tuple(other for other in range(self.low.ndim) if other != axis)
        low, high = self.low.min(axis=others), self.high.max(axis=others)
        return Interval(np.broadcast_to(low, (size,)), np.broadcast_to(high, (size,)))

    def spread(self, axes: Sequence[int]) -> Interval:
        """The bounds of everything along `axes` together."""
        return Interval(self.low.min(axis=tuple(axes), keepdims=True), self.high.max(axis=tuple(axes), keepdims=True))

    def with_number(self, number: float) -> Interval:
        """The same, or `number`."""
        return Interval(np.minimum(self.low, number), np.maximum(self.high, number))

    def clip(self, low: float, high: float) -> Interval:
        return Interval(np.clip(self.low, low, high), np.clip(self.high, low, high))

    @property
    def is_exact(self) -> NDArray[np.bool_]:
        """Where only one number is possible."""
        return np.asarray((self.low == self.high) & np.isfinite(self.low), np.bool_)


def find_intervals(graph: Graph, input_low: float, input_high: float) -> dict[Value, Interval]:
    """The interval of every value, given that the float inputs lie in [input_low, input_high]."""
    intervals = _Intervals()
    for value in graph.inputs:
        is_float = DTYPES[value.dtype].kind == "f"
        intervals[value] = _uniform(value, input_low, input_high) if is_float else _anything(value)
    with np.errstate(all="ignore"):  # infinities meet zeros: each rule says what that gives
        for node in graph.nodes:
            rule = _RULES.get(node.op)
            results = [_anything(v) for v in node.outputs] if rule is None else rule(node, _Reader(intervals))
            intervals.update(zip(node.outputs, map(_without_nan, results), strict=True))
    return intervals


class _Intervals(dict[Value, Interval]):
    """Those of constants are made each time that they are asked for: float64 takes twice the room of the weights."""

    def __missing__(self, value: Value) -> Interval:
        data = value.data.astype(np.float64)
        return Interval(data, data)


class _Reader:
    """The intervals of a node's inputs."""

    def __init__(self, intervals: dict[Value, Interval]) -> None:
        self._intervals = intervals

    def input(self, node: Node, index: int) -> Interval:
        return self._intervals[node.input(index)]

    def optional(self, node: Node, index: int) -> Interval | None:
        value = node.optional_input(index)
        return None if value is None else self._intervals[value]


Rule: TypeAlias = Callable[[Node, _Reader], list[Interval]]


def _uniform(value: Value, low: float, high: float) -> Interval:
    shape = (1,) * value.type.rank
    return Interval(np.full(shape, low, np.float64), np.full(shape, high, np.float64))


def _anything(value: Value) -> Interval:
    dtype = DTYPES[value.dtype]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return _uniform(value, float(limits.min), float(limits.max))
    return _uniform(value, -np.inf, np.inf)


def _without_nan(interval: Interval) -> Interval:
    """Bounds that came out as infinity minus infinity say nothing."""
    low, high = (
        np.where(np.isnan(interval.low), -np.inf, interval.low),
        np.where(np.isnan(interval.high), np.inf, interval.high),
    )
    return Interval(low, high)


def _product(a: Bounds, b: Bounds) -> Bounds:
    """a * b where 0 times anything is 0: the elements themselves are finite, only their bounds are not."""
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def _dot(weights: Bounds, x: Bounds) -> Bounds:
    """weights [group, output, input] times x [group, input]; 0 times infinity is 0, infinities never cancel here."""
    is_finite = np.isfinite(x)
    total: Bounds = np.einsum("goi,gi->go", weights, np.where(is_finite, x, 0.0))
    if is_finite.all():
        return total
    push: Bounds = np.einsum("goi,gi->go", weights, np.where(is_finite, 0.0, np.sign(x)))
    return np.where(push == 0, total, np.copysign(np.inf, push))


def _weighted_sum(weights: Bounds, x: Interval) -> Interval:
    """Bounds of the sums over the inputs, as a vector over all outputs.

    weights: [group, output, input, taps]; x: vectors over the inputs of all groups. Each tap may see another element.
    """
    group, inputs = weights.shape[0], weights.shape[2]
    positive, negative = np.maximum(weights, 0).sum(axis=3), np.minimum(weights, 0).sum(axis=3)
    low, high = x.low.reshape(group, inputs), x.high.reshape(group, inputs)
    lowest, highest = _dot(positive, low) + _dot(negative, high), _dot(positive, high) + _dot(negative, low)
    return Interval(lowest.reshape(-1), highest.reshape(-1))


def _clamped(node: Node, interval: Interval) -> list[Interval]:
    return [interval.clip(node.float("clamp_low"), node.float("clamp_high"))]


def _finished(node: Node, reader: _Reader, sums: Interval, axis: int) -> list[Interval]:
    """Bias, residual and clamp of a layer whose channels lie along `axis`."""
    rank = node.output.type.rank
    shape = tuple(-1 if other == axis else 1 for other in range(rank))
    low, high = sums.low.reshape(shape), sums.high.reshape(shape)
    bias, residual = reader.optional(node, 2), reader.optional(node, 3)
    if bias is not None:
        low, high = low + bias.low.reshape(shape), high + bias.high.reshape(shape)
    if residual is not None:
        low, high = low + residual.low, high + residual.high
    return _clamped(node, Interval(low, high))


def _conv(node: Node, reader: _Reader) -> list[Interval]:
    axis = 1 if node.str("layout") == "NCHW" else 3
    weights, group = reader.input(node, 1), node.int("group")
    if not weights.is_exact.all():
        return [_anything(node.output)]
    x = reader.input(node, 0).along(axis, node.input(0).shape[axis])
    if any(pad > 0 for pad in node.ints("pads")):
        x = x.with_number(0.0)
    taps_last = np.moveaxis(weights.low, axis, 1)  # O, I/group, KH, KW
    outputs, inputs = taps_last.shape[:2]
    sums = _weighted_sum(taps_last.reshape(group, outputs // group, inputs, -1), x)
    return _finished(node, reader, sums, axis)


def _conv_transpose(node: Node, reader: _Reader) -> list[Interval]:
    axis = 1 if node.str("layout") == "NCHW" else 3
    weights = reader.input(node, 1)
    if node.int("group") != 1 or not weights.is_exact.all():
        return [_anything(node.output)]
    # Not every tap reaches every output cell, so that each product may be missing.
    x = reader.input(node, 0).along(axis, node.input(0).shape[axis]).with_number(0.0)
    taps_last = np.moveaxis(weights.low, (axis, 0), (0, 1))  # O, I, KH, KW
    return _finished(node, reader, _weighted_sum(taps_last.reshape(1, *taps_last.shape[:2], -1), x), axis)


def _dense(node: Node, reader: _Reader) -> list[Interval]:
    weights, last = reader.input(node, 1), node.output.type.rank - 1
    if not weights.is_exact.all():
        return [_anything(node.output)]
    x = reader.input(node, 0).along(last, node.input(0).shape[last])
    return _finished(node, reader, _weighted_sum(weights.low[None, :, :, None], x), last)


def _batch_normalization(node: Node, reader: _Reader) -> list[Interval]:
    x = reader.input(node, 0)
    parameters = [reader.input(node, index) for index in range(1, 5)]
    if not all(parameter.is_exact.all() for parameter in parameters):
        return [_anything(node.output)]
    shape = tuple(-1 if other == node.int("axis") else 1 for other in range(node.output.type.rank))
    scale, bias, mean, variance = (parameter.low.reshape(shape) for parameter in parameters)
    slope = scale / np.sqrt(variance + node.float("epsilon"))
    low, high = _product(slope, x.low - mean), _product(slope, x.high - mean)
    return [Interval(np.minimum(low, high) + bias, np.maximum(low, high) + bias)]


def _add(node: Node, reader: _Reader) -> list[Interval]:
    a, b = reader.input(node, 0), reader.input(node, 1)
    return _clamped(node, Interval(a.low + b.low, a.high + b.high))


def _sub(node: Node, reader: _Reader) -> list[Interval]:
    a, b = reader.input(node, 0), reader.input(node, 1)
    return _clamped(node, Interval(a.low - b.high, a.high - b.low))


def _mul(node: Node, reader: _Reader) -> list[Interval]:
    a, b = reader.input(node, 0), reader.input(node, 1)
    corners = np.broadcast_arrays(*(_product(p, q) for p in (a.low, a.high) for q in (b.low, b.high)))
    return _clamped(node, Interval(np.minimum.reduce(corners), np.maximum.reduce(corners)))


def _increasing(node: Node, reader: _Reader) -> list[Interval]:
    """A function of one element that never falls: its bounds are its values at the bounds."""
    x = reader.input(node, 0)
    low, high = (OPERATORS[node.op].evaluate(node, [bound])[0] for bound in (x.low, x.high))
    return [Interval(low.astype(np.float64), high.astype(np.float64))]


def _leaky_relu(node: Node, reader: _Reader) -> list[Interval]:
    return _increasing(node, reader) if node.float("alpha") > 0 else [_anything(node.output)]


def _hard_sigmoid(node: Node, reader: _Reader) -> list[Interval]:
    return _increasing(node, reader) if node.float("alpha") > 0 else [_uniform(node.output, 0, 1)]


def _swish_like(node: Node, reader: _Reader) -> list[Interval]:
    """HardSwish and Gelu dip to no less than -0.375 and never exceed their positive argument."""
    x = reader.input(node, 0)
    at_low = OPERATORS[node.op].evaluate(node, [x.low])[0].astype(np.float64)
    return [Interval(np.where(x.is_exact, at_low, -0.375), np.where(x.is_exact, at_low, np.maximum(x.high, 0)))]


def _same(node: Node, reader: _Reader) -> list[Interval]:
    return [reader.input(node, 0)]


def _max_pool(node: Node, reader: _Reader) -> list[Interval]:
    return [_over_plane(node, reader)]


def _over_plane(node: Node, reader: _Reader) -> Interval:
    axis = 1 if node.str("layout") == "NCHW" else 3
    return reader.input(node, 0).spread(sorted({1, 2, 3} - {axis}))


def _average_pool(node: Node, reader: _Reader) -> list[Interval]:
    hull = _over_plane(node, reader)
    return _clamped(node, hull.with_number(0.0) if any(node.ints("counted_pads")) else hull)


def _reduce(node: Node, reader: _Reader) -> list[Interval]:
    """A mean or maximum lies between the bounds of what it is taken over."""
    axes = node.ints("axes")
    hull = reader.input(node, 0).spread(axes)
    return [hull if node.int("keepdims") else Interval(hull.low.squeeze(axes), hull.high.squeeze(axes))]


def _softmax(node: Node, reader: _Reader) -> list[Interval]:
    del reader
    return [_uniform(node.output, 0, 1)]


def _reshape(node: Node, reader: _Reader) -> list[Interval]:
    x, shape = reader.input(node, 0), node.ints("shape")
    low, high = (np.broadcast_to(bound, node.input(0).shape).reshape(shape) for bound in (x.low, x.high))
    return [Interval(low, high)]


def _transpose(node: Node, reader: _Reader) -> list[Interval]:
    x, perm = reader.input(node, 0), node.ints("perm")
    return [Interval(x.low.transpose(perm), x.high.transpose(perm))]


def _concat(node: Node, reader: _Reader) -> list[Interval]:
    parts = [reader.input(node, index) for index in range(len(node.inputs))]
    shapes = [value.shape for value in node.present_inputs]
    low, high = (
        np.concatenate([np.broadcast_to(b, s) for b, s in zip(bounds, shapes, strict=True)], axis=node.int("axis"))
        for bounds in ([part.low for part in parts], [part.high for part in parts])
    )
    return [Interval(low, high)]


def _selection(node: Node, reader: _Reader) -> list[Interval]:
    """Slice, Split: the elements' own bounds, where they go."""
    x, shape = reader.input(node, 0), node.input(0).shape
    lows, highs = (OPERATORS[node.op].evaluate(node, [np.broadcast_to(b, shape)]) for b in (x.low, x.high))
    return [Interval(low, high) for low, high in zip(lows, highs, strict=True)]


def _pad(node: Node, reader: _Reader) -> list[Interval]:
    pads, rank = node.ints("pads"), node.output.type.rank
    hull = reader.input(node, 0).spread([axis for axis in range(rank) if pads[axis] or pads[axis + rank]])
    return [hull.with_number(node.float("value")) if node.str("mode") == "constant" else hull]


def _resize(node: Node, reader: _Reader) -> list[Interval]:
    x, y = node.input(0), node.output
    scales = node.attributes["scales"]
    assert isinstance(scales, tuple)
    changed = [axis for axis in range(y.type.rank) if x.shape[axis] != y.shape[axis] or scales[axis] != 1]
    return [reader.input(node, 0).spread(changed)]


def _quantize(node: Node, reader: _Reader) -> list[Interval]:
    x, quantization, rank = reader.input(node, 0), node.output.quantization, node.output.type.rank
    assert quantization is not None
    limits = np.iinfo(DTYPES[node.output.dtype])
    scale, zero_point = (
        parameters.astype(np.float64)
        for parameters in (quantization.scale_array(rank), quantization.zero_point_array(rank))
    )
    low = np.rint(x.low / scale - _LEVEL_SLACK) + zero_point
    high = np.rint(x.high / scale + _LEVEL_SLACK) + zero_point
    return [Interval(low, high).clip(float(limits.min), float(limits.max))]


def _dequantize(node: Node, reader: _Reader) -> list[Interval]:
    x, quantization, rank = reader.input(node, 0), node.input(0).quantization, node.output.type.rank
    assert quantization is not None
    scale, zero_point = (
        parameters.astype(np.float64)
        for parameters in (quantization.scale_array(rank), quantization.zero_point_array(rank))
    )
    return [Interval((x.low - zero_point) * scale, (x.high - zero_point) * scale)]


_RULES: dict[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Dense": _dense,
    "BatchNormalization": _batch_normalization,
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Relu": _increasing,
    "Clip": _increasing,
    "Sigmoid": _increasing,
    "Tanh": _increasing,
    "LeakyRelu": _leaky_relu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _swish_like,
    "Gelu": _swish_like,
    "Identity": _same,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "ReduceMean": _reduce,
    "ReduceMax": _reduce,
    "Softmax": _softmax,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Slice": _selection,
    "Split": _selection,
    "Pad": _pad,
    "Resize": _resize,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}
