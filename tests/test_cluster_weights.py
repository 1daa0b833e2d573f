"""Clustering: codebooks, exact reconstruction, bytes, and what refuses."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import GraphBuilder, apply, context_for, messages

from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Quantization, Value
from tinyopt.passes.cluster_weights import ClusterWeights, find_codebook, nearest, packed_bytes


def _dense(weights: Value, inputs: int) -> Graph:
    build = GraphBuilder()
    return build.graph_of(build("Dense", build.input("x", (1, inputs)), weights))


def test_weights_become_exactly_codebook_times_scale() -> None:
    weights = GraphBuilder().random((16, 32))
    largest = np.abs(weights.data).max(axis=1)
    before = weights.data
    remarks = apply(ClusterWeights(clusters=16), _dense(weights, 32))
    clusters = weights.clusters
    assert clusters is not None
    assert len(clusters.codebook) == 16
    assert np.all(np.diff(clusters.codebook.astype(int)) > 0)
    np.testing.assert_array_equal(clusters.scale, largest / np.float32(127))
    np.testing.assert_array_equal(weights.data, clusters.integers().astype(np.float32) * clusters.scale[:, None])
    assert weights.data.dtype == np.float32
    error = np.mean((weights.data - before) ** 2)
    assert error < 0.0095 * np.mean(before**2)  # the best that 16 levels can do for an endless normal distribution
    assert messages(remarks, "did") == [
        f"dense: 512 weights share 16 values: 512 bytes as int8 -> 272 bytes, mean squared error {error:.3g}"
    ]


def test_zero_weights_stay_exactly_zero() -> None:
    weights = GraphBuilder().random((16, 32))
    weights.constant = np.where(np.arange(32) % 4 == 0, 0, np.abs(weights.data) + 1).astype(np.float32)
    apply(ClusterWeights(clusters=8), _dense(weights, 32))
    assert np.all(weights.data[:, ::4] == 0)
    assert np.all(weights.data[:, 1::4] > 0)


def test_a_row_of_zeros_stays_zero() -> None:
    weights = GraphBuilder().random((16, 32))
    weights.constant = weights.data * (np.arange(16) != 3)[:, None].astype(np.float32)
    apply(ClusterWeights(clusters=8), _dense(weights, 32))
    assert np.all(weights.data[3] == 0)


def test_integer_weights_keep_their_scale_and_take_values_of_the_codebook() -> None:
    build = GraphBuilder()
    quantization = Quantization.per_channel(np.linspace(0.1, 0.2, 16), [0] * 16, 0)
    weights = build.random_int8((16, 32), quantization)
    x = build.input("x", (1, 32))
    graph = build.graph_of(build("Dense", x, build("DequantizeLinear", weights)))
    apply(ClusterWeights(clusters=32), graph)
    assert weights.clusters is not None
    assert weights.quantization == quantization
    assert weights.data.dtype == np.int8
    np.testing.assert_array_equal(weights.data, weights.clusters.integers())
    np.testing.assert_array_equal(weights.clusters.scale, np.array(quantization.scale, np.float32))


def test_a_weight_that_two_layers_share_is_clustered_once() -> None:
    build = GraphBuilder()
    x, weights = build.input("x", (1, 32)), build.random((32, 32))
    graph = build.graph_of(build("Dense", build("Dense", x, weights), weights))
    assert len(messages(apply(ClusterWeights(clusters=16), graph), "did")) == 1


def test_the_same_seed_gives_the_same_codebook() -> None:
    levels = np.random.default_rng(0).normal(size=(64, 64)) * 40
    books = [find_codebook(np.clip(levels, -127, 127), 32, seed=1) for _ in range(2)]
    np.testing.assert_array_equal(books[0], books[1])


def test_levels_go_to_the_nearest_value() -> None:
    codebook = np.array([-10, 0, 4], np.int8)
    assert nearest(np.array([-99, -5.1, -5, 1.9, 2.1, 99]), codebook).tolist() == [0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize(
    ("shape", "clusters", "reason"),
    [
        ((4, 8), 16, "32 weights are too few for 16 clusters"),
        ((32, 32), 256, "1280 bytes of indices and codebook, 1024 as int8"),
    ],
)
def test_a_layer_that_would_not_shrink_is_left_alone(shape: tuple[int, int], clusters: int, reason: str) -> None:
    graph = _dense(GraphBuilder().random(shape), shape[1])
    remarks = apply(ClusterWeights(clusters=clusters), graph)
    assert messages(remarks, "declined") == [f"dense: not clustered: {reason}"]


def test_without_a_number_of_clusters_nothing_happens_and_the_remark_says_how_to() -> None:
    graph = _dense(GraphBuilder().random((16, 32)), 32)
    assert "clusters=32" in messages(apply(ClusterWeights(), graph), "declined")[0]
    with pytest.raises(UsageError, match="between 2 and 256"):
        ClusterWeights(clusters=300).run(graph, context_for())


def test_what_decoding_may_cost_goes_with_the_weights() -> None:
    weights = GraphBuilder().random((16, 32))
    apply(ClusterWeights(clusters=16, cost=1.5), _dense(weights, 32))
    assert weights.clusters is not None
    assert weights.clusters.cost_limit == 1.5
    with pytest.raises(UsageError, match="at least 1"):
        ClusterWeights(clusters=16, cost=0.5).run(_dense(weights, 32), context_for())


def test_packed_indices_take_whole_bytes() -> None:
    assert packed_bytes(elements=10, clusters=5) == 4 + 5  # 30 bits
