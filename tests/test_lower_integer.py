"""Integer lowering: whole graphs, their boundary, and what stays in float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.graph_builder import GraphBuilder, context_for, messages, ops_of, random_inputs
from tests.quantized_graphs import (
    Q,
    assert_each_layer_within_one_step,
    lowered,
    quantize,
    real,
    weights,
)
from tinyopt.errors import UsageError
from tinyopt.evaluate import evaluate
from tinyopt.ir import Graph, Value
from tinyopt.onnx_import import import_model
from tinyopt.pass_manager import run_pass
from tinyopt.passes.fold_constants import FoldConstants
from tinyopt.passes.fuse_operators import FuseOperators
from tinyopt.passes.lower_integer import LowerInteger
from tinyopt.passes.nhwc_layout import NhwcLayout
from tinyopt.passes.quantize import Quantize


def float_boundary_graph() -> Graph:
    build = GraphBuilder()
    x = build.input("x", (1, 2, 2, 4))
    inside = quantize(build, build("Transpose", x, perm=(0, 2, 1, 3)), 0.1, 5)
    y = quantize(build, build("Dense", real(build, inside), weights(build, (3, 4))), 0.1, 6)
    return build.graph_of(real(build, y))


def test_a_float_boundary_stays_and_an_int8_boundary_keeps_the_names_and_carries_the_scales() -> None:
    graph = float_boundary_graph()
    name = graph.outputs[0].name
    lowered(graph)
    assert ops_of(graph) == ["QuantizeLinear", "Transpose", "QDense", "DequantizeLinear"]
    as_int8 = float_boundary_graph()
    lowered(as_int8, "int8")
    assert ops_of(as_int8) == ["Transpose", "QDense"]
    (x,), (y,) = as_int8.inputs, as_int8.outputs
    assert (x.name, x.dtype, x.quantization) == ("x", "int8", Q(0.1, 5))
    assert (y.name, y.dtype, y.quantization) == (name, "int8", Q(0.1, 6))
    sample = random_inputs(graph)
    levels = evaluate(as_int8, {"x": Q(0.1, 5).quantize(sample["x"], "int8")})[name]
    np.testing.assert_array_equal(Q(0.1, 6).dequantize(levels), evaluate(graph, sample)[name])
    with pytest.raises(UsageError, match=r"lower-integer\.boundary is 'uint8'"):
        LowerInteger("uint8").run(graph, context_for())


def island(build: GraphBuilder, x: Value) -> Value:
    return build("LogSoftmax", real(build, x), axis=1)


def float_weights(build: GraphBuilder, x: Value) -> Value:
    return quantize(build, build("Dense", real(build, x), build.random((3, 4))), 0.1, 0)


def weights_with_zero_points(build: GraphBuilder, x: Value) -> Value:
    w = real(build, build.random_int8((3, 4), Q(0.1, 3)))
    return quantize(build, build("Dense", real(build, x), w), 0.1, 0)


def unquantized_output(build: GraphBuilder, x: Value) -> Value:
    return build("Dense", real(build, x), weights(build, (3, 4)))


def computed_bias(build: GraphBuilder, x: Value) -> Value:
    bias = real(build, build.input("bias", (3,), "int32", Q(0.001, 0)))
    return quantize(build, build("Dense", real(build, x), weights(build, (3, 4)), bias), 0.1, 0)


def coarse_softmax(build: GraphBuilder, x: Value) -> Value:
    return quantize(build, build("Softmax", real(build, x), axis=1), 0.3, 0)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (island, "LogSoftmax 'logsoftmax' stays in float: it has no integer form"),
        (float_weights, "its weights 'w' are float32, not int8 behind DequantizeLinear"),
        (weights_with_zero_points, "its weights 'w' have zero points that are not 0"),
        (unquantized_output, "its output is not quantized"),
        (computed_bias, "its bias 'bias' is not a constant"),
        (coarse_softmax, "its output's scale 0.3 is not one over an integer"),
    ],
)
def test_what_has_no_integer_form_stays_in_float_with_the_reason(
    case: Callable[[GraphBuilder, Value], Value], reason: str
) -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 4), "int8", Q(0.05, 10))
    graph = build.graph_of(case(build, x))
    before = ops_of(graph)
    remarks = lowered(graph)
    assert ops_of(graph) == before
    (message,) = messages(remarks, "declined")
    assert reason in message


def test_reshapes_beside_an_island_move_integers() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 4), "int8", Q(0.05, 10))
    halves = build.many("Split", real(build, x), outputs=2, axis=1, sizes=(1, 3))
    graph = build.graph_of(build("LogSoftmax", build("Reshape", halves[1], shape=(3,)), axis=0))
    lowered(graph)
    assert ops_of(graph) == ["Split", "Reshape", "DequantizeLinear", "LogSoftmax"]


def test_a_network_quantized_here_becomes_integer_from_end_to_end() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 6, 6, 3))
    first = build(
        "Conv", x, build.random((4, 3, 3, 3)), build.random((4,)), pads=(1,) * 4, layout="NHWC", clamp_low=0.0
    )
    depthwise = build.random((4, 3, 3, 1))
    second = build("Conv", first, depthwise, None, first, group=4, pads=(1,) * 4, layout="NHWC", clamp_high=6.0)
    gated = build("Mul", second, build("HardSigmoid", second))
    joined = build("Concat", first, gated, build("Sigmoid", gated), axis=3)
    larger = build("Mul", build("Add", joined, build.random((12,))), build.constant([0.5]))
    logits = build("Dense", build("ReduceMean", larger, axes=(1, 2), keepdims=0), build.random((5, 12)))
    graph = build.graph_of(build("Softmax", logits, axis=1), build("MaxPool", joined, layout="NHWC"))
    before = graph.copy()
    Quantize().run(graph, context_for([random_inputs(graph, seed) for seed in range(8)]))
    qdq = graph.copy()
    remarks = lowered(graph)
    assert messages(remarks, "declined") == []
    assert {op for op in ops_of(graph) if not op.startswith("Q")} <= {"Concat", "MaxPool", "DequantizeLinear"}
    sample = random_inputs(graph, 3)
    assert assert_each_layer_within_one_step(qdq, graph, sample) >= len(graph.nodes) - 2
    exact, got = evaluate(before, sample), evaluate(graph, sample)
    for name, array in exact.items():
        np.testing.assert_allclose(got[name], array, atol=0.05 * float(np.ptp(array)))


@pytest.mark.parametrize("name", ["kws01", "ic01", "vww01", "ad01"])
def test_the_reference_models_become_integer_and_every_layer_is_within_one_step(name: str, models_dir: Path) -> None:
    graph = import_model(models_dir / f"{name}_int8_qdq.onnx", {}).graph
    for step in (FoldConstants(), FuseOperators(), NhwcLayout(), FuseOperators()):
        run_pass(step, graph, context_for())
    qdq = graph.copy()
    remarks = lowered(graph)
    assert messages(remarks, "declined") == []
    assert {op for op in ops_of(graph) if not op.startswith("Q")} <= {"Reshape", "Transpose"}
    assert {value.dtype for value in (*graph.inputs, *graph.outputs)} == {"int8"}
    assert assert_each_layer_within_one_step(qdq, graph, random_inputs(graph)) == len(graph.nodes)
