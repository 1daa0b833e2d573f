"""Equalization: what is scaled together, that nothing changes but rounding, what refuses, and what it saves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from digits import CALIBRATION, DATA, MODEL
from graph_builder import GraphBuilder, assert_same_numbers, context_for, messages
from numpy.typing import NDArray

from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Quantization, Value
from tinyopt.onnx_import import import_model
from tinyopt.onnx_session import OnnxSession
from tinyopt.pass_manager import Pass, Remark, run_pass
from tinyopt.passes.cluster_weights import ClusterWeights
from tinyopt.passes.equalization.groups import ScaleGroup, apply_factors, find_scale_groups
from tinyopt.passes.equalize_layers import EqualizeLayers
from tinyopt.passes.quantize import Quantize
from tinyopt.pipeline import DEFAULT_PASSES
from tinyopt.samples import Sample, load_samples, random_samples
from tinyopt.verify import verify


def _equalized(graph: Graph, samples: Sequence[Sample], step: Pass | None = None) -> list[Remark]:
    """Run the pass; it leaves a valid graph that a second run does not change."""
    context = context_for(samples)
    step = step or EqualizeLayers()
    step.run(graph, context)
    verify(graph, after="equalize-layers")
    second = context_for(samples)
    assert not step.run(graph.copy(), second), messages(second.remarks, "did")
    return context.remarks


def _two_layers(spread: Sequence[float]) -> Graph:
    """Rows of the first layer reach as far as `spread` says, and the second takes each back."""
    build = GraphBuilder()
    factors = np.array(spread, np.float32)
    first = build.random((len(spread), 16))
    first.constant = first.data * factors[:, None]
    second = build.random((6, len(spread)))
    second.constant = second.data / factors
    bias = build.constant(factors)
    hidden = build("Dense", build.input("x", (1, 16)), first, bias, name="first", clamp_low=0.0)
    return build.graph_of(build("Dense", hidden, second, name="second"))


def test_a_channel_that_reaches_far_is_divided_and_its_readers_weights_are_multiplied() -> None:
    graph = _two_layers([100, 1, 1, 1, 1, 1, 1, 1])
    before = graph.copy()
    remarks = _equalized(graph, random_samples(graph.inputs, 40, 0))
    assert_same_numbers(before, graph, 1e-5)
    old, new = before.nodes[0], graph.nodes[0]
    factors = old.input(1).data[:, 0] / new.input(1).data[:, 0]
    assert factors[0] > 30 * factors[1:].max()
    np.testing.assert_allclose(old.input(2).data / factors, new.input(2).data, rtol=1e-6)
    np.testing.assert_allclose(before.nodes[1].input(1).data * factors, graph.nodes[1].input(1).data, rtol=1e-6)
    (text,) = messages(remarks, "did")
    assert text.startswith("first: 8 channels are divided by 0.")
    assert "falls by" in text


def test_layers_stay_as_they_are_where_less_is_gained_than_asked_for() -> None:
    graph = _two_layers([1.0] * 8)
    before = [value.data.copy() for value in graph.constants()]
    remarks = _equalized(graph, random_samples(graph.inputs, 40, 0), EqualizeLayers(gain=6.0))
    assert not messages(remarks, "did")
    assert "has to fall by 6" in messages(remarks, "declined")[-1]
    assert all(np.array_equal(old, value.data) for old, value in zip(before, graph.constants(), strict=True))


def _everything(layout: str) -> Graph:
    """Depthwise with a multiplier, two residuals, a grouped and a transposed convolution, concat, pools, and movers."""
    build = GraphBuilder()
    is_nchw = layout == "NCHW"

    def weights(outputs: int, inputs: int) -> Value:
        return build.random((outputs, inputs, 3, 3) if is_nchw else (outputs, 3, 3, inputs))

    def conv(x: Value, outputs: int, group: int = 1, residual: Value | None = None) -> Value:
        inputs = x.shape[1 if is_nchw else 3] // group
        bias = build.random((outputs,))
        return build(
            "Conv",
            x,
            weights(outputs, inputs),
            bias,
            residual,
            group=group,
            layout=layout,
            pads=(1, 1, 1, 1),
            clamp_low=0.0,
        )

    axis = 1 if is_nchw else 3
    x = build.input("x", (1, 3, 6, 6) if is_nchw else (1, 6, 6, 3))
    first = conv(x, 4)
    wide = build("LeakyRelu", conv(first, 8, group=4))
    mixed = conv(wide, 4, residual=first)
    summed = build("Add", mixed, conv(build("MaxPool", first, kernel=(1, 1), layout=layout), 4), clamp_low=0.0)
    beside = build("Concat", summed, conv(wide, 4, group=2), axis=axis)
    up = build("ConvTranspose", beside, weights(8, 3), build.random((6,)), strides=(2, 2), group=2, layout=layout)
    pooled = build("AveragePool", up, layout=layout, strides=(2, 2))
    gated = build("Mul", pooled, build.random((6, 1, 1) if is_nchw else (6,)))
    moved = build("Transpose", build("PRelu", gated, build.constant([0.3])), perm=(0, 2, 3, 1))
    flat = build("Reshape", moved, shape=(1, pooled.type.elements))
    means = build("ReduceMean", build("Pad", beside, pads=(0,) * 8), axes=(2, 3) if is_nchw else (1, 2), keepdims=0)
    tail = build("Slice", means, starts=(0, 2), sizes=(1, 6), steps=(1, 1))
    ends = [build("Dense", value, build.random((5, value.shape[1]))) for value in (flat, tail)]
    return build.graph_of(*ends)


def _random_factors(group: ScaleGroup, seed: int) -> NDArray[np.float64]:
    return np.asarray(np.exp(np.random.default_rng(seed).uniform(-2, 2, group.size)))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_any_factors_of_any_group_leave_the_outputs_as_they_are(layout: str) -> None:
    graph = _everything(layout)
    before = graph.copy()
    groups, refused = find_scale_groups(graph)
    assert [len(group.producers) for group in groups] == [4, 1, 1]  # all that is added or beside; wide; transposed
    assert [use.node.op for use, _ in refused] == ["Dense", "Dense"]
    for seed, group in enumerate(groups):
        apply_factors(graph, group, _random_factors(group, seed))
    verify(graph, after="apply_factors")
    layers = [(a, b) for a, b in zip(before.nodes, graph.nodes, strict=True) if "clamp_low" in a.attributes]
    assert all(not np.array_equal(a.input(1).data, b.input(1).data) for a, b in layers if a.op in ("Conv", "Dense"))
    assert_same_numbers(before, graph, 1e-4)


def test_a_depthwise_layer_has_factors_of_its_own_on_either_side() -> None:
    build = GraphBuilder()
    x = build("Conv", build.input("x", (1, 2, 4, 4)), build.random((4, 2, 1, 1)), name="first")
    x = build("Conv", x, build.random((4, 1, 3, 3)), group=4, name="depthwise")
    graph = build.graph_of(build("Conv", x, build.random((2, 4, 1, 1)), name="last"))
    groups, _ = find_scale_groups(graph)
    assert [(group.label, [use.node.name for use in group.readers]) for group in groups] == [
        ("first", ["depthwise"]),
        ("depthwise", ["last"]),
    ]


def test_integer_weights_scale_by_their_rows_alone() -> None:
    build = GraphBuilder()
    scales = Quantization.per_channel([0.5, 0.25, 1.0], [0, 0, 0], 0)
    first = build("DequantizeLinear", build.random_int8((3, 4), scales, "levels"))
    second = build("DequantizeLinear", build.random_int8((5, 3), Quantization.per_tensor(0.1, 0)))
    x = build("Dense", build.input("x", (1, 4)), first, name="first")
    middle = build("Dense", x, build.random((3, 3)), name="middle")
    graph = build.graph_of(build("Dense", middle, second, name="last"))
    before = graph.copy()
    (group,), refused = find_scale_groups(graph)
    assert group.label == "first"
    assert "holds integer weights, whose columns have no scales" in {u.node.name: why for u, why in refused}["middle"]
    levels = next(value for value in graph.constants() if value.name == "levels").data
    apply_factors(graph, group, np.array([2.0, 4.0, 0.5]))
    after = next(value for value in graph.constants() if value.name == "levels")
    assert np.array_equal(after.data, levels)
    assert after.quantization == Quantization.per_channel([0.25, 0.0625, 2.0], [0, 0, 0], 0)
    assert_same_numbers(before, graph)


def _refused(build: GraphBuilder, *outputs: Value) -> dict[str, str]:
    return {use.node.name: why for use, why in find_scale_groups(build.graph_of(*outputs))[1]}


def test_a_slope_that_is_computed_holds_the_layer_before_it() -> None:
    build = GraphBuilder()
    x = build("Dense", build.input("x", (1, 4)), build.random((4, 4)), name="first")
    slope = build("Sigmoid", build.input("slope", (1, 4)))
    x = build("Dense", build("PRelu", x, slope), build.random((4, 4)), name="last")
    groups, refused = find_scale_groups(build.graph_of(x))
    assert not groups
    assert "PRelu" in {use.node.name: why for use, why in refused}["first"]


def test_every_layer_that_cannot_be_scaled_says_why() -> None:
    build = GraphBuilder()
    shared = build.random((4, 4))
    x = build("Dense", build.input("x", (1, 4)), build.random((4, 4)), name="six", clamp_low=0.0, clamp_high=6.0)
    x = build("Dense", x, build.random((4, 4)), name="shifted")
    x = build("Dense", build("Add", x, build.random((4,))), build.random((4, 4)), name="curved")
    x = build("Dense", build("Sigmoid", x), build.random((4, 4)), name="read")
    x = build("Dense", build("Dense", x, shared, name="one"), shared, name="two")
    x = build("Dense", x, build.random((4, 4)), name="squared")
    reasons = _refused(build, build("Dense", build("Mul", x, x), build.random((4, 4)), name="end"))
    assert reasons == {
        "six": "the clamp of Dense 'six' to 0..6 does not scale",
        "shifted": "Add 'add' gives something else for scaled inputs",
        "curved": "Sigmoid 'sigmoid' gives something else for scaled inputs",
        "read": "Dense 'one' shares its weights with another layer",
        "one": "Dense 'one' shares its weights with another layer",
        "two": "Dense 'two' shares its weights with another layer",
        "squared": "Mul 'mul' gives something else for scaled inputs",
        "end": "it reaches the graph's output 'end_out'",
    }


def test_few_samples_a_quantized_model_and_a_gain_of_nothing_are_refused() -> None:
    graph = _two_layers([100, 1, 1, 1])
    samples = random_samples(graph.inputs, 3, 0)
    assert "3 calibration samples are too few" in messages(_equalized(graph, samples), "declined")[0]
    assert "no calibration data" in messages(_equalized(graph, ()), "declined")[0]
    Quantize().run(graph, context_for(samples))
    assert messages(_equalized(graph, samples), "declined") == ["the model is quantized already"]
    with pytest.raises(UsageError, match="number of decibels"):
        EqualizeLayers(gain=0).run(graph, context_for(samples))


def test_dead_channels_and_hostile_numbers_give_no_weights_that_are_not_normal() -> None:
    graph = _two_layers([100, 1, 1, 1, 1, 1, 1, 1])
    first = graph.nodes[0]
    for index in (1, 2):
        value = first.input(index)
        value.constant = np.where(np.arange(8).reshape([-1] + [1] * (value.type.rank - 1)) == 1, 0, value.data)
    assert messages(_equalized(graph, random_samples(graph.inputs, 40, 0)), "did")
    (group,), _ = find_scale_groups(graph)
    apply_factors(graph, group, np.array([1, 1, 1, 1e37, 1, 1, 1, 1]))
    for value in graph.constants():
        magnitudes = np.abs(value.data)
        assert np.all(np.isfinite(magnitudes))
        assert np.all((magnitudes == 0) | (magnitudes >= np.finfo(np.float32).tiny)), value.name


def test_a_model_that_overflows_on_the_samples_is_left_alone() -> None:
    graph = _two_layers([1e38, 1, 1, 1])
    remarks = _equalized(graph, random_samples(graph.inputs, 8, 0))
    assert "becomes NaN or infinite on the calibration samples" in " ".join(messages(remarks, "declined"))


@cache
def _digits() -> Graph:
    """The example network as the pass finds it."""
    graph = import_model(MODEL, {}).graph
    for step in DEFAULT_PASSES[: DEFAULT_PASSES.index(EqualizeLayers)]:
        run_pass(step(), graph, context_for())
    return graph


def _top1(graph: Graph) -> float:
    """Percent of the test images."""
    session = OnnxSession(graph)
    samples, labels = load_samples(f"{DATA}:x", graph.inputs), np.load(DATA)["y"]
    found = [session.run(sample)[graph.outputs[0].name].argmax() for sample in samples]
    return float(100 * np.mean(np.array(found) == labels))


def _quantized_top1(graph: Graph, calibration: Sequence[Any]) -> float:
    graph = graph.copy()
    Quantize().run(graph, context_for(calibration))
    return _top1(graph)


@pytest.mark.parametrize("channel", [2, 5])
def test_channels_scaled_by_100_and_back_cost_int8_nothing_any_more(channel: int) -> None:
    graph = _digits().copy()
    for group in find_scale_groups(graph)[0]:
        apply_factors(graph, group, np.where(np.arange(group.size) == channel, 0.01, 1.0))
    calibration = load_samples(CALIBRATION, graph.inputs)
    exact = _top1(_digits())
    assert _quantized_top1(graph, calibration) < exact - 5
    before = graph.copy()
    _equalized(graph, calibration)
    assert_same_numbers(before, graph, 1e-4)
    assert _quantized_top1(graph, calibration) > exact - 0.5


def test_clustered_weights_keep_their_clusters() -> None:
    graph = _two_layers([100, 1, 1, 1, 1, 1, 1, 1])
    ClusterWeights(clusters=4).run(graph, context_for())
    remarks = _equalized(graph, random_samples(graph.inputs, 40, 0))
    assert "are clustered" in messages(remarks, "declined")[0]
    assert all(node.input(1).clusters is not None for node in graph.nodes)
