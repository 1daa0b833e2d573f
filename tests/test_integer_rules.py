"""Integer operators: each one's numbers against onnxruntime's QDQ form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.graph_builder import GraphBuilder, ops_of
from tests.quantized_graphs import (
    Q,
    bias,
    lowered,
    quantize,
    real,
    steps_from_onnxruntime,
    weights,
)
from tinyopt.evaluate import evaluate
from tinyopt.ir import Clusters, Quantization, Value


def conv(build: GraphBuilder, x: Value) -> Value:
    w = weights(build, (6, 3, 3, 4))
    b = bias(build, 6, 0.05)
    y = build("Conv", real(build, x), w, b, pads=(1, 0, 1, 2), strides=(2, 1), layout="NHWC", clamp_low=0.0)
    return quantize(build, y, 0.04, -128)


def depthwise_conv_with_residual(build: GraphBuilder, x: Value) -> Value:
    w = weights(build, (4, 3, 3, 1))
    b = bias(build, 4, 0.05)
    y = build(
        "Conv", real(build, x), w, b, real(build, x), group=4, pads=(1, 1, 1, 1), layout="NHWC",
        clamp_low=0.0, clamp_high=6.0,
    )  # fmt: skip
    return quantize(build, y, 0.03, -128)


def conv_with_a_float_bias_and_one_scale(build: GraphBuilder, x: Value) -> Value:
    y = build("Conv", real(build, x), weights(build, (5, 1, 1, 4), None), build.random((5,)), layout="NHWC")
    return quantize(build, y, 0.1, 3)


def conv_transpose(build: GraphBuilder, x: Value) -> Value:
    w = weights(build, (4, 3, 3, 2), 3)
    y = build("ConvTranspose", real(build, x), w, None, strides=(2, 2), output_padding=(1, 1), layout="NHWC")
    return quantize(build, y, 0.06, -5)


def grouped_conv_transpose(build: GraphBuilder, x: Value) -> Value:
    w = weights(build, (4, 2, 2, 3), 3)
    y = build("ConvTranspose", real(build, x), w, build.random((6,)), group=2, layout="NHWC")
    return quantize(build, y, 0.06, -5)


def dense(build: GraphBuilder, x: Value) -> Value:
    y = build("Dense", real(build, x), weights(build, (7, 4)), build.random((7,)))
    return quantize(build, y, 0.05, 20)


def matmul_by_a_constant(build: GraphBuilder, x: Value) -> Value:
    return quantize(build, build("MatMul", real(build, x), weights(build, (4, 3), 1)), 0.05, -3)


def matmul_of_two_activations(build: GraphBuilder, x: Value) -> Value:
    turned = build("Transpose", real(build, x), perm=(0, 1, 3, 2))
    return quantize(build, build("MatMul", real(build, x), turned), 0.5, -100)


def add_with_broadcast(build: GraphBuilder, x: Value) -> Value:
    c = real(build, build.random_int8((4,), Q(0.02, 9)))
    return quantize(build, build("Add", real(build, x), c, clamp_low=0.0), 0.031, -128)


def sub(build: GraphBuilder, x: Value) -> Value:
    other = quantize(build, build("Tanh", real(build, x)), 1 / 128, 0)
    return quantize(build, build("Sub", real(build, other), real(build, x)), 0.06, 4)


def mul(build: GraphBuilder, x: Value) -> Value:
    gate = quantize(build, build("Sigmoid", real(build, x)), 1 / 256, -128)
    return quantize(build, build("Mul", real(build, x), real(build, gate)), 0.027, -110)


def average_pool_over_the_edge(build: GraphBuilder, x: Value) -> Value:
    y = build("AveragePool", real(build, x), kernel=(3, 2), pads=(1, 0, 1, 0), layout="NHWC")
    return quantize(build, y, 0.04, 11)


def average_pool_that_counts_padding(build: GraphBuilder, x: Value) -> Value:
    y = build("AveragePool", real(build, x), kernel=(3, 3), pads=(1,) * 4, counted_pads=(1,) * 4, layout="NHWC")
    return quantize(build, y, 0.05, 10)


def reduce_mean(build: GraphBuilder, x: Value) -> Value:
    return quantize(build, build("ReduceMean", real(build, x), axes=(1, 2), keepdims=0), 0.02, -1)


def reduce_sum(build: GraphBuilder, x: Value) -> Value:
    return quantize(build, build("ReduceSum", real(build, x), axes=(3,)), 0.2, -1)


def prelu(build: GraphBuilder, x: Value) -> Value:
    return quantize(build, build("PRelu", real(build, x), build.constant([0.25, -0.5, 2.0, 0.0])), 0.05, -40)


def softmax(build: GraphBuilder, x: Value) -> Value:
    return quantize(build, build("Softmax", real(build, x), axis=3), 1 / 256, -128)


def concat_of_different_scales(build: GraphBuilder, x: Value) -> Value:
    other = quantize(build, build("HardSwish", real(build, x)), 0.03, -100)
    fixed = build.constant(np.full((1, 6, 6, 1), 1.3, np.float32))
    joined = build("Concat", real(build, x), real(build, other), fixed, axis=3)
    return quantize(build, build("MaxPool", joined, layout="NHWC", pads=(1, 1, 0, 0)), 0.04, 1)


def movers_in_a_row(build: GraphBuilder, x: Value) -> Value:
    padded = build("Pad", real(build, x), pads=(0, 1, 1, 0, 0, 1, 1, 0), value=-2.0)
    part = build("Slice", padded, starts=(0, 0, 1, 0), steps=(1, 2, 1, 1), sizes=(1, 4, 6, 4))
    resized = build(
        "Resize", part, mode="nearest", scales=(1.0, 2.0, 2.0, 1.0), sizes=(1, 8, 12, 4),
        coordinate_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    return quantize(build, build("ReduceMax", resized, axes=(1,)), 0.05, 10)


CASES: dict[Callable[[GraphBuilder, Value], Value], list[str]] = {
    conv: ["QConv"],
    depthwise_conv_with_residual: ["QConv"],
    conv_with_a_float_bias_and_one_scale: ["QConv"],
    conv_transpose: ["QConvTranspose"],
    grouped_conv_transpose: ["QConvTranspose"],
    dense: ["QDense"],
    matmul_by_a_constant: ["QDense"],
    matmul_of_two_activations: ["Transpose", "QMatMul"],
    add_with_broadcast: ["QAdd"],
    sub: ["QLookup", "QAdd"],
    mul: ["QLookup", "QMul"],
    average_pool_over_the_edge: ["QAveragePool"],
    average_pool_that_counts_padding: ["QAveragePool"],
    reduce_mean: ["QReduceSum"],
    reduce_sum: ["QReduceSum"],
    prelu: ["QPRelu"],
    softmax: ["QSoftmax"],
    concat_of_different_scales: ["QLookup", "QLookup", "QLookup", "Concat", "MaxPool"],
    movers_in_a_row: ["Pad", "Slice", "Resize", "ReduceMax"],
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_integers_are_within_one_step_of_onnxruntime(case: Callable[[GraphBuilder, Value], Value]) -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 6, 6, 4), "int8", Q(0.05, 10))
    graph = build.graph_of(case(build, x))
    before = graph.copy()
    lowered(graph)
    assert ops_of(graph) == CASES[case]
    allowed = 0 if set(CASES[case]) <= {"Pad", "Slice", "Resize", "ReduceMax"} else 1
    assert max(steps_from_onnxruntime(before, graph, seed) for seed in range(3)) <= allowed


@pytest.mark.parametrize(
    ("op", "attributes", "constant"),
    [
        ("Relu", {}, None), ("Clip", {"low": -1.0, "high": 2.0}, None), ("LeakyRelu", {"alpha": 0.2}, None),
        ("Sigmoid", {}, None), ("Tanh", {}, None), ("HardSigmoid", {}, None), ("HardSwish", {}, None),
        ("Gelu", {"approximate": "tanh"}, None), ("PRelu", {}, 0.3), ("Mul", {"clamp_high": 1.0}, -0.7),
        ("Sub", {}, 1.25), ("Div", {}, 3.0),
    ],
)  # fmt: skip
def test_functions_of_one_variable_are_tables_of_the_very_levels_that_float_gives(
    op: str, attributes: dict[str, float | str], constant: float | None
) -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 16, 16, 1), "int8", Q(0.03, -5))
    operands = [real(build, x)] + ([] if constant is None else [build.constant([constant])])
    node_attributes: dict[str, float | str] = attributes
    result = build.many(op, *operands, outputs=1, name=None, quantization=None, dtype="float32", **node_attributes)[0]
    graph = build.graph_of(quantize(build, result, 0.02, 7))
    before = graph.copy()
    lowered(graph)
    assert ops_of(graph) == ["QLookup"]
    sample = {"x": np.arange(-128, 128, dtype=np.int8).reshape(1, 16, 16, 1)}
    (expected,), (got,) = evaluate(before, sample).values(), evaluate(graph, sample).values()
    np.testing.assert_array_equal(got, expected)


def test_the_bias_holds_the_zero_point_and_the_multiplier_leads_to_the_output_scale() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 2), "int8", Q(0.5, 10))
    w = real(
        build,
        build.constant(
            [[3, -5], [7, 1]], dtype="int8", quantization=Quantization.per_channel([0.25, 0.125], [0, 0], 0)
        ),
    )
    y = build("Dense", real(build, x), w, build.constant([1.0, -2.0]), clamp_low=-1.0)
    graph = build.graph_of(quantize(build, y, 0.5, 4))
    lowered(graph)
    (node,) = graph.nodes
    assert node.input(2).data.tolist() == [8 - 10 * (3 - 5), -32 - 10 * (7 + 1)]
    assert node.int("shift") == 32
    assert node.input(3).data.tolist() == [2**30, 2**29]
    assert (node.int("low"), node.int("high")) == (2, 127)


def test_a_residual_of_a_larger_scale_makes_the_shift_smaller() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 2), "int8", Q(0.01, 0))
    r = build.input("r", (1, 2), "int8", Q(2.0, -3))
    y = build("Dense", real(build, x), weights(build, (2, 2)), None, real(build, r))
    graph = build.graph_of(quantize(build, y, 1.0, 0))
    before = graph.copy()
    lowered(graph)
    (node,) = graph.nodes
    assert (node.int("residual_multiplier"), node.int("shift")) == (2**30, 29)
    assert steps_from_onnxruntime(before, graph) <= 1


@pytest.mark.parametrize(
    ("scale", "multiplier"),
    [
        (0.3, round(0.3 * 2**16) << 16),  # 16 bits behind the point
        (0.499999, round(0.499999 * 2**32)),  # rounded it would not fit
        (0.001, round(0.001 * 2**32)),  # too few bits would be left
    ],
)
def test_the_multiplier_of_a_residual_is_rounded_where_that_does_not_matter(scale: float, multiplier: int) -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 2), "int8", Q(0.01, 0))
    r = build.input("r", (1, 2), "int8", Q(scale, -3))
    y = build("Dense", real(build, x), weights(build, (2, 2)), None, real(build, r))
    graph = build.graph_of(quantize(build, y, 1.0, 0))
    before = graph.copy()
    lowered(graph)
    (node,) = graph.nodes
    assert node.int("shift") == 32
    assert abs(node.int("residual_multiplier") - multiplier) < 2**8  # scales are float32
    assert (node.int("residual_multiplier") % 2**16 == 0) == (multiplier % 2**16 == 0)
    assert steps_from_onnxruntime(before, graph) <= 1


def test_clusters_stay_on_the_weights_of_the_integer_operator() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 2), "int8", Q(0.5, 10))
    clusters = Clusters(np.array([[0, 1]], np.uint8), np.array([-4, 9], np.int8), np.array([0.5], np.float32))
    w = build.constant(clusters.integers(), quantization=Quantization.per_channel([0.5], [0], 0))
    w.clusters = clusters
    graph = build.graph_of(quantize(build, build("Dense", real(build, x), real(build, w)), 0.5, 4))
    lowered(graph)
    assert graph.nodes[0].input(1).clusters is clusters
