"""Pruning: which channels go, how many, what it is measured by, and what refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graph_builder import GraphBuilder, context_for, messages
from numpy.typing import NDArray
from prepared_models import prepared

from tinyopt.errors import UsageError
from tinyopt.evaluate import evaluate
from tinyopt.ir import Graph, Node, Quantization
from tinyopt.ops import OPERATORS
from tinyopt.ops.facts import graph_macs, weight_bytes
from tinyopt.pass_manager import PassContext, TargetCosts
from tinyopt.passes.channel_groups import find_channel_groups
from tinyopt.passes.channel_links import weight_use
from tinyopt.passes.prune_channels import PruneChannels
from tinyopt.passes.pruning.importance import rank_by_elimination, rank_by_energy
from tinyopt.passes.pruning.readers import InputMoments, measure_inputs, reader_of
from tinyopt.passes.pruning.trials import Trials
from tinyopt.samples import Sample
from tinyopt.verify import verify


def _samples(count: int = 40, size: int = 6) -> list[Sample]:
    return [{"x": x[None].astype(np.float32)} for x in np.random.default_rng(1).normal(size=(count, size))]


def _perceptron(first: NDArray[np.float64], head: NDArray[np.float64] | None = None) -> Graph:
    """Two layers, with nothing but a softmax behind them."""
    build = GraphBuilder()
    units, inputs = first.shape
    bias = build.constant(np.zeros(units, np.float32))
    middle = build("Dense", build.input("x", (1, inputs)), build.constant(first.astype(np.float32)), bias, name="first")
    weights = np.random.default_rng(2).normal(size=(3, units)) if head is None else head
    logits = build("Dense", middle, build.constant(weights.astype(np.float32)), name="head")
    return build.graph_of(build("Softmax", logits, axis=1))


def _random_rows(units: int = 16) -> NDArray[np.float64]:
    return np.random.default_rng(3).normal(size=(units, 6))


def _pruned(
    step: PruneChannels, graph: Graph, context: PassContext | None = None, samples: list[Sample] | None = None
) -> PassContext:
    """Run the pass, verify, and see that a second run changes nothing."""
    context = context or context_for(_samples() if samples is None else samples)
    step.run(graph, context)
    verify(graph, after=step.name)
    again = replace(context, remarks=[])
    assert not step.run(graph.copy(), again), "not idempotent"
    return context


def _costs(label: str = "test") -> TargetCosts:
    """Nodes cost multiply-accumulates, constants their bytes, and the arena ten bytes beside the widest layer."""
    return TargetCosts(
        label,
        lambda node: float(OPERATORS[node.op].macs(node)),
        weight_bytes,
        lambda graph: 10 + max(node.output.type.bytes for node in graph.nodes),
    )


def test_obs_takes_the_channel_that_others_can_make_up_for_and_l1_the_one_with_the_smallest_weights() -> None:
    rows = np.eye(5, 6) * np.array([1, 1, 1, 1, 0.3])[:, None]
    rows = np.vstack([rows, rows[0] + rows[1] - rows[2]])  # the last is a sum of others, and has the largest weights
    head = np.sign(np.random.default_rng(0).normal(size=(3, 6)))
    head[0, 4] = 1  # else all classes read it alike, and no probability would move
    kept = {}
    for importance in ("obs", "l1"):
        context = context_for(_samples(), channel_multiple=1)
        _pruned(PruneChannels(layers=("first=0.17",), importance=importance), _perceptron(rows, head), context)
        assert context.unpruned is not None
        kept[importance] = context.unpruned.kept["first"].tolist()
    assert 4 in kept["obs"]
    assert len(kept["obs"]) == 5
    assert kept["l1"] == [0, 1, 2, 3, 5]


def test_the_energy_of_a_unit_is_that_of_its_weights_and_inputs_shares_of_both_readers_added() -> None:
    build = GraphBuilder()
    first = build("Dense", build.input("x", (1, 2)), build.random((3, 2)), name="first")
    one = build("Dense", first, build.constant([[1, 2, 0], [3, 0, 1]]), name="one")
    two = build("Dense", first, build.constant([[0, 1, 3]]), name="two")
    graph = build.graph_of(build("Softmax", one, axis=1), build("Softmax", two, axis=1))
    (group,) = (group for group in find_channel_groups(graph) if group.size == 3)
    readers = {use.node: reader_of(use, graph.producers()) for use in group.consumers}
    covariance = np.array([[2.0, 1, 0], [1, 1, 0], [0, 0, 4]])
    full = dict.fromkeys(readers, InputMoments(covariance[None], np.zeros((1, 3))))
    variances = dict.fromkeys(readers, InputMoments(np.diag(covariance)[None], np.zeros((1, 3))))
    # of `one`: 20, 4 and 4 of 32 with what units share (1*2*2 more), 28 without; of `two`: 0, 1 and 36 of 37
    for moments, whole in ((full, 32), (variances, 28)):
        shares = np.array([20 / whole, 4 / whole + 1 / 37, 4 / whole + 36 / 37])
        expected = np.concatenate([[0], np.cumsum(np.sort(shares))]) / shares.sum()
        ranking = rank_by_energy(group, readers, moments)
        assert ranking.order.tolist() == np.argsort(shares).tolist()
        np.testing.assert_allclose(ranking.lost, expected**2)
    eliminated = rank_by_elimination(group, readers, variances, fewest=1)  # no unit makes up for another here
    assert eliminated.order.tolist() == ranking.order.tolist()
    np.testing.assert_allclose(eliminated.lost / eliminated.lost[-1], expected)


def test_layers_lose_the_share_asked_for_in_whole_lanes_and_the_unpruned_graph_is_kept() -> None:
    graph = _perceptron(_random_rows())
    before = graph.copy()
    context = _pruned(PruneChannels(layers=("fir*=0.3",)), graph)
    assert graph.nodes[0].output.shape == (1, 12)
    assert context.unpruned is not None
    kept = context.unpruned.kept["first"]
    np.testing.assert_array_equal(graph.nodes[0].input(1).data, before.nodes[0].input(1).data[kept])
    assert context.unpruned.graph.nodes[0].input(1).shape == (16, 6)
    assert list(context.unpruned.kept) == ["first"]
    assert messages(context.remarks, "did")[0].startswith("first: 16 -> 12 channels; 24.5% of multiply-acc")


def test_the_group_that_harms_the_outputs_less_pays() -> None:
    """The second layer has four units that matter; those of the first are all needed."""
    build = GraphBuilder()
    x = build.input("x", (1, 16))
    first = build("Dense", x, build.constant(np.eye(16, dtype=np.float32)), name="first")
    second = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    middle = build("Relu", build("Dense", build("Relu", first), build.constant(second), name="second"))
    weights = np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32)
    weights[:, 4:] *= 0.01
    graph = build.graph_of(build("Dense", middle, build.constant(weights), name="head"))
    _pruned(PruneChannels(ratio=0.3), graph, samples=_samples(size=16))
    widths = {node.name: node.output.shape[1] for node in graph.nodes if node.op == "Dense"}
    assert widths["first"] == 16
    assert widths["second"] <= 8


@pytest.mark.parametrize(
    ("budget", "size"),
    [
        ("macs=0.1K", lambda graph: graph_macs(graph) <= 100),
        ("cycles=100", lambda graph: graph_macs(graph) <= 100),
        ("flash=0.5K", lambda graph: weight_bytes(graph) <= 512),
        ("ram=42", lambda graph: graph.nodes[0].output.type.bytes <= 32),
    ],
)
def test_the_graph_is_pruned_down_to_a_budget_and_no_further(budget: str, size: object) -> None:
    graph = _perceptron(_random_rows())
    context = replace(context_for(_samples()), costs=_costs())
    _pruned(PruneChannels(to=budget), graph, context)
    assert callable(size)
    assert size(graph)
    wider = _perceptron(_random_rows(graph.nodes[0].output.shape[1] + 4))
    assert not size(wider), "a lane more would have done"
    assert any(note.endswith(f"{budget} asked for") for note in messages(context.remarks, "note"))


def test_what_cannot_be_reached_is_declined_with_the_nearest() -> None:
    graph = _perceptron(_random_rows())
    context = _pruned(PruneChannels(to="macs=10"), graph)
    assert graph.nodes[0].output.shape == (1, 4)
    assert "147 -> 39 multiply-accumulates: 73.5% removed of macs=10" in messages(context.remarks, "declined")[-1]


def test_instructions_decide_and_not_multiply_accumulates() -> None:
    """Where narrower layers cost the target as much, nothing is gained by pruning them."""
    graph = _perceptron(_random_rows())

    def in_eights(node: Node) -> float:
        return float(-(-node.output.shape[-1] // 8) + -(-node.input(0).shape[-1] // 8))

    context = replace(context_for(_samples()), costs=replace(_costs(), instructions=in_eights))
    _pruned(PruneChannels(ratio=0.1), graph, context)
    assert graph.nodes[0].output.shape == (1, 8)


def test_layers_named_in_keep_stay_and_a_pattern_without_a_layer_is_a_usage_error() -> None:
    graph = _perceptron(_random_rows())
    context = _pruned(PruneChannels(ratio=0.3, keep=("fir*",)), graph)
    assert "first: not pruned: 'first' is named in keep" in messages(context.remarks, "declined")
    with pytest.raises(UsageError, match="no layer with weights is named 'conv9'"):
        PruneChannels(ratio=0.3, keep=("conv9",)).run(graph, context_for())


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 1.0},
        {"to": "speed=3"},
        {"to": "ram=16", "ratio": 0.1},
        {"layers": ("first",)},
        {"layers": ("first=1.5",)},
        {"ratio": 0.1, "importance": "x"},
    ],
)
def test_options_that_make_no_sense_are_usage_errors(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        PruneChannels(**options).run(_perceptron(_random_rows()), context_for())  # type: ignore[arg-type]


def test_without_samples_l2_ranks_and_a_remark_says_so() -> None:
    rows = np.where(np.arange(8) % 2 == 0, 10, 1)[:, None] * np.ones((8, 6))
    graph = _perceptron(rows, np.ones((4, 8)))
    context = _pruned(PruneChannels(ratio=0.3), graph, samples=[])
    assert np.all(graph.nodes[0].input(1).data == 10)
    assert "channels are ranked by l2 instead of obs" in messages(context.remarks, "note")[0]


def test_bn_scale_ranks_by_the_gammas_that_the_original_had() -> None:
    original = GraphBuilder()
    gamma = np.arange(8, 0, -1).astype(np.float32)
    x = original("Dense", original.input("x", (1, 6)), original.random((8, 6)), name="dense")
    ones = original.constant(np.ones(8, np.float32))
    y = original("BatchNormalization", x, original.constant(gamma), ones, ones, ones, name="norm")
    graph = _perceptron(np.ones((8, 6)))
    graph.nodes[0].origins = ("first", "norm")
    context = replace(context_for(_samples()), original=original.graph_of(y))
    _pruned(PruneChannels(layers=("first=0.5",), importance="bn-scale"), graph, context)
    assert context.unpruned is not None
    assert context.unpruned.kept["first"].tolist() == [0, 1, 2, 3]


def test_a_quantized_model_is_pruned_by_its_weights_and_its_scales_stay() -> None:
    build = GraphBuilder()
    x = build("DequantizeLinear", build.input("x", (1, 6), "int8", Quantization.per_tensor(0.5, 0)))
    first = build("Dense", x, build.random((8, 6)), name="first")
    levels = build("QuantizeLinear", first, quantization=Quantization.per_tensor(0.5, 0))
    graph = build.graph_of(build("Dense", build("DequantizeLinear", levels), build.random((4, 8))))
    context = _pruned(PruneChannels(ratio=0.3), graph, samples=[])
    assert "quantized already, and its scales stay" in messages(context.remarks, "note")[0]
    assert next(node for node in graph.nodes if node.name == "first").output.shape == (1, 4)


def test_removing_units_whose_columns_are_zero_moves_no_output() -> None:
    head = np.random.default_rng(0).normal(size=(3, 16))
    head[:, 3:11] = 0
    graph = _perceptron(_random_rows(), head)
    before, sample = graph.copy(), _samples(1)[0]
    _pruned(PruneChannels(layers=("first=0.5",)), graph)
    for exact, found in zip(evaluate(before, sample).values(), evaluate(graph, sample).values(), strict=True):
        np.testing.assert_allclose(found, exact, atol=1e-6)


def test_a_seed_and_samples_give_the_same_bytes(models_dir: Path, data_dir: Path) -> None:
    """On a network of depthwise convolutions, and within the ratio that was asked for."""
    calibration = np.load(data_dir / "kws01.npz")["calib"][:24]
    found: list[list[bytes]] = []
    for _ in range(2):
        graph = prepared(models_dir / "kws01.onnx")
        before = graph_macs(graph)
        samples = [{graph.inputs[0].name: x[None]} for x in calibration]
        _pruned(PruneChannels(ratio=0.2), graph, context_for(samples, channel_multiple=16))
        assert 0.2 <= 1 - graph_macs(graph) / before < 0.26
        found.append([value.data.tobytes() for value in graph.constants()])
    assert found[0] == found[1]


def _read_by(op: str, group: int = 1) -> Graph:
    """Six channels that a layer reads: the fifth is the first again, the last is always 3."""
    build, random = GraphBuilder(), np.random.default_rng(5)
    rows = np.vstack([random.normal(size=(4, 6)), np.zeros((2, 6))])
    rows[4] = rows[0]
    biases = build.constant(np.array([0, 0, 0, 0, 0, 3], np.float32))
    if op == "Dense":
        x = build("Dense", build.input("x", (1, 6)), build.constant(rows.astype(np.float32)), biases, name="first")
        return build.graph_of(build("Dense", x, build.random((4, 6)), build.random((4,)), name="reader"))
    x = build.input("x", (1, 3, 3, 6))
    x = build("Conv", x, build.constant(rows[:, None, None].astype(np.float32)), biases, name="first", layout="NHWC")
    if op == "Conv":
        return build.graph_of(build("Conv", x, build.random((4, 2, 3, 6)), build.random((4,)), layout="NHWC"))
    weights = random.normal(size=(6, 2, 1, 4 // group)).astype(np.float32)
    weights[5] = weights[5, :1]  # of what is constant, each tap gives as much: every output gets one of them
    constants = (build.constant(weights), build.random((4,)))
    return build.graph_of(build("ConvTranspose", x, *constants, strides=(2, 1), group=group, layout="NHWC"))


@pytest.mark.parametrize("op", ["Dense", "Conv", "ConvTranspose"])
def test_a_channel_that_another_or_the_bias_can_stand_for_does_no_harm(op: str) -> None:
    graph = _read_by(op)
    shape = graph.inputs[0].shape
    random = np.random.default_rng(6)
    folds = [[{"x": random.normal(size=shape).astype(np.float32)} for _ in range(30)] for _ in range(2)]
    group = next(each for each in find_channel_groups(graph) if each.size == 6)
    readers = [reader_of(use, graph.producers()) for use in group.consumers]
    trials = Trials(graph, readers, folds, measure_inputs(graph, readers, folds, 30, lambda: None))
    assert trials.harm({group: np.array([4, 5])}).max() < 0.02
    assert trials.harm({group: np.array([1])}).mean() > 0.1


@pytest.mark.parametrize(("op", "group"), [("Dense", 1), ("Conv", 1), ("ConvTranspose", 1), ("ConvTranspose", 2)])
def test_a_readers_rows_are_its_weights_in_another_order(op: str, group: int) -> None:
    graph = _read_by(op, group)
    use = weight_use(graph.nodes[-1])
    assert use is not None
    reader = reader_of(use, graph.producers())
    np.testing.assert_array_equal(reader.weights(reader.rows), graph.nodes[-1].input(1).data)
