"""Correcting biases: a shift of the means is undone, what is right stays, and what is refused says why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from tests.graph_builder import GraphBuilder, context_for, messages
from tinyopt.errors import UsageError
from tinyopt.ir import Array, Graph, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.pass_manager import PassContext
from tinyopt.passes.correct_biases import CorrectBiases
from tinyopt.passes.quantization.layers import quantized_layers
from tinyopt.passes.quantize import Quantize
from tinyopt.verify import verify

Samples = Sequence[Mapping[str, Array]]


def samples_for(count: int, seed: int = 0) -> list[dict[str, Array]]:
    """Inputs whose channels have means of their own."""
    generator = np.random.default_rng(seed)
    means = np.linspace(-1, 3, 6)
    return [{"x": (means + 0.3 * generator.normal(size=(1, 5, 5, 6))).astype(np.float32)} for _ in range(count)]


def two_layers() -> Graph:
    """A grouped convolution with pads, clamped, and a dense layer."""
    build = GraphBuilder()
    x = build.input("x", (1, 5, 5, 6))
    first = build(
        "Conv", x, build.random((8, 3, 3, 3)), build.random((8,)), group=2, pads=(1, 1, 1, 1), strides=(2, 2),
        layout="NHWC", clamp_low=0.0,
    )  # fmt: skip
    flat = build("Reshape", first, shape=(1, 72))
    return build.graph_of(build("Dense", flat, build.random((4, 72)), build.random((4,))))


def quantized(graph: Graph, samples: Samples) -> PassContext:
    context = context_for(samples)
    Quantize(method="minmax").run(graph, context)
    context.remarks = []
    return context


def biases(graph: Graph) -> dict[str, Value]:
    return {value.name: value for value in graph.constants() if value.dtype == "int32"}


def mean_offset(exact: Graph, graph: Graph, samples: Samples) -> float:
    """How far the mean of the worst output is off."""
    sessions = [OnnxSession(exact), OnnxSession(graph)]
    wanted, got = (np.mean([next(iter(s.run(x).values())) for x in samples], axis=0) for s in sessions)
    return float(np.max(np.abs(wanted - got)))


@pytest.mark.parametrize(("method", "part_left"), [("empirical", 0.1), ("analytic", 0.75)])
def test_means_that_were_shifted_on_purpose_are_brought_back(method: str, part_left: float) -> None:
    """analytic does not see how the clamp of the first layer passes on what its wrong weights do sample by sample."""
    graph, samples, fresh = two_layers(), samples_for(60), samples_for(60, seed=1)
    exact = graph.copy()
    context = quantized(graph, samples)
    well = mean_offset(exact, graph, fresh)
    for layer in quantized_layers(graph, exact):
        layer.weights.constant = np.maximum(layer.weights.data, -100) + np.int8(2)
        layer.weights.constant = np.clip(layer.weights.data, -127, 127)
    broken = mean_offset(exact, graph, fresh)
    assert broken > 10 * well
    weights = {value.name: value.data for value in graph.constants() if value.dtype == "int8"}
    assert CorrectBiases(method).run(graph, context)
    verify(graph, after="correct-biases")
    assert mean_offset(exact, graph, fresh) < part_left * broken
    assert all(value.data is weights[value.name] for value in graph.constants() if value.name in weights)
    remarks = messages(context.remarks, "did")
    assert [remark.split(":")[0] for remark in remarks] == ["conv", "dense"]
    for remark in remarks:
        numbers = re.search(r"off by (\S+), now by (\S+) \(", remark)
        assert numbers is not None
        assert float(numbers[2]) < 0.1 * float(numbers[1])
    after = {name: value.data for name, value in biases(graph).items()}
    again = PassContext(context.facts, samples, float_graph=context.float_graph)
    assert not CorrectBiases(method).run(graph, again)
    assert all(np.array_equal(value.data, after[name]) for name, value in biases(graph).items())


def test_only_the_empirical_method_sees_what_the_layers_before_did() -> None:
    """The convolution has no bias to correct, and gives too little; the dense layer behind it is told by samples."""
    build = GraphBuilder()
    x = build.input("x", (1, 5, 5, 6))
    first = build("Conv", x, build.random((8, 5, 5, 6)), layout="NHWC")
    graph = build.graph_of(build("Dense", first, build.random((4, 8)), build.random((4,))))
    samples, fresh = samples_for(40), samples_for(40, seed=1)
    exact, offsets = graph.copy(), {"none": 0.0}
    for method in ("none", "analytic", "empirical"):
        twin = exact.copy()
        context = quantized(twin, samples)
        weights = quantized_layers(twin, exact)[0].weights
        weights.constant = np.rint(weights.data * 0.9).astype(np.int8)
        if method != "none":
            CorrectBiases(method).run(twin, context)
            assert "conv: it has no bias of integers" in messages(context.remarks, "declined")
        offsets[method] = mean_offset(exact, twin, fresh)
    assert offsets["empirical"] < 0.2 * offsets["none"]
    assert offsets["analytic"] > 0.5 * offsets["none"]


def test_means_that_are_right_stay_to_the_last_integer() -> None:
    """Weights and inputs that int8 holds exactly: there is nothing to correct."""
    build = GraphBuilder()
    levels = np.random.default_rng(0).integers(-127, 128, (3, 8))
    levels[:, 0] = 127
    x = build.input("x", (1, 8))
    graph = build.graph_of(
        build("Dense", x, build.constant(levels.astype(np.float32)), build.constant([1.0, 2.0, -3.0]))
    )
    generator = np.random.default_rng(1)
    samples = [{"x": generator.integers(-128, 128, (1, 8)).astype(np.float32)} for _ in range(20)]
    samples[0]["x"][0, :2] = (-128, 127)
    context = quantized(graph, samples)
    before = {name: value.data for name, value in biases(graph).items()}
    assert not CorrectBiases().run(graph, context)
    assert messages(context.remarks, "declined") == ["dense: its means are as close as they get, on samples held out"]
    assert all(np.array_equal(value.data, before[name]) for name, value in biases(graph).items())


def test_what_cannot_be_corrected_says_why() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 5, 5, 6))
    up = build("ConvTranspose", x, build.random((6, 2, 2, 4)), build.random((4,)), strides=(2, 2), layout="NHWC")
    graph = build.graph_of(build("Conv", up, build.random((2, 1, 1, 4)), layout="NHWC"))
    context = quantized(graph, samples_for(12))
    assert not CorrectBiases().run(graph, context)
    assert messages(context.remarks, "declined") == [
        "convtranspose: the means of a ConvTranspose are not corrected",
        "conv: it has no bias of integers",
    ]
    few = PassContext(context.facts, samples_for(9), float_graph=context.float_graph)
    assert not CorrectBiases().run(graph, few)
    assert "9 calibration samples are too few" in messages(few.remarks, "declined")[0]
    foreign = context_for(samples_for(12))
    assert not CorrectBiases().run(graph, foreign)
    assert "nothing was quantized here" in messages(foreign.remarks, "declined")[0]
    with pytest.raises(UsageError, match=r"correct-biases\.method is 'guess'"):
        CorrectBiases("guess").run(graph, context)
