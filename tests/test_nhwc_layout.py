"""NhwcLayout: channels last everywhere, and no Transpose that could cancel out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graph_builder import GraphBuilder, changed_by, graph_of, messages, ops_of

from tinyopt.ir import Clusters, Graph, Quantization, Value
from tinyopt.passes.nhwc_layout import NhwcLayout
from tinyopt.text import print_graph

Body = Callable[[GraphBuilder, Value], Value]
LEVELS = Quantization.per_tensor(0.1, 3)
TO_NCHW, TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def from_nhwc(build: GraphBuilder) -> Value:
    """A Transpose such as TensorFlow's converter puts behind the input."""
    return build("Transpose", build.input("x", (1, 6, 5, 4)), perm=TO_NCHW)


def conv(build: GraphBuilder, x: Value) -> Value:
    channels = x.shape[1]
    return build("Conv", x, build.random((4, channels, 3, 2)), build.random((4,)), pads=(1, 0, 1, 1), strides=(1, 1))


def converted(body: Body) -> Graph:
    """NHWC input -> conv -> body -> conv -> NHWC output, after the pass."""

    def whole(build: GraphBuilder) -> Value:
        return build("Transpose", conv(build, body(build, conv(build, from_nhwc(build)))), perm=TO_NHWC)

    graph = graph_of(whole)
    changed_by(NhwcLayout(), graph)
    return graph


def joined(build: GraphBuilder, x: Value) -> Value:
    parts = build.many("Split", x, outputs=2, axis=1, sizes=(1, 3))
    return build("Concat", parts[1], build.random((1, 2, 6, 5)), parts[0], axis=1)


def squeezed(build: GraphBuilder, x: Value) -> Value:
    pooled = build("ReduceMean", x, axes=(2, 3), keepdims=0)
    gate = build("Sigmoid", build("Dense", pooled, build.random((4, 4))))
    return build("Mul", x, build("Reshape", gate, shape=(1, 4, 1, 1)))


def quantized_add(build: GraphBuilder, x: Value) -> Value:
    x = build("DequantizeLinear", build("QuantizeLinear", x, quantization=LEVELS))
    scales = Quantization.per_channel((0.1, 0.2, 0.3, 0.4), (0, 0, 0, 0), 0)
    return build("Add", x, build("DequantizeLinear", build.random_int8((4, 1, 1), scales)))


def resized(build: GraphBuilder, x: Value) -> Value:
    return build(
        "Resize",
        x,
        scales=(1.0, 1.0, 2.0, 3.0),
        sizes=(1, 4, 12, 15),
        mode="nearest",
        coordinate_mode="asymmetric",
        nearest_mode="floor",
    )


def statistics(build: GraphBuilder, x: Value) -> Value:
    numbers = [build.random((4,)) for _ in range(3)]
    return build("BatchNormalization", x, *numbers, build.constant([1.0, 2.0, 3.0, 4.0]))


FOLLOWERS: dict[str, Body] = {
    "activation": lambda b, x: b("HardSwish", x),
    "constant per channel": lambda b, x: b("Add", x, b.random((4, 1, 1))),
    "constant map": lambda b, x: b("Mul", b.random((6, 5)), x),
    "constant number": lambda b, x: b("Mul", x, b.constant(2.0)),
    "slope per channel": lambda b, x: b("PRelu", x, b.random((4, 1, 1))),
    "residual": lambda b, x: b("Conv", x, b.random((4, 4, 1, 1)), None, b("Tanh", x)),
    "branches": lambda b, x: b("Sub", b("Sigmoid", x), conv(b, x)),
    "split and concat": joined,
    "slice": lambda b, x: b("Slice", x, starts=(0, 1, 0, 4), steps=(1, 1, 2, -1), sizes=(1, 3, 3, 5)),
    "pad": lambda b, x: b("Pad", x, pads=(0, 1, 2, 0, 0, 0, 3, 4), value=0.5),
    "resize": resized,
    "gather": lambda b, x: b("Gather", x, b.constant([3, 0], dtype="int64"), axis=1),
    "reduction": lambda b, x: b("ReduceMax", x, axes=(1, 3)),
    "softmax over channels": lambda b, x: b("Softmax", x, axis=1),
    "batch normalization": statistics,
    "pools": lambda b, x: b("AveragePool", b("MaxPool", x), pads=(1, 0, 0, 1), counted_pads=(1, 0, 0, 0)),
    "transposed convolution": lambda b, x: b("ConvTranspose", x, b.random((4, 3, 2, 3)), group=2, strides=(2, 1)),
    "squeeze and excitation": squeezed,
    "quantized add": quantized_add,
}


@pytest.mark.parametrize("case", FOLLOWERS)
def test_no_transpose_is_left_around(case: str) -> None:
    graph = converted(FOLLOWERS[case])
    assert "Transpose" not in ops_of(graph)
    assert {node.str("layout") for node in graph.nodes if "layout" in node.attributes} == {"NHWC"}


def test_computed_weights_are_transposed_when_the_model_runs() -> None:
    graph = converted(lambda build, x: build("Conv", x, build("Tanh", build.input("kernel", (3, 4, 2, 2)))))
    assert ops_of(graph).count("Transpose") == 1


def test_integer_weights_and_their_clusters_are_permuted() -> None:
    indices = np.arange(2 * 3 * 2 * 2, dtype=np.uint8).reshape(2, 3, 2, 2) % 5
    scale = np.array([0.1, 0.2], np.float32)
    clusters = Clusters(indices, np.array([-3, -1, 0, 5, 7], np.int8), scale)

    def body(build: GraphBuilder) -> Value:
        stored = build.constant(clusters.integers(), quantization=Quantization.per_channel(scale, (0, 0), 0))
        stored.clusters = clusters
        x = build("DequantizeLinear", build.input("x", (1, 3, 4, 4), "int8", LEVELS))
        return build("Conv", x, build("DequantizeLinear", stored))

    graph = graph_of(body)
    changed_by(NhwcLayout(), graph)
    layer = next(node for node in graph.nodes if node.op == "Conv")
    weights = graph.producers()[layer.input(1)].input(0)
    assert weights.shape == (2, 2, 2, 3)
    assert weights.quantization == Quantization.per_channel(scale, (0, 0), 0)
    assert weights.clusters is not None
    np.testing.assert_array_equal(weights.clusters.integers(), weights.data)


FLATTENED: dict[str, Body] = {
    "dense": lambda b, x: b("Dense", b("Reshape", x, shape=(1, 120)), b.random((3, 120))),
    "matmul": lambda b, x: b("MatMul", b("Relu", b("Reshape", x, shape=(1, 120))), b.random((120, 3))),
    "rows": lambda b, x: b("MatMul", b("Reshape", x, shape=(1, 1, 120)), b.random((120, 3))),
    "integers": lambda b, x: b(
        "MatMul",
        b("DequantizeLinear", b("Reshape", b("QuantizeLinear", x, quantization=LEVELS), shape=(1, 120))),
        b("DequantizeLinear", b.random_int8((120, 2), Quantization.per_channel((0.1, 0.2), (0, 0), 1))),
    ),
}


@pytest.mark.parametrize("case", FLATTENED)
def test_the_transpose_before_a_flattening_goes_into_the_weights(case: str) -> None:
    graph = graph_of(lambda build: FLATTENED[case](build, conv(build, from_nhwc(build))))
    remarks = changed_by(NhwcLayout(), graph)
    assert "Transpose" not in ops_of(graph)
    assert not messages(remarks, "declined")


def test_a_flattened_image_that_is_read_twice_keeps_its_order() -> None:
    def body(build: GraphBuilder) -> list[Value]:
        flat = build("Reshape", conv(build, from_nhwc(build)), shape=(1, 120))
        return [build("Dense", flat, build.random((3, 120))), build("Relu", flat)]

    graph = graph_of(body)
    (reason,) = messages(changed_by(NhwcLayout(), graph), "declined")
    assert ops_of(graph).count("Transpose") == 1
    assert "order the dimensions differently" in reason


def test_a_model_of_nchw_images_keeps_one_transpose_at_each_end() -> None:
    def body(build: GraphBuilder) -> list[Value]:
        x = build.input("x", (1, 4, 6, 5))
        y = build("Relu", conv(build, x))
        return [y, conv(build, build("Add", x, y))]

    graph = graph_of(body)
    remarks = changed_by(NhwcLayout(), graph)
    assert ops_of(graph).count("Transpose") == 3
    assert "the graph's input 'x'" in messages(remarks, "declined")[0]


def test_1d_convolutions_lose_their_reshapes_height_in_the_same_way() -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("Transpose", build.input("x", (1, 9, 4)), perm=(0, 2, 1))
        x = build("Conv", build("Reshape", x, shape=(1, 4, 1, 9)), build.random((6, 4, 1, 3)))
        x = build("Softmax", build("Reshape", x, shape=(1, 6, 7)), axis=1)
        return build("ReduceMean", x, axes=(2,), keepdims=0)

    graph = graph_of(body)
    changed_by(NhwcLayout(), graph)
    assert ops_of(graph) == ["Reshape", "Conv", "Reshape", "Softmax", "ReduceMean"]


def test_an_image_that_was_no_image_where_it_was_made_is_transposed_between() -> None:
    def body(build: GraphBuilder) -> Value:
        flat = build("ReduceMean", conv(build, from_nhwc(build)), axes=(1,), keepdims=0)  # [N, H, W], its order kept
        return build("Conv", build("Reshape", flat, shape=(1, 6, 1, 5)), build.random((2, 6, 1, 1)))

    graph = graph_of(body)
    changed_by(NhwcLayout(), graph)
    assert ops_of(graph).count("Transpose") == 2


def test_a_transpose_inside_the_model_that_mixes_axes_stays() -> None:
    def body(build: GraphBuilder, x: Value) -> Value:
        split = build("Reshape", x, shape=(1, 2, 2, 30))  # channel shuffle
        return build("Reshape", build("Transpose", split, perm=(0, 2, 1, 3)), shape=(1, 4, 6, 5))

    assert ops_of(converted(body)).count("Transpose") == 3


def test_converted_text(golden: Callable[[str, str], None]) -> None:
    def body(build: GraphBuilder) -> Value:
        x = build("Relu", conv(build, from_nhwc(build)))
        x = build("Add", build("MaxPool", x), build.random((4, 1, 1)))
        return build("MatMul", build("Reshape", x, shape=(1, 80)), build.random((80, 3)))

    graph = graph_of(body)
    before = print_graph(graph)
    changed_by(NhwcLayout(), graph)
    golden("nhwc_layout", f"{before}\n{print_graph(graph)}")
