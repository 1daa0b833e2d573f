"""The numpy references of the float operators against onnxruntime, through the importer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import assert_same_as_runtime, model_of, node

from tinyopt.errors import InvalidModelError, UnsupportedOperatorError
from tinyopt.ir import Node, TensorType, Value
from tinyopt.onnx_import import import_proto
from tinyopt.ops import OPERATORS
from tinyopt.ops.windows import output_size

_RANDOM = np.random.default_rng(1)


def _weights(*shape: int) -> np.ndarray[Any, Any]:
    return _RANDOM.normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("x", "weights", "attributes"),
    [
        ((1, 3, 9, 8), (4, 3, 3, 3), {}),
        ((2, 3, 9, 8), (4, 3, 3, 2), {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
        ((1, 4, 9, 9), (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ((1, 4, 9, 9), (8, 1, 3, 3), {"group": 4, "dilations": [2, 3], "pads": [2, 3, 2, 3]}),
        ((1, 4, 9, 9), (6, 2, 3, 1), {"group": 2}),
        ((1, 3, 10, 7), (4, 3, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((1, 3, 10, 7), (4, 3, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [3, 2]}),
        ((1, 3, 10, 7), (4, 3, 4, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
        ((1, 3, 11), (4, 3, 3), {"pads": [1, 2], "strides": [2], "dilations": [2]}),
        ((1, 3, 11), (4, 3, 4), {"auto_pad": "SAME_UPPER", "strides": [2]}),
        ((2, 3, 5, 6, 4), (4, 3, 3, 2, 2), {"pads": [1, 0, 1, 2, 1, 0], "strides": [2, 1, 1]}),
        ((1, 4, 7, 5, 4), (4, 2, 2, 3, 2), {"group": 2, "dilations": [3, 1, 2]}),
        ((1, 2, 6, 5, 4), (3, 2, 3, 3, 2), {"auto_pad": "SAME_LOWER", "strides": [2, 1, 2]}),
    ],
)
def test_conv(x: tuple[int, ...], weights: tuple[int, ...], attributes: dict[str, Any]) -> None:
    constants = {"w": _weights(*weights), "b": _weights(weights[0])}
    assert_same_as_runtime(model_of([node("Conv", "x w b", **attributes)], {"x": x}, constants))


@pytest.mark.parametrize(
    ("x", "weights", "attributes"),
    [
        ((1, 3, 5, 4), (3, 4, 3, 3), {}),
        ((1, 3, 5, 4), (3, 4, 3, 2), {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 2]}),
        ((1, 4, 5, 4), (4, 3, 2, 2), {"strides": [2, 2], "group": 2, "dilations": [2, 1]}),
        ((1, 4, 5, 4), (4, 1, 3, 3), {"strides": [2, 2], "group": 4, "auto_pad": "SAME_UPPER"}),
        ((1, 3, 5, 4), (3, 2, 4, 3), {"strides": [3, 2], "auto_pad": "SAME_LOWER"}),
        ((1, 3, 5, 4), (3, 2, 3, 3), {"strides": [2, 2], "output_shape": [10, 8]}),
        ((1, 3, 5, 4), (3, 2, 3, 3), {"strides": [2, 2], "output_shape": [10, 8], "auto_pad": "SAME_UPPER"}),
        ((1, 3, 7), (3, 2, 3), {"strides": [2], "pads": [1, 1], "output_padding": [1]}),
    ],
)
def test_conv_transpose(x: tuple[int, ...], weights: tuple[int, ...], attributes: dict[str, Any]) -> None:
    constants = {"w": _weights(*weights), "b": _weights(weights[1] * attributes.get("group", 1))}
    assert_same_as_runtime(model_of([node("ConvTranspose", "x w b", **attributes)], {"x": x}, constants))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    ("x", "attributes"),
    [
        ((1, 2, 9, 8), {"kernel_shape": [3, 2]}),
        ((1, 2, 9, 8), {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 0, 1, 2]}),
        ((1, 2, 10, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ((1, 2, 10, 8), {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
        ((1, 2, 6, 7), {"kernel_shape": [1, 2], "strides": [4, 3], "ceil_mode": 1}),
        ((1, 2, 9, 8), {"kernel_shape": [3, 2], "dilations": [2, 3]}),
        ((1, 2, 9, 8), {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ((1, 2, 9, 8), {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
        ((1, 2, 9), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
        ((2, 2, 6, 7, 5), {"kernel_shape": [3, 2, 2], "strides": [2, 1, 3], "pads": [1, 0, 1, 1, 1, 0]}),
        ((1, 2, 6, 7, 5), {"kernel_shape": [2, 3, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2, 2]}),
        ((1, 2, 6, 7, 6), {"kernel_shape": [3, 3, 3], "strides": [2, 2, 2], "ceil_mode": 1}),
    ],
)
def test_pools(op: str, x: tuple[int, ...], attributes: dict[str, Any]) -> None:
    assert_same_as_runtime(model_of([node(op, "x", **attributes)], {"x": x}, opset=19))


@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_average_pool_that_counts_its_pads(ceil_mode: int) -> None:
    attributes: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 0]}
    model = model_of(
        [node("AveragePool", "x", ceil_mode=ceil_mode, count_include_pad=1, **attributes)],
        {"x": (1, 2, 8, 8)},
        opset=19,
    )
    assert_same_as_runtime(model)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("x", [(1, 3, 5, 4), (2, 3, 7), (2, 3, 4, 2, 5)])
def test_global_pools(op: str, x: tuple[int, ...]) -> None:
    assert_same_as_runtime(model_of([node(op, "x")], {"x": x}))


@pytest.mark.parametrize("c_shape", [(4,), (1, 4), (1,), (), (2, 4), (2, 1)])
@pytest.mark.parametrize("attributes", [{}, {"transB": 1, "alpha": 0.5, "beta": 2.0}, {"transA": 1}])
def test_gemm_with_constant_weights(c_shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    weights = _weights(4, 3) if "transB" in attributes else _weights(3, 4)
    x = (3, 2) if "transA" in attributes else (2, 3)
    model = model_of([node("Gemm", "x w c", **attributes)], {"x": x}, {"w": weights, "c": _weights(*c_shape)})
    graph = assert_same_as_runtime(model)
    assert "Dense" in {item.op for item in graph.nodes}


def test_gemm_of_two_inputs() -> None:
    nodes = [node("Gemm", "x z c", transB=1, alpha=0.5, beta=3.0)]
    assert_same_as_runtime(model_of(nodes, {"x": (2, 3), "z": (4, 3), "c": (2, 4)}))


@pytest.mark.parametrize(
    ("a", "b"), [((2, 3), (3, 4)), ((2, 1, 2, 3), (5, 3, 4)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (3,))]
)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert_same_as_runtime(model_of([node("MatMul", "a b")], {"a": a, "b": b}))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize(("a", "b"), [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((4,), (2, 3, 4)), ((2, 1), (1, 3))])
def test_arithmetic_broadcasts(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert_same_as_runtime(model_of([node(op, "a b")], {"a": a, "b": b}), tolerance=1e-4)


@pytest.mark.parametrize(
    ("op", "attributes", "opset"),
    [
        ("Relu", {}, 17),
        ("Clip", {"min": -1.0, "max": 1.5}, 7),
        ("Clip", {"max": 1.5}, 10),
        ("LeakyRelu", {"alpha": 0.3}, 17),
        ("Sigmoid", {}, 17),
        ("Tanh", {}, 17),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, 17),
        ("HardSwish", {}, 17),
        ("Gelu", {}, 20),
        ("Gelu", {"approximate": "tanh"}, 20),
        ("Softmax", {}, 17),
        ("Softmax", {"axis": 1}, 13),
        ("Softmax", {}, 11),
        ("Softmax", {"axis": 2}, 11),
        ("LogSoftmax", {"axis": -2}, 17),
        ("LogSoftmax", {"axis": 0}, 7),
    ],
)
def test_functions_of_one_tensor(op: str, attributes: dict[str, Any], opset: int) -> None:
    assert_same_as_runtime(model_of([node(op, "x", **attributes)], {"x": (2, 3, 5)}, opset=opset))


@pytest.mark.parametrize("slope", [(1,), (3, 1), (2, 3, 5), ()])
def test_prelu(slope: tuple[int, ...]) -> None:
    assert_same_as_runtime(model_of([node("PRelu", "x s")], {"x": (2, 3, 5)}, {"s": _weights(*slope)}))


@pytest.mark.parametrize("x", [(2, 3, 4, 5), (2, 3), (1, 3, 4)])
def test_batch_normalization(x: tuple[int, ...]) -> None:
    constants = {"s": _weights(3), "b": _weights(3), "m": _weights(3), "v": np.array([4, 0.5, 9], np.float32)}
    assert_same_as_runtime(model_of([node("BatchNormalization", "x s b m v", epsilon=0.01)], {"x": x}, constants))


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax"])
@pytest.mark.parametrize(
    ("opset", "axes", "keepdims"), [(11, [1, -1], 1), (11, None, 0), (18, [2], 0), (18, [-3, 1], 1), (18, None, 1)]
)
def test_reductions(op: str, opset: int, axes: list[int] | None, keepdims: int) -> None:
    x = {"x": (2, 3, 4)}
    if axes is None:
        assert_same_as_runtime(model_of([node(op, "x", keepdims=keepdims)], x, opset=opset))
    elif opset < 13:
        assert_same_as_runtime(model_of([node(op, "x", axes=axes, keepdims=keepdims)], x, opset=opset))
    else:
        model = model_of([node(op, "x a", keepdims=keepdims)], x, {"a": np.array(axes)}, opset=opset)
        assert_same_as_runtime(model)


_NEAREST = [
    (coordinates, nearest)
    for coordinates in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
]


@pytest.mark.parametrize("scales", [[1, 1, 2, 3], [1, 1, 0.5, 1.7]])
@pytest.mark.parametrize(("coordinates", "nearest"), _NEAREST)
def test_resize_nearest(scales: list[float], coordinates: str, nearest: str) -> None:
    resize = node("Resize", "x - s", coordinate_transformation_mode=coordinates, nearest_mode=nearest)
    model = model_of([resize], {"x": (1, 2, 4, 5)}, {"s": np.array(scales, np.float32)})
    if coordinates == "align_corners" and scales[-1] == 1.7:
        with pytest.raises(UnsupportedOperatorError, match="give no whole sizes"):
            import_proto(model, "m", {})
    else:
        assert_same_as_runtime(model)


@pytest.mark.parametrize("sizes", [[1, 2, 8, 15], [1, 2, 3, 4]])
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"])
def test_resize_linear(sizes: list[int], coordinates: str) -> None:
    resize = node("Resize", "x - - s", mode="linear", coordinate_transformation_mode=coordinates)
    assert_same_as_runtime(model_of([resize], {"x": (1, 2, 4, 5)}, {"s": np.array(sizes)}, opset=19))


def test_a_kernel_larger_than_the_image_is_refused_by_name() -> None:
    x, weights = Value("x", TensorType("float32", (1, 1, 2, 2))), Value.of("w", np.ones((1, 1, 3, 3), np.float32))
    conv = Node("Conv", "first", [x, weights, None, None], [x])
    conv.attributes = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1, "layout": "NCHW"}
    with pytest.raises(InvalidModelError, match=r"Conv 'first': the kernel \(3, 3\) is larger"):
        OPERATORS["Conv"].infer(conv)


def test_output_size_counts_whole_windows_only() -> None:
    # 10 cells and 1 pad on either side: windows of 3 cells, 2 apart (extent 5), begin at 0, 3, 6.
    assert output_size(10, 3, 3, 1, 1, 2) == 3
