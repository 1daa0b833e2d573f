"""Ranges of activations: what each method proposes for distributions whose answer is known, and which one is taken."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.graph_builder import GraphBuilder, context_for, messages, random_inputs
from tests.quantized_graphs import lowered
from tinyopt.disk_cache import read_cached, write_cached
from tinyopt.evaluate import evaluate, evaluate_all
from tinyopt.ir import Array, Graph, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.ops import OPERATORS, QuantizationRule
from tinyopt.passes.quantization import observing
from tinyopt.passes.quantization.observing import observe
from tinyopt.passes.quantization.parameters import from_range
from tinyopt.passes.quantization.ranges import METHODS, Observer, Range, candidates, moving_average
from tinyopt.passes.quantization.walk import Walk, affordable_samples
from tinyopt.passes.quantize import Quantize
from tinyopt.samples import Sample


def seen_in(*arrays: Array) -> Observer:
    observer = Observer()
    for array in arrays:
        observer.add(array.astype(np.float32))
    return observer


def noise(values: Array, limits: Range) -> float:
    quantization = from_range(*limits)
    rounded = quantization.dequantize(quantization.quantize(values, "int8"))
    return float(np.mean((values - rounded) ** 2))


def test_evenly_spread_values_are_taken_whole_by_every_method() -> None:
    seen = seen_in(np.linspace(-2, 6, 400_001))
    for name, method in METHODS.items():
        np.testing.assert_allclose(method(seen), (-2, 6), atol=0.03 * 8, err_msg=name)
    assert METHODS["minmax"](seen) == (-2, 6)


@pytest.mark.parametrize("name", ["entropy", "mse", "percentile"])
def test_a_lone_outlier_is_clipped(name: str) -> None:
    bulk = np.abs(np.random.default_rng(0).normal(size=400_000)).astype(np.float32)
    seen = seen_in(bulk, np.array([60.0]))
    low, high = METHODS[name](seen)
    assert 0 <= low < 1e-5
    # the squared error of many steps and one clipped value: 2 (60 - high) / n = 2 high / (12 * 255^2)
    best = {"entropy": 18.0, "mse": 60 / (1 + len(bulk) / (12 * 255**2)), "percentile": 4.06}[name]
    assert high == pytest.approx(best, rel=0.05)


def test_mse_finds_the_best_of_the_shrunk_ranges() -> None:
    values = np.random.default_rng(1).standard_t(4, 50_000).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    best = min(noise(values, (low * part, high * part)) for part in np.linspace(0.3, 1, 71))
    assert noise(values, METHODS["mse"](seen_in(values))) <= 1.05 * best


def test_the_moving_average_follows_the_samples_by_a_hundredth_each() -> None:
    seen = seen_in(*[np.array([-1.0, 2.0])] * 5, np.array([-101.0, 1002.0]))
    np.testing.assert_allclose(moving_average(seen), (-2.0, 12.0))
    seen.add(np.array([-2.0, 12.0]))
    np.testing.assert_allclose(moving_average(seen), (-2.0, 12.0))


def test_zeros_and_single_values_have_ranges_that_hold_them() -> None:
    for value in (0.0, 5.0, -3e-6, 1e15):
        for name, limits in candidates(seen_in(np.full(7, value))).items():
            quantization = from_range(*limits)
            got = quantization.dequantize(quantization.quantize(np.array([value], np.float32), "int8"))
            np.testing.assert_allclose(got, [value], rtol=1e-3, err_msg=f"{name} of {value}")


def test_auto_takes_the_range_that_is_best_for_the_reader_and_not_for_the_value() -> None:
    """The last channel is rarely there, and large. A reader that ignores it wants it clipped, another does not."""
    arrays = np.random.default_rng(2).normal(size=(120, 1, 64))
    arrays[:, 0, 63] = 0
    arrays[::40, 0, 63] = 40.0
    samples: list[Sample] = [{"x": array.astype(np.float32)} for array in arrays]
    scales: dict[str, float] = {}
    for name, used in (("ignores", slice(0, 63)), ("reads", slice(63, 64))):
        weights = np.zeros((1, 64), np.float32)
        weights[:, used] = 1.0
        build = GraphBuilder()
        graph = build.graph_of(build("Dense", build.input("x", (1, 64)), build.constant(weights)))
        context = context_for(samples)
        Quantize().run(graph, context)
        quantization = next(node for node in graph.nodes if node.name == "x_quantize").output.quantization
        assert quantization is not None
        scales[name] = quantization.scale[0]
        assert any(message.startswith("'x': [") for message in messages(context.remarks, "note"))
    assert scales["ignores"] < 10 / 255
    assert scales["reads"] > 40 / 255


# ---- observations kept on disk


def two_layers(seed: int = 0) -> Graph:
    build = GraphBuilder(seed=seed)
    x = build.input("x", (1, 4))
    return build.graph_of(build("Relu", build("Dense", x, build.random((3, 4)))))


def observed(graph: Graph, samples: list[Sample], cache_dir: Path) -> Mapping[str, Range]:
    values = [*graph.inputs, *(output for node in graph.nodes for output in node.outputs)]
    context = replace(context_for(samples), cache_dir=cache_dir)
    return {value.name: (seen.low, seen.high) for value, seen in observe(graph, values, samples, context).items()}


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """The graphs that are observed by running them."""
    graphs: list[Graph] = []

    class Counted(OnnxSession):
        def __init__(self, graph: Graph, extra_outputs: Sequence[Value] = (), **options: int) -> None:
            graphs.append(graph)
            super().__init__(graph, extra_outputs, **options)

    monkeypatch.setattr(observing, "OnnxSession", Counted)
    return graphs


def test_what_was_observed_is_not_observed_again_unless_model_or_data_differ(
    tmp_path: Path, sessions: list[Graph]
) -> None:
    graph = two_layers()
    samples: list[Sample] = [random_inputs(graph, seed) for seed in range(3)]
    first = observed(graph, samples, tmp_path)
    assert observed(graph.copy(), [dict(sample) for sample in samples], tmp_path) == first
    assert len(sessions) == 1
    other_data: list[Sample] = [*samples[:2], {"x": samples[2]["x"] * np.float32(3)}]
    assert observed(graph, other_data, tmp_path) != first
    assert observed(two_layers(seed=1), samples, tmp_path) != first
    assert len(sessions) == 3
    assert observed(graph, samples, tmp_path) == first
    assert len(sessions) == 3


def _truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _overwritten(content: bytes) -> bytes:
    """Damage within the compressed numbers, which zlib finds and not zipfile."""
    start = content.index(b"numbers.npy") + 40
    return content[:start] + b"\xff" * 8 + content[start + 8 :]


def _another_array(_content: bytes) -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(5))
    return file.getvalue()


@pytest.mark.parametrize("damage", [_truncated, _overwritten, _another_array, lambda _content: b""])
def test_damaged_observations_are_made_anew(
    damage: Callable[[bytes], bytes], tmp_path: Path, sessions: list[Graph]
) -> None:
    graph = two_layers()
    samples: list[Sample] = [random_inputs(graph, seed) for seed in range(3)]
    first = observed(graph, samples, tmp_path)
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    kind = file.relative_to(tmp_path).parts[0]
    content = read_cached(tmp_path, kind, file.name)
    assert content is not None
    write_cached(tmp_path, kind, file.name, damage(content))
    assert observed(graph, samples, tmp_path) == first
    assert len(sessions) == 2
    assert observed(graph, samples, tmp_path) == first
    assert len(sessions) == 2


# ---- running node after node


def branching() -> Graph:
    """Two inputs, a value that one node reads twice, one that two read and that leaves the graph, constants alone."""
    build = GraphBuilder()
    x, y = build.input("x", (1, 5, 5, 4)), build.input("y", (1, 4))
    conv = build("Conv", x, build.random((4, 3, 3, 2)), build.random((4,)), group=2, pads=(1, 0, 1, 2), layout="NHWC")
    squared = build("Mul", conv, conv)
    shift = build("Add", build.random((4,)), build.random((4,)))
    joined = build("Concat", build("Add", squared, y), build("Mul", conv, shift), axis=3)
    halves = build.many("Split", joined, outputs=2, axis=3, sizes=(3, 5))
    return build.graph_of(conv, build("ReduceMean", halves[1], axes=(1, 2)), halves[0])


@pytest.mark.parametrize("is_quantized", [False, True])
def test_a_walk_gives_every_node_what_the_reference_gives_it(is_quantized: bool) -> None:
    graph = branching()
    samples: list[Sample] = [random_inputs(graph, seed) for seed in range(4)]
    if is_quantized:
        Quantize(method="minmax").run(graph, context_for(samples))
    expected = [evaluate_all(graph, sample) for sample in samples]
    walk = Walk(graph, samples)
    for node in graph.nodes:
        walk.run_before(node)
        for value in node.present_inputs:
            for got, arrays in zip(walk.arrays(value), expected, strict=True):
                if is_quantized:  # a level may differ where float32 sums of another order lie between two
                    step = 1 if np.issubdtype(got.dtype, np.integer) else 0.02 * float(np.ptp(arrays[value])) + 1e-5
                    assert np.max(np.abs(got.astype(float) - arrays[value].astype(float))) <= step, value.name
                else:
                    np.testing.assert_allclose(got, arrays[value], rtol=1e-5, atol=1e-5)


def test_a_walk_is_affordable_by_its_largest_moment_the_inputs_included_and_weights_not() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 1 << 20))  # 4 MiB, beside which the rest is nothing
    small = build("Slice", x, starts=(0, 0), steps=(1, 1), sizes=(1, 64))
    graph = build.graph_of(build("Dense", small, build.random((4096, 64))))  # 1 MiB of weights
    assert affordable_samples(graph) == (192 << 20) // ((4 << 20) + 256)
    Quantize(method="minmax", wide_logits=False).run(graph, context_for([random_inputs(graph)]))
    with_levels = (4 << 20) + (1 << 20)  # x in float and in int8; dequantized it takes 4 MiB more, x being gone
    assert (192 << 20) // (2 * with_levels) <= affordable_samples(graph) <= (192 << 20) // with_levels


# ---- wide logits


def classifier() -> Graph:
    build = GraphBuilder()
    x = build.input("x", (1, 6))
    hidden = build("Dense", x, build.random((8, 6)), build.random((8,)), clamp_low=0.0)
    return build.graph_of(build("Softmax", build("Dense", hidden, build.random((5, 8)), build.random((5,))), axis=1))


def test_what_goes_to_softmax_alone_is_int16_and_the_whole_becomes_integer() -> None:
    graph, plain = classifier(), classifier()
    exact = graph.copy()
    samples: list[Sample] = [random_inputs(graph, seed) for seed in range(16)]
    context = context_for(samples)
    Quantize().run(graph, context)
    Quantize(wide_logits=False).run(plain, context_for(samples))
    dtypes = [
        {node.input(0).name: node.output.dtype for node in g.nodes if node.op == "QuantizeLinear"}
        for g in (graph, plain)
    ]
    assert dtypes[0] == {"x": "int8", "dense_out": "int8", "dense_2_out": "int16", "softmax_out_exact": "int8"}
    assert set(dtypes[1].values()) == {"int8"}
    assert dtypes[1].keys() == dtypes[0].keys()
    ranges = [
        message.split("'")[1] for message in messages(context.remarks, "note") if "noise at its readers" in message
    ]
    assert ranges == ["x", "dense_out"]  # the others' do not come from what was seen of them
    fresh = [random_inputs(exact, seed) for seed in range(100, 150)]
    errors: list[float] = []
    for quantized in (graph, plain):
        assert messages(lowered(quantized), "declined") == []
        integer = QuantizationRule.INTEGER
        assert all(OPERATORS[n.op].quantization is integer or n.op == "DequantizeLinear" for n in quantized.nodes[1:])
        found = [evaluate(quantized, sample)["softmax_out"] for sample in fresh]
        wanted = [evaluate(exact, sample)["softmax_out"] for sample in fresh]
        errors.append(float(np.mean(np.square(np.subtract(found, wanted)))))
    assert errors[0] < errors[1]


def test_logits_that_something_else_reads_stay_int8() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 6))
    logits = build("Dense", x, build.random((5, 6)))
    graph = build.graph_of(build("Softmax", logits, axis=1), build("ReduceMax", logits, axes=(1,)))
    Quantize().run(graph, context_for([random_inputs(graph)]))
    assert {node.output.dtype for node in graph.nodes if node.op == "QuantizeLinear"} == {"int8"}
