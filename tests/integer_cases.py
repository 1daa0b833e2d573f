"""Small graphs of integer operators, their multipliers made from scales as lowering makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tests.graph_builder import GraphBuilder
from tinyopt.ir import Graph, Quantization, Value
from tinyopt.ops.integer_elementwise import ADD_MULTIPLIER_BITS
from tinyopt.ops.integer_softmax import exponential_table, exponential_tables
from tinyopt.ops.requantize import MULTIPLIER_BITS, multiplier_and_shift

Attributes: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """Type and parameters of an activation."""

    dtype: str
    quantization: Quantization

    @property
    def scale(self) -> float:
        return self.quantization.scale[0]


@dataclass(frozen=True)
class Kinds:
    """Of the input, the output, and of a residual or second input."""

    x: Kind
    y: Kind
    r: Kind

    def levels(self, low: int, high: int) -> Attributes:
        """low and high for the output, as of 256 levels."""
        steps = 1 if self.y.dtype == "int8" else 256
        return {"low": low * steps, "high": (high + 1) * steps - 1}


X = Kind("int8", Quantization.per_tensor(0.05, 7))
Y = Kind("int8", Quantization.per_tensor(0.11, -9))
R = Kind("int8", Quantization.per_tensor(0.08, 3))
X16, Y16, R16 = (Kind("int16", Quantization.per_tensor(kind.scale / 256, 0)) for kind in (X, Y, R))
INT8 = Kinds(X, Y, R)
MIXES = {"to int16": Kinds(X, Y16, R), "from int16": Kinds(X16, Y, R16), "all int16": Kinds(X16, Y16, R)}
WINDOW: Attributes = {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)}


def weight_scales(channels: int) -> NDArray[np.float64]:
    return np.linspace(0.004, 0.011, channels, dtype=np.float32).astype(np.float64)


def _weighted(
    build: GraphBuilder, shape: tuple[int, ...], axis: int, outputs: int, folded: bool, scale: float, kinds: Kinds
) -> tuple[list[Value], Attributes]:
    """Weights, bias and multiplier, and the attributes that round."""
    scales = (weight_scales(shape[axis]) * scale).astype(np.float32).astype(np.float64)
    weights = build.random_int8(shape, Quantization.per_channel(scales, [0] * len(scales), axis))
    limit = max(1, int(127 / scale))
    weights.constant = np.clip(weights.data, -limit, limit)
    bias = (np.linspace(-900, 1090, outputs) / scale * (X.scale / kinds.x.scale)).astype(np.int64)
    if folded:
        bias -= kinds.x.quantization.zero_point[0] * weights.data.astype(np.int64).reshape(outputs, -1).sum(axis=1)
    multiplier, shift = multiplier_and_shift(np.resize(scales, outputs) * kinds.x.scale / kinds.y.scale)
    constants = [weights, build.constant(bias.astype(np.int32)), build.constant(multiplier)]
    return constants, {"shift": shift, **kinds.levels(-9, 120)}


def conv(
    weights: tuple[int, ...], group: int, residual: bool = False, scale: float = 1.0, kinds: Kinds = INT8
) -> Graph:
    """QConv of a 6 x 7 image; a large `scale` of the weights makes shifts below 32."""
    build = GraphBuilder()
    x = build.input("x", (1, 6, 7, weights[3] * group), *_of(kinds.x))
    constants, rounding = _weighted(build, weights, 0, weights[0], folded=True, scale=scale, kinds=kinds)
    inputs = [x, *constants]
    extra = 0
    if residual:
        height, width = 4, 8 - 2 * (weights[2] - 1)
        inputs.append(build.input("r", (1, height, width, weights[0]), *_of(kinds.r)))
        extra = round(kinds.r.scale / kinds.y.scale * 2 ** rounding["shift"])
    return build.graph_of(
        build("QConv", *inputs, **_to(kinds.y), group=group, residual_multiplier=extra, **WINDOW, **rounding)
    )


def dense(shape: tuple[int, ...], residual: bool, kinds: Kinds = INT8) -> Graph:
    build = GraphBuilder()
    x = build.input("x", shape, *_of(kinds.x))
    constants, rounding = _weighted(build, (5, shape[-1]), 0, 5, folded=True, scale=1.0, kinds=kinds)
    inputs = [x, *constants]
    if residual:
        inputs.append(build.input("r", (*shape[:-1], 5), *_of(kinds.r)))
    extra = round(kinds.r.scale / kinds.y.scale * 2 ** rounding["shift"])
    return build.graph_of(build("QDense", *inputs, **_to(kinds.y), residual_multiplier=extra, **rounding))


def conv_transpose(group: int, kinds: Kinds = INT8) -> Graph:
    build = GraphBuilder()
    x = build.input("x", (1, 4, 3, 4), *_of(kinds.x))
    constants, rounding = _weighted(build, (4, 3, 2, 3), 3, 3 * group, folded=False, scale=1.0, kinds=kinds)
    attributes: Attributes = {"strides": (2, 3), "pads": (1, 0, 0, 1), "dilations": (1, 2), "output_padding": (1, 0)}
    y = build("QConvTranspose", x, *constants, **_to(kinds.y), group=group, **attributes, **rounding)
    return build.graph_of(y)


def matmul(kinds: Kinds = INT8) -> Graph:
    build = GraphBuilder()
    a, b = build.input("a", (2, 3, 4), *_of(kinds.x)), build.input("b", (4, 5), *_of(R))
    multiplier, shift = multiplier_and_shift(np.array(kinds.x.scale * R.scale / kinds.y.scale))
    y = build("QMatMul", a, b, **_to(kinds.y), multiplier=int(multiplier), shift=shift, **kinds.levels(-128, 127))
    return build.graph_of(y)


def add(sign_a: int, sign_b: int, kinds: Kinds = INT8) -> Graph:
    build = GraphBuilder()
    a, b = build.input("a", (2, 3, 4), *_of(kinds.x)), build.input("b", (3, 1), *_of(kinds.r))
    multipliers, shift = multiplier_and_shift(
        np.array([sign_a * kinds.x.scale / kinds.y.scale, sign_b * kinds.r.scale / kinds.y.scale]),
        ADD_MULTIPLIER_BITS if kinds is INT8 else MULTIPLIER_BITS,
    )
    both: Attributes = {"multiplier_a": int(multipliers[0]), "multiplier_b": int(multipliers[1])}
    return build.graph_of(build("QAdd", a, b, **_to(kinds.y), **both, shift=shift, **kinds.levels(-100, 90)))


def mul(kinds: Kinds = INT8) -> Graph:
    build = GraphBuilder()
    a = build.input("a", (2, 3, 4), *_of(kinds.x))
    b = build.constant(np.array([-90, 3, 4, 100], np.int8), quantization=R.quantization)
    multiplier, shift = multiplier_and_shift(np.array(kinds.x.scale * R.scale / kinds.y.scale))
    return build.graph_of(
        build("QMul", a, b, **_to(kinds.y), multiplier=int(multiplier), shift=shift, **kinds.levels(-9, 127))
    )


def prelu(kinds: Kinds = INT8) -> Graph:
    build = GraphBuilder()
    x = build.input("x", (1, 5, 6, 3), *_of(kinds.x))
    slopes = np.array([0.25, -0.5, 0.01])
    multipliers, shift = multiplier_and_shift(np.array([1.0, *slopes]) * kinds.x.scale / kinds.y.scale)
    slope = build.constant(multipliers[1:])
    y = build(
        "QPRelu", x, slope, **_to(kinds.y), multiplier=int(multipliers[0]), shift=shift, **kinds.levels(-128, 127)
    )
    return build.graph_of(y)


def lookup(kinds: Kinds = INT8) -> Graph:
    build = GraphBuilder()
    limits = np.iinfo(kinds.y.dtype)
    levels = np.random.default_rng(3).integers(limits.min, limits.max, 256, endpoint=True).astype(kinds.y.dtype)
    table = build.constant(levels)
    return build.graph_of(build("QLookup", build.input("x", (3, 200), *_of(kinds.x)), table, **_to(kinds.y)))


def average_pool(divisors: Sequence[float], kinds: Kinds = INT8) -> Graph:
    """A 3 x 3 pool of a 5 x 4 image with stride 2 and padding 1: 3 x 2 windows."""
    build = GraphBuilder()
    x = build.input("x", (1, 5, 4, 3), *_of(kinds.x))
    multiplier, shift = multiplier_and_shift(kinds.x.scale / kinds.y.scale / np.array(divisors))
    window: Attributes = {"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
    y = build(
        "QAveragePool", x, build.constant(multiplier), **_to(kinds.y), **window, shift=shift, **kinds.levels(-128, 127)
    )
    return build.graph_of(y)


def reduce_sum(axes: tuple[int, ...], keepdims: int, divisor: float, kinds: Kinds = INT8) -> Graph:
    build = GraphBuilder()
    x = build.input("x", (2, 3, 4, 5), *_of(kinds.x))
    multiplier, shift = multiplier_and_shift(np.array(kinds.x.scale / kinds.y.scale / divisor))
    rounding: Attributes = {"multiplier": int(multiplier), "shift": shift, **kinds.levels(-128, 127)}
    return build.graph_of(build("QReduceSum", x, **_to(kinds.y), axes=axes, keepdims=keepdims, **rounding))


def softmax(axis: int, kinds: Kinds = INT8) -> Graph:
    build = GraphBuilder()
    x = build.input("x", (2, 7, 3), *_of(kinds.x))
    is_narrow = kinds.y.dtype == "int8"
    probability = Quantization.per_tensor(1 / 256, -128) if is_narrow else Quantization.per_tensor(1 / 32768, 0)
    tables = exponential_table if kinds.x.dtype == "int8" else exponential_tables
    ratio = 256 if is_narrow else 32768
    table = build.constant(tables(kinds.x.scale))
    y = build("QSoftmax", x, table, quantization=probability, dtype=kinds.y.dtype, axis=axis, ratio=ratio)
    return build.graph_of(y)


def requantized(kinds: Kinds) -> Graph:
    build = GraphBuilder()
    x = build.input("x", (3, 200), *_of(kinds.x))
    multiplier, shift = multiplier_and_shift(np.array(kinds.x.scale / kinds.y.scale))
    rounding: Attributes = {"multiplier": int(multiplier), "shift": shift, **kinds.levels(-100, 110)}
    return build.graph_of(build("QRequantize", x, **_to(kinds.y), **rounding))


def _of(kind: Kind) -> tuple[str, Quantization]:
    return kind.dtype, kind.quantization


def _to(kind: Kind) -> Attributes:
    """The output's type and parameters, as the graph builder takes them."""
    return {"dtype": kind.dtype, "quantization": kind.quantization}


def _mixed(name: str, kinds: Kinds) -> dict[str, Graph]:
    """Every operator that takes both types, with these."""
    graphs = {
        "QConv": conv((5, 3, 2, 4), group=1, kinds=kinds),
        "QConv depthwise": conv((4, 3, 2, 1), group=4, kinds=kinds),
        "QConv with residual": conv((5, 3, 2, 4), group=1, residual=True, kinds=kinds),
        "QDense": dense((8, 6), residual=False, kinds=kinds),
        "QDense with residual": dense((8, 6), residual=True, kinds=kinds),
        "QConvTranspose": conv_transpose(1, kinds),
        "QMatMul": matmul(kinds),
        "QAdd": add(1, -1, kinds),
        "QMul": mul(kinds),
        "QPRelu": prelu(kinds),
        "QRequantize": requantized(kinds),
        "QAveragePool": average_pool([4, 6, 6, 9, 4, 6], kinds),
        "QReduceSum": reduce_sum((1, 2), 0, 12, kinds),
        "QSoftmax": softmax(1, kinds),
    }
    if kinds.x.dtype == "int8":
        graphs["QLookup"] = lookup(kinds)
    return {f"{title}, {name}": graph for title, graph in graphs.items()}


CASES = {
    "QConv": conv((5, 3, 2, 4), group=1),
    "QConv in groups": conv((6, 3, 2, 2), group=2),
    "QConv depthwise": conv((4, 3, 2, 1), group=4),
    "QConv depthwise with a channel multiplier": conv((8, 3, 2, 1), group=4),
    "QConv with residual": conv((5, 3, 2, 4), group=1, residual=True),
    "QConv with a small shift": conv((5, 1, 1, 2), group=1, scale=400.0),
    "QDense": dense((8, 6), residual=False),
    "QDense with residual": dense((8, 6), residual=True),
    "QDense of rank 3": dense((1, 4, 6), residual=True),
    "QConvTranspose": conv_transpose(1),
    "QMatMul": matmul(),
    "QAdd": add(1, 1),
    "QAdd that subtracts": add(1, -1),
    "QAdd that subtracts the other way": add(-1, 1),
    "QAdd of two negatives": add(-1, -1),
    "QMul": mul(),
    "QPRelu": prelu(),
    "QLookup": lookup(),
    "QAveragePool of the cells inside": average_pool([4, 6, 6, 9, 4, 6]),
    "QAveragePool of all cells": average_pool([9]),
    "QAveragePool of other divisors": average_pool([4, 5, 6, 7, 8, 9]),
    "QReduceSum as mean": reduce_sum((1, 2), 0, 12),
    "QReduceSum as sum": reduce_sum((3,), 1, 1),
    "QReduceSum of another factor": reduce_sum((0, 3), 1, 7),
    "QSoftmax": softmax(1),
    "QSoftmax of the last axis": softmax(2),
}
MIXED_CASES = {title: graph for name, kinds in MIXES.items() for title, graph in _mixed(name, kinds).items()}
