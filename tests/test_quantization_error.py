"""Errors of single layers, and graphs of which only a part is quantized."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph_builder import GraphBuilder, context_for, ops_of, random_inputs
from tinyopt.evaluate import evaluate
from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.passes.quantize import Quantize
from tinyopt.quantization_error import Precision, QuantizedModel, all_float, analyze_errors, with_precision
from tinyopt.verify import verify

SAMPLES = 16


def hostile_network() -> Graph:
    """Three dense layers; channel 2 of the second is a hundred times too large, which the third undoes."""
    build = GraphBuilder()
    x = build.input("x", (1, 12))
    first = build("Dense", x, build.random((12, 12)), build.random((12,)), name="first", clamp_low=0.0)
    weights, back = build.random((12, 12)), build.random((6, 12))
    bias = build.random((12,))
    weights.data[2] *= 100
    bias.data[2] *= 100
    back.data[:, 2] /= 100
    second = build("Dense", first, weights, bias, name="second", clamp_low=0.0)
    return build.graph_of(build("Dense", build("Reshape", second, shape=(1, 12)), back, name="third"))


def joined_network() -> Graph:
    """Two convolutions whose results are concatenated, pooled and classified."""
    build = GraphBuilder()
    x = build.input("x", (1, 4, 4, 3))
    one = build("Conv", x, build.random((4, 1, 1, 3)), build.random((4,)), name="one", layout="NHWC", clamp_low=0.0)
    two = build("Conv", x, build.random((4, 1, 1, 3)), name="two", layout="NHWC", clamp_low=0.0)
    pooled = build("MaxPool", build("Concat", one, two, axis=3), kernel=(4, 4), layout="NHWC")
    return build.graph_of(build("Dense", build("Reshape", pooled, shape=(1, 8)), build.random((5, 8)), name="last"))


def quantized(graph: Graph) -> tuple[QuantizedModel, list[dict[str, Array]]]:
    samples = [random_inputs(graph, seed) for seed in range(SAMPLES)]
    context = context_for(samples)
    assert Quantize(method="minmax").run(graph, context)
    assert context.float_graph is not None
    return QuantizedModel(context.float_graph, graph), samples


def test_the_layer_with_one_channel_a_hundred_times_too_large_is_the_first_suspect() -> None:
    model, samples = quantized(hostile_network())
    report = analyze_errors(model, samples)
    first, *others = report.suspects()
    assert first.name == "second"
    assert first.is_output_guilty
    assert first.widest_channel[0] == 2
    assert first.widest_channel[1] > 20
    assert all(first.snr_model_db < other.snr_model_db - 3 for other in others)  # type: ignore[operator]
    assert [layer.name for layer in report.layers] == ["x", "first", "second", "third"]


def test_alone_is_the_sum_of_constants_and_output_and_what_accumulates_is_worse() -> None:
    model, samples = quantized(joined_network())
    report = analyze_errors(model, samples)
    for layer in report.layers:
        parts = [10 ** (-ratio / 10) for ratio in (layer.snr_constants_db, layer.snr_output_db)]
        assert 10 ** (-layer.snr_alone_db / 10) == pytest.approx(sum(parts), rel=0.35)
        assert (layer.snr_constants_db == np.inf) == (layer.op == "Input")
        assert 0 <= layer.saturated < 0.05
        assert 0 < layer.levels_used <= layer.range_used <= 1
    last = report.layers[-1]
    assert last.snr_accumulated_db < last.snr_alone_db
    assert report.snr_db == pytest.approx(last.snr_accumulated_db)


def test_a_model_with_every_layer_in_float_is_the_float_model_again() -> None:
    model, samples = quantized(joined_network())
    graph = with_precision(model, all_float(model))
    verify(graph, after="with_precision")
    assert ops_of(graph) == ops_of(model.float_graph)
    expected, found = evaluate(model.float_graph, samples[0]), evaluate(graph, samples[0])
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_weights_that_came_quantized_count_as_exact() -> None:
    model, samples = quantized(joined_network())
    last = next(node for node in model.float_graph.nodes if node.name == "last")
    given = next(layer for layer in model.layers if layer.name == "last").constants[1]
    levels = Value.of("given", given.data, given.quantization)
    real = Value("given_real", last.input(1).type)
    model.float_graph.insert(last, [Node("DequantizeLinear", "given_dequantize", [levels], [real])])
    last.inputs[1] = real
    fresh = QuantizedModel(model.float_graph, model.graph)
    report = {layer.name: layer for layer in analyze_errors(fresh, samples).layers}
    assert report["one"].snr_constants_db < 60
    assert report["last"].snr_constants_db == np.inf
    (expected,), (found,) = (
        evaluate(graph, samples[0]).values() for graph in (model.float_graph, with_precision(fresh, all_float(fresh)))
    )
    np.testing.assert_array_equal(found, expected)


def test_without_changes_it_is_the_quantized_model_which_itself_stays_as_it_was() -> None:
    model, samples = quantized(joined_network())
    before = [node.name for node in model.graph.nodes]
    with_precision(model, all_float(model))
    assert [node.name for node in model.graph.nodes] == before
    same = with_precision(model, {})
    assert [node.name for node in same.nodes] == before
    (expected,), (found,) = (evaluate(graph, samples[0]).values() for graph in (model.graph, same))
    np.testing.assert_array_equal(found, expected)


def test_an_unrounded_output_stays_unrounded_behind_what_moves_it() -> None:
    model, _ = quantized(joined_network())
    graph = with_precision(model, {"one": Precision(output="float")})
    verify(graph, after="with_precision")
    producers = graph.producers()
    last = next(node for node in graph.nodes if node.name == "last")
    assert [producers[last.input(0)].op, producers[last.input(1)].op] == ["Reshape", "DequantizeLinear"]
    concat = next(node for node in graph.nodes if node.op == "Concat")
    assert [producers[value].op for value in concat.present_inputs] == ["Conv", "DequantizeLinear"]


def test_values_that_movers_connect_with_one_in_int16_are_int16_with_its_scale() -> None:
    model, _ = quantized(joined_network())
    graph = with_precision(model, {"two": Precision(output="int16")}, {"one": 1000.0})
    wide = [v for v in graph.values() if v.dtype == "int16"]
    assert {node.input(0).name for node in graph.nodes if node.output in wide} == {
        "one_out",
        "two_out",
        "concat_out",
        "maxpool_out",
        "reshape_out",
    }
    assert {v.quantization.scale[0] for v in wide if v.quantization} == {float(np.float32(1000 / 32767))}
