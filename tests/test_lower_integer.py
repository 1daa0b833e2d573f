"""Integer lowering: the numbers against onnxruntime's QDQ form, and that what can be integer is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.graph_builder import GraphBuilder, context_for, messages, ops_of, random_inputs
from tinyopt.errors import UsageError
from tinyopt.evaluate import evaluate
from tinyopt.ir import Array, Clusters, Graph, Quantization, Value
from tinyopt.onnx_import import import_model
from tinyopt.onnx_session import OnnxSession
from tinyopt.ops import OPERATORS
from tinyopt.pass_manager import Remark, run_pass
from tinyopt.passes.fold_constants import FoldConstants
from tinyopt.passes.fuse_operators import FuseOperators
from tinyopt.passes.lower_integer import LowerInteger
from tinyopt.passes.nhwc_layout import NhwcLayout
from tinyopt.passes.quantize import Quantize
from tinyopt.verify import verify

Q = Quantization.per_tensor
BOUNDARY = ("QuantizeLinear", "DequantizeLinear")


def lowered(graph: Graph, boundary: str = "float") -> list[Remark]:
    """Lower in place, verify, and see that a second run changes nothing."""
    context = context_for()
    LowerInteger(boundary).run(graph, context)
    verify(graph, after="lower-integer")
    assert not LowerInteger(boundary).run(graph, context_for())
    return context.remarks


def real(build: GraphBuilder, value: Value) -> Value:
    return build("DequantizeLinear", value)


def quantize(build: GraphBuilder, value: Value, scale: float, zero_point: int) -> Value:
    return build("QuantizeLinear", value, quantization=Q(scale, zero_point))


def weights(build: GraphBuilder, shape: tuple[int, ...], axis: int | None = 0) -> Value:
    """Random int8 weights behind a DequantizeLinear."""
    count = 1 if axis is None else shape[axis]
    scale = np.linspace(0.003, 0.02, count)
    quantization = Q(0.01, 0) if axis is None else Quantization.per_channel(scale, [0] * count, axis)
    return real(build, build.random_int8(shape, quantization))


def bias(build: GraphBuilder, channels: int, input_scale: float) -> Value:
    """A random int32 bias in units of the products with `weights`, behind a DequantizeLinear."""
    scale = np.linspace(0.003, 0.02, channels) * input_scale
    levels = np.random.default_rng(1).integers(-900, 900, channels).astype(np.int32)
    return real(build, build.constant(levels, quantization=Quantization.per_channel(scale, [0] * channels, 0)))


def steps_from_onnxruntime(qdq: Graph, integer: Graph, seed: int = 0) -> int:
    """The largest difference between the two in output levels, of graphs that take and give int8."""
    sample = random_inputs(qdq, seed)
    expected = OnnxSession(qdq).run(sample)
    got = evaluate(integer, sample)
    assert expected.keys() == got.keys()
    return max(int(np.max(np.abs(expected[key].astype(int) - got[key].astype(int)))) for key in got)


def assert_each_layer_within_one_step(qdq: Graph, integer: Graph, sample: dict[str, Array]) -> int:
    """Give each integer node what onnxruntime has computed before it, in QDQ form; returns how many were compared."""
    levels = [v for v in qdq.values() if v.dtype == "int8" and not v.is_constant and v not in qdq.inputs]
    known = {**sample, **OnnxSession(qdq, [v for v in levels if not qdq.is_output(v)]).run(sample)}
    compared = 0
    for node in integer.nodes:
        arrays = [None if v is None else v.data if v.is_constant else known[v.name] for v in node.inputs]
        for value, array in zip(node.outputs, OPERATORS[node.op].evaluate(node, arrays), strict=True):
            expected = known.setdefault(value.name, array)
            if value.dtype == "int8":
                assert np.max(np.abs(expected.astype(int) - array.astype(int))) <= 1, node.name
                compared += 1
    return compared


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
    result = build.many(op, *operands, outputs=1, name=None, quantization=None, **node_attributes)[0]
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


def test_clusters_stay_on_the_weights_of_the_integer_operator() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 2), "int8", Q(0.5, 10))
    clusters = Clusters(np.array([[0, 1]], np.uint8), np.array([-4, 9], np.int8), np.array([0.5], np.float32))
    w = build.constant(clusters.integers(), quantization=Quantization.per_channel([0.5], [0], 0))
    w.clusters = clusters
    graph = build.graph_of(quantize(build, build("Dense", real(build, x), real(build, w)), 0.5, 4))
    lowered(graph)
    assert graph.nodes[0].input(1).clusters is clusters


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


def coarse_softmax(build: GraphBuilder, x: Value) -> Value:
    return quantize(build, build("Softmax", real(build, x), axis=1), 0.3, 0)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (island, "LogSoftmax 'logsoftmax' stays in float: it has no integer form"),
        (float_weights, "its weights 'w' are float32, not int8 behind DequantizeLinear"),
        (weights_with_zero_points, "its weights 'w' have zero points that are not 0"),
        (unquantized_output, "its output is not quantized"),
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
