"""Simplify: what does nothing goes, and the numbers stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from graph_builder import GraphBuilder, changed_by, graph_of, messages, ops_of

from tinyopt.ir import Quantization, Value
from tinyopt.passes.simplify import Simplify
from tinyopt.text import print_graph

Body = Callable[[GraphBuilder], Value]
LEVELS = Quantization.per_tensor(0.1, -128)


def image(build: GraphBuilder) -> Value:
    return build("LeakyRelu", build.input("x", (1, 4, 6, 5)))


def after_all(build: GraphBuilder, value: Value) -> Value:
    return build("Tanh", value)


def spelled_hard_swish(build: GraphBuilder, x: Value) -> Value:
    gate = build("Clip", build("Add", build.constant(3.0), x), low=0.0, high=6.0)
    return build("Div", build("Mul", x, gate), build.constant(6.0))


def scaled_gate(build: GraphBuilder, x: Value) -> Value:
    gate = build("Clip", build("Add", x, build.constant(3.0)), low=0.0, high=6.0)
    return build("Mul", build("Mul", gate, build.constant(1 / 6)), x)


def hard_sigmoid_gate(build: GraphBuilder, x: Value) -> Value:
    return build("Mul", x, build("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def two_shapes(build: GraphBuilder, x: Value) -> Value:
    return build("Reshape", build("Reshape", x, shape=(4, 30)), shape=(2, 60))


CASES: dict[str, tuple[Callable[[GraphBuilder, Value], Value], Sequence[str]]] = {
    "identity": (lambda b, x: b("Identity", x), []),
    "plus zero": (lambda b, x: b("Add", b.constant(np.zeros((4, 1, 1), np.float32)), x), []),
    "minus zero": (lambda b, x: b("Sub", x, b.constant(0.0)), []),
    "zero minus": (lambda b, x: b("Sub", b.constant(0.0), x), ["Sub"]),
    "times one": (lambda b, x: b("Mul", x, b.constant(1.0)), []),
    "over one": (lambda b, x: b("Div", x, b.constant(1.0)), []),
    "one over": (lambda b, x: b("Div", b.constant(1.0), x), ["Div"]),
    "plus a zero that broadcasts": (lambda b, x: b("Add", x, b.constant(np.zeros((2, 1, 1, 1), np.float32))), ["Add"]),
    "same shape": (lambda b, x: b("Reshape", x, shape=(1, 4, 6, 5)), []),
    "two shapes": (two_shapes, ["Reshape"]),
    "there and back": (lambda b, x: b("Transpose", b("Transpose", x, perm=(0, 2, 3, 1)), perm=(0, 3, 1, 2)), []),
    "two transposes": (
        lambda b, x: b("Transpose", b("Transpose", x, perm=(0, 2, 3, 1)), perm=(0, 2, 1, 3)),
        ["Transpose"],
    ),
    "unit dimensions": (lambda b, x: b("Transpose", x, perm=(1, 0, 2, 3)), ["Reshape"]),
    "empty pad": (lambda b, x: b("Pad", x, pads=(0,) * 8), []),
    "full slice": (lambda b, x: b("Slice", x, starts=(0,) * 4, steps=(1,) * 4, sizes=(1, 4, 6, 5)), []),
    "one joined": (lambda b, x: b("Concat", x, axis=1), []),
    "one split": (lambda b, x: b("Split", x, axis=1, sizes=(4,)), []),
    "unit pool": (lambda b, x: b("MaxPool", x, kernel=(1, 1)), []),
    "unit reduction": (lambda b, x: b("ReduceMean", x, axes=(0,), keepdims=0), ["Reshape"]),
    "a square of one element": (lambda b, x: b("ReduceSumSquare", x, axes=(0,), keepdims=1), ["ReduceSumSquare"]),
    "a square over no axes": (lambda b, x: b("ReduceSumSquare", x, axes=(), keepdims=1), ["ReduceSumSquare"]),
    "two clamps": (lambda b, x: b("Relu", b("Clip", x, low=-1.0, high=0.5)), ["Clip"]),
    "clamp then relu": (lambda b, x: b("Relu", b("Clip", x, low=-1.0)), ["Relu"]),
    "disjoint clamps": (lambda b, x: b("Clip", b("Relu", x), low=-2.0, high=-1.0), ["Clip"]),
    "hard swish": (spelled_hard_swish, ["HardSwish"]),
    "hard swish of a scaled gate": (scaled_gate, ["HardSwish"]),
    "hard swish of a hard sigmoid": (hard_sigmoid_gate, ["HardSwish"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_nothing_goes(case: str) -> None:
    middle, left = CASES[case]
    graph = graph_of(lambda build: after_all(build, middle(build, image(build))))
    changed_by(Simplify(), graph)
    assert ops_of(graph) == ["LeakyRelu", *left, "Tanh"]


def test_a_graph_output_keeps_its_name_when_the_node_before_it_goes() -> None:
    graph = graph_of(lambda build: build("Identity", build("Relu", build.input("x", (3,))), name="last"))
    changed_by(Simplify(), graph)
    assert [node.output.name for node in graph.nodes] == ["last_out"]
    assert graph.nodes[0].origins == ("relu", "last")


def test_an_identity_from_input_to_output_stays_with_the_reason() -> None:
    graph = graph_of(lambda build: build("Identity", build.input("x", (3,))))
    (reason,) = messages(changed_by(Simplify(), graph), "declined")
    assert ops_of(graph) == ["Identity"]
    assert "graph output" in reason


def test_an_identity_between_two_quantizations_stays() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("QuantizeLinear", build.input("x", (3,)), quantization=LEVELS)
        return build("DequantizeLinear", build("Identity", x, quantization=Quantization.per_tensor(0.2, 0)))

    graph = graph_of(body)
    (reason,) = messages(changed_by(Simplify(), graph), "declined")
    assert "quantizations" in reason
    assert "Identity" in ops_of(graph)


def test_a_reshape_moves_below_a_node_that_reads_it_twice() -> None:
    build = GraphBuilder()
    shaped = build("Reshape", build("LeakyRelu", build.input("x", (1, 6, 1, 1))), shape=(1, 6, 1))
    graph = build.graph_of(build("Reshape", build("Mul", shaped, shaped), shape=(1, 6, 1, 1)))
    changed_by(Simplify(), graph)
    assert ops_of(graph) == ["LeakyRelu", "Mul"]


def test_nodes_that_nobody_reads_go() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build.input("x", (3,))
        build("Sigmoid", build("Tanh", x))
        return build("Relu", x)

    graph = graph_of(body)
    (what,) = messages(changed_by(Simplify(), graph), "did")
    assert ops_of(graph) == ["Relu"]
    assert "Tanh 'tanh', Sigmoid 'sigmoid'" in what


@pytest.mark.parametrize(("scale", "left"), [(0.1, ["QuantizeLinear", "DequantizeLinear"]), (0.2, None)])
def test_only_requantization_by_the_same_parameters_goes(scale: float, left: list[str] | None) -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("QuantizeLinear", build.input("x", (3,)), quantization=LEVELS)
        again = Quantization.per_tensor(scale, -128)
        y = build("QuantizeLinear", build("DequantizeLinear", x), quantization=again)
        return build("DequantizeLinear", y)

    graph = graph_of(body)
    changed_by(Simplify(), graph)
    assert ops_of(graph) == (left or ["QuantizeLinear", "DequantizeLinear"] * 2)


def test_a_mover_goes_before_the_dequantization() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("DequantizeLinear", build.input("x", (1, 4, 2), "int8", LEVELS))
        return build("Tanh", build("Transpose", x, perm=(0, 2, 1)))

    graph = graph_of(body)
    changed_by(Simplify(), graph)
    assert ops_of(graph) == ["Transpose", "DequantizeLinear", "Tanh"]


PLANE = (0, 0, 1, 2, 0, 0, 3, 0)  # top 1, left 2, bottom 3, right 0
PADDED: dict[str, tuple[tuple[int, ...], Callable[[GraphBuilder, Value], Value]]] = {
    "Conv": ((1, 2, 3, 0), lambda b, x: b("Conv", x, b.random((3, 4, 2, 2)))),
    "AveragePool": ((1, 2, 3, 0), lambda b, x: b("AveragePool", x)),
}


@pytest.mark.parametrize("op", PADDED)
def test_a_pad_becomes_the_padding_of_what_reads_it(op: str) -> None:
    pads, layer = PADDED[op]
    graph = graph_of(lambda build: layer(build, build("Pad", build.input("x", (1, 4, 6, 5)), pads=PLANE)))
    changed_by(Simplify(), graph)
    assert ops_of(graph) == [op]
    assert graph.nodes[0].ints("pads") == pads


def test_a_pad_of_integers_holds_the_zero_point_to_be_merged() -> None:
    def body(build: GraphBuilder, value: float) -> Value:
        x = build("Pad", build.input("x", (1, 4, 6, 5), "int8", LEVELS), pads=PLANE, value=value)
        return build("Conv", build("DequantizeLinear", x), build.random((3, 4, 2, 2)))

    merged = graph_of(lambda build: body(build, -128.0))
    changed_by(Simplify(), merged)
    assert ops_of(merged) == ["DequantizeLinear", "Conv"]
    kept = graph_of(lambda build: body(build, 0.0))
    (reason,) = messages(changed_by(Simplify(), kept), "declined")
    assert "is not zero" in reason


@pytest.mark.parametrize(
    ("activation", "pads", "is_merged"),
    [("Relu", (0, 0, 1, 1, 0, 0, 1, 1), True), ("Tanh", (0, 0, 1, 1, 0, 0, 1, 1), False), ("Relu", PLANE, False)],
    ids=["never below zero", "below zero", "a window of padding alone"],
)
def test_a_max_pool_takes_a_pad_of_zeros_only_where_no_window_shows_it(
    activation: str, pads: tuple[int, ...], is_merged: bool
) -> None:
    def body(build: GraphBuilder) -> Value:
        x = build(activation, build.input("x", (1, 4, 6, 5)))
        return build("MaxPool", build("Pad", x, pads=pads))

    graph = graph_of(body)
    changed_by(Simplify(), graph)
    assert ("Pad" not in ops_of(graph)) == is_merged


def test_the_reshapes_between_1d_convolutions_cancel_out_around_activations() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("Reshape", build.input("x", (1, 4, 9)), shape=(1, 4, 1, 9))
        x = build("Reshape", build("Conv", x, build.random((6, 4, 1, 3))), shape=(1, 6, 7))
        numbers = build.constant(np.arange(1, 7, dtype=np.float32))
        x = build("BatchNormalization", x, numbers, numbers, numbers, numbers)
        x = build("Relu", build("Add", x, build.random((6, 1))))
        x = build("Conv", build("Reshape", x, shape=(1, 6, 1, 7)), build.random((2, 6, 1, 3)))
        return build("Reshape", x, shape=(1, 2, 5))

    graph = graph_of(body)
    changed_by(Simplify(), graph)
    assert ops_of(graph) == ["Reshape", "Conv", "BatchNormalization", "Add", "Relu", "Conv", "Reshape"]


def test_simplified_text(golden: Callable[[str, str], None]) -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("Transpose", build.input("x", (1, 6, 5, 4)), perm=(0, 3, 1, 2))
        x = build("Conv", build("Pad", x, pads=PLANE), build.constant(np.ones((2, 4, 2, 2), np.float32), "w"))
        x = build("Clip", build("Identity", x), low=-1.0, high=6.0)
        return build("Relu", x)

    graph = graph_of(body)
    before = print_graph(graph)
    changed_by(Simplify(), graph)
    golden("simplify", f"{before}\n{print_graph(graph)}")
