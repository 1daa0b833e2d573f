"""Refitting a pruned model: what is recovered exactly, what is judged on held-out samples, and what is refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.graph_builder import GraphBuilder, context_for, messages
from tests.pruned_pairs import STAY, Samples, Take, error, pair, random, recovered, samples_of
from tinyopt.ir import Array, Graph, Value
from tinyopt.pass_manager import PassContext, Unpruned
from tinyopt.passes.refit_weights import RefitWeights


def dependent_rows() -> NDArray[np.float32]:
    """Six channels of weights; those that go are linear combinations of those that stay."""
    rows = random((6, 1, 1, 5), 1)
    rows[1] = rows[0] - 0.5 * rows[3]
    rows[4] = 2 * rows[2] + rows[5]
    return rows


def dependent_biases() -> NDArray[np.float32]:
    biases = random((6,), 2)
    biases[1] = biases[0] - 0.5 * biases[3]
    biases[4] = 2 * biases[2] + biases[5]
    return biases


def refitted(graph: Graph, unpruned: Unpruned, samples: Samples) -> PassContext:
    """Refit, see that the graph is valid, that a second run changes nothing and that a repetition gives the same."""
    twin = graph.copy()
    context = recovered(RefitWeights(), graph, unpruned, samples)
    repeated = context_for(samples)
    repeated.unpruned = unpruned
    RefitWeights().run(twin, repeated)
    for expected, value in zip(graph.constants(), twin.constants(), strict=True):
        np.testing.assert_array_equal(value.data, expected.data)
    return context


def convolutions(build: GraphBuilder, x: Value, take: Take) -> Value:
    # the padding, where no bias is added, asks for biases that are combinations too
    y = build("Conv", x, take(dependent_rows(), 0), take(dependent_biases(), 0), layout="NHWC")
    return build(
        "Conv", y, take(random((3, 2, 2, 6), 3), 3), build.random((3,)),
        pads=(1, 0, 0, 1), strides=(1, 2), layout="NHWC",
    )  # fmt: skip


def without_bias(build: GraphBuilder, x: Value, take: Take) -> Value:
    y = build("Conv", x, take(dependent_rows(), 0), take(random((6,), 2), 0), layout="NHWC")
    return build("Conv", y, take(random((3, 1, 1, 6), 3), 3), layout="NHWC")


def depthwise(build: GraphBuilder, x: Value, take: Take) -> Value:
    y = build("Conv", x, take(dependent_rows(), 0), take(random((6,), 2), 0), layout="NHWC")
    # all channels are filtered alike, so that those that go stay combinations of the others
    filters = np.tile(random((1, 3, 3, 1), 4), (6, 1, 1, 1))
    group = take(np.ones(6, np.float32), 0).shape[0]
    y = build("Conv", y, take(filters, 0), take(random((6,), 5), 0), group=group, layout="NHWC")
    return build("Conv", y, take(random((3, 1, 1, 6), 3), 3), build.random((3,)), layout="NHWC")


def dense(build: GraphBuilder, x: Value, take: Take) -> Value:
    y = build("Dense", x, take(dependent_rows().reshape(6, 5), 0), take(random((6,), 2), 0))
    return build("Dense", y, take(random((3, 6), 3), 1), build.random((3,)))


CASES = {
    "convolution": (convolutions, (1, 6, 6, 5), ["conv"]),
    "convolution without a bias": (without_bias, (1, 6, 6, 5), ["conv"]),
    "depthwise": (depthwise, (1, 6, 6, 5), ["conv", "conv_2"]),
    "dense": (dense, (1, 5), ["dense"]),
}


@pytest.mark.parametrize("case", [name for name in CASES if name != "convolution without a bias"])
def test_channels_that_are_combinations_of_others_are_recovered_exactly(case: str) -> None:
    body, shape, narrowed = CASES[case]
    graph, unpruned = pair(body, shape, dict.fromkeys(narrowed, STAY))
    fresh = samples_of(shape, 20, 9)
    assert error(unpruned.graph, graph, fresh) > 1e-2
    context = refitted(graph, unpruned, samples_of(shape, 40, 8))
    assert error(unpruned.graph, graph, fresh) < 1e-8
    assert len(messages(context.remarks, "did")) == 1, "the layers before give what they gave"


def test_a_layer_without_a_bias_gets_one_for_the_means_of_what_is_gone() -> None:
    body, shape, narrowed = CASES["convolution without a bias"]
    graph, unpruned = pair(body, shape, dict.fromkeys(narrowed, STAY))
    refitted(graph, unpruned, samples_of(shape, 40, 8))
    assert graph.nodes[1].input(2).shape == (3,)
    assert error(unpruned.graph, graph, samples_of(shape, 20, 9)) < 1e-8


def grouped(build: GraphBuilder, x: Value, take: Take) -> Value:
    rows = random((6, 1, 1, 5), 1)
    rows[1], rows[4] = rows[0] + rows[2], rows[3] - rows[5]  # each a combination of its own group's
    y = build("Conv", x, take(rows, 0), take(random((6,), 2), 0), layout="NHWC")
    weights = random((4, 1, 1, 3), 3)
    if y.shape[-1] == len(STAY):
        weights = np.concatenate([weights[:2][..., [0, 2]], weights[2:][..., [0, 2]]])
    return build("Conv", y, build.constant(weights), build.random((4,)), group=2, layout="NHWC")


def test_each_group_of_a_grouped_convolution_is_refitted_from_its_own_channels() -> None:
    graph, unpruned = pair(grouped, (1, 4, 4, 5), {"conv": STAY})
    refitted(graph, unpruned, samples_of((1, 4, 4, 5), 40, 8))
    assert error(unpruned.graph, graph, samples_of((1, 4, 4, 5), 20, 9)) < 1e-8


def residual(build: GraphBuilder, x: Value, take: Take) -> Value:
    """What is lost on the way of the residual can be had from the other branch, which lost nothing."""
    middle = build("Conv", x, take(random((6, 1, 1, 5), 1), 0), take(random((6,), 2), 0), name="narrow", layout="NHWC")
    skip = build("Conv", middle, take(random((4, 1, 1, 6), 3), 3), build.random((4,)), name="skip", layout="NHWC")
    wide = build("Conv", x, build.constant(random((8, 1, 1, 5), 6)), build.random((8,)), name="wide", layout="NHWC")
    return build(
        "Conv", wide, build.constant(random((4, 1, 1, 8), 7)), build.random((4,)), skip, name="sum", layout="NHWC"
    )


def test_a_layer_makes_up_for_the_error_of_the_residual_that_is_added_to_it() -> None:
    graph, unpruned = pair(residual, (1, 4, 4, 5), {"narrow": STAY})
    context = refitted(graph, unpruned, samples_of((1, 4, 4, 5), 40, 8))
    assert any(message.startswith("skip: squared error") for message in messages(context.remarks, "did"))
    (skip,) = (node for node in graph.nodes if node.name == "skip")
    assert error(unpruned.graph, graph, samples_of((1, 4, 4, 5), 20, 9)) < 1e-8
    assert skip.input(1).shape == (4, 1, 1, 4)


def clamped(build: GraphBuilder, x: Value, take: Take) -> Value:
    y = build("Conv", x, take(random((6, 1, 1, 5), 1), 0), take(random((6,), 2), 0), clamp_low=0.0, layout="NHWC")
    return build("Conv", y, take(random((3, 1, 1, 6), 3), 3), build.random((3,)), clamp_low=0.0, layout="NHWC")


def test_sums_that_a_clamp_hides_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (1, 6, 6, 5)
    errors: list[float] = []
    for steps in (0, 3):
        monkeypatch.setattr("tinyopt.passes.refit_weights._STEPS", steps)
        graph, unpruned = pair(clamped, shape, {"conv": STAY})
        refitted(graph, unpruned, samples_of(shape, 40, 8))
        errors.append(error(unpruned.graph, graph, samples_of(shape, 40, 9)))
    assert errors[1] < 0.95 * errors[0]


def independent(build: GraphBuilder, x: Value, take: Take) -> Value:
    """Channels that say nothing of one another: nothing makes up for those that go."""
    y = build("Dense", x, take(np.eye(6, dtype=np.float32), 0), take(np.zeros(6, np.float32), 0))
    return build("Dense", y, take(random((2, 6), 3), 1), build.random((2,)))


def test_weights_stay_where_they_would_fit_the_noise_of_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyopt.passes.refit_weights._RIDGES", (1e-5,))
    graph, unpruned = pair(independent, (1, 6), {"dense": STAY})
    before = {value.name: value.data for value in graph.constants()}
    context = refitted(graph, unpruned, samples_of((1, 6), 10, 8))
    assert "no less with refitted weights" in messages(context.remarks, "declined")[-1]
    assert all(np.array_equal(value.data, before[value.name]) for value in graph.constants())


class Endless(Sequence[Mapping[str, Array]]):
    """So many samples, made as they are asked for."""

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        self._shape, self._count = shape, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Mapping[str, Array]:  # type: ignore[override]
        return samples_of(self._shape, 1, index)[0]

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        raise AssertionError("samples are asked for one by one")


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    shape, peaks = (1, 6, 6, 5), []
    for count in (512, 50_000):
        graph, unpruned = pair(convolutions, shape, {"conv": STAY})
        context = context_for(Endless(shape, count))
        context.unpruned = unpruned
        tracemalloc.start()
        RefitWeights().run(graph, context)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_shared_weights_and_wide_layers_stay_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(build: GraphBuilder, x: Value, take: Take) -> Value:
        y = build("Dense", x, take(random((6, 5), 1), 0), take(random((6,), 2), 0))
        weights = take(random((3, 6), 3), 1)
        return build("Add", build("Dense", y, weights), build("Dense", y, weights))

    graph, unpruned = pair(shared, (1, 5), {"dense": STAY})
    context = refitted(graph, unpruned, samples_of((1, 5), 20, 8))
    assert [text for text in messages(context.remarks, "declined") if "its weights are shared" in text][1:]
    monkeypatch.setattr("tinyopt.passes.refit_weights.LARGEST_INPUTS", 3)
    graph, unpruned = pair(dense, (1, 5), {"dense": STAY})
    context = refitted(graph, unpruned, samples_of((1, 5), 20, 8))
    assert "dense_2: 4 inputs are too many" in messages(context.remarks, "declined")


def test_nothing_is_refitted_without_pruning_or_with_few_samples() -> None:
    graph, unpruned = pair(dense, (1, 5), {"dense": STAY})
    context = context_for(samples_of((1, 5), 20, 8))
    assert not RefitWeights().run(graph, context)
    assert messages(context.remarks, "declined") == ["nothing was pruned"]
    context = context_for(samples_of((1, 5), 9, 8))
    context.unpruned = unpruned
    assert not RefitWeights().run(graph, context)
    assert messages(context.remarks, "declined") == ["9 calibration samples are too few to judge by: 10 or more"]


def test_a_layer_that_took_the_place_of_a_sum_is_fitted_to_what_the_sum_gave() -> None:
    def built(*, with_branch: bool) -> Graph:
        build = GraphBuilder()
        x = build.input("x", (1, 4, 4, 5))
        weights, bias = build.constant(random((4, 1, 1, 5), 1)), build.constant(random((4,), 2))
        y = build("Conv", x, weights, bias, name="first" if with_branch else "sum", layout="NHWC")
        if with_branch:
            branch = build("Conv", y, build.constant(random((4, 1, 1, 4), 3)), name="branch", layout="NHWC")
            y = build("Add", y, branch, name="sum")
        return build.graph_of(y)

    graph, unpruned = built(with_branch=False), built(with_branch=True)
    refitted(graph, Unpruned(unpruned, {}), samples_of((1, 4, 4, 5), 40, 8))
    assert error(unpruned, graph, samples_of((1, 4, 4, 5), 20, 9)) < 1e-8
