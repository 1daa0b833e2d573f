"""Branches and layers that do nothing: found, measured, removed, and what does something stays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from graph_builder import GraphBuilder, context_for, messages, ops_of, outputs_of

from tinyopt.errors import UsageError
from tinyopt.ir import Array, Graph, Value
from tinyopt.pass_manager import PassContext
from tinyopt.passes.drop_idle_branches import IDLE_SHARE, DropIdleBranches
from tinyopt.passes.refit_weights import RefitWeights
from tinyopt.verify import verify

_SHAPE = (1, 6, 6, 3)


def _conv(
    build: GraphBuilder,
    x: Value,
    name: str,
    *,
    gain: float = 1.0,
    residual: Value | None = None,
    low: float = -math.inf,
) -> Value:
    """A convolution of 4 channels whose outputs are about `gain` in size, and a bias about 1."""
    weights = build.random((4, 3, 3, x.shape[3]), f"{name}_w")
    weights.constant = (weights.data * gain / math.sqrt(9 * x.shape[3])).astype(np.float32)
    bias = build.random((4,), f"{name}_b")
    return build(
        "Conv",
        x,
        weights,
        bias,
        residual,
        name=name,
        layout="NHWC",
        pads=(1, 1, 1, 1),
        clamp_low=low,
        clamp_high=math.inf,
    )


def _identity(build: GraphBuilder, x: Value, name: str) -> Value:
    """A depthwise convolution that passes its input on, shifted."""
    weights = np.zeros((4, 3, 3, 1), np.float32)
    weights[:, 1, 1] = 1
    return build(
        "Conv",
        x,
        build.constant(weights),
        build.constant([1, 2, 3, 4]),
        name=name,
        layout="NHWC",
        pads=(1, 1, 1, 1),
        group=4,
    )


def _residual_network(gain: float, *, is_read_again: bool = False) -> Graph:
    """x -> first -> [a -> b] + -> Relu -> head; b's weights are scaled by `gain`."""
    build = GraphBuilder()
    first = _conv(build, build.input("x", _SHAPE), "first")
    y = _conv(build, _conv(build, first, "a", low=0.0), "b", gain=gain, residual=first, low=0.0)
    if is_read_again:
        y = build("Concat", y, first, axis=3)
    return build.graph_of(_conv(build, y, "head"))


def _samples(count: int = 20) -> list[dict[str, Array]]:
    random = np.random.default_rng(1)
    return [{"x": random.normal(size=_SHAPE).astype(np.float32)} for _ in range(count)]


def _drop(graph: Graph, step: DropIdleBranches | None = None, count: int = 20) -> PassContext:
    """Run the pass, see that the outputs stay within the bound and that a second run changes nothing more."""
    before, context = graph.copy(), context_for(_samples(count))
    step = step or DropIdleBranches(IDLE_SHARE)
    step.run(graph, context)
    verify(graph, after=step.name)
    assert not step.run(graph.copy(), context_for(_samples(count)))
    _assert_close(before, graph, _samples(count))
    return context


def _assert_close(before: Graph, after: Graph, samples: list[dict[str, Array]]) -> None:
    expected, got = (np.array([outputs_of(graph, sample)[0] for sample in samples]) for graph in (before, after))
    assert np.sum((expected - got) ** 2) <= 10 * IDLE_SHARE * np.sum((expected - expected.mean(axis=0)) ** 2)


def test_an_idle_residual_branch_goes_and_its_mean_moves_into_the_bias_before() -> None:
    graph = _residual_network(gain=1e-3)
    old_bias = graph.nodes[0].input(2).data
    branch_bias = graph.nodes[2].input(2).data
    before = graph.copy()
    context = _drop(graph)
    assert [node.name for node in graph.nodes] == ["b", "head"]
    first = graph.nodes[0]
    assert first.origins == ("first", "b")
    assert first.attributes["clamp_low"] == 0  # of the sum
    np.testing.assert_allclose(first.input(2).data, old_bias + branch_bias, atol=0.01)
    (remark,) = messages(context.remarks, "did")
    assert remark.startswith("b: the branch through a, b adds ")
    assert remark.endswith(" of the variance: removed, with 10,368 multiply-accumulates")
    assert context.unpruned is not None
    assert [node.name for node in context.unpruned.graph.nodes] == [node.name for node in before.nodes]
    assert not context.unpruned.kept


def test_recovery_compares_the_layer_that_took_over_with_what_the_sum_gave() -> None:
    graph = _residual_network(gain=1e-3)
    before = graph.copy()
    context = _drop(graph)
    RefitWeights().run(graph, context)
    _assert_close(before, graph, _samples())


def test_a_mean_that_no_layer_can_take_is_added() -> None:
    graph = _residual_network(gain=1e-3, is_read_again=True)
    _drop(graph)
    assert ops_of(graph) == ["Conv", "Add", "Concat", "Conv"]
    assert graph.nodes[1].attributes["clamp_low"] == 0


def test_a_branch_that_adds_something_stays_and_the_remark_says_how_much() -> None:
    graph = _residual_network(gain=0.05)
    context = _drop(graph)
    assert len(graph.nodes) == 4
    assert context.unpruned is None
    (note,) = messages(context.remarks, "note")
    assert "ways past some layers would lose something: the least 0.00" in note


def test_a_shortcut_that_adds_nothing_beside_its_branch_goes() -> None:
    build = GraphBuilder()
    x = build.input("x", _SHAPE)
    shortcut = _conv(build, x, "shortcut", gain=1e-3)
    y = _conv(build, _conv(build, x, "a", low=0.0), "b", residual=shortcut)
    graph = build.graph_of(_conv(build, y, "head"))
    _drop(graph)
    assert [node.name for node in graph.nodes] == ["a", "b", "head"]
    assert graph.nodes[1].inputs[3] is None


def test_a_layer_that_passes_its_input_on_is_bypassed() -> None:
    build = GraphBuilder()
    first = _conv(build, build.input("x", _SHAPE), "first")
    graph = build.graph_of(_conv(build, _identity(build, first, "idle"), "head"))
    context = _drop(graph)
    assert [node.name for node in graph.nodes] == ["idle", "head"]
    assert messages(context.remarks, "did")[0].startswith("idle: passes its input on but for ")


def test_a_layer_named_in_keep_stays_with_its_branch() -> None:
    graph = _residual_network(gain=1e-3)
    context = _drop(graph, DropIdleBranches(IDLE_SHARE, keep=("a*",)))
    assert len(graph.nodes) == 4
    assert messages(context.remarks, "declined")[0].endswith("kept: 'a' is named in keep")


@pytest.mark.parametrize(
    ("share", "count", "reason"), [(0.0, 20, "share is 0"), (IDLE_SHARE, 9, "9 calibration samples are too few")]
)
def test_without_a_share_or_samples_nothing_goes(share: float, count: int, reason: str) -> None:
    graph = _residual_network(gain=1e-3)
    context = _drop(graph, DropIdleBranches(share), count)
    assert len(graph.nodes) == 4
    assert messages(context.remarks, "declined")[0].startswith(reason)


def test_a_share_of_one_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="share of the variance"):
        DropIdleBranches(share=1).run(_residual_network(1), context_for())
