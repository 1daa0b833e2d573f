"""The importer: operators that choose, place, repeat and count elements, with indices from the model or its inputs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

from tests.onnx_models import model_of, node, runtime_outputs
from tinyopt.errors import InvalidModelError, UnsupportedOperatorError
from tinyopt.evaluate import evaluate
from tinyopt.ir import Array, Graph
from tinyopt.onnx_import import import_proto

_RANDOM = np.random.default_rng(5)
_X = _RANDOM.normal(size=(3, 4, 5)).astype(np.float32)
_BYTES = _RANDOM.integers(0, 256, (3, 4)).astype(np.uint8)
_UPDATES = _RANDOM.normal(size=(2, 4, 5)).astype(np.float32)


def _ints(values: Any, dtype: str = "int64") -> Array:
    return np.array(values, dtype)


def _model(
    nodes: list[onnx.NodeProto], feeds: Mapping[str, Array], constants: Mapping[str, Array], dtype: str, opset: int
) -> Any:
    inputs = {name: (array.dtype.name, array.shape) for name, array in feeds.items()}
    return model_of(nodes, inputs, constants, opset=opset, output_dtypes={"y": dtype})


def _check(operator: onnx.NodeProto, feeds: Mapping[str, Array], dtype: str, opset: int, fixed: int) -> Graph:
    """The operator gives onnxruntime's numbers, with all its inputs but the first `fixed` stored in the model."""
    names = list(feeds)
    held = {name: feeds[name] for name in names[fixed:]}
    given = {name: feeds[name] for name in names[:fixed]}
    model = _model([operator], given, held, dtype, opset)
    graph = import_proto(model, "m", {}).graph
    (got,), (wanted,) = evaluate(graph, given).values(), runtime_outputs(model, given)
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(got, wanted)
    return graph


CASES: list[tuple[onnx.NodeProto, dict[str, Array]]] = [
    (node("Gather", "x i", axis=-2), {"x": _X, "i": _ints([[0, -1], [3, -4]], "int32")}),
    (node("Gather", "x i"), {"x": _BYTES, "i": _ints(-1)}),
    (node("GatherElements", "x i", axis=1), {"x": _X, "i": _ints(_RANDOM.integers(-4, 4, (2, 6, 5)))}),
    (node("GatherND", "x i"), {"x": _X, "i": _ints([[[0, -1]], [[-3, 2]]])}),
    (
        node("GatherND", "x i", batch_dims=1),
        {"x": _X, "i": _ints([[[1, 4], [-1, 0]], [[2, 2], [3, -5]], [[0, 0], [1, 1]]])},
    ),
    (node("GatherND", "x i", batch_dims=2), {"x": _X, "i": _ints(_RANDOM.integers(-5, 5, (3, 4, 1)))}),
    (node("ScatterElements", "x i u", axis=-1), {"x": _X, "i": _ints([[[1, -1]]]), "u": _X[:1, :1, :2] + 1}),
    (node("ScatterElements", "x i u", reduction="add"), {"x": _BYTES, "i": _ints([[0, 0, 2]]), "u": _BYTES[:1, :3]}),
    (node("ScatterElements", "x i u", reduction="max"), {"x": _BYTES, "i": _ints([[0, 0, 2]]), "u": _BYTES[1:2, :3]}),
    (node("ScatterND", "x i u"), {"x": _X, "i": _ints([[2], [-3]]), "u": _UPDATES}),
    (node("ScatterND", "x i u", reduction="mul"), {"x": _X, "i": _ints([[2], [2]]), "u": _UPDATES}),
    (node("ScatterND", "x i u", reduction="min"), {"x": _X, "i": _ints([[-1], [0]]), "u": _UPDATES}),
    (node("Trilu", "x", upper=0), {"x": _X}),
    (node("Trilu", "x k"), {"x": _X, "k": _ints(-2)}),
    (node("ReverseSequence", "x l", time_axis=1, batch_axis=0), {"x": _X, "l": _ints([4, 1, 2])}),
    (node("ReverseSequence", "x l"), {"x": _X, "l": _ints([3, 0, 2, 1])}),
    (node("Compress", "x c", axis=1), {"x": _X, "c": np.array([True, False, True])}),
    (node("Compress", "x c"), {"x": _X, "c": np.array([False, True, True])}),
    (node("Expand", "x s"), {"x": _X[:, :1], "s": _ints([2, 3, 1, 5])}),
    (node("Expand", "x s"), {"x": _BYTES[:1], "s": _ints([3, 4])}),
    (node("Tile", "x r"), {"x": _X, "r": _ints([2, 1, 3])}),
    (node("Tile", "x r"), {"x": _BYTES, "r": _ints([1, 2])}),
    (node("EyeLike", "x", k=-1), {"x": _X[0]}),
]


@pytest.mark.parametrize(
    ("operator", "feeds"), CASES, ids=lambda part: part.op_type if hasattr(part, "op_type") else ""
)
@pytest.mark.parametrize("is_index_computed", [False, True])
def test_indices_from_the_model_and_from_its_inputs_give_onnxruntimes_numbers(
    operator: onnx.NodeProto, feeds: dict[str, Array], is_index_computed: bool
) -> None:
    if is_index_computed and operator.op_type in ("Compress", "Expand", "Tile", "Trilu", "EyeLike"):
        pytest.skip("what else it reads has to be known")
    dtype = feeds["x"].dtype.name
    graph = _check(operator, feeds, dtype, 18, len(feeds) if is_index_computed else 1)
    if not is_index_computed and operator.op_type.startswith("Gather"):
        assert {item.op for item in graph.nodes} <= {"Gather", "Reshape", "FlipSign"}


@pytest.mark.parametrize(("axis", "indices"), [(0, [[1, -1], [7, -4]]), (-1, [0.0, 2.0, 3.5])])
def test_one_hot(axis: int, indices: list[Any]) -> None:
    feeds = {"x": np.array(indices, np.int64 if axis == 0 else np.float32)}
    values = np.array([-0.5, 2], np.float32)
    held = {"d": np.array(4, feeds["x"].dtype), "v": values}
    model = _model([node("OneHot", "x d v", axis=axis)], feeds, held, "float32", 18)
    (got,) = evaluate(import_proto(model, "m", {}).graph, feeds).values()
    np.testing.assert_array_equal(got, runtime_outputs(model, feeds)[0])


def test_an_index_outside_of_its_dimension_reads_and_writes_the_nearest_element_inside() -> None:
    wild = _ints([-(2**63), -6, -5, 4, 5, 2**63 - 1])
    data = np.arange(5, dtype=np.float32)
    for operator, wanted in (
        (node("Gather", "x i"), [0, 0, 0, 4, 4, 4]),
        (node("GatherElements", "x i"), [0, 0, 0, 4, 4, 4]),
        (node("ScatterElements", "x i x2", reduction="add"), [3, 1, 2, 3, 7]),
    ):
        feeds = {"x": data, "i": wild, "x2": np.ones(6, np.float32)}
        used = {name: feeds[name] for name in operator.input}
        graph = import_proto(_model([operator], used, {}, "float32", 18), "m", {}).graph
        (got,) = evaluate(graph, used).values()
        assert got.tolist() == wanted


def test_constant_indices_outside_of_their_dimension_are_an_error() -> None:
    for operator in (node("Gather", "x i"), node("GatherElements", "x i"), node("ScatterElements", "x i x")):
        model = _model([operator], {"x": np.zeros(3, np.float32)}, {"i": _ints([0, 3, -1])}, "float32", 18)
        with pytest.raises(
            InvalidModelError, match=f"{operator.op_type} .*: its indices reach outside of a dimension of 3"
        ):
            import_proto(model, "m", {})


@pytest.mark.parametrize(
    ("mode", "padding"),
    [
        *itertools.product(["bilinear", "nearest"], ["zeros", "border", "reflection"]),
        *itertools.product(["bicubic"], ["zeros", "reflection"]),  # the third means something else to everyone
    ],
)
@pytest.mark.parametrize("align_corners", [0, 1])
def test_images_read_at_computed_positions(mode: str, padding: str, align_corners: int) -> None:
    operator = node("GridSample", "x g", mode=mode, padding_mode=padding, align_corners=align_corners)
    feeds = {"x": _X[None], "g": _RANDOM.normal(size=(1, 4, 3, 2)).astype(np.float32)}
    model = _model([operator], feeds, {}, "float32", 16)
    (got,) = evaluate(import_proto(model, "m", {}).graph, feeds).values()
    np.testing.assert_allclose(got, runtime_outputs(model, feeds)[0], rtol=1e-4, atol=1e-5)


def test_what_max_pooling_took_goes_back_to_its_place() -> None:
    operator = node("MaxUnpool", "x i s", kernel_shape=[2, 2], strides=[2, 2])
    x, places = _X[None, :1, :2, :2], _ints([[[[5, 2], [8, 15]]]])
    feeds = {"x": x, "i": places}
    model = _model([operator], feeds, {"s": _ints([1, 1, 5, 4])}, "float32", 18)
    (got,) = evaluate(import_proto(model, "m", {}).graph, feeds).values()
    wanted = np.zeros((1, 1, 5, 4), np.float32)
    wanted.reshape(-1)[places.reshape(-1)] = x.reshape(-1)
    np.testing.assert_array_equal(got, wanted)


def test_a_shape_that_depends_on_data_is_refused_by_name() -> None:
    model = _model([node("Compress", "x c", name="pick")], {"x": _X, "c": np.ones(3, bool)}, {}, "float32", 18)
    with pytest.raises(UnsupportedOperatorError, match=r"Compress \(node 'pick'\): non-constant condition 'c'"):
        import_proto(model, "m", {})


def test_the_mask_of_an_inferring_dropout_is_all_ones() -> None:
    for opset, dtype in ((9, "float32"), (13, "bool")):
        model = model_of(
            [node("Dropout", "x", "z y")], {"x": (2, 3)}, opset=opset, outputs="z y", output_dtypes={"y": dtype}
        )
        outputs = evaluate(import_proto(model, "m", {}).graph, {"x": np.ones((2, 3), np.float32)})
        assert outputs["y"].dtype == dtype
        assert outputs["y"].all()


def test_shape_computations_of_pytorch_leave_nothing_behind() -> None:
    """x.view(x.size(0), -1, x.size(2) // 2, 2) and x.expand(2, *x.shape[1:]), as torch.onnx.export writes them."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape i0", "batch", axis=0),
        node("Gather", "shape i2", "height", axis=0),
        node("Cast", "height", "height_f", to=onnx.TensorProto.FLOAT),
        node("Div", "height_f two", "half_f"),
        node("Floor", "half_f", "floor"),
        node("Cast", "floor", "half", to=onnx.TensorProto.INT64),
        node("Unsqueeze", "batch i0v", "batch_v"),
        node("Unsqueeze", "half i0v", "half_v"),
        node("Concat", "batch_v minus half_v pair", "target", axis=0),
        node("Reshape", "x target", "viewed"),
        node("ConstantOfShape", "four", "ones", value=onnx.numpy_helper.from_array(_ints([1]))),
        node("Mul", "ones minus", "negative"),
        node("Equal", "wanted negative", "is_open"),
        node("Where", "is_open ones wanted", "wide"),
        node("Shape", "viewed", "v_shape"),
        node("Slice", "v_shape one end i0v", "tail"),
        node("Concat", "pair tail", "whole", axis=0),
        node("Expand", "viewed wide", "e"),
        node("Expand", "e whole"),
    ]
    constants: dict[str, Array] = {
        "i0": _ints(0), "i2": _ints(2), "two": np.array(2, np.float32), "i0v": _ints([0]), "minus": _ints([-1]),
        "pair": _ints([2]), "four": _ints([4]), "wanted": _ints([2, -1, -1, -1]), "one": _ints([1]), "end": _ints([9]),
    }  # fmt: skip
    model = model_of(nodes, {"x": (1, 3, 4, 2)}, constants)
    graph = import_proto(model, "m", {}).graph
    assert [item.op for item in graph.nodes] == ["Reshape", "Expand", "Identity"]
    x = _RANDOM.normal(size=(1, 3, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(graph, {"x": x})["y"], runtime_outputs(model, {"x": x})[0])
