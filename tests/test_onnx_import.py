"""The importer: opset variants, constants, shapes, quantized models, and everything that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import assert_same_as_runtime, model_of, node, random_inputs, runtime_outputs

from tinyopt.errors import InvalidModelError, UnsupportedOperatorError, UsageError
from tinyopt.evaluate import evaluate
from tinyopt.ir import Graph, Quantization
from tinyopt.onnx_import import import_model, import_proto

_RANDOM = np.random.default_rng(2)
_F32 = np.float32


def _floats(*shape: int) -> np.ndarray[Any, Any]:
    return _RANDOM.normal(0, 1, shape).astype(_F32)


def _ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def _ops(graph: Graph) -> list[str]:
    return [item.op for item in graph.nodes]


_X = {"x": (1, 3, 4, 5)}


@pytest.mark.parametrize(
    ("opset", "nodes", "constants"),
    [
        (7, [node("Squeeze", "x", axes=[0])], {}),
        (13, [node("Squeeze", "x a")], {"a": _ints(-4)}),
        (13, [node("Squeeze", "x")], {}),
        (11, [node("Unsqueeze", "x", axes=[0, -1])], {}),
        (13, [node("Unsqueeze", "x a")], {"a": _ints(0, -1)}),
        (9, [node("Slice", "x", starts=[1, -3], ends=[3, 1000], axes=[1, 3])], {}),
        (
            13,
            [node("Slice", "x s e a t")],
            {"s": _ints(-1, 4), "e": _ints(-9, 0), "a": _ints(1, 3), "t": _ints(-1, -2)},
        ),
        (
            13,
            [node("Slice", "x s e a t")],
            {"s": _ints(-9, -1), "e": _ints(-9, -9), "a": _ints(2, 3), "t": _ints(-1, -2)},
        ),
        (13, [node("Slice", "x s e")], {"s": _ints(0, 1), "e": _ints(1, 3)}),
        (10, [node("Pad", "x", pads=[0, 0, 1, 2, 0, 0, 3, 4], value=2.5)], {}),
        (10, [node("Pad", "x", pads=[0, 0, 1, 2, 0, 0, 3, 4], mode="reflect")], {}),
        (13, [node("Pad", "x p v")], {"p": _ints(0, -1, 1, 2, 0, 0, 3, -2), "v": np.array(1.5, _F32)}),
        (18, [node("Pad", "x p - a", mode="edge")], {"p": _ints(1, 2, 3, 4), "a": _ints(-1, 1)}),
        (11, [node("Clip", "x l h")], {"l": np.array(-1, _F32), "h": np.array(0.5, _F32)}),
        (11, [node("Clip", "x - h")], {"h": np.array(0.5, _F32)}),
        (9, [node("Upsample", "x s")], {"s": np.array([1, 1, 2, 3], _F32)}),
        (7, [node("Upsample", "x", scales=[1.0, 1.0, 2.0, 2.0], mode="linear")], {}),
        (10, [node("Resize", "x s")], {"s": np.array([1, 1, 2, 2], _F32)}),
        (10, [node("Resize", "x s")], {"s": np.array([1, 1, 0.5, 1.5], _F32)}),
        (10, [node("Resize", "x s", mode="linear")], {"s": np.array([1, 1, 2, 2], _F32)}),
        (18, [node("Resize", "x - - s", axes=[2, 3], mode="linear")], {"s": _ints(6, 3)}),
        (12, [node("Dropout", "x")], {}),
        (13, [node("Dropout", "x r t")], {"r": np.array(0.5, _F32), "t": np.array(False)}),
        (
            13,
            [node("DequantizeLinear", "q s z", "f"), node("BatchNormalization", "x f f f f")],
            {"q": np.array([3, 4, 5], np.int8), "s": np.array(0.5, _F32), "z": np.array(-1, np.int8)},
        ),
        (
            13,
            [node("DequantizeLinear", "q s z", "f"), node("Clip", "x - f")],
            {"q": np.array(3, np.uint8), "s": np.array(0.5, _F32), "z": np.array(1, np.uint8)},
        ),
        (13, [node("Reshape", "x s")], {"s": _ints(0, -1, 5)}),
        (13, [node("Flatten", "x", axis=-2)], {}),
        (13, [node("Transpose", "x")], {}),
        (13, [node("Gather", "x i", axis=-1)], {"i": np.array([[0, -1], [2, 2]], np.int32)}),
        (13, [node("Gather", "x i", axis=2)], {"i": np.array(-1, np.int64)}),
        (13, [node("Concat", "x c x", axis=-3)], {"c": _floats(1, 2, 4, 5)}),
        (13, [node("Sum", "x c x")], {"c": _floats(4, 1)}),
        (13, [node("Max", "x l", "m"), node("Min", "m h")], {"l": np.array(0, _F32), "h": np.array([6], _F32)}),
        (13, [node("SpaceToDepth", "x", "s", blocksize=1), node("DepthToSpace", "s", blocksize=1, mode="CRD")], {}),
    ],
)
def test_opset_variants_give_onnxruntimes_numbers(
    opset: int, nodes: list[onnx.NodeProto], constants: dict[str, Any]
) -> None:
    assert_same_as_runtime(model_of(nodes, _X, constants, opset=opset))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_and_back(mode: str) -> None:
    nodes = [node("DepthToSpace", "x", "d", blocksize=2, mode=mode), node("SpaceToDepth", "d", blocksize=2)]
    assert_same_as_runtime(model_of(nodes, {"x": (1, 8, 2, 3)}, outputs="d y"))


@pytest.mark.parametrize(
    ("opset", "split", "constants"),
    [
        (11, node("Split", "x", "a b", axis=1, split=[1, 3]), {}),
        (13, node("Split", "x s", "a b", axis=-1), {"s": _ints(2, 3)}),
        (13, node("Split", "x", "a b", axis=1), {}),
        (18, node("Split", "x", "a b", axis=2, num_outputs=2), {}),
    ],
)
def test_split(opset: int, split: onnx.NodeProto, constants: dict[str, Any]) -> None:
    assert_same_as_runtime(model_of([split], {"x": (1, 4, 3, 5)}, constants, outputs="a b", opset=opset))


def test_an_output_that_nobody_reads_is_not_taken_for_an_absent_input() -> None:
    nodes = [node("Split", "x", "a b", axis=1), node("Clip", "a - high")]  # graphsurgeon calls `b` and `-` the same
    assert_same_as_runtime(model_of(nodes, {"x": (1, 4)}, {"high": np.float32(0.5)}))


def test_shape_computations_are_folded() -> None:
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "batch", axis=0),
        node("Unsqueeze", "batch axes", "batch1"),
        node("Constant", "", "minus", value_ints=[-1]),
        node("Concat", "batch1 minus", "target", axis=0),
        node("Reshape", "x target"),
    ]
    graph = assert_same_as_runtime(model_of(nodes, _X, {"zero": np.array(0), "axes": _ints(0)}))
    assert _ops(graph) == ["Reshape"]


def test_nodes_and_values_keep_their_onnx_names() -> None:
    nodes = [node("Relu", "x", "a/b:0", name="same"), node("Tanh", "a/b:0", "t", name="same"), node("Relu", "t")]
    graph = import_proto(model_of(nodes, _X), "m", {}).graph
    assert [(item.name, item.output.name, item.origins) for item in graph.nodes] == [
        ("same", "a/b:0", ("same",)),
        ("same_2", "t", ("same",)),
        ("Relu_2", "y", ("Relu_2",)),
    ]


def test_a_dynamic_batch_becomes_1_and_is_noted() -> None:
    result = import_proto(model_of([node("Relu", "x")], {"x": ("N", 4)}), "m", {})
    assert result.graph.inputs[0].shape == (1, 4)
    assert result.notes == ("batch dimension 'N' of input 'x' fixed to 1",)


def test_a_given_shape_fixes_the_same_dimension_elsewhere() -> None:
    model = model_of([node("Add", "x z")], {"x": ("N", "T"), "z": ("N", "T")})
    graph = import_proto(model, "m", {"x": (2, 7)}).graph
    assert [value.shape for value in graph.inputs] == [(2, 7), (2, 7)]


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        ({}, InvalidModelError, r"dimension 1 \('T'\) of input 'x' \[N, T, 3\] is unknown.*--shape x="),
        ({"z": (1, 2, 3)}, UsageError, "no input of the model; its inputs: x"),
        ({"x": (1, 2, 4)}, UsageError, r"the model declares \[N, T, 3\]"),
        ({"x": (1, 0, 3)}, UsageError, "sizes are positive"),
    ],
)
def test_shapes_that_cannot_be_are_refused(
    shapes: dict[str, tuple[int, ...]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        import_proto(model_of([node("Relu", "x")], {"x": ("N", "T", 3)}), "m", shapes)


def test_an_initializer_that_is_also_an_input_is_a_constant() -> None:
    model = model_of([node("Add", "x c")], {"x": (2,), "c": (2,)}, {"c": _floats(2)})
    assert [value.name for value in import_proto(model, "m", {}).graph.inputs] == ["x"]


def test_all_unsupported_nodes_are_listed_at_once() -> None:
    nodes = [
        node("Conv", "x w", "c", name="volume"),
        node("Relu", "c", "r"),
        node("StringSplit", "r", "t i", name="top"),
        node("Foo", "t", "f", domain="acme", name="foo"),
        node("Det", "x", "unused"),
    ]
    model = model_of(nodes, {"x": (1, 1, 4, 4, 4, 4)}, {"w": _floats(2, 1, 3, 3, 3, 3), "k": _ints(1)}, outputs="f")
    with pytest.raises(UnsupportedOperatorError) as caught:
        import_proto(model, "m", {})
    text = str(caught.value)
    assert "Conv (node 'volume'): it is 4-D" in text
    assert "StringSplit (node 'top'): no rule" in text
    assert "Foo (node 'foo'): tinyopt has no rule for it in domain 'acme'" in text
    assert "Det" not in text
    assert "supported operators: " in text


@pytest.mark.parametrize(
    ("nodes", "inputs", "reason"),
    [
        ([node("MaxPool", "x", "y i", kernel_shape=[2, 2]), node("Shape", "i", "s")], {"x": (1, 1, 4, 4)}, None),
        ([node("Add", "x x")], {"x": ("float64", (2,))}, "input 'x' is float64; Add takes float32"),
        (
            [node("NonZero", "x")],
            {"x": (2,)},
            r"NonZero \(node 'NonZero_0'\): it is supported on constants only: the shape",
        ),
        (
            [node("RandomNormalLike", "x")],
            {"x": (2,)},
            r"RandomNormalLike \(.*\): no rule for it: its numbers are random",
        ),
        ([node("Resize", "x - s", mode="spline")], {"x": (1, 1, 4, 4)}, "mode 'spline'; tinyopt takes nearest, linear"),
    ],
)
def test_refusals_say_why(nodes: list[onnx.NodeProto], inputs: dict[str, Any], reason: str | None) -> None:
    model = model_of(nodes, inputs, {"s": np.array([1, 1, 2, 2], _F32)} if "Resize" in str(nodes) else {})
    if reason is None:
        assert import_proto(model, "m", {}).graph.nodes[0].op == "MaxPool"  # only a dead node reads the indices
        return
    with pytest.raises(UnsupportedOperatorError, match=reason):
        import_proto(model, "m", {})


def test_an_unknown_node_of_a_broken_model_is_refused_without_a_word_on_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = model_of([node("Relu", "x", domain="nowhere")], {"x": (2,)})
    del model.opset_import[1]  # shape inference fails on a domain without a version
    with pytest.raises(UnsupportedOperatorError, match="no rule for it in domain 'nowhere'"):
        import_proto(model, "m", {})
    assert capsys.readouterr().out == ""


def test_contradicting_shapes_are_an_invalid_model() -> None:
    model = model_of([node("Add", "x c", name="sum")], {"x": (2, 3)}, {"c": _floats(4)})
    with pytest.raises(InvalidModelError, match="Add 'sum': shapes") as caught:
        import_proto(model, "m", {})
    assert not isinstance(caught.value, UnsupportedOperatorError)


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        ([node("Pad", "x p")], {"p": _ints(0, 0, 0, 2**40)}, "pads by 1099511627776: tensors have up to 2,147,483,648"),
        ([node("Unsqueeze", "x a")], {"a": _ints(*range(100))}, "102 dimensions; tinyopt takes up to 16"),
        ([node("Resize", "x - s")], {"s": np.array([1, -1], _F32)}, "not all positive"),
        ([node("Clip", "x l")], {"l": np.array(np.nan, _F32)}, "initializer 'l' of model 'm' holds NaN"),
    ],
)
def test_sizes_beyond_all_bounds_and_nan_are_refused(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidModelError, match=reason):
        import_proto(model_of(nodes, {"x": (1, 4)}, constants), "m", {})
    with pytest.raises(InvalidModelError, match="input 'x' of model 'm' has 1,099,511,627,776 elements"):
        import_proto(model_of([node("Relu", "x")], {"x": (2**20, 2**20)}), "m", {})


# Files


def test_files_that_are_no_models_are_refused_in_one_line(tmp_path: Path) -> None:
    content = model_of([node("Add", "x c")], {"x": (64,)}, {"c": _floats(64)}).SerializeToString()
    for name, data in {"text": b"hello, world\n" * 9, "cut": content[: len(content) // 2], "empty": b""}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        with pytest.raises(InvalidModelError, match="not an ONNX file") as caught:
            import_model(path, {})
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="No such file"):
        import_model(tmp_path / "missing.onnx", {})


@pytest.mark.parametrize(
    ("opset", "ir_version", "message"),
    [(0, 8, "opset 0; tinyopt reads 1 to 28"), (29, 8, "opset 29"), (17, 15, "IR version 15")],
)
def test_versions_outside_of_what_is_known_are_refused(opset: int, ir_version: int, message: str) -> None:
    model = model_of([node("Relu", "x")], {"x": (2,)}, opset=opset)
    model.ir_version = ir_version
    with pytest.raises(InvalidModelError, match=message):
        import_proto(model, "m", {})


def test_operators_of_opset_6_broadcast_along_their_axis() -> None:
    slope, offset = np.array([0.1, 0.2, 0.3], _F32), np.array([1, 2, 3], _F32)
    nodes = [node("Add", "x offset", "sum", broadcast=1, axis=1), node("PRelu", "sum slope")]
    graph = import_proto(model_of(nodes, {"x": (2, 3, 4)}, {"slope": slope, "offset": offset}, opset=6), "m", {}).graph
    x = _floats(2, 3, 4)
    total = x + offset[:, None]
    (result,) = evaluate(graph, {"x": x}).values()
    np.testing.assert_allclose(result, np.where(total < 0, total * slope[:, None], total), rtol=1e-6)


@pytest.mark.parametrize(
    ("operator", "opset", "reason"),
    [("Add", 5, "its version of opset 5 is not known"), ("Dropout", 6, "it is in training mode")],
)
def test_operators_of_old_opsets_that_meant_something_else_are_refused(operator: str, opset: int, reason: str) -> None:
    model = model_of([node(operator, "x x" if operator == "Add" else "x")], {"x": (2,)}, opset=opset)
    with pytest.raises(UnsupportedOperatorError, match=reason):
        import_proto(model, "m", {})


def test_an_input_without_elements_is_a_constant() -> None:
    model = model_of([node("CastLike", "x like")], {"x": (2,), "like": ("int32", (0,))}, opset=19)
    result = import_proto(model, "m", {})
    assert [value.name for value in result.graph.inputs] == ["x"]
    assert result.graph.outputs[0].dtype == "int32"
    assert "input 'like' has no elements: it is left out" in result.notes


def test_an_empty_graph_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="empty graph"):
        import_proto(model_of([], {"x": (2,)}, outputs="x"), "m", {})


def test_weights_beside_the_model_are_read_and_those_outside_refused(tmp_path: Path) -> None:
    model = model_of([node("Add", "x c")], {"x": (64,)}, {"c": np.arange(64, dtype=_F32)})
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    imported = import_model(path, {}).graph
    np.testing.assert_array_equal(imported.constants()[0].data, np.arange(64, dtype=_F32))
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    with pytest.raises(InvalidModelError, match="does not exist"):
        import_model(path, {})
    outside = onnx.load(path, load_external_data=False)
    outside.graph.initializer[0].external_data[0].value = "../weights.bin"
    path.write_bytes(outside.SerializeToString())
    with pytest.raises(InvalidModelError, match="outside of the model's folder"):
        import_model(path, {})


# Quantized models


def _scale(value: float) -> np.ndarray[Any, Any]:
    return np.array(value, _F32)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_integers_that_are_moved_between_quantize_and_dequantize_keep_their_quantization(dtype: str) -> None:
    zero_point = np.array(3, dtype)
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("MaxPool", "q", "p", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Transpose", "p", "t", perm=[0, 2, 3, 1]),
        node("DequantizeLinear", "t s z"),
    ]
    model = model_of(nodes, {"x": (1, 2, 7, 7)}, {"s": _scale(0.05), "z": zero_point})
    graph = assert_same_as_runtime(model)
    wanted = Quantization.per_tensor(0.05, 3 if dtype == "int8" else 3 - 128)
    assert {value.quantization for value in graph.values() if value.dtype == "int8"} == {wanted}


def test_uint8_inputs_and_outputs_pass_through_flip_sign() -> None:
    nodes = [
        node("Reshape", "x shape", "r"),
        node("DequantizeLinear", "r s z", "d"),
        node("Relu", "d", "a"),
        node("QuantizeLinear", "a s z"),
    ]
    constants = {"s": _scale(0.1), "z": np.array(100, np.uint8), "shape": _ints(6)}
    model = model_of(nodes, {"x": ("uint8", (2, 3))}, constants, output_dtypes={"y": "uint8"})
    graph = assert_same_as_runtime(model)
    assert _ops(graph) == ["FlipSign", "Reshape", "DequantizeLinear", "Relu", "QuantizeLinear", "FlipSign"]
    assert graph.inputs[0].quantization == graph.outputs[0].quantization == Quantization.per_tensor(0.1, 100)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_weights_behind_dequantize_stay_integers(dtype: str) -> None:
    weights = _RANDOM.integers(0, 100, (4, 3, 3, 3)).astype(dtype)
    constants = {
        "w": weights,
        "ws": _RANDOM.uniform(0.01, 0.1, 4).astype(_F32),
        "wz": np.zeros(4, dtype),
        "b": _RANDOM.integers(-50, 50, 4).astype(np.int32),
        "bs": _RANDOM.uniform(0.01, 0.1, 4).astype(_F32),
    }
    nodes = [
        node("DequantizeLinear", "w ws wz", "wf", axis=0),
        node("DequantizeLinear", "b bs", "bf", axis=0),
        node("Conv", "x wf bf"),
    ]
    graph = assert_same_as_runtime(model_of(nodes, {"x": (1, 3, 6, 6)}, constants), tolerance=1e-4)
    kept = next(value for value in graph.constants() if value.shape == weights.shape)
    assert kept.dtype == "int8"
    assert kept.quantization is not None
    assert kept.quantization.axis == 0
    assert kept.quantization.zero_point == ((0,) * 4 if dtype == "int8" else (-128,) * 4)


def test_float_weights_that_are_quantized_and_transposed_become_integers() -> None:
    constants = {"w": _floats(5, 3), "s": _RANDOM.uniform(0.01, 0.1, 5).astype(_F32), "z": np.zeros(5, np.int8)}
    nodes = [
        node("QuantizeLinear", "w s z", "q", axis=0),
        node("DequantizeLinear", "q s z", "d", axis=0),
        node("Transpose", "d", "t", perm=[1, 0]),
        node("MatMul", "x t"),
    ]
    graph = assert_same_as_runtime(model_of(nodes, {"x": (2, 3)}, constants))
    assert _ops(graph) == ["DequantizeLinear", "MatMul"]
    quantization = graph.nodes[0].input(0).quantization
    assert quantization is not None
    assert quantization.axis == 1


def test_two_readings_of_one_integer_tensor_get_a_copy() -> None:
    nodes = [
        node("DequantizeLinear", "x s z", "a"),
        node("DequantizeLinear", "x t z", "b"),
        node("Add", "a b"),
    ]
    constants = {"s": _scale(0.5), "t": _scale(0.25), "z": np.array(7, np.int8)}
    graph = assert_same_as_runtime(model_of(nodes, {"x": ("int8", (4,))}, constants))
    assert _ops(graph) == ["DequantizeLinear", "Identity", "DequantizeLinear", "Add"]


def test_a_cast_of_bytes_is_a_dequantization_with_scale_1() -> None:
    nodes = [node("Cast", "x", "f", to=onnx.TensorProto.FLOAT), node("Div", "f c")]
    graph = assert_same_as_runtime(model_of(nodes, {"x": ("uint8", (2, 3))}, {"c": _scale(255)}))
    assert _ops(graph) == ["FlipSign", "DequantizeLinear", "Div"]


def _qlinear_conv(dtype: str) -> onnx.ModelProto:
    constants = {
        "xs": _scale(0.05),
        "xz": np.array(10, dtype),
        "w": _RANDOM.integers(-90, 90, (4, 2, 3, 3)).astype(np.int8),
        "ws": _RANDOM.uniform(0.005, 0.02, 4).astype(_F32),
        "wz": np.zeros(4, np.int8),
        "ys": _scale(0.1),
        "yz": np.array(20, dtype),
        "b": _RANDOM.integers(-500, 500, 4).astype(np.int32),
    }
    convolution = node("QLinearConv", "x xs xz w ws wz ys yz b", pads=[1, 1, 1, 1])
    return model_of([convolution], {"x": (dtype, (1, 2, 5, 5))}, constants, output_dtypes={"y": dtype})


def _qlinear_add() -> onnx.ModelProto:
    constants = {"s": _scale(0.05), "z": np.array(100, np.uint8), "t": _scale(0.07), "c": np.arange(4, dtype=np.uint8)}
    add = node("QLinearAdd", "x s z c t z t z", domain="com.microsoft")
    return model_of([add], {"x": ("uint8", (2, 4))}, constants, output_dtypes={"y": "uint8"})


def _qgemm() -> onnx.ModelProto:
    constants = {
        "s": _scale(0.05),
        "z": np.array(3, np.int8),
        "w": _RANDOM.integers(-90, 90, (6, 4)).astype(np.int8),
        "ws": _RANDOM.uniform(0.005, 0.02, 4).astype(_F32),
        "wz": np.zeros(4, np.int8),
        "b": _RANDOM.integers(-500, 500, 4).astype(np.int32),
        "t": _scale(0.2),
    }
    gemm = node("QGemm", "x s z w ws wz b t z", domain="com.microsoft")
    return model_of([gemm], {"x": ("int8", (2, 6))}, constants, output_dtypes={"y": "int8"})


def _qlinear_matmul() -> onnx.ModelProto:
    constants = {"s": _scale(0.02), "z": np.array(3, np.int8), "t": _scale(0.1)}
    multiply = node("QLinearMatMul", "x s z v s z t z")
    inputs = {"x": ("int8", (2, 3)), "v": ("int8", (3, 4))}
    return model_of([multiply], inputs, constants, output_dtypes={"y": "int8"})


def _qlinear_pool() -> onnx.ModelProto:
    constants = {"s": _scale(0.02), "z": np.array(120, np.uint8), "t": _scale(0.01)}
    pool = node("QLinearGlobalAveragePool", "x s z t z", domain="com.microsoft", channels_last=0)
    return model_of([pool], {"x": ("uint8", (1, 3, 4, 4))}, constants, output_dtypes={"y": "uint8"})


@pytest.mark.parametrize(
    "model",
    [_qlinear_conv("int8"), _qlinear_conv("uint8"), _qlinear_add(), _qgemm(), _qlinear_matmul(), _qlinear_pool()],
    ids=["conv-int8", "conv-uint8", "add", "gemm", "matmul", "pool"],
)
def test_integer_operators_are_expanded_and_stay_within_one_step(model: onnx.ModelProto) -> None:
    graph = import_proto(model, "m", {}).graph
    inputs = random_inputs(graph)
    (got,), (wanted,) = evaluate(graph, inputs).values(), runtime_outputs(model, inputs)
    assert got.dtype == wanted.dtype
    assert np.abs(got.astype(np.int32) - wanted.astype(np.int32)).max() <= 1
    assert np.mean(got != wanted) < 0.05


_MODELS = [
    *("ad01", "ic01", "kws01", "vww01", "kws01_hybrid", "mobilenetv2"),
    *("ad01_int8_qdq", "ic01_int8_qdq", "kws01_int8_qdq", "vww01_int8_qdq"),
]


@pytest.mark.parametrize("name", _MODELS)
def test_whole_models_give_onnxruntimes_outputs(name: str, models_dir: Path) -> None:
    path = models_dir / f"{name}.onnx"
    graph = import_model(path, {}).graph
    inputs = random_inputs(graph)
    for mine, theirs in zip(evaluate(graph, inputs).values(), runtime_outputs(onnx.load(path), inputs), strict=True):
        np.testing.assert_allclose(mine.astype(_F32), theirs.astype(_F32), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_clipped_integers_are_clipped_before_they_are_rounded(dtype: str) -> None:
    """As PyTorch exports a range of 7 bits."""
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("Clip", "q low high", "c"),
        node("DequantizeLinear", "c s z", "y"),
    ]
    limits = {"low": np.array(7, dtype), "high": np.array(101, dtype)}
    constants = {"s": _scale(0.03), "z": np.array(40, dtype), **limits}
    graph = assert_same_as_runtime(model_of(nodes, {"x": (2, 300)}, constants), tolerance=1e-6)
    assert _ops(graph) == ["Clip", "QuantizeLinear", "DequantizeLinear"]
