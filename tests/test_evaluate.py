"""The interpreter: what it takes as input, and the operators at the border between real numbers and integers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph_builder import GraphBuilder
from tinyopt.errors import InvalidModelError, UnsupportedOperatorError
from tinyopt.evaluate import evaluate, evaluate_all
from tinyopt.ir import Array, Clusters, Graph, Quantization
from tinyopt.onnx_session import OnnxSession
from tinyopt.ops.facts import graph_macs, weight_bytes

TENTH = Quantization.per_tensor(0.1, 3)


def quantize_and_back(quantization: Quantization = TENTH) -> Graph:
    build = GraphBuilder()
    levels = build("QuantizeLinear", build.input("x", (2, 3)), quantization=quantization)
    return build.graph_of(levels, build("DequantizeLinear", levels))


def test_quantization_rounds_half_to_even_and_saturates() -> None:
    half = Quantization.per_tensor(0.5, 3)
    levels, back = evaluate(
        quantize_and_back(half), {"x": np.array([[0.25, 0.75, -0.25], [1.1, 1e9, -1e9]], np.float32)}
    ).values()
    np.testing.assert_array_equal(levels, [[3, 5, 3], [5, 127, -128]])
    np.testing.assert_array_equal(back, [[0, 1, 0], [1, 62, -65.5]])


@pytest.mark.parametrize("quantization", [TENTH, Quantization.per_channel([0.1, 0.3, 0.01], [0, 5, -7], 1)])
def test_quantization_is_that_of_onnxruntime(quantization: Quantization) -> None:
    graph = quantize_and_back(quantization)
    sample = {"x": np.linspace(-20, 20, 6, dtype=np.float32).reshape(2, 3)}
    for name, array in OnnxSession(graph).run(sample).items():
        np.testing.assert_array_equal(array, evaluate(graph, sample)[name])


def test_an_int32_constant_dequantizes_by_channel() -> None:
    build = GraphBuilder()
    bias = build.constant(np.array([100, -200], np.int32), quantization=Quantization.per_channel([0.5, 2], [0, 0], 0))
    graph = build.graph_of(build("DequantizeLinear", bias))
    for result in (evaluate(graph, {}), OnnxSession(graph).run({})):
        np.testing.assert_array_equal(next(iter(result.values())), [50, -400])


def test_flipping_the_sign_moves_uint8_to_int8_and_back() -> None:
    build = GraphBuilder()
    flipped = build("FlipSign", build.input("x", (4,), "uint8"))
    graph = build.graph_of(flipped, build("FlipSign", flipped))
    x = np.array([0, 127, 128, 255], np.uint8)
    to_int8, back = evaluate(graph, {"x": x}).values()
    np.testing.assert_array_equal(to_int8, [-128, -1, 0, 127])
    np.testing.assert_array_equal(back, x)
    assert [to_int8.dtype.name, back.dtype.name] == ["int8", "uint8"]


def test_every_value_can_be_had() -> None:
    build = GraphBuilder()
    x, two = build.input("x", (2,)), build.constant([2.0, 2.0])
    product = build("Mul", x, two)
    arrays = evaluate_all(build.graph_of(build("Relu", product)), {"x": np.array([-1, 1])})
    assert set(arrays) == {x, two, product, build.nodes[1].output}
    np.testing.assert_array_equal(arrays[product], [-2, 2])


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ({}, "no data for input 'x'"),
        ({"x": np.zeros((3, 2))}, r"'x' has shape \[3, 2\]; the model takes \[2, 3\]"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(1)}, "no input 'y'"),
        ({"x": np.full((2, 3), "text")}, "'x' holds str"),
    ],
)
def test_inputs_that_do_not_fit_are_named(inputs: dict[str, Array], complaint: str) -> None:
    with pytest.raises(InvalidModelError, match=complaint):
        evaluate(quantize_and_back(), inputs)


def test_integers_are_cast_only_where_no_value_changes() -> None:
    build = GraphBuilder()
    graph = build.graph_of(build("FlipSign", build.input("x", (1,), "uint8")))
    assert evaluate(graph, {"x": np.array([200])})["flipsign_out"].tolist() == [72]
    for wrong in (np.array([-1]), np.array([256]), np.array([1.0])):
        with pytest.raises(InvalidModelError, match="the model takes uint8"):
            evaluate(graph, {"x": wrong})


def test_an_unknown_operator_is_refused_with_its_name() -> None:
    graph = quantize_and_back()
    graph.nodes[1].op = "Nonsense"
    with pytest.raises(UnsupportedOperatorError, match=r"Nonsense \(node 'dequantizelinear'\)"):
        evaluate(graph, {"x": np.zeros((2, 3))})


def test_macs_and_bytes_of_a_graph() -> None:
    build = GraphBuilder()
    weights = build.random((4, 6))
    graph = build.graph_of(build("Dense", build.input("x", (2, 6)), weights, build.random((4,))))
    assert graph_macs(graph) == 2 * 4 * 6
    assert weight_bytes(graph) == (24 + 4) * 4
    weights.clusters = Clusters(np.zeros((4, 6), np.uint8), np.zeros(5, np.int8), np.ones(4, np.float32))
    assert weight_bytes(graph) == 24 * 3 // 8 + 5 + 4 * 4 + 4 * 4
