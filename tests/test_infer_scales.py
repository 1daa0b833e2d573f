"""Partly quantized models: missing scales are inferred, and nothing is left in float."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.graph_builder import GraphBuilder, context_for, messages, ops_of, random_inputs
from tests.quantized_graphs import Q, quantize, real, weights
from tinyopt.evaluate import evaluate
from tinyopt.ir import Graph, Quantization, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.pass_manager import Remark
from tinyopt.passes.infer_scales import InferScales
from tinyopt.passes.lower_integer import LowerInteger
from tinyopt.passes.quantization.kept_weights import symmetric
from tinyopt.passes.quantization.weights import BIAS_BITS
from tinyopt.samples import Sample
from tinyopt.verify import verify

_NHWC: dict[str, Any] = {"layout": "NHWC"}


def inferred(graph: Graph, samples: list[Sample] | None = None) -> list[Remark]:
    """Infer in place, verify, and see that a second run changes nothing."""
    context = context_for(samples or [])
    InferScales().run(graph, context)
    verify(graph, after="infer-scales")
    assert not InferScales().run(graph, context_for(samples or []))
    return context.remarks


def islands(graph: Graph) -> list[str]:
    """Lower a copy; what still computes in float."""
    lowered = graph.copy()
    LowerInteger().run(lowered, context_for())
    rounding = ("QuantizeLinear", "DequantizeLinear")
    nodes = [node for node in lowered.nodes if node.op not in rounding]
    return [n.name for n in nodes if any(v.dtype == "float32" for v in (*n.present_inputs, *n.outputs))]


def scale_behind(graph: Graph, value: Value) -> Quantization:
    """The one quantization by which a value is rounded."""
    (found,) = {r.output.quantization for r in graph.consumers()[value] if r.op == "QuantizeLinear"}
    assert found is not None
    return found


def assert_within_one_step(before: Graph, after: Graph) -> None:
    """What integers compute after lowering differs from the model as it came by a step of the output at most."""
    sample = random_inputs(before)
    lowered = after.copy()
    LowerInteger().run(lowered, context_for())
    expected, got = OnnxSession(before).run(sample), evaluate(lowered, sample)
    producers = after.producers()
    for value in after.outputs:
        quantization = producers[value].input(0).quantization
        assert quantization is not None
        step = quantization.scale[0]
        assert np.max(np.abs(expected[value.name] - got[value.name])) <= step * 1.001


def test_a_scale_goes_on_through_pools_and_relu_and_comes_back_through_reshape() -> None:
    build = GraphBuilder()
    x = real(build, build.input("x", (1, 4, 4, 2), "int8", Q(0.02, 5)))
    pooled = build("MaxPool", build("Relu", x), strides=(2, 2), **_NHWC)
    mean = build("AveragePool", pooled, kernel=(2, 2), **_NHWC)
    dense = build("Dense", build("Reshape", mean, shape=(1, 2)), weights(build, (8, 2)))
    y = real(build, quantize(build, build("Reshape", dense, shape=(8,)), 0.04, -3))
    graph = build.graph_of(y)
    before = graph.copy()
    inferred(graph)
    assert islands(graph) == []
    assert scale_behind(graph, pooled) == Q(0.02, 5)
    assert scale_behind(graph, mean) == Q(0.02, 5)
    assert scale_behind(graph, dense) == Q(0.04, -3)
    assert_within_one_step(before, graph)


def test_a_concat_of_different_scales_gets_one_that_covers_both() -> None:
    build = GraphBuilder()
    a = real(build, build.input("a", (1, 3), "int8", Q(0.01, -128)))  # 0 .. 2.55
    b = real(build, build.input("b", (1, 3), "int8", Q(0.02, 127)))  # -5.1 .. 0
    graph = build.graph_of(build("Concat", a, b, axis=1))
    before = graph.copy()
    remarks = inferred(graph)
    (found,) = {node.output.quantization for node in graph.nodes if node.op == "QuantizeLinear"}
    assert found is not None
    assert found.scale[0] == pytest.approx(7.65 / 255)
    assert found.zero_point == (42,)
    assert islands(graph) == []
    assert "Concat 'concat'" in messages(remarks, "did")[0]
    assert_within_one_step(before, graph)


def test_a_skip_connection_past_the_quantizer_reads_the_rounded_value() -> None:
    """As TensorRT's exports are: Q and D only before layers, nothing behind them, the skip taken before the Q."""
    build = GraphBuilder()
    x = real(build, quantize(build, build.input("x", (1, 4, 4, 2)), 0.05, 0))
    stem = build("Conv", x, weights(build, (2, 1, 1, 2)), **_NHWC, clamp_low=0.0)
    inner = real(build, quantize(build, stem, 0.03, -128))
    total = build("Conv", inner, weights(build, (2, 1, 1, 2)), None, stem, **_NHWC, clamp_low=0.0)
    graph = build.graph_of(real(build, quantize(build, total, 0.04, -128)))
    before = graph.copy()
    remarks = inferred(graph)
    assert islands(graph) == []
    assert scale_behind(graph, stem) == Q(0.03, -128)
    assert any("too: the model quantizes it" in message for message in messages(remarks, "did"))
    assert_within_one_step(before, graph)


def test_a_quantizer_that_stands_for_a_relu_does_not_cut_off_what_others_read() -> None:
    """As onnxruntime leaves it: Conv -> Q in place of Conv -> Relu -> Q."""

    def build_graph() -> tuple[Graph, Value]:
        build = GraphBuilder()
        x = real(build, quantize(build, build.input("x", (1, 6)), 0.02, 0))
        hidden = build("Dense", x, weights(build, (6, 6)))
        positive = real(build, quantize(build, hidden, 0.03, -128))
        total = build("Add", hidden, positive)
        return build.graph_of(real(build, quantize(build, total, 0.1, 0))), hidden

    graph, _ = build_graph()
    inferred(graph)
    assert islands(graph) == ["dense", "add"]
    graph, hidden = build_graph()
    before = graph.copy()
    inferred(graph, [random_inputs(graph)])
    assert islands(graph) == []
    assert Q(0.03, -128) != min((r.output.quantization for r in graph.consumers()[hidden]), key=str)
    assert_within_one_step(before, graph)


def test_what_nothing_tells_stays_float_with_the_reason_and_is_observed_where_samples_are() -> None:
    def build_graph() -> tuple[Graph, Value]:
        build = GraphBuilder()
        x = real(build, quantize(build, build.input("x", (1, 6)), 0.02, 0))
        hidden = build("Dense", x, weights(build, (4, 6)))
        y = build("Dense", build("Relu", hidden), weights(build, (3, 4)))
        return build.graph_of(real(build, quantize(build, y, 0.05, 0))), hidden

    graph, _ = build_graph()
    remarks = inferred(graph)
    assert islands(graph) == ["dense", "relu", "dense_2"]
    assert any("nothing tells the scale of 'dense_out'" in text for text in messages(remarks, "declined"))
    graph, hidden = build_graph()
    sample = {"x": np.linspace(-2, 2, 6, dtype=np.float32)[None]}
    seen = OnnxSession(graph, [hidden]).run(sample)[hidden.name]
    remarks = inferred(graph, [sample])
    assert islands(graph) == []
    assert sum("observed" in text for text in messages(remarks, "did")) == 1  # the Relu's follows from it
    low, high = min(float(seen.min()), 0.0), max(float(seen.max()), 0.0)
    assert scale_behind(graph, hidden).scale[0] == pytest.approx((high - low) / 255, rel=0.02)


def test_weights_with_zero_points_stay_exact_where_they_fit() -> None:
    build = GraphBuilder()
    x = real(build, build.input("x", (1, 4), "int8", Q(0.02, 3)))
    levels = np.array([[90, -37, 10, 0], [-128, 127, 5, -1]], np.int8)  # less 10: channel 1 reaches -138
    integers = build.constant(levels, "w", quantization=Q(0.01, 10))
    bias = build.constant([0.31, -0.17])
    y = build("Dense", x, real(build, integers), bias)
    graph = build.graph_of(real(build, quantize(build, y, 0.05, 0)))
    before = graph.copy()
    remarks = inferred(graph)
    assert islands(graph) == []
    kept = next(v for v in graph.constants() if v.name.endswith("_symmetric"))
    assert kept.data[0].tolist() == [80, -47, 0, -10]
    assert kept.quantization is not None
    assert kept.quantization.scale[0] == pytest.approx(0.01)
    assert kept.quantization.scale[1] == pytest.approx(0.01 * 138 / 127)
    assert any("1 of 2 channels exactly" in text for text in messages(remarks, "did"))
    assert_within_one_step(before, graph)


def test_float_weights_and_constants_beside_quantized_activations_are_quantized() -> None:
    build = GraphBuilder()
    x = real(build, build.input("x", (1, 5), "int8", Q(0.02, 3)))
    dense = real(build, quantize(build, build("Dense", x, build.random((4, 5))), 0.05, 0))
    total = build("Add", dense, build.constant([0.5, -0.25, 0.125, 1.0]))
    graph = build.graph_of(real(build, quantize(build, total, 0.06, 0)))
    inferred(graph)
    assert islands(graph) == []


def test_a_product_by_channels_behind_a_rounding_is_a_depthwise_convolution() -> None:
    """Batch normalization as onnxruntime leaves it in a model that was not prepared."""
    build = GraphBuilder()
    x = real(build, build.input("x", (1, 3, 3, 3), "int8", Q(0.02, 3)))
    scaled = build("Mul", x, build.constant([2.0, -0.5, 0.001]))
    shifted = build("Add", scaled, build.constant([0.1, -0.2, 0.3]), clamp_low=0.0)
    graph = build.graph_of(real(build, quantize(build, shifted, 0.03, -128)))
    before = graph.copy()
    inferred(graph)
    assert islands(graph) == []
    assert ops_of(graph).count("Conv") == 1
    assert_within_one_step(before, graph)


def test_softmax_is_rounded_to_one_over_an_integer_first() -> None:
    build = GraphBuilder()
    x = real(build, build.input("x", (1, 10), "int8", Q(0.05, 0)))
    graph = build.graph_of(real(build, quantize(build, build("Softmax", x, axis=1), 0.0137, -128)))
    before = graph.copy()
    inferred(graph)
    assert islands(graph) == []
    assert_within_one_step(before, graph)


def test_a_complete_graph_and_a_float_one_stay_as_they_are() -> None:
    build = GraphBuilder()
    x = real(build, build.input("x", (1, 4), "int8", Q(0.02, 3)))
    complete = build.graph_of(real(build, quantize(build, build("Dense", x, weights(build, (2, 4))), 0.1, 0)))
    assert not InferScales().run(complete, context_for())
    build = GraphBuilder()
    plain = build.graph_of(build("Relu", build.input("x", (1, 4))))
    assert not InferScales().run(plain, context_for())


def test_sixteen_bits_stay_sixteen_bits() -> None:
    build = GraphBuilder()
    x = real(build, build.input("x", (1, 4, 4, 2), "int16", Q(0.001, 0)))
    pooled = build("MaxPool", build("Relu", x), strides=(2, 2), **_NHWC)
    y = build("Conv", pooled, weights(build, (3, 1, 1, 2)), **_NHWC)
    graph = build.graph_of(real(build, quantize(build, y, 0.05, 0)))
    before = graph.copy()
    inferred(graph)
    assert islands(graph) == []
    (reader,) = {r.output.dtype for r in graph.consumers()[pooled] if r.op == "QuantizeLinear"}
    assert reader == "int16"
    assert scale_behind(graph, pooled) == Q(0.001, 0)
    assert_within_one_step(before, graph)


def test_weights_beside_a_large_bias_get_a_scale_in_which_the_bias_fits_its_bits() -> None:
    integers = Value.of("w", np.array([[100, -50], [0, 4]], np.int8), Quantization.per_tensor(2.0**-30, 0))
    found = symmetric(integers, np.array([3.0, 3.0e-7]), input_scale=0.5)
    assert found.quantization.scale[0] == 3.0 / 0.5 / 2**BIAS_BITS
    assert found.quantization.scale[1] == 2.0**-30  # it fits beside the weights as they came
    assert found.levels.tolist() == [
        [round(level * 2.0**-30 / found.quantization.scale[0]) for level in (100, -50)],
        [0, 4],
    ]
    assert found.rounded == 1
