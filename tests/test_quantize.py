"""Quantization: what is rounded, to which parameters, and what the result says in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.graph_builder import GraphBuilder, context_for, messages, ops_of, random_inputs
from tinyopt.errors import InvalidModelError, UsageError
from tinyopt.evaluate import evaluate
from tinyopt.ir import Array, Clusters, Graph, Node, Quantization, Value
from tinyopt.onnx_import import import_model
from tinyopt.onnx_session import OnnxSession
from tinyopt.pass_manager import Remark, run_pass
from tinyopt.passes.fold_constants import FoldConstants
from tinyopt.passes.fuse_operators import FuseOperators
from tinyopt.passes.nhwc_layout import NhwcLayout
from tinyopt.passes.quantization.parameters import from_range
from tinyopt.passes.quantization.ranges import BINS, Observer, percentile
from tinyopt.passes.quantize import Quantize
from tinyopt.samples import load_labelled, load_samples
from tinyopt.verify import verify


def samples_for(graph: Graph, count: int = 8) -> list[dict[str, Array]]:
    return [random_inputs(graph, seed) for seed in range(count)]


def quantized(
    graph: Graph, samples: Sequence[Mapping[str, Array]] | None = None, step: Quantize | None = None
) -> list[Remark]:
    """Quantize in place, verify, and see that a second run changes nothing."""
    context = context_for(samples_for(graph) if samples is None else samples)
    step = Quantize() if step is None else step
    assert step.run(graph, context)
    verify(graph, after="quantize")
    assert not step.run(graph, context_for(samples_for(graph)))
    return context.remarks


def quantization_of(value: Value) -> Quantization:
    assert value.quantization is not None
    return value.quantization


def behind(graph: Graph, node: Node, index: int) -> Value:
    """The integers whose real values an operator reads."""
    return graph.producers()[node.input(index)].input(0)


def node_of(graph: Graph, op: str) -> Node:
    return next(node for node in graph.nodes if node.op == op)


def small_network() -> Graph:
    """Two convolutions with a residual between them, a concatenation, a pool and a classifier."""
    build = GraphBuilder()
    x = build.input("x", (1, 6, 6, 3))
    first = build(
        "Conv", x, build.random((4, 3, 3, 3)), build.random((4,)), pads=(1, 1, 1, 1), layout="NHWC", clamp_low=0.0
    )
    second = build(
        "Conv", first, build.random((4, 3, 1, 1)), build.random((4,)), first, group=4, pads=(1, 0, 1, 0),
        layout="NHWC", clamp_low=0.0,
    )  # fmt: skip
    joined = build("Concat", first, build("MaxPool", second, kernel=(1, 1), layout="NHWC"), axis=3)
    pooled = build("AveragePool", joined, kernel=(6, 6), layout="NHWC")
    logits = build("Dense", build("Reshape", pooled, shape=(1, 8)), build.random((5, 8)), build.random((5,)))
    return build.graph_of(build("Softmax", logits, axis=1))


def test_every_operator_reads_and_gives_rounded_values_and_the_boundary_stays_float() -> None:
    graph = small_network()
    remarks = quantized(graph)
    producers, consumers = graph.producers(), graph.consumers()
    for node in graph.nodes:
        if node.op in ("QuantizeLinear", "DequantizeLinear"):
            continue
        assert all(producers[value].op == "DequantizeLinear" for value in node.present_inputs), node.name
        assert [reader.op for reader in consumers[node.output]] == ["QuantizeLinear"], node.name
    assert [(v.name, v.dtype) for v in (*graph.inputs, *graph.outputs)] == [
        ("x", "float32"),
        ("softmax_out", "float32"),
    ]
    assert messages(remarks, "did") == [
        "quantized 8 operators over 8 samples",
        "inserted 24 QuantizeLinear and DequantizeLinear around them",
    ]


def test_the_quantized_graph_runs_in_onnxruntime_and_stays_near_the_float_one() -> None:
    graph = small_network()
    before = graph.copy()
    quantized(graph)
    sample = random_inputs(graph, 3)
    (exported,) = OnnxSession(graph).run(sample).values()
    (exact,) = evaluate(before, sample).values()
    (rounded,) = evaluate(graph, sample).values()
    np.testing.assert_allclose(exported, rounded, atol=2 / 256)
    np.testing.assert_allclose(exact, rounded, atol=0.05)
    assert not np.array_equal(exact, rounded)


def test_scales_are_the_range_over_255_and_zero_is_a_level() -> None:
    assert from_range(-1.0, 254.0) == Quantization.per_tensor(1.0, -127)
    assert from_range(2.0, 510.0) == Quantization.per_tensor(2.0, -128)  # a Relu: zero is the lowest level
    assert from_range(-51.0, -1.0) == Quantization.per_tensor(0.2, 127)
    assert from_range(0.0, 0.0).zero_point == (-128,)
    assert np.isfinite(from_range(-1e-38, 0.0).scale[0])


def test_weights_are_symmetric_per_channel_and_biases_in_units_of_the_products() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 2, 2, 2))
    weights = np.array([[0.5, -1.27], [0.0, 0.0], [1e-9, 0.0]], np.float32).reshape(3, 1, 1, 2)
    graph = build.graph_of(build("Conv", x, build.constant(weights), build.constant([0.3, 0.0, 2.0]), layout="NHWC"))
    sample = {"x": np.array([-1.55, 1.0, 0, 0, 0, 0, 0, 1.0], np.float32).reshape(1, 2, 2, 2)}
    quantized(graph, [sample], Quantize("minmax"))
    conv = node_of(graph, "Conv")
    integers, bias = behind(graph, conv, 1), behind(graph, conv, 2)
    assert quantization_of(behind(graph, conv, 0)) == Quantization.per_tensor(0.01, 27)
    assert integers.data.ravel().tolist() == [50, -127, 0, 0, 0, 0]
    scale = quantization_of(integers).scale
    assert scale[0] == pytest.approx(0.01)
    assert scale[2] == pytest.approx(2.0 / 0.01 / 2**26), "a large bias over tiny weights keeps within 26 bits"
    assert all(s > 0 for s in scale)
    assert bias.dtype == "int32"
    assert bias.data.tolist() == [3000, 0, 2**26]
    np.testing.assert_allclose(quantization_of(bias).scale, np.array(scale) * 0.01, rtol=1e-6)


def test_clustered_weights_keep_their_integers_and_their_clusters() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 4))
    codebook = np.array([-100, 3, 7], np.int8)
    indices = np.array([[0, 1, 2, 1], [2, 2, 1, 0]], np.uint8)
    clusters = Clusters(indices, codebook, np.array([0.02, 0.5], np.float32))
    weights = build.constant(clusters.integers() * clusters.scale[:, None])
    weights.clusters = clusters
    graph = build.graph_of(build("Dense", x, weights, build.random((2,))))
    quantized(graph)
    integers = behind(graph, node_of(graph, "Dense"), 1)
    assert integers.data.tolist() == [[-100, 3, 7, 3], [7, 7, 3, -100]]
    assert quantization_of(integers).scale == (float(np.float32(0.02)), 0.5)
    assert integers.clusters is clusters


def test_the_inputs_of_a_concatenation_and_what_moves_them_share_one_scale() -> None:
    build = GraphBuilder()
    x, z = build.input("x", (1, 2, 2, 2)), build.input("z", (1, 2, 2, 2))
    wide = build("Conv", x, build.constant(np.full((2, 1, 1, 2), 10.0, np.float32)), layout="NHWC")
    joined = build("Concat", wide, build("Transpose", z, perm=(0, 2, 1, 3)), axis=3)
    graph = build.graph_of(build("Relu", joined))
    quantized(graph)
    concat, transpose = node_of(graph, "Concat"), node_of(graph, "Transpose")
    scales = {quantization_of(behind(graph, concat, i)) for i in (0, 1)} | {
        quantization_of(behind(graph, transpose, 0))
    }
    assert len(scales) == 1


def test_a_sigmoid_keeps_its_scale_of_one_256th_and_is_rescaled_for_the_concatenation() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 4))
    graph = build.graph_of(build("Relu", build("Concat", build("Sigmoid", x), x, axis=1)))
    quantized(graph)
    quantizers = [node for node in graph.nodes if node.op == "QuantizeLinear"]
    parameters = {node.name: quantization_of(node.output) for node in quantizers}
    assert parameters["sigmoid_out_quantize"] == Quantization.per_tensor(1 / 256, -128)
    assert parameters["sigmoid_out_rescaled_quantize"] == parameters["x_quantize"]
    verify(graph, after="the test")


def test_operators_without_an_integer_form_stay_in_float_with_a_remark() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 4))
    dense = build("Dense", x, build.random((3, 4)))
    graph = build.graph_of(build("Reshape", build("LogSoftmax", dense, axis=1), shape=(3,)))
    remarks = quantized(graph)
    assert messages(remarks, "declined") == [
        "LogSoftmax 'logsoftmax' stays in float: LogSoftmax has no integer form",
        "Reshape 'reshape' stays in float: nothing beside it is quantized",
    ]
    assert ops_of(graph)[-4:] == ["QuantizeLinear", "DequantizeLinear", "LogSoftmax", "Reshape"]


def test_percentiles_leave_out_outliers_and_do_not_depend_on_how_values_are_split_into_samples() -> None:
    values = np.append(np.linspace(-1, 3, 100_000), [-50.0, 80.0]).astype(np.float32)
    whole, parts = Observer(), Observer()
    whole.add(values)
    for part in np.array_split(values, 17):
        parts.add(part)
    for observer in (whole, parts):
        np.testing.assert_allclose(percentile(observer, 99.9), (-0.996, 2.996), atol=80 / 2048)
    assert percentile(whole, 100.0) == (-50.0, 80.0)
    zeros = Observer()
    zeros.add(np.zeros(3, np.float32))
    assert percentile(zeros, 99.0) == (0.0, 0.0)


def test_every_value_is_counted_in_its_bin_the_extremes_too() -> None:
    seen = Observer()
    for largest in (1.0, 3.3, 1e-3):  # the second one doubles the bins' width twice
        seen.add(np.array([-largest, -largest / 3, 0.0, largest / 3, largest], np.float32))
    assert seen.width == 4.0 / BINS
    bins = {int(number): int(seen.counts[number]) for number in np.flatnonzero(seen.counts)}
    expected = np.concatenate([np.array([-x, -x / 3, 0.0, x / 3, x]) for x in (1.0, 3.3, 1e-3)])
    expected[4] = 0.9999  # 1.0 was the upper end of the last bin, and so is counted there
    places, counts = np.unique(np.floor(expected / seen.width).astype(int) + BINS, return_counts=True)
    assert bins == dict(zip(places.tolist(), counts.tolist(), strict=True))
    only = Observer()
    only.add(np.array([-7.0, 7.0], np.float32))
    assert (only.counts[0], only.counts[-1], only.counts.sum()) == (1, 1, 2)


def test_without_samples_or_with_unusable_options_nothing_is_quantized() -> None:
    context = context_for()
    assert not Quantize().run(small_network(), context)
    assert messages(context.remarks, "declined") == ["no calibration data: give --calib FILE, or --calib random to try"]
    with pytest.raises(UsageError, match=r"quantize\.method is 'mean'"):
        Quantize(method="mean").run(small_network(), context)
    with pytest.raises(UsageError, match=r"quantize\.percentile is 20"):
        Quantize(method="percentile", percentile=20.0).run(small_network(), context)


def test_infinite_activations_are_an_error_that_names_them() -> None:
    build = GraphBuilder()
    graph = build.graph_of(build("Relu", build("Div", build.input("x", (1, 2)), build.constant([0.0, 1.0]))))
    with pytest.raises(InvalidModelError, match="'div_out' becomes NaN or infinite"):
        Quantize().run(graph, context_for([{"x": np.ones((1, 2), np.float32)}]))


def test_the_keyword_model_loses_at_most_0_7_points_of_accuracy(models_dir: Path, data_dir: Path) -> None:
    graph = import_model(models_dir / "kws01.onnx", {}).graph
    for step in (FoldConstants(), FuseOperators(), NhwcLayout(), FuseOperators()):
        run_pass(step, graph, context_for())
    samples, labels = load_labelled(f"{data_dir / 'kws01.npz'}:x,y", graph.inputs)
    before = _accuracy(graph, samples, labels)
    quantized(graph, load_samples(f"{data_dir / 'kws01.npz'}:calib", graph.inputs, limit=100))
    assert before == pytest.approx(90.67, abs=0.01)
    assert _accuracy(graph, samples, labels) >= before - 0.7


def _accuracy(graph: Graph, samples: Sequence[Mapping[str, Array]], labels: NDArray[np.int64]) -> float:
    """Percent of the samples whose largest output is the label."""
    session = OnnxSession(graph)
    found = [int(np.argmax(next(iter(session.run(sample).values())))) for sample in samples]
    return 100 * float(np.mean(np.array(found) == labels))


def test_constants_without_a_range_stay_in_float() -> None:
    build = GraphBuilder()
    masked = build("Add", build.input("x", (1, 4)), build.constant([0.0, -math.inf, 0.0, -math.inf]))
    graph = build.graph_of(build("Softmax", masked, axis=1))
    padded = GraphBuilder()
    padding = padded.graph_of(
        padded("Relu", padded("Pad", padded.input("x", (1, 4)), pads=(0, 0, 0, 1), value=-math.inf))
    )
    for model, reason in ((graph, "holds NaN or infinite numbers"), (padding, "pads with -inf")):
        context = context_for([{"x": np.ones((1, 4), np.float32)}])
        with pytest.raises(InvalidModelError, match="becomes NaN or infinite"):
            Quantize().run(model, context)
        assert any(reason in remark.message for remark in context.remarks)


def test_ranges_of_denormal_numbers_are_observed() -> None:
    observer = Observer()
    observer.add(np.array([1e-40, -1e-41], np.float32))
    low, high = percentile(observer, 99.995)
    assert -1e-40 < low <= 0 < high <= 1.1e-40
