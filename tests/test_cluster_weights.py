"""Clustering: codebooks, exact reconstruction, outputs that err less, bytes, and what refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from graph_builder import GraphBuilder, apply, context_for, messages

from tinyopt.errors import UsageError
from tinyopt.evaluate import evaluate
from tinyopt.ir import Graph, Quantization, Value
from tinyopt.passes.cluster_weights import ClusterWeights
from tinyopt.passes.clustering.allotment import constant_bytes
from tinyopt.passes.clustering.codebooks import find_codebook, nearest, packed_bytes
from tinyopt.passes.quantize import Quantize
from tinyopt.passes.round_weights import RoundWeights
from tinyopt.samples import Sample


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
        "dense: 512 weights share 16 values: 512 bytes as int8 -> 272 bytes; nearest values, for no samples to fit them"
        f" to: mean squared error {error:.3g}"
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


def _network(build: GraphBuilder) -> Graph:
    """A convolution, a depthwise one and a dense layer, of correlated channels."""
    x = build.input("x", (1, 6, 6, 12))
    hidden = build("Conv", x, build.random((16, 1, 1, 12)), build.random((16,)), layout="NHWC", clamp_low=0.0)
    hidden = build(
        "Conv", hidden, build.random((16, 3, 3, 1)), build.random((16,)), group=16, layout="NHWC", clamp_low=0.0
    )
    return build.graph_of(build("Dense", hidden, build.random((24, 16)), build.random((24,))))


def _samples(count: int, seed: int) -> list[Sample]:
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(12, 12)) * np.linspace(0.05, 1, 12)
    return [{"x": (random.normal(size=(1, 6, 6, 12)) @ mixing).astype(np.float32)} for _ in range(count)]


def _noise(graph: Graph, other: Graph, samples: Sequence[Sample]) -> float:
    (output,), (twin,) = graph.outputs, other.outputs
    found = [(evaluate(graph, sample)[output.name], evaluate(other, sample)[twin.name]) for sample in samples]
    return float(np.mean([(a - b) ** 2 for a, b in found]))


def test_with_samples_the_outputs_err_far_less_on_new_ones() -> None:
    graph, step = _network(GraphBuilder()), ClusterWeights(clusters=8)
    exact, plain, fresh = graph.copy(), graph.copy(), _samples(40, seed=2)
    apply(step, plain)
    context = context_for(_samples(80, seed=1))
    assert step.run(graph, context)
    assert _noise(exact, graph, fresh) < 0.6 * _noise(exact, plain, fresh)
    for message in messages(context.remarks, "did"):
        found = re.search(r"signal to noise (\S+) dB, with the nearest values (\S+)$", message)
        assert found is not None
        assert float(found[1]) > float(found[2])


def test_the_same_samples_give_the_same_clusters_and_a_second_run_none() -> None:
    found: list[list[bytes]] = []
    for _ in range(2):
        graph, context = _network(GraphBuilder()), context_for(_samples(40, seed=1))
        ClusterWeights(clusters=16).run(graph, context)
        found.append([value.data.tobytes() for value in graph.constants()])
        assert not ClusterWeights(clusters=16).run(graph, context)
    assert found[0] == found[1]


def test_fitted_weights_are_exactly_codebook_times_scale_and_stay_so_as_int8() -> None:
    graph, samples = _network(GraphBuilder()), _samples(40, seed=1)
    context = context_for(samples)
    ClusterWeights(clusters=16).run(graph, context)
    clustered = {value.name: value for value in graph.constants() if value.clusters is not None}
    assert len(clustered) == 3
    for value in clustered.values():
        assert value.clusters is not None
        scale = value.clusters.scale.reshape(-1, *[1] * (value.type.rank - 1))
        np.testing.assert_array_equal(value.data, value.clusters.integers().astype(np.float32) * scale)
    Quantize(method="minmax").run(graph, context)
    integers = [value for value in graph.constants() if value.dtype == "int8"]
    assert len(integers) == 3
    for value in integers:
        old = clustered[value.name.removesuffix("_int8")]
        assert old.clusters is not None
        np.testing.assert_array_equal(value.data, old.clusters.integers())


def test_rounding_chooses_among_the_values_of_the_codebook_by_the_weights_from_before() -> None:
    graph, samples = _network(GraphBuilder()), _samples(80, seed=1)
    exact, context, fresh = graph.copy(), context_for(), _samples(40, seed=2)
    ClusterWeights(clusters=8).run(graph, context)  # takes the nearest values: much is left to be won
    context.samples = samples
    Quantize(method="minmax").run(graph, context)
    before = graph.copy()
    assert RoundWeights().run(graph, context)
    assert _noise(exact, graph, fresh) < _noise(exact, before, fresh)
    for value in graph.constants():
        if value.dtype == "int8":
            assert value.clusters is not None
            assert set(np.unique(value.data)) <= set(value.clusters.codebook.tolist())
            np.testing.assert_array_equal(value.data, value.clusters.integers())


def test_a_graph_that_was_changed_since_clustering_is_compared_with_itself() -> None:
    graph, context = _network(GraphBuilder()), context_for(_samples(40, seed=1))
    ClusterWeights(clusters=8).run(graph, context)
    graph.nodes[0].attributes["clamp_high"] = 6.0
    Quantize(method="minmax").run(graph, context)
    assert context.float_graph is not context.unclustered
    assert any("changed since" in message for message in messages(context.remarks, "note"))


def test_an_empty_channel_stays_empty_when_values_are_fitted() -> None:
    graph = _network(GraphBuilder())
    weights = graph.nodes[0].input(1)
    weights.constant = weights.data * (np.arange(16) != 3)[:, None, None, None].astype(np.float32)
    ClusterWeights(clusters=8).run(graph, context_for(_samples(40, seed=1)))
    assert np.all(weights.data[3] == 0)
    assert np.all(np.any(weights.data[:3] != 0, axis=(1, 2, 3)))


def test_some_layers_get_numbers_of_their_own() -> None:
    graph = _network(GraphBuilder())
    apply(ClusterWeights(clusters=16, layers=("conv*=0", "conv_2=4")), graph)
    found = [node.input(1).clusters for node in graph.nodes if node.op in ("Conv", "Dense")]
    assert [None if clusters is None else len(clusters.codebook) for clusters in found] == [None, 4, 16]
    with pytest.raises(UsageError, match="'fc=8' names no layer; there are: conv"):
        apply(ClusterWeights(layers=("fc=8",)), graph)
    with pytest.raises(UsageError, match="'conv' is no PATTERN=N"):
        apply(ClusterWeights(layers=("conv",)), graph)


def _values(graph: Graph) -> list[int]:
    """How many values each layer has; 0 for int8."""
    found = [node.input(1).clusters for node in graph.nodes if node.op in ("Conv", "Dense")]
    return [0 if clusters is None else len(clusters.codebook) for clusters in found]


def test_under_a_budget_layers_get_as_few_values_as_it_needs() -> None:
    samples = _samples(60, seed=1)
    found: list[tuple[list[int], int]] = []
    for max_flash in (1_500, 1_080, 850):
        graph, context = _network(GraphBuilder()), context_for(samples)
        ClusterWeights(is_automatic=True, max_flash=max_flash).run(graph, context)
        found.append((_values(graph), constant_bytes(graph)))
        assert constant_bytes(graph) <= max_flash
    assert found[0][0] == [0, 0, 0]  # int8 fits
    assert len(set(found[1][0])) > 1  # some layers bear fewer values than others
    assert found[2][1] < found[1][1]


def test_a_budget_out_of_reach_is_declined_with_the_nearest() -> None:
    graph, context = _network(GraphBuilder()), context_for(_samples(60, seed=1))
    assert ClusterWeights(is_automatic=True, max_flash=100, layers=("conv=16",)).run(graph, context)
    assert any("no numbers of values fit; the nearest" in message for message in messages(context.remarks, "declined"))
    assert _values(graph) == [16, 4, 4]
    with pytest.raises(UsageError, match="give --max-flash"):
        apply(ClusterWeights(is_automatic=True), graph)
    few = context_for(_samples(9, seed=1))
    assert not ClusterWeights(is_automatic=True, max_flash=500).run(_network(GraphBuilder()), few)
    assert "too few to judge by" in messages(few.remarks, "declined")[0]


def test_a_layer_that_matters_little_gives_first() -> None:
    """The second of two equal branches is multiplied by a hundredth."""
    build = GraphBuilder()
    x = build.input("x", (1, 6, 6, 12))
    loud = build("Conv", x, build.random((24, 1, 1, 12)), build.random((24,)), layout="NHWC")
    quiet = build("Conv", x, build.random((24, 1, 1, 12)), build.random((24,)), layout="NHWC")
    graph = build.graph_of(build("Add", loud, build("Mul", quiet, build.constant(np.array(0.01, np.float32)))))
    ClusterWeights(is_automatic=True, max_flash=constant_bytes(graph) - 180).run(graph, context_for(_samples(40, 1)))
    values = _values(graph)
    assert values[0] in (0, 64)
    assert values[1] == 4
