"""Means and spreads of a pruned model's channels: given back, judged on held-out samples, and refused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph_builder import GraphBuilder, context_for, messages
from tests.pruned_pairs import STAY, Body, Samples, Take, error, pair, random, recovered, samples_of
from tinyopt.evaluate import evaluate_all
from tinyopt.ir import Graph, Value
from tinyopt.pass_manager import PassContext, Unpruned
from tinyopt.passes.recovery.channel_statistics import ChannelStatistics
from tinyopt.passes.reestimate_normalization import ReestimateNormalization
from tinyopt.passes.refit_weights import RefitWeights


def reestimated(graph: Graph, unpruned: Unpruned, samples: Samples) -> PassContext:
    return recovered(ReestimateNormalization(), graph, unpruned, samples)


def doubled_rows() -> Value:
    """Six channels that are multiples of one: what goes and what stays differ by a gain and a shift alone."""
    factors = np.array([1, -0.5, 2, 0.5, 1.5, 1], np.float32)
    return Value.of("rows", factors[:, None, None, None] * random((1, 1, 1, 5), 1))


def convolutions(build: GraphBuilder, x: Value, take: Take) -> Value:
    y = build("Conv", x, take(doubled_rows().data, 0), take(random((6,), 2), 0), layout="NHWC")
    return build("Conv", y, take(1 + random((3, 1, 1, 6), 3) / 4, 3), build.random((3,)), clamp_low=0.0, layout="NHWC")


def transposed(build: GraphBuilder, x: Value, take: Take) -> Value:
    y = build("Conv", x, take(doubled_rows().data, 0), take(random((6,), 2), 0), layout="NHWC")
    return build("ConvTranspose", y, take(1 + random((6, 1, 1, 3), 3) / 4, 0), build.random((3,)), layout="NHWC")


def without_bias(build: GraphBuilder, x: Value, take: Take) -> Value:
    y = build("Conv", x, take(doubled_rows().data, 0), take(random((6,), 2), 0), layout="NHWC")
    return build("Conv", y, take(1 + random((3, 1, 1, 6), 3) / 4, 3), layout="NHWC")


@pytest.mark.parametrize("body", [convolutions, transposed, without_bias])
def test_channels_whose_mean_and_spread_alone_changed_are_recovered_exactly(body: Body) -> None:
    graph, unpruned = pair(body, (1, 4, 4, 5), {"conv": STAY})
    fresh = samples_of((1, 4, 4, 5), 20, 9)
    assert error(unpruned.graph, graph, fresh) > 1e-2
    context = reestimated(graph, unpruned, samples_of((1, 4, 4, 5), 40, 8))
    assert error(unpruned.graph, graph, fresh) < 1e-8
    (remark,) = messages(context.remarks, "did")
    assert "means and spreads: squared error at its output" in remark


def residual(build: GraphBuilder, x: Value, take: Take) -> Value:
    y = build("Conv", x, take(random((6, 1, 1, 5), 1), 0), take(random((6,), 2), 0), layout="NHWC")
    skip = build("Conv", y, take(random((4, 1, 1, 6), 3), 3), build.random((4,)), name="skip", layout="NHWC")
    return build("Conv", x, build.random((4, 1, 1, 5)), build.random((4,)), skip, name="sum", layout="NHWC")


def test_the_mean_of_a_sum_is_what_it_was_with_the_residual() -> None:
    graph, unpruned = pair(residual, (1, 4, 4, 5), {"conv": STAY})
    samples = samples_of((1, 4, 4, 5), 60, 8)
    reestimated(graph, unpruned, samples)
    means = [
        np.mean([evaluate_all(each, sample)[each.outputs[0]] for sample in samples], axis=(0, 1, 2, 3))
        for each in (unpruned.graph, graph)
    ]
    np.testing.assert_allclose(means[1], means[0], atol=0.05)


def test_layers_that_were_refitted_keep_their_weights() -> None:
    graph, unpruned = pair(residual, (1, 4, 4, 5), {"conv": STAY})
    samples = samples_of((1, 4, 4, 5), 40, 8)
    context = context_for(samples)
    context.unpruned = unpruned
    assert RefitWeights().run(graph, context)
    weights = [node.input(1).data for node in graph.nodes]
    context = reestimated(graph, unpruned, samples)
    assert not [text for text in messages(context.remarks, "did") if "spreads" in text]
    assert all(np.array_equal(node.input(1).data, old) for node, old in zip(graph.nodes, weights, strict=True))


def test_nothing_changes_without_pruning() -> None:
    graph, _ = pair(convolutions, (1, 4, 4, 5), {"conv": STAY})
    context = context_for(samples_of((1, 4, 4, 5), 20, 8))
    assert not ReestimateNormalization().run(graph, context)
    assert messages(context.remarks, "declined") == ["nothing was pruned"]


def test_a_channel_whose_variance_is_rounding_about_a_large_mean_keeps_its_gain() -> None:
    wanted_mean, ones = np.array([5.0, 5.0]), np.ones(2)
    given_mean, given_variance = np.array([1000.0, 1.0]), np.array([1e-4, 0.25])
    statistics = ChannelStatistics(wanted_mean, ones, given_mean, given_variance)
    np.testing.assert_allclose(statistics.gain, [1, 2])
    np.testing.assert_allclose(statistics.shift(statistics.gain), [-995, 3])
