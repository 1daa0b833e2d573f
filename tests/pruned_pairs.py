"""Pairs of a pruned graph and the one before, for the tests of recovery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tests.graph_builder import GraphBuilder, context_for
from tinyopt.ir import Array, Graph, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.pass_manager import Pass, PassContext, Unpruned
from tinyopt.verify import verify

Samples = Sequence[Mapping[str, Array]]
Take = Callable[[Array, int], Value]  # a constant without the removed channels along an axis
Body = Callable[[GraphBuilder, Value, Take], Value]  # builds a graph

STAY = (0, 2, 3, 5)  # of the first layer's six channels


def samples_of(shape: tuple[int, ...], count: int, seed: int) -> list[dict[str, Array]]:
    generator = np.random.default_rng(seed)
    return [{"x": generator.normal(size=shape).astype(np.float32)} for _ in range(count)]


def random(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pair(body: Body, shape: tuple[int, ...], kept: Mapping[str, Sequence[int]]) -> tuple[Graph, Unpruned]:
    """A pruned graph and the one before; `body` builds either, taking its constants through `take(array, axis)`."""

    def built(is_pruned: bool) -> Graph:
        build = GraphBuilder()

        def take(array: Array, axis: int) -> Value:
            return build.constant(np.take(array, STAY, axis) if is_pruned else array)

        return build.graph_of(body(build, build.input("x", shape), take))

    return built(True), Unpruned(built(False), {name: np.array(channels) for name, channels in kept.items()})


def recovered(step: Pass, graph: Graph, unpruned: Unpruned, samples: Samples) -> PassContext:
    """Run `step`, see that the graph is valid and that a second run changes nothing."""
    context = context_for(samples)
    context.unpruned = unpruned
    step.run(graph, context)
    verify(graph, after=step.name)
    again = context_for(samples)
    again.unpruned = unpruned
    constants = [value.data for value in graph.constants()]
    assert not step.run(graph, again)
    for expected, value in zip(constants, graph.constants(), strict=True):
        np.testing.assert_array_equal(value.data, expected)
    return context


def error(exact: Graph, graph: Graph, samples: Samples) -> float:
    """The squared error of the first output as a share of its energy."""
    sessions = [OnnxSession(exact), OnnxSession(graph)]
    lost = energy = 0.0
    for sample in samples:
        wanted, got = (next(iter(session.run(sample).values())) for session in sessions)
        lost += float(np.sum((wanted - got) ** 2))
        energy += float(np.sum(wanted**2))
    return lost / energy
