"""The running order: valid, and with a low peak of live bytes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tests.graph_builder import GraphBuilder, graph_of
from tests.test_lowering import random_graph
from tinyopt.ir import Graph, Node, Value
from tinyopt.lowering.lifetimes import value_lifetimes
from tinyopt.lowering.schedule import schedule
from tinyopt.lowering.views import Views
from tinyopt.memory_plan import lower_bound
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Overlap
from tinyopt.verify import verify


def scheduled(graph: Graph) -> Graph:
    return Graph(graph.name, graph.inputs, graph.outputs, schedule(graph, Views.of(graph), {}))


def peak_of(graph: Graph, order: list[Node]) -> int:
    views = Views.of(graph)
    steps = [node for node in order if node not in views.nodes]
    return lower_bound(list(value_lifetimes(graph, [(step,) for step in steps], views).values()), 1)


def all_orders(nodes: list[Node], done: frozenset[Node] = frozenset()) -> Iterator[list[Node]]:
    if len(done) == len(nodes):
        yield []
    made = {value for node in nodes if node not in done for value in node.outputs}
    for node in nodes:
        if node not in done and not made & set(node.variable_inputs):
            yield from ([node, *rest] for rest in all_orders(nodes, done | {node}))


def branching_graph(seed: int) -> Graph:
    """Nodes that widen, narrow and combine at random what is there already."""
    build, generator = GraphBuilder(seed=seed), random.Random(seed)
    values = [build.input("x", (1, 1, 2, 2))]
    for _ in range(generator.randint(4, 7)):
        x = generator.choice(values[-3:])
        match generator.randrange(4):
            case 0:
                values.append(build("Concat", x, generator.choice(values), axis=1))
            case 1:
                values.append(build("ReduceMean", x, axes=(1,)))
            case 2:
                values.append(build("Reshape", x, shape=x.shape))
            case _:
                channels = generator.randint(1, 6)
                values.append(build("Pad", x, pads=(0, 0, 0, 0, 0, channels, 0, 0)))
    return build.graph_of(*generator.sample(values[1:], 2))


@pytest.mark.parametrize("seed", range(60))
def test_no_order_of_a_small_graph_has_a_lower_peak(seed: int) -> None:
    graph = branching_graph(seed)
    best = min(peak_of(graph, order) for order in all_orders(graph.nodes))
    assert peak_of(graph, scheduled(graph).nodes) == best


def test_an_output_that_overwrites_its_input_counts_once() -> None:
    def body(build: GraphBuilder) -> list[Value]:
        x = build.input("x", (1, 1, 4, 4))
        wide = build("Pad", x, pads=(0, 0, 0, 0, 0, 2, 0, 0), name="widen")  # 48 elements
        flat = build("ReduceMean", x, axes=(2, 3), name="average")  # one element, and the last reader of 16
        return [build("ReduceMean", build("Relu", wide), axes=(1, 2, 3), name="mean"), flat]

    graph = graph_of(body)
    arguments = (InputArgument(0), OutputArgument(0))
    kernels = {
        node: Kernel(body, None, "test", arguments, overlaps=(Overlap.backward(0, 0),))
        for node in graph.nodes
        if node.op in ("Pad", "Relu")
    }
    order = [node.name for node in schedule(graph, Views.of(graph), kernels)]
    assert order == ["average", "widen", "relu", "mean"]  # widen overwrites x only where it is the last to read it


def test_many_wide_branches_are_ordered_in_seconds() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build.input("x", (1, 1, 2, 2))
        for _ in range(40):
            branches = [build("Pad", x, pads=(0, 0, 0, 0, 0, 0, 4, 4)) for _ in range(8)]
            narrow = [build("ReduceMean", build("Relu", branch), axes=(2, 3)) for branch in branches]
            x = build("Pad", build("Concat", *narrow, axis=1), pads=(0, 0, 0, 0, 0, 0, 1, 1))
        return x

    graph = graph_of(body)
    started = time.monotonic()
    order = scheduled(graph).nodes
    assert time.monotonic() - started < 10
    assert peak_of(graph, order) <= peak_of(graph, graph.nodes) / 2


def test_two_large_branches_run_one_after_the_other() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build.input("x", (1, 1, 4, 4))
        wide = [build("Pad", x, pads=(0, 0, 0, 0, 0, 0, 20, 20), name=f"widen{i}") for i in range(2)]
        narrow = [build("ReduceMean", branch, axes=(2, 3), name=f"narrow{i}") for i, branch in enumerate(wide)]
        return build("Add", narrow[0], narrow[1])

    order = [node.name for node in scheduled(graph_of(body)).nodes]
    assert order == ["widen0", "narrow0", "widen1", "narrow1", "add"]


def test_an_order_that_is_good_already_stays() -> None:
    graph = graph_of(lambda build: build("Relu", build("Sigmoid", build.input("x", (4,)))))
    assert scheduled(graph).nodes == graph.nodes


def test_every_random_graph_gets_a_valid_order_of_all_its_nodes() -> None:
    for seed in range(40):
        graph = random_graph(seed)
        result = scheduled(graph)
        verify(result, after="schedule")
        assert {id(node) for node in result.nodes} == {id(node) for node in graph.nodes}
