"""FuseOperators: bias, residual and activation become part of the layer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from graph_builder import GraphBuilder, changed_by, graph_of, messages, ops_of

from tinyopt.ir import Node, Quantization, Value
from tinyopt.passes.fuse_operators import FuseOperators
from tinyopt.text import print_graph

Body = Callable[[GraphBuilder, Value], Value]
LEVELS = Quantization.per_tensor(0.1, 3)


def conv(build: GraphBuilder, x: Value, name: str | None = None) -> Value:
    return build("Conv", x, build.random((4, 4, 3, 3)), build.random((4,)), pads=(1, 1, 1, 1), name=name)


def clamp(node: Node) -> tuple[float, float]:
    return node.float("clamp_low"), node.float("clamp_high")


CLAMPED: dict[str, Body] = {
    "Conv": conv,
    "ConvTranspose": lambda b, x: b("ConvTranspose", x, b.random((4, 4, 2, 2))),
    "Dense": lambda b, x: b("Dense", x, b.random((3, 5))),
    "Add": lambda b, x: b("Add", x, b.random((6, 5))),
    "Sub": lambda b, x: b("Sub", x, b.random((6, 5))),
    "Mul": lambda b, x: b("Mul", x, b.random((6, 5))),
    "Div": lambda b, x: b("Div", x, b.random((6, 5))),
    "AveragePool": lambda b, x: b("AveragePool", x),
}


@pytest.mark.parametrize("op", CLAMPED)
def test_relu_becomes_the_clamp_of(op: str) -> None:
    graph = graph_of(lambda build: build("Relu", CLAMPED[op](build, build.input("x", (1, 4, 6, 5)))))
    changed_by(FuseOperators(), graph)
    assert ops_of(graph) == [op]
    assert clamp(graph.nodes[0]) == (0.0, math.inf)


def test_clamps_in_a_row_are_composed() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("Relu", conv(build, build.input("x", (1, 4, 6, 5))))
        return build("Clip", x, low=-1.0, high=0.5)

    graph = graph_of(body)
    changed_by(FuseOperators(), graph)
    assert clamp(graph.nodes[0]) == (0.0, 0.5)


def test_residual_then_relu_become_part_of_the_later_convolution() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build.input("x", (1, 4, 6, 5))
        early, late = conv(build, x, "early"), conv(build, x, "late")
        return build("Relu", build("Add", late, early))

    graph = graph_of(body)
    remarks = changed_by(FuseOperators(), graph)
    assert [node.name for node in graph.nodes] == ["early", "late"]
    fused = graph.nodes[1]
    assert fused.optional_input(3) is graph.nodes[0].output
    assert clamp(fused) == (0.0, math.inf)
    assert fused.origins == ("late", "add", "relu")
    assert remarks[0].before == ("late", "add")
    assert remarks[0].after == ("late",)


NO_RESIDUAL: dict[str, tuple[Body, str]] = {
    "activation between": (lambda b, x: b("Add", b("Relu", conv(b, x)), x), "comes before the addition"),
    "other shape": (
        lambda b, x: b("Add", conv(b, x), b("AveragePool", x, kernel=(6, 5))),
        "another shape",
    ),
    "two residuals": (lambda b, x: b("Add", b("Add", conv(b, x), x), b("Tanh", x)), "a residual already"),
}


@pytest.mark.parametrize("case", NO_RESIDUAL)
def test_a_residual_is_refused_for(case: str) -> None:
    body, reason = NO_RESIDUAL[case]
    graph = graph_of(lambda build: build("Tanh", body(build, build.input("x", (1, 4, 6, 5)))))
    remarks = changed_by(FuseOperators(), graph)
    assert ops_of(graph)[-2:] == ["Add", "Tanh"]
    assert reason in messages(remarks, "declined")[0]


def test_a_convolution_that_is_read_twice_keeps_its_output() -> None:
    def body(build: GraphBuilder) -> Value:
        x = conv(build, build.input("x", (1, 4, 6, 5)))
        return build("Add", build("Relu", x), x)

    graph = graph_of(body)
    reasons = messages(changed_by(FuseOperators(), graph), "declined")
    assert ops_of(graph) == ["Conv", "Relu", "Add"]
    assert len(reasons) == 2


def test_a_residual_behind_integers_is_refused_because_rounding_is_part_of_the_model() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("DequantizeLinear", build.input("x", (1, 4, 6, 5), "int8", LEVELS))
        y = build("DequantizeLinear", build("QuantizeLinear", conv(build, x), quantization=LEVELS))
        return build("Add", x, y)

    graph = graph_of(body)
    (reason,) = messages(changed_by(FuseOperators(), graph), "declined")
    assert "rounding is part of the model" in reason


def test_matmul_with_a_constant_and_its_bias_become_dense() -> None:
    def body(build: GraphBuilder) -> Value:
        product = build("MatMul", build.input("x", (2, 7, 5)), build.random((5, 3)))
        return build("Relu", build("Add", build.random((3,)), product))

    graph = graph_of(body)
    changed_by(FuseOperators(), graph)
    assert ops_of(graph) == ["Dense"]
    assert graph.nodes[0].input(1).shape == (3, 5)


def test_a_quantized_matmul_keeps_its_integers_transposed() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("DequantizeLinear", build.input("x", (1, 5), "int8", LEVELS))
        scales = Quantization.per_channel((0.1, 0.2, 0.3), (0, 0, 0), 1)
        weights = build("DequantizeLinear", build.random_int8((5, 3), scales))
        bias = build.constant(np.array([10, -20, 30], np.int32), "b", quantization=Quantization.per_tensor(0.01, 0))
        return build("Add", build("MatMul", x, weights), build("DequantizeLinear", bias))

    graph = graph_of(body)
    changed_by(FuseOperators(), graph)
    assert ops_of(graph) == ["DequantizeLinear"] * 3 + ["Dense"]
    producers = graph.producers()
    weights, bias = (producers[graph.nodes[-1].input(index)].input(0) for index in (1, 2))
    assert (weights.dtype, weights.shape) == ("int8", (3, 5))
    assert weights.quantization == Quantization.per_channel((0.1, 0.2, 0.3), (0, 0, 0), 0)
    assert (bias.dtype, bias.shape) == ("int32", (3,))


def test_a_constant_per_channel_is_added_to_the_bias_and_a_map_is_not() -> None:
    graph = graph_of(lambda b: b("Add", conv(b, b.input("x", (1, 4, 6, 5))), b.random((4, 1, 1))))
    changed_by(FuseOperators(), graph)
    assert ops_of(graph) == ["Conv"]
    graph = graph_of(lambda b: b("Add", conv(b, b.input("x", (1, 4, 6, 5))), b.random((6, 5))))
    (reason,) = messages(changed_by(FuseOperators(), graph), "declined")
    assert "not one number per output channel" in reason


def test_fused_text(golden: Callable[[str, str], None]) -> None:
    def body(build: GraphBuilder) -> Value:
        x = build.input("x", (1, 4, 6, 5))
        x = build("Relu", build("Add", x, conv(build, x)))
        x = build("MatMul", build("Reshape", x, shape=(1, 120)), build.random((120, 3)))
        return build("Clip", build("Add", x, build.random((3,))), low=0.0, high=6.0)

    graph = graph_of(body)
    before = print_graph(graph)
    changed_by(FuseOperators(), graph)
    golden("fuse_operators", f"{before}\n{print_graph(graph)}")
