"""The running order: valid, and with a low peak of live bytes."""

from __future__ import annotations

from tests.graph_builder import GraphBuilder, graph_of
from tests.test_lowering import random_graph
from tinyopt.ir import Graph, Value
from tinyopt.lowering.schedule import schedule
from tinyopt.verify import verify


def scheduled(graph: Graph) -> Graph:
    return Graph(graph.name, graph.inputs, graph.outputs, schedule(graph, lambda value: value))


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
