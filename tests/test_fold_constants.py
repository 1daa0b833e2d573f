"""FoldConstants: what depends on constants alone, and the integers that must survive."""

from __future__ import annotations

import numpy as np
from graph_builder import GraphBuilder, changed_by, floats, graph_of, messages, ops_of

from tinyopt.ir import Quantization, Value
from tinyopt.passes.fold_constants import FoldConstants

STEP = Quantization.per_tensor(0.5, 0)


def per_channel(channels: int, axis: int) -> Quantization:
    return Quantization.per_channel([0.01 * (i + 1) for i in range(channels)], [0] * channels, axis)


def test_a_chain_of_constants_becomes_one_constant() -> None:
    def body(build: GraphBuilder) -> Value:
        factor = build("Mul", build.constant([2.0, 3.0]), build.constant([5.0]))
        return build("Add", build.input("x", (2,)), build("Relu", factor))

    graph = graph_of(body)
    changed_by(FoldConstants(), graph)
    assert ops_of(graph) == ["Add"]
    assert floats(graph.nodes[0].input(1).data) == [10.0, 15.0]
    assert graph.nodes[0].origins == ("add", "relu", "mul")


def test_integers_of_a_quantized_layer_stay_and_are_transposed_with_their_scales() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("DequantizeLinear", build.input("x", (1, 3), "int8", STEP))
        stored = build("DequantizeLinear", build.random_int8((4, 3), per_channel(4, 0)))
        bias = build("DequantizeLinear", build.constant(np.arange(4, dtype=np.int32), quantization=STEP))
        product = build("MatMul", x, build("Transpose", stored, perm=(1, 0)))
        return build("Add", product, bias)

    graph = graph_of(body)
    changed_by(FoldConstants(), graph)
    assert sorted(ops_of(graph)) == ["Add", "DequantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul"]
    weights = graph.producers()[next(n for n in graph.nodes if n.op == "MatMul").input(1)].input(0)
    assert weights.dtype == "int8"
    assert weights.shape == (3, 4)
    assert weights.quantization == per_channel(4, 1)


def test_integer_weights_of_a_layer_on_floats_become_floats() -> None:
    def body(build: GraphBuilder) -> Value:
        weights = build("DequantizeLinear", build.random_int8((4, 2, 3, 3), per_channel(4, 0)))
        return build("Conv", build.input("x", (1, 2, 5, 5)), weights)

    graph = graph_of(body)
    changed_by(FoldConstants(), graph)
    assert ops_of(graph) == ["Conv"]
    assert graph.nodes[0].input(1).dtype == "float32"


def test_a_reshape_that_breaks_the_quantized_axis_is_refused() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("DequantizeLinear", build.input("x", (1, 6), "int8", STEP))
        stored = build("DequantizeLinear", build.random_int8((4, 3), per_channel(4, 0)))
        return build("MatMul", x, build("Reshape", stored, shape=(6, 2)))

    graph = graph_of(body)
    remarks = changed_by(FoldConstants(), graph)
    assert "Reshape" in ops_of(graph)
    assert "breaks up the axis" in messages(remarks, "declined")[0]


def test_a_result_that_grows_too_much_is_refused_with_the_sizes() -> None:
    def body(build: GraphBuilder) -> Value:
        wide = build("Add", build.random((64, 1)), build.random((1, 64)))
        return build("Add", build.input("x", (64, 64)), wide)

    graph = graph_of(body)
    (reason,) = messages(changed_by(FoldConstants(), graph), "declined")
    assert "16384 bytes, more than max_growth = 16 times the 512 bytes" in reason
    (reason,) = messages(changed_by(FoldConstants(max_bytes=1000), graph), "declined")
    assert "max_bytes = 1000" in reason
    changed_by(FoldConstants(max_growth=32), graph)
    assert ops_of(graph) == ["Add"]
