"""Rounding weights by what they do to the layer's output: gains on new samples, what stays, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from tests.graph_builder import GraphBuilder, context_for, messages
from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.pass_manager import PassContext
from tinyopt.passes.cluster_weights import ClusterWeights
from tinyopt.passes.quantization.moments import measure_moments, operand_rows, weight_rows
from tinyopt.passes.quantize import Quantize
from tinyopt.passes.round_weights import RoundWeights
from tinyopt.verify import verify

Samples = Sequence[Mapping[str, Array]]


def correlated(shape: tuple[int, ...], count: int, seed: int, factors: int = 4) -> list[dict[str, Array]]:
    """Samples whose last axis is a mix of a few factors, always the same mix, and a little noise."""
    mix = np.random.default_rng(99).normal(size=(factors, shape[-1]))
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(count, *shape[:-1], factors))
    arrays = hidden @ mix + 0.1 * generator.normal(size=(count, *shape))
    return [{"x": array.astype(np.float32)} for array in arrays]


def rounded(graph: Graph, samples: Samples, step: Quantize) -> PassContext:
    """Quantize, then round; see that a second run changes nothing and that the graph is valid."""
    context = context_for(samples)
    assert step.run(graph, context)
    context.remarks = []
    RoundWeights().run(graph, context)
    verify(graph, after="round-weights")
    before = {value.name: value.data for value in graph.constants()}
    again = PassContext(context.facts, samples, float_graph=context.float_graph)
    assert not RoundWeights().run(graph, again)
    assert all(np.array_equal(value.data, before[value.name]) for value in graph.constants())
    return context


def nearest(graph: Graph, samples: Samples, step: Quantize) -> Graph:
    twin = graph.copy()
    step.run(twin, context_for(samples))
    return twin


def noise(exact: Graph, graph: Graph, samples: Samples) -> float:
    """Mean squared error of the first output."""
    sessions = [OnnxSession(exact), OnnxSession(graph)]
    errors: list[float] = []
    for sample in samples:
        wanted, got = (next(iter(session.run(sample).values())) for session in sessions)
        errors.append(float(np.mean((wanted - got) ** 2)))
    return float(np.mean(errors))


def integers(graph: Graph) -> list[Value]:
    return [value for value in graph.constants() if value.dtype == "int8"]


def dense(build: GraphBuilder, x: Value) -> Value:
    return build("Dense", x, build.random((8, 24)), build.random((8,)))


def dense_without_bias(build: GraphBuilder, x: Value) -> Value:
    return build("Dense", x, build.random((8, 24)))


def convolution(build: GraphBuilder, x: Value) -> Value:
    return build(
        "Conv", x, build.random((6, 3, 2, 24)), build.random((6,)), pads=(1, 0, 1, 2), strides=(2, 1),
        dilations=(1, 2), layout="NHWC",
    )  # fmt: skip


def grouped(build: GraphBuilder, x: Value) -> Value:
    return build("Conv", x, build.random((8, 2, 2, 12)), build.random((8,)), group=2, layout="NHWC", clamp_low=0.0)


CASES = {
    "dense": (dense, (1, 24)),
    "dense of rank 3": (dense, (1, 5, 24)),
    "dense without bias": (dense_without_bias, (1, 24)),
    "convolution": (convolution, (1, 6, 7, 24)),
    "grouped convolution": (grouped, (1, 5, 5, 24)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_with_4_bit_weights_and_correlated_inputs_errs_less_on_new_samples(case: str) -> None:
    body, shape = CASES[case]
    build = GraphBuilder()
    graph = build.graph_of(body(build, build.input("x", shape)))
    exact, samples, fresh = graph.copy(), correlated(shape, 60, 1), correlated(shape, 40, 2)
    step = Quantize(method="minmax", weight_bits=4)
    plain = nearest(graph, samples, step)
    context = rounded(graph, samples, step)
    gain = 10 * math.log10(noise(exact, plain, fresh) / noise(exact, graph, fresh))
    assert gain > 6
    (remark,) = messages(context.remarks, "did")
    found = re.search(r"signal to noise (\S+) -> (\S+) dB", remark)
    assert found is not None
    assert float(found[2]) > float(found[1]) + 6
    (weights,) = integers(graph)
    assert weights.clusters is not None
    assert weights.clusters.codebook.tolist() == list(range(-7, 8))
    np.testing.assert_array_equal(weights.clusters.integers(), weights.data)
    assert any(not np.array_equal(a.data, b.data) for a, b in zip(integers(graph), integers(plain), strict=True))


def test_8_bit_weights_err_less_too_and_keep_their_scales() -> None:
    build = GraphBuilder()
    graph = build.graph_of(dense(build, build.input("x", (1, 24))))
    exact, samples, fresh = graph.copy(), correlated((1, 24), 100, 1), correlated((1, 24), 100, 2)
    step = Quantize(method="minmax")
    plain = nearest(graph, samples, step)
    rounded(graph, samples, step)
    (weights,), (old,) = integers(graph), integers(plain)
    assert weights.quantization == old.quantization
    assert int(np.max(np.abs(weights.data))) <= 127
    assert noise(exact, graph, fresh) < 0.9 * noise(exact, plain, fresh)


def test_a_layer_makes_up_for_what_is_wrong_with_its_inputs() -> None:
    """The layer before it gives a tenth too little, which no rounding of weights each by itself could see."""
    build = GraphBuilder()
    x = build.input("x", (1, 4, 4, 24))
    hidden = build("ConvTranspose", x, build.random((24, 1, 1, 6)), layout="NHWC")
    graph = build.graph_of(build("Conv", hidden, build.random((4, 1, 1, 6)), build.random((4,)), layout="NHWC"))
    exact, samples, fresh = graph.copy(), correlated((1, 4, 4, 24), 40, 1), correlated((1, 4, 4, 24), 20, 2)
    context = context_for(samples)
    Quantize(method="minmax").run(graph, context)
    first = next(node for node in graph.nodes if node.op == "ConvTranspose")
    levels = graph.producers()[first.input(1)].input(0)
    levels.constant = np.rint(levels.data * 0.9).astype(np.int8)
    before = noise(exact, graph, fresh)
    assert RoundWeights().run(graph, context)
    assert noise(exact, graph, fresh) < 0.5 * before


def test_weights_that_are_exact_stay_and_so_do_clusters() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 24))
    levels = np.random.default_rng(5).integers(-127, 128, (8, 24))
    levels[:, 0] = 127
    exact_weights = build.constant((levels * np.float32(0.5)).astype(np.float32), "exact")
    graph = build.graph_of(build("Dense", build("Dense", x, exact_weights), build.random((64, 8)), build.random((64,))))
    samples = correlated((1, 24), 30, 1)
    ClusterWeights(clusters=16, cost=10.0).run(graph, context_for(samples))
    context = rounded(graph, samples, Quantize(method="minmax"))
    assert messages(context.remarks, "did") == []
    assert all("exact already" in message for message in messages(context.remarks, "declined"))
    assert any(value.clusters is not None and len(value.clusters.codebook) <= 16 for value in integers(graph))


def test_weights_that_several_layers_share_stay_shared() -> None:
    build = GraphBuilder()
    x, w = build.input("x", (1, 24)), build.random((24, 24))
    graph = build.graph_of(build("Dense", build("Dense", x, w, clamp_low=0.0), w))
    context = rounded(graph, correlated((1, 24), 30, 1), Quantize(method="minmax", weight_bits=4))
    assert [message.split(": ")[1] for message in messages(context.remarks, "declined")] == [
        "its weights are shared"
    ] * 2
    first, second = integers(graph)
    np.testing.assert_array_equal(first.data, second.data)


def test_what_cannot_be_rounded_says_why() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 4, 4, 3))
    up = build("ConvTranspose", x, build.random((3, 2, 2, 4)), build.random((4,)), strides=(2, 2), layout="NHWC")
    graph = build.graph_of(build("Conv", up, build.constant(np.zeros((2, 1, 1, 4), np.float32)), layout="NHWC"))
    samples = [{"x": np.random.default_rng(i).normal(size=(1, 4, 4, 3)).astype(np.float32)} for i in range(12)]
    context = rounded(graph, samples, Quantize(method="minmax"))
    reasons = [message.split(": ", 1)[1] for message in messages(context.remarks, "declined")]
    assert reasons == ["the weights of ConvTranspose are rounded to the nearest", "its weights are exact already"]
    few = context_for(samples[:9])
    few.float_graph = context.float_graph
    assert not RoundWeights().run(graph, few)
    assert "9 calibration samples are too few" in messages(few.remarks, "declined")[0]
    foreign = context_for(samples)
    assert not RoundWeights().run(graph, foreign)
    assert "nothing was quantized here" in messages(foreign.remarks, "declined")[0]


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_inputs_that_hardly_vary_about_a_large_mean_are_no_reason_to_fail(spread: float) -> None:
    """As of a sensor that gives kelvins; the moments in float32 are then no longer positive definite."""
    build = GraphBuilder()
    graph = build.graph_of(dense(build, build.input("x", (1, 24))))
    exact = graph.copy()
    samples = [
        {"x": (300 + spread * np.random.default_rng(i).normal(size=(1, 24))).astype(np.float32)} for i in range(40)
    ]
    step = Quantize(method="minmax")
    plain = nearest(graph, samples, step)
    context = rounded(graph, samples, step)
    if spread == 0:
        assert messages(context.remarks, "declined") == ["dense: its input hardly varies"]
    assert noise(exact, graph, samples) <= 1.05 * noise(exact, plain, samples)


def _layer(with_bias: bool) -> Node:
    build = GraphBuilder()
    x = build.input("x", (1, 6))
    build("Dense", x, build.random((3, 6)), build.random((3,)) if with_bias else None)
    return build.nodes[0]


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_error_from_moments_is_the_mean_squared_error_at_the_output(offset: float, with_bias: bool) -> None:
    """Of samples of one magnitude, with the best bias where there is one; silent samples say nothing."""
    node, generator = _layer(with_bias), np.random.default_rng(0)
    rows = generator.normal(size=(50, 1, 6)) + offset
    rows *= math.sqrt(6) / np.linalg.norm(rows, axis=2, keepdims=True)  # else they would not count alike
    x = [row.astype(np.float32) for row in rows]
    z = [(row + 1e-4 * generator.normal(size=(1, 6))).astype(np.float32) for row in rows]
    silent = [np.zeros((1, 6), np.float32)]
    moments = measure_moments(node, x + silent, z + silent, range(51), with_exact=True)
    wanted = weight_rows(node, node.input(1).data)
    given = wanted + 1e-2 * generator.normal(size=wanted.shape)
    errors = np.stack([(wanted[0] @ a[0] - given[0] @ b[0]) for a, b in zip(x, z, strict=True)]).astype(np.float64)
    expected = errors.var(axis=0) if with_bias else np.mean(errors**2, axis=0)
    np.testing.assert_allclose(moments.error(wanted, given)[0], expected, rtol=0.02)
    np.testing.assert_allclose(moments.bias_shift(wanted, given), errors.mean(axis=0), rtol=1e-3, atol=1e-6)


def test_rows_of_operands_times_weights_are_what_the_convolution_gives() -> None:
    for case in ("convolution", "grouped convolution"):
        body, shape = CASES[case]
        build = GraphBuilder()
        graph = build.graph_of(body(build, build.input("x", shape)))
        node, x = graph.nodes[0], correlated(shape, 1, 3)[0]["x"]
        sums = weight_rows(node, node.input(1).data) @ operand_rows(node, x).transpose(
            0, 2, 1
        )  # groups, channels, rows
        found = sums.transpose(2, 0, 1).reshape(node.output.shape) + node.input(2).data
        if case == "grouped convolution":
            found = np.maximum(found, 0)
        (expected,) = OnnxSession(graph).run({"x": x}).values()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
