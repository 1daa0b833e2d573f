"""Reductions, operators along an axis, products and normalizations: import rules against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import assert_same_as_runtime, model_of, node

from tinyopt.errors import UnsupportedOperatorError
from tinyopt.onnx_import import import_proto

_X = {"x": (2, 3, 4)}


def _ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("opset", "nodes", "constants"),
    [
        (11, [node("ReduceL2", "x", axes=[-1, 0])], {}),
        (11, [node("ReduceProd", "x", keepdims=0)], {}),
        (18, [node("ReduceLogSumExp", "x a")], {"a": _ints(1, -3)}),
        (18, [node("ReduceL1", "x a", noop_with_empty_axes=1)], {"a": _ints()}),
        (18, [node("ReduceMin", "x a", noop_with_empty_axes=1)], {"a": _ints()}),
        (18, [node("ReduceSumSquare", "x a", keepdims=0)], {"a": _ints()}),
        (11, [node("CumSum", "x a", reverse=1)], {"a": np.array(-1, np.int32)}),
        (12, [node("Hardmax", "x", axis=1)], {}),
        (13, [node("Hardmax", "x", axis=1)], {}),
        (11, [node("Softmax", "x", axis=-2)], {}),
    ],
)
def test_what_reduces_or_runs_along_an_axis(opset: int, nodes: list[onnx.NodeProto], constants: dict[str, Any]) -> None:
    assert_same_as_runtime(model_of(nodes, _X, constants, opset=opset))


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_gives_values_and_places(largest: int) -> None:
    top = node("TopK", "x k", "y i", axis=-2, largest=largest)
    assert_same_as_runtime(
        model_of([top], _X, {"k": _ints(2)}, outputs="y i", opset=13, output_dtypes={"i": "int64"}), 0
    )


@pytest.mark.parametrize("last", [0, 1])
def test_arg_max_of_integers_picks_the_first_or_the_last_of_equal_ones(last: int) -> None:
    arg = node("ArgMax", "x", axis=1, select_last_index=last, keepdims=0)
    model = model_of([arg], {"x": ("int8", (3, 5000))}, opset=13, output_dtypes={"y": "int64"})
    assert_same_as_runtime(model, 0)


@pytest.mark.parametrize(
    ("opset", "layer", "shapes"),
    [
        (17, node("LayerNormalization", "x s b", epsilon=0.1), ((4,), (4,))),
        (17, node("LayerNormalization", "x s b", axis=1), ((4,), (3, 1))),
        (23, node("RMSNormalization", "x s", axis=-2), ((3, 4),)),
        (17, node("InstanceNormalization", "x s b", epsilon=0.1), ((3,), (3,))),
        (21, node("GroupNormalization", "x s b", num_groups=3), ((3,), (3,))),
        (17, node("LpNormalization", "x", axis=1, p=1), ()),
        (17, node("LpNormalization", "x"), ()),
    ],
)
def test_normalizations(opset: int, layer: onnx.NodeProto, shapes: tuple[tuple[int, ...], ...]) -> None:
    random = np.random.default_rng(1)
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in zip("sb", shapes, strict=False)}
    assert_same_as_runtime(model_of([layer], _X, arrays, opset=opset))
    computed = {**_X, **{name: array.shape for name, array in arrays.items()}}
    assert_same_as_runtime(model_of([layer], computed, opset=opset))


def test_batch_normalization_with_computed_parameters() -> None:
    inputs = {**_X, "s": (3,), "b": (3,), "m": (3,)}
    layer = node("BatchNormalization", "x s b m v", epsilon=0.2)
    assert_same_as_runtime(model_of([layer], inputs, {"v": np.array([4, 9, 0.5], np.float32)}))


def test_local_response_normalization() -> None:
    layer = node("LRN", "x", size=5, alpha=0.4, beta=0.6, bias=2.0)
    assert_same_as_runtime(model_of([layer], {"x": (2, 7, 3, 2)}))


_BOX = {"x": (1, 4, 5, 6, 7)}


@pytest.mark.parametrize(
    ("op", "weights", "attributes"),
    [
        ("Conv", (6, 2, 3, 2, 3), {"group": 2, "pads": [1, 0, 2, 1, 1, 0], "strides": [2, 1, 1]}),
        ("Conv", (2, 4, 3, 2, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 1, 3]}),
        ("ConvTranspose", (4, 3, 2, 3, 2), {"strides": [2, 1, 1], "output_padding": [1, 0, 0], "group": 2}),
        ("ConvTranspose", (4, 1, 2, 3, 2), {"strides": [2, 2, 2], "output_shape": [10, 12, 14]}),
    ],
)
def test_convolutions_of_three_dimensions(op: str, weights: tuple[int, ...], attributes: dict[str, Any]) -> None:
    array = np.random.default_rng(1).normal(size=weights).astype(np.float32)
    assert_same_as_runtime(model_of([node(op, "x w", **attributes)], _BOX, {"w": array}))


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("plane", [(9,), (5, 6)])
def test_convolutions_with_computed_weights(op: str, plane: tuple[int, ...]) -> None:
    inputs = {"x": (2, 3, *plane), "w": (3, 3, *(2 for _ in plane)), "b": (3,)}
    pads, strides = [1, 0] * len(plane), [2] * len(plane)
    assert_same_as_runtime(model_of([node(op, "x w b", pads=pads, strides=strides)], inputs))


@pytest.mark.parametrize(
    "layer",
    [
        node("MaxPool", "x", kernel_shape=[2, 3, 2], strides=[2, 2, 3], ceil_mode=1, pads=[1, 0, 0, 0, 1, 1]),
        node("AveragePool", "x", kernel_shape=[2, 3, 2], strides=[2, 2, 3], ceil_mode=1, count_include_pad=1),
        node("AveragePool", "x", kernel_shape=[2, 2, 2], pads=[1] * 6, dilations=[2, 1, 1]),
        node("LpPool", "x", kernel_shape=[2, 2, 2], p=3, auto_pad="SAME_UPPER"),
        node("GlobalLpPool", "x", p=1),
        node("GlobalAveragePool", "x"),
        node("GlobalMaxPool", "x"),
    ],
    ids=lambda layer: f"{layer.op_type}",
)
def test_pools_of_three_dimensions(layer: onnx.NodeProto) -> None:
    assert_same_as_runtime(model_of([layer], _BOX, opset=19))


@pytest.mark.parametrize("plane", [(9,), (5, 6), (3, 4, 5)])
def test_max_pool_gives_the_places_of_the_largest(plane: tuple[int, ...]) -> None:
    pool = node("MaxPool", "x", "y i", kernel_shape=[2] * len(plane), storage_order=int(len(plane) == 2))
    model = model_of([pool], {"x": (2, 3, *plane)}, outputs="y i", output_dtypes={"i": "int64"})
    assert_same_as_runtime(model, 0)


def test_integer_products_and_convolutions_with_zero_points() -> None:
    inputs = {"a": ("uint8", (2, 3, 4)), "b": ("int8", (4, 5))}
    zeros = {"r": np.array(250, np.uint8), "c": np.array([-4, 0, 5, 127, -128], np.int8)}
    int32 = {"y": "int32"}
    product = node("MatMulInteger", "a b r c")
    assert_same_as_runtime(model_of([product], {**inputs, "a": ("uint8", (3, 4))}, zeros, output_dtypes=int32), 0)
    images = {"x": ("uint8", (1, 2, 5, 6)), "w": ("uint8", (3, 2, 2, 3)), "z": ("uint8", ())}
    padded = node("ConvInteger", "x w z", pads=[1, 0, 2, 1], strides=[2, 1])
    assert_same_as_runtime(model_of([padded], images, output_dtypes=int32), 0)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_scales_and_zero_points_may_be_computed(dtype: str) -> None:
    """They come behind an Abs and a Cast here, as in dynamic quantization."""
    nodes = [
        node("Abs", "s", "a"),
        node("QuantizeLinear", "x a z", "q", axis=1),
        node("DequantizeLinear", "q a z", "y", axis=1),
    ]
    inputs = {"x": (2, 3, 4), "s": (3,), "z": (dtype, (3,))}
    assert_same_as_runtime(model_of(nodes, inputs, outputs="q y", opset=21, output_dtypes={"q": dtype}))


def test_dynamic_quantization_is_expanded_to_its_definition() -> None:
    dynamic = node("DynamicQuantizeLinear", "x", "y s z", name="dynamic")
    types = {"y": "uint8", "z": "uint8"}
    model = model_of([dynamic], {"x": (3, 50)}, outputs="y s z", output_dtypes=types)
    assert_same_as_runtime(model)
    assert any("DynamicQuantizeLinear 'dynamic' has no rule" in note for note in import_proto(model, "m", {}).notes)


def test_operators_without_a_rule_become_what_onnx_defines_them_by() -> None:
    """The definition of a loss is made of another loss, and an attribute that is left out has its default."""
    inputs = {"x": (3, 5), "w": (5,)}
    loss = node("SoftmaxCrossEntropyLoss", "x t w", ignore_index=1)
    assert_same_as_runtime(model_of([loss], inputs, {"t": _ints(4, 1, 0)}))
    attention = node("Attention", "q k v", is_causal=1)
    shape = (1, 2, 3, 4)
    assert_same_as_runtime(model_of([attention], {"q": shape, "k": shape, "v": shape}, opset=23))
    assert_same_as_runtime(model_of([node("MeanVarianceNormalization", "x")], {"x": (2, 3, 4, 5)}))


@pytest.mark.parametrize(("given", "shown"), [("first", "first"), ("", "Attention_1")])
def test_a_refusal_inside_a_definition_names_the_node_of_the_file(given: str, shown: str) -> None:
    """Once, though the definition has two operators that are refused."""
    half = ("float16", (1, 2, 3, 4))
    nodes = [node("Identity", "q", "p"), node("Attention", "p q q", name=given)]
    model = model_of(nodes, {"q": half}, opset=23, output_dtypes={"y": "float16"})
    with pytest.raises(UnsupportedOperatorError) as raised:
        import_proto(model, "m", {})
    (part,) = raised.value.parts
    assert part.startswith(f"Attention (node '{shown}'): Mul in its definition: input ")
    assert part.endswith("is float16; Mul takes float32")


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij->ji", ((3, 4),)),
        ("ij", ((3, 4),)),
        ("iji->j", ((3, 4, 3),)),
        ("...ii->...i", ((2, 4, 3, 3),)),
        ("bij,bjk->bik", ((2, 3, 4), (2, 4, 5))),
        ("ij,jk", ((3, 4), (4, 5))),
        ("bhqd,bkhd->bhqk", ((2, 3, 4, 5), (2, 6, 3, 5))),
        ("...ij,jk->...ik", ((2, 2, 3, 4), (4, 5))),
        ("...i,...j->j...i", ((2, 3, 4), (2, 3, 5))),
        ("i,j->ji", ((3,), (4,))),
        ("ijk,ik->i", ((3, 4, 5), (3, 5))),
        ("ab,bc,cd,ad->d", ((2, 3), (3, 4), (4, 5), (2, 5))),
        ("i,i->", ((3,), (3,))),
        ("ij->", ((3, 4),)),
    ],
)
def test_einsum(equation: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    names = "abcd"[: len(shapes)]
    einsum = node("Einsum", " ".join(names), equation=equation)
    assert_same_as_runtime(model_of([einsum], dict(zip(names, shapes, strict=True))), 1e-4)
