"""FoldBatchNorm: the weights take in what is done to each channel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graph_builder import GraphBuilder, apply, changed_by, floats, graph_of, messages, ops_of

from tinyopt.ir import Quantization, Value
from tinyopt.passes.fold_batchnorm import FoldBatchNorm
from tinyopt.text import print_graph

Layer = Callable[[GraphBuilder, Value], Value]


def conv(build: GraphBuilder, x: Value) -> Value:
    return build("Conv", x, build.random((6, 2, 3, 3)), build.random((6,)), group=2)


def conv_nhwc(build: GraphBuilder, x: Value) -> Value:
    return build("Conv", build("Transpose", x, perm=(0, 2, 3, 1)), build.random((6, 3, 3, 4)), layout="NHWC")


def depthwise(build: GraphBuilder, x: Value) -> Value:
    return build("Conv", x, build.random((4, 1, 3, 3)), group=4)


def transposed(build: GraphBuilder, x: Value) -> Value:
    return build("ConvTranspose", x, build.random((4, 3, 2, 2)), build.random((6,)), group=2)


def dense(build: GraphBuilder, x: Value) -> Value:
    return build("Dense", x, build.random((6, 5)), build.random((6,)))


def matmul(build: GraphBuilder, x: Value) -> Value:
    return build("MatMul", x, build.random((5, 6)))


def matmul_with_bias(build: GraphBuilder, x: Value) -> Value:
    return build("Add", matmul(build, x), build.random((6,)))


LAYERS: dict[Layer, tuple[int, list[str]]] = {
    conv: (1, ["Conv"]),
    conv_nhwc: (3, ["Transpose", "Conv"]),
    depthwise: (1, ["Conv"]),
    transposed: (1, ["ConvTranspose"]),
    dense: (3, ["Dense"]),
    matmul: (3, ["MatMul", "Add"]),
    matmul_with_bias: (3, ["MatMul", "Add"]),
}


def batchnorm(build: GraphBuilder, x: Value, axis: int = 1) -> Value:
    channels = x.shape[axis]
    variance = build.constant(np.linspace(0.5, 4, channels, dtype=np.float32), "variance")
    statistics = [build.random((channels,)) for _ in range(3)]
    return build("BatchNormalization", x, *statistics, variance, epsilon=0.25, axis=axis)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_batch_normalization_goes_into_the_layer(layer: Layer) -> None:
    axis, left = LAYERS[layer]
    graph = graph_of(lambda build: batchnorm(build, layer(build, build.input("x", (1, 4, 6, 5))), axis))
    changed_by(FoldBatchNorm(), graph)
    assert ops_of(graph) == left
    assert "batchnormalization" in graph.nodes[-1].origins


def test_the_formula_with_numbers_that_tell_every_term_apart() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("Conv", build.input("x", (1, 1, 1, 1)), build.constant([[[[3.0]]]]), build.constant([5.0]))
        numbers = [build.constant([number]) for number in (6.0, 1.0, 2.0, 3.0)]  # scale, bias, mean, variance
        return build("BatchNormalization", x, *numbers, epsilon=1.0)

    graph = graph_of(body)
    changed_by(FoldBatchNorm(), graph)
    (folded,) = graph.nodes
    assert floats(folded.input(1).data) == [9.0]  # 3 * 6 / sqrt(3 + 1)
    assert floats(folded.input(2).data) == [10.0]  # (5 - 2) * 3 + 1


ARITHMETIC: dict[str, Layer] = {
    "times": lambda b, x: b("Mul", x, b.random((6, 1, 1))),
    "over": lambda b, x: b("Div", x, b.constant(np.full((1, 6, 1, 1), 4, np.float32))),
    "plus": lambda b, x: b("Add", b.random((1, 6, 1, 1)), x),
    "minus": lambda b, x: b("Sub", x, b.random((6, 1, 1))),
    "from a constant": lambda b, x: b("Sub", b.random((6, 1, 1)), x),
    "times one number": lambda b, x: b("Mul", x, b.constant(-3.0)),
    "times, then plus": lambda b, x: b("Add", b("Mul", x, b.random((6, 1, 1))), b.random((6, 1, 1))),
}


@pytest.mark.parametrize("case", ARITHMETIC)
def test_arithmetic_by_constants_goes_into_the_convolution(case: str) -> None:
    graph = graph_of(lambda build: ARITHMETIC[case](build, conv(build, build.input("x", (1, 4, 6, 5)))))
    changed_by(FoldBatchNorm(), graph)
    assert ops_of(graph) == ["Conv"]


def test_batch_normalization_without_a_layer_becomes_mul_and_add() -> None:
    graph = graph_of(lambda build: batchnorm(build, build("Relu", build.input("x", (1, 4, 6, 5)))))
    changed_by(FoldBatchNorm(), graph)
    assert ops_of(graph) == ["Relu", "Mul", "Add"]
    assert graph.nodes[1].input(1).shape == (1, 4, 1, 1)


def test_a_second_reader_of_the_layer_is_the_reason_not_to_fold() -> None:
    def body(build: GraphBuilder) -> list[Value]:
        x = conv(build, build.input("x", (1, 4, 6, 5)))
        return [batchnorm(build, x), build("Relu", x)]

    graph = graph_of(body)
    reasons = messages(changed_by(FoldBatchNorm(), graph), "declined")
    assert ops_of(graph) == ["Conv", "Mul", "Add", "Relu"]
    assert "another reader" in reasons[0]


REFUSED: dict[str, tuple[Layer, str]] = {
    "a map": (lambda b, x: b("Mul", conv(b, x), b.random((1, 1, 4, 3))), "not one number per output channel"),
    "zero": (lambda b, x: b("Div", conv(b, x), b.constant(0.0)), "not finite"),
    "clamp": (lambda b, x: b("Mul", b("Conv", x, b.random((2, 4, 1, 1)), clamp_low=0.0), b.constant(2.0)), "clamp"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_have_reasons(case: str) -> None:
    body, reason = REFUSED[case]
    graph = graph_of(lambda build: build("Relu", body(build, build.input("x", (1, 4, 6, 5)))))
    before = ops_of(graph)
    remarks = apply(FoldBatchNorm(), graph)
    assert ops_of(graph) == before
    assert reason in messages(remarks, "declined")[0]


def test_integers_of_a_quantized_model_stay_and_their_scales_change() -> None:
    """As exports of quantization-aware training are that keep the batch normalization behind the quantized weights."""

    def body(build: GraphBuilder) -> Value:
        x = build("DequantizeLinear", build.input("x", (1, 2, 3, 3), "int8", Quantization.per_tensor(0.1, 3)))
        weights = build("DequantizeLinear", build.random_int8((3, 2, 1, 1), Quantization.per_tensor(0.02, 0)))
        return build("Mul", build("Conv", x, weights), build.constant([[[3.0]], [[-0.5]], [[0.0]]]))

    graph = graph_of(body)
    integers = next(value for value in graph.constants() if value.dtype == "int8").data
    changed_by(FoldBatchNorm(), graph)
    assert ops_of(graph).count("Mul") == 0
    kept = next(value for value in graph.constants() if value.dtype == "int8")
    np.testing.assert_array_equal(kept.data, integers * np.array([1, -1, 0], np.int8).reshape(3, 1, 1, 1))
    assert kept.quantization is not None
    assert list(kept.quantization.scale[:2]) == pytest.approx([0.06, 0.01])


def test_a_level_without_a_negative_is_not_scaled_by_a_negative_factor() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("DequantizeLinear", build.input("x", (1, 1, 3, 3), "int8", Quantization.per_tensor(0.1, 3)))
        levels = build.constant(
            np.array([-128, 5], np.int8).reshape(2, 1, 1, 1), quantization=Quantization.per_tensor(0.02, 0)
        )
        return build("Mul", build("Conv", x, build("DequantizeLinear", levels)), build.constant([[[-1.0]], [[2.0]]]))

    (reason,) = messages(changed_by(FoldBatchNorm(), graph_of(body)), "declined")
    assert "holds integers that cannot be scaled" in reason


def test_weights_that_two_layers_share_are_not_changed_for_the_other() -> None:
    def body(build: GraphBuilder) -> list[Value]:
        x, shared = build.input("x", (1, 4, 6, 5)), build.random((4, 4, 1, 1))
        return [batchnorm(build, build("Conv", x, shared)), build("Conv", x, shared)]

    graph = graph_of(body)
    changed_by(FoldBatchNorm(), graph)
    assert ops_of(graph) == ["Conv", "Conv"]


def test_folded_text(golden: Callable[[str, str], None]) -> None:
    graph = graph_of(lambda build: build("Relu", batchnorm(build, conv(build, build.input("x", (1, 4, 6, 5))))))
    before = print_graph(graph)
    changed_by(FoldBatchNorm(), graph)
    golden("fold_batchnorm", f"{before}\n{print_graph(graph)}")
