"""Small graphs of integer operators, their multipliers made from scales as lowering makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tests.graph_builder import GraphBuilder
from tinyopt.ir import Graph, Quantization, Value
from tinyopt.ops.integer_elementwise import ADD_MULTIPLIER_BITS
from tinyopt.ops.integer_softmax import exponential_table
from tinyopt.ops.requantize import multiplier_and_shift

X = Quantization.per_tensor(0.05, 7)
Y = Quantization.per_tensor(0.11, -9)
R = Quantization.per_tensor(0.08, 3)
Attributes: TypeAlias = dict[str, Any]
SX, SY, SR = X.scale[0], Y.scale[0], R.scale[0]
WINDOW: Attributes = {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)}


def weight_scales(channels: int) -> NDArray[np.float64]:
    return np.linspace(0.004, 0.011, channels, dtype=np.float32).astype(np.float64)


def _weighted(
    build: GraphBuilder, shape: tuple[int, ...], axis: int, outputs: int, folded: bool, scale: float
) -> tuple[list[Value], Attributes]:
    """Weights, bias and multiplier, and the attributes that round."""
    scales = (weight_scales(shape[axis]) * scale).astype(np.float32).astype(np.float64)
    weights = build.random_int8(shape, Quantization.per_channel(scales, [0] * len(scales), axis))
    limit = max(1, int(127 / scale))
    weights.constant = np.clip(weights.data, -limit, limit)
    bias = (np.linspace(-900, 1100, outputs) / scale).astype(np.int64)
    if folded:
        bias -= X.zero_point[0] * weights.data.astype(np.int64).reshape(outputs, -1).sum(axis=1)
    multiplier, shift = multiplier_and_shift(np.resize(scales, outputs) * SX / SY)
    constants = [weights, build.constant(bias.astype(np.int32)), build.constant(multiplier)]
    return constants, {"shift": shift, "low": -9, "high": 120}


def conv(weights: tuple[int, ...], group: int, residual: bool = False, scale: float = 1.0) -> Graph:
    """QConv of a 6 x 7 image; a large `scale` of the weights makes shifts below 32."""
    build = GraphBuilder()
    x = build.input("x", (1, 6, 7, weights[3] * group), "int8", X)
    constants, rounding = _weighted(build, weights, 0, weights[0], folded=True, scale=scale)
    inputs = [x, *constants]
    extra = 0
    if residual:
        height, width = 4, 8 - 2 * (weights[2] - 1)
        inputs.append(build.input("r", (1, height, width, weights[0]), "int8", R))
        extra = round(SR / SY * 2 ** rounding["shift"])
    return build.graph_of(
        build("QConv", *inputs, quantization=Y, group=group, residual_multiplier=extra, **WINDOW, **rounding)
    )


def dense(shape: tuple[int, ...], residual: bool) -> Graph:
    build = GraphBuilder()
    x = build.input("x", shape, "int8", X)
    constants, rounding = _weighted(build, (5, shape[-1]), 0, 5, folded=True, scale=1.0)
    inputs = [x, *constants]
    if residual:
        inputs.append(build.input("r", (*shape[:-1], 5), "int8", R))
    extra = round(SR / SY * 2 ** rounding["shift"])
    return build.graph_of(build("QDense", *inputs, quantization=Y, residual_multiplier=extra, **rounding))


def conv_transpose(group: int) -> Graph:
    build = GraphBuilder()
    x = build.input("x", (1, 4, 3, 4), "int8", X)
    constants, rounding = _weighted(build, (4, 3, 2, 3), 3, 3 * group, folded=False, scale=1.0)
    attributes: Attributes = {"strides": (2, 3), "pads": (1, 0, 0, 1), "dilations": (1, 2), "output_padding": (1, 0)}
    y = build("QConvTranspose", x, *constants, quantization=Y, group=group, **attributes, **rounding)
    return build.graph_of(y)


def matmul() -> Graph:
    build = GraphBuilder()
    a, b = build.input("a", (2, 3, 4), "int8", X), build.input("b", (4, 5), "int8", R)
    multiplier, shift = multiplier_and_shift(np.array(SX * SR / SY))
    y = build("QMatMul", a, b, quantization=Y, multiplier=int(multiplier), shift=shift, low=-128, high=127)
    return build.graph_of(y)


def add(sign_a: int, sign_b: int) -> Graph:
    build = GraphBuilder()
    a, b = build.input("a", (2, 3, 4), "int8", X), build.input("b", (3, 1), "int8", R)
    multipliers, shift = multiplier_and_shift(np.array([sign_a * SX / SY, sign_b * SR / SY]), ADD_MULTIPLIER_BITS)
    both: Attributes = {"multiplier_a": int(multipliers[0]), "multiplier_b": int(multipliers[1])}
    return build.graph_of(build("QAdd", a, b, quantization=Y, **both, shift=shift, low=-100, high=90))


def mul() -> Graph:
    build = GraphBuilder()
    a = build.input("a", (2, 3, 4), "int8", X)
    b = build.constant(np.array([-90, 3, 4, 100], np.int8), quantization=R)
    multiplier, shift = multiplier_and_shift(np.array(SX * SR / SY))
    return build.graph_of(
        build("QMul", a, b, quantization=Y, multiplier=int(multiplier), shift=shift, low=-9, high=127)
    )


def prelu() -> Graph:
    build = GraphBuilder()
    x = build.input("x", (1, 5, 6, 3), "int8", X)
    slopes = np.array([0.25, -0.5, 0.01])
    multipliers, shift = multiplier_and_shift(np.array([1.0, *slopes]) * SX / SY)
    slope = build.constant(multipliers[1:])
    y = build("QPRelu", x, slope, quantization=Y, multiplier=int(multipliers[0]), shift=shift, low=-128, high=127)
    return build.graph_of(y)


def lookup() -> Graph:
    build = GraphBuilder()
    table = build.constant(np.random.default_rng(3).integers(-128, 128, 256).astype(np.int8))
    return build.graph_of(build("QLookup", build.input("x", (3, 200), "int8", X), table, quantization=Y))


def average_pool(divisors: Sequence[float]) -> Graph:
    """A 3 x 3 pool of a 5 x 4 image with stride 2 and padding 1: 3 x 2 windows."""
    build = GraphBuilder()
    x = build.input("x", (1, 5, 4, 3), "int8", X)
    multiplier, shift = multiplier_and_shift(SX / SY / np.array(divisors))
    window: Attributes = {"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
    y = build("QAveragePool", x, build.constant(multiplier), quantization=Y, **window, shift=shift, low=-128, high=127)
    return build.graph_of(y)


def reduce_sum(axes: tuple[int, ...], keepdims: int, divisor: float) -> Graph:
    build = GraphBuilder()
    x = build.input("x", (2, 3, 4, 5), "int8", X)
    multiplier, shift = multiplier_and_shift(np.array(SX / SY / divisor))
    rounding: Attributes = {"multiplier": int(multiplier), "shift": shift, "low": -128, "high": 127}
    return build.graph_of(build("QReduceSum", x, quantization=Y, axes=axes, keepdims=keepdims, **rounding))


def softmax(axis: int) -> Graph:
    build = GraphBuilder()
    x = build.input("x", (2, 7, 3), "int8", X)
    probability = Quantization.per_tensor(1 / 256, -128)
    table = build.constant(exponential_table(SX))
    return build.graph_of(build("QSoftmax", x, table, quantization=probability, axis=axis, ratio=256))


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
