"""What export writes is checker-clean and gives the reference's numbers in onnxruntime, for every float operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.graph_builder import GraphBuilder, graph_of, random_inputs
from tests.indexing_cases import indexing_cases
from tests.kernel_cases import Case
from tinyopt.evaluate import evaluate, evaluate_all
from tinyopt.ir import Graph, Value
from tinyopt.onnx_export import export_model, save_model
from tinyopt.onnx_export.export import RULES
from tinyopt.onnx_session import OnnxSession
from tinyopt.ops import OPERATORS
from tinyopt.ops.indexing import INDEX_DTYPES


def assert_same_in_onnxruntime(graph: Graph, tolerance: float = 1e-4) -> None:
    onnx.checker.check_model(export_model(graph), full_check=True)
    inputs = random_inputs(graph)
    expected, got = evaluate(graph, inputs), OnnxSession(graph).run(inputs)
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_allclose(got[name], array, rtol=tolerance, atol=tolerance)


def _conv(b: GraphBuilder) -> Value:
    x = b.input("x", (1, 4, 9, 7))
    return b(
        "Conv",
        x,
        b.random((6, 2, 3, 2)),
        b.random((6,)),
        strides=(2, 1),
        pads=(1, 0, 2, 1),
        dilations=(1, 2),
        group=2,
        clamp_low=0.0,
        clamp_high=6.0,
    )


def _conv_nhwc(b: GraphBuilder) -> Value:
    x, residual = b.input("x", (1, 9, 7, 3)), b.input("r", (1, 9, 7, 5))
    weights = b.random((5, 3, 3, 3))
    return b("Conv", x, weights, None, residual, pads=(1, 1, 1, 1), layout="NHWC", clamp_low=0.0)


def _conv_transpose(b: GraphBuilder) -> Value:
    x = b.input("x", (1, 4, 5, 6))
    return b(
        "ConvTranspose",
        x,
        b.random((4, 3, 3, 2)),
        b.random((6,)),
        strides=(2, 3),
        pads=(1, 0, 0, 1),
        group=2,
        output_padding=(1, 0),
    )


def _conv_transpose_nhwc(b: GraphBuilder) -> Value:
    x = b.input("x", (1, 5, 6, 4))
    return b("ConvTranspose", x, b.random((4, 3, 3, 2)), strides=(2, 2), layout="NHWC", clamp_high=1.0)


def _dense(b: GraphBuilder) -> Value:
    x, residual = b.input("x", (2, 5)), b.input("r", (2, 3))
    return b("Dense", x, b.random((3, 5)), b.random((3,)), residual, clamp_low=-1.0)


def _dense_of_rank_three(b: GraphBuilder) -> Value:
    return b("Dense", b.input("x", (1, 4, 5)), b.random((3, 5)), b.random((3,)))


def _average_pool_with_both_kinds_of_padding(b: GraphBuilder) -> Value:
    x = b.input("x", (1, 3, 7, 7))
    return b("AveragePool", x, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 2, 2), counted_pads=(1, 1, 1, 1))


def _average_pool_nhwc(b: GraphBuilder) -> Value:
    return b("AveragePool", b.input("x", (1, 7, 6, 3)), kernel=(3, 3), pads=(1, 1, 1, 1), layout="NHWC", clamp_low=0.0)


def _pool_with_wide_pads(b: GraphBuilder, op: str, **attributes: Any) -> Value:
    return b(op, b.input("x", (1, 2, 3, 5)), kernel=(2, 1), pads=(0, 0, 2, 0), dilations=(2, 1), **attributes)


def _batch_normalization(b: GraphBuilder, axis: int, shape: tuple[int, ...]) -> Value:
    channels = shape[axis]
    variance = b.constant(np.linspace(1, 4, channels).astype(np.float32))
    parameters = (b.random((channels,)), b.random((channels,)), b.random((channels,)), variance)
    return b("BatchNormalization", b.input("x", shape), *parameters, axis=axis)


def _resize(b: GraphBuilder, sizes: tuple[int, ...], scales: tuple[float, ...], mode: str, coordinate: str) -> Value:
    x = b.input("x", (1, 3, 4, 5) if sizes[1] == 3 else (1, 4, 5, 3))
    return b(
        "Resize",
        x,
        sizes=sizes,
        scales=scales,
        mode=mode,
        coordinate_mode=coordinate,
        nearest_mode="round_prefer_floor",
    )


def _lstm(b: GraphBuilder) -> list[Value]:
    """Backwards, with everything that an LSTM may have."""
    state = b.input("h", (2, 3))
    return b.many(
        "LSTM", b.input("x", (4, 2, 12)), b.random((3, 12)), state, b.constant([4, 1], dtype="int32"), state,
        b.random((9,)), outputs=3, reverse=1, clip=0.7, input_forget=0, activations="Sigmoid HardSigmoid LeakyRelu",
        alphas=(0.0, 0.3, 0.2), betas=(0.0, 0.1, 0.0),
    )  # fmt: skip


def _gru(b: GraphBuilder) -> list[Value]:
    return b.many(
        "GRU", b.input("x", (4, 2, 9)), b.random((3, 9)), None, None, b.random((3,)), outputs=2, reverse=0,
        clip=math.inf, linear_before_reset=1, activations="Sigmoid Tanh", alphas=(0.0, 0.0), betas=(0.0, 0.0),
    )  # fmt: skip


def _split(b: GraphBuilder) -> Value:
    parts = b.many("Split", b.input("x", (2, 6)), outputs=3, axis=1, sizes=(1, 3, 2))
    return b("Concat", parts[2], parts[0], parts[1], axis=1)


CASES: Mapping[str, Callable[[GraphBuilder], Value] | Callable[[GraphBuilder], list[Value]]] = {
    "Conv": _conv,
    "Conv in NHWC with residual": _conv_nhwc,
    "ConvTranspose": _conv_transpose,
    "ConvTranspose in NHWC": _conv_transpose_nhwc,
    "Dense": _dense,
    "Dense of rank 3": _dense_of_rank_three,
    "MatMul": lambda b: b("MatMul", b.input("x", (2, 3, 4)), b.input("y", (4, 5))),
    "MaxPool": lambda b: b("MaxPool", b.input("x", (1, 3, 7, 6)), kernel=(3, 2), strides=(2, 1), pads=(1, 0, 1, 1)),
    "MaxPool of int8 in NHWC": lambda b: b("MaxPool", b.input("x", (1, 7, 6, 3), "int8"), layout="NHWC"),
    "AveragePool": _average_pool_with_both_kinds_of_padding,
    "AveragePool in NHWC": _average_pool_nhwc,
    "MaxPool with pads as large as its kernel": lambda b: _pool_with_wide_pads(b, "MaxPool"),
    "AveragePool with pads as large as its kernel": lambda b: _pool_with_wide_pads(
        b, "AveragePool", counted_pads=(0, 0, 1, 0)
    ),
    "BatchNormalization": lambda b: _batch_normalization(b, 1, (2, 3, 4)),
    "BatchNormalization of the last axis": lambda b: _batch_normalization(b, 3, (1, 2, 4, 3)),
    "BatchNormalization of the only axis": lambda b: _batch_normalization(b, 0, (3,)),
    "Add": lambda b: b("Add", b.input("x", (2, 3)), b.random((3,)), clamp_low=-0.5, clamp_high=0.5),
    "Sub": lambda b: b("Sub", b.input("x", (2, 3)), b.input("y", (2, 1))),
    "Mul": lambda b: b("Mul", b.input("x", (2, 3)), b.input("y", (3,)), clamp_low=0.0),
    "Div": lambda b: b("Div", b.input("x", (2, 3)), b.constant([1, 2, 4])),
    "Relu": lambda b: b("Relu", b.input("x", (5,))),
    "Clip": lambda b: b("Clip", b.input("x", (5,)), high=0.25),
    "Clip to infinity": lambda b: b("Clip", b.input("x", (5,))),
    "LeakyRelu": lambda b: b("LeakyRelu", b.input("x", (5,)), alpha=0.25),
    "PRelu": lambda b: b("PRelu", b.input("x", (1, 3, 2, 2)), b.random((3, 1, 1))),
    "Sigmoid": lambda b: b("Sigmoid", b.input("x", (5,))),
    "Tanh": lambda b: b("Tanh", b.input("x", (5,))),
    "HardSigmoid": lambda b: b("HardSigmoid", b.input("x", (5,)), alpha=0.3, beta=0.4),
    "HardSwish": lambda b: b("HardSwish", b.input("x", (5,))),
    "Gelu": lambda b: b("Gelu", b.input("x", (5,))),
    "Gelu by tanh": lambda b: b("Gelu", b.input("x", (5,)), approximate="tanh"),
    "Softmax": lambda b: b("Softmax", b.input("x", (2, 3, 4)), axis=1),
    "LogSoftmax": lambda b: b("LogSoftmax", b.input("x", (2, 3, 4)), axis=2),
    "Reshape": lambda b: b("Reshape", b.input("x", (2, 3, 4)), shape=(4, 6)),
    "Transpose": lambda b: b("Transpose", b.input("x", (2, 3, 4)), perm=(2, 0, 1)),
    "Concat and Split": _split,
    "Slice": lambda b: b("Slice", b.input("x", (4, 5, 6)), starts=(0, 4, 5), steps=(1, -2, -1), sizes=(2, 3, 6)),
    "Pad": lambda b: b("Pad", b.input("x", (2, 3)), pads=(0, 1, 2, 0), value=1.5),
    "Pad of int8": lambda b: b("Pad", b.input("x", (2, 3), "int8"), pads=(0, 1, 2, 0), value=-7.0),
    "Pad by reflection": lambda b: b("Pad", b.input("x", (2, 3)), pads=(1, 2, 0, 0), mode="reflect"),
    "Pad by the edge": lambda b: b("Pad", b.input("x", (2, 3), "int8"), pads=(1, 2, 0, 0), mode="edge"),
    "Pad by wrapping": lambda b: b("Pad", b.input("x", (2, 3)), pads=(1, 2, 0, 1), mode="wrap"),
    "Gather": lambda b: b("Gather", b.input("x", (4, 3)), b.constant([2, 0], dtype="int64"), axis=0),
    "Expand": lambda b: b("Expand", b.input("x", (3, 1)), shape=(2, 3, 4)),
    "Resize to the nearest": lambda b: _resize(b, (1, 3, 8, 10), (1.0, 1.0, 2.0, 2.0), "nearest", "asymmetric"),
    "Resize by sizes": lambda b: _resize(b, (1, 3, 7, 9), (1.0, 1.0, 7 / 4, 9 / 5), "linear", "half_pixel"),
    "Resize in NHWC": lambda b: _resize(b, (1, 8, 10, 3), (1.0, 2.0, 2.0, 1.0), "linear", "align_corners"),
    "ReduceMean": lambda b: b("ReduceMean", b.input("x", (2, 3, 4)), axes=(0, 2)),
    "ReduceSum": lambda b: b("ReduceSum", b.input("x", (2, 3, 4)), axes=(1,), keepdims=0),
    "ReduceMax": lambda b: b("ReduceMax", b.input("x", (2, 3, 4), "int8"), axes=(1, 2)),
    "ReduceLogSumExp": lambda b: b("ReduceLogSumExp", b.input("x", (2, 3, 4)), axes=(1,), keepdims=0),
    "ReduceL1 of no axes": lambda b: b("ReduceL1", b.input("x", (2, 3)), axes=(), keepdims=1),
    "ArgMin": lambda b: b("ArgMin", b.input("x", (2, 9), "int8"), axis=1, keepdims=0, select_last=1),
    "TopK": lambda b: b.many("TopK", b.input("x", (3, 9)), outputs=2, axis=1, k=4, largest=0),
    "CumSum": lambda b: b("CumSum", b.input("x", (3, 9)), axis=1, exclusive=1, reverse=1),
    "CumProd": lambda b: b("CumProd", b.input("x", (3, 9)), axis=0, exclusive=1, reverse=0),
    "LSTM": _lstm,
    "GRU": _gru,
    "LayerNormalization": lambda b: b.many(
        "LayerNormalization", b.input("x", (2, 3, 4)), None, b.random((4,)), outputs=3, axis=2, epsilon=0.01
    ),
    "RMSNormalization": lambda b: b(
        "RMSNormalization", b.input("x", (2, 3, 4)), b.random((3, 4)), axis=1, epsilon=0.01
    ),
    "LRN": lambda b: b("LRN", b.input("x", (2, 6, 3, 4)), size=3, alpha=0.2, beta=0.6, bias=1.1),
    "IntegerMatMul": lambda b: b("IntegerMatMul", b.input("x", (3, 5), "int32"), b.input("z", (5, 2), "int32")),
    "ConvNd": lambda b: b(
        "ConvNd", b.input("x", (1, 2, 9)), b.random((3, 2, 2)), None, strides=(2,), pads=(1, 0), dilations=(3,), group=1
    ),
    "ConvTransposeNd": lambda b: b(
        "ConvTransposeNd",
        b.input("x", (1, 2, 3, 4, 5)),
        b.random((2, 3, 2, 1, 3)),
        b.random((3,)),
        strides=(2, 1, 1),
        pads=(0, 0, 1, 0, 0, 0),
        dilations=(1, 1, 2),
        group=1,
        output_padding=(1, 0, 0),
    ),
    "MaxPoolNd": lambda b: b.many(
        "MaxPoolNd",
        b.input("x", (2, 3, 5, 6)),
        outputs=2,
        kernel=(2, 3),
        strides=(1, 2),
        pads=(1, 0, 0, 1),
        dilations=(2, 1),
        storage_order=1,
    ),
    "LpPoolNd": lambda b: b(
        "LpPoolNd", b.input("x", (2, 3, 5, 6)), kernel=(2, 3), strides=(1, 2), pads=(1, 0, 0, 1), dilations=(2, 1), p=2
    ),
    "Hardmax": lambda b: b("Hardmax", b.input("x", (3, 9)), axis=0),
    "Identity": lambda b: b("Identity", b.input("x", (2, 3))),
    "FlipSign to int8": lambda b: b("FlipSign", b.input("x", (300,), "uint8")),
    "FlipSign to uint8": lambda b: b("FlipSign", b.input("x", (300,), "int8")),
}


@pytest.mark.parametrize("case", CASES)
def test_exported_operators_give_the_reference_numbers(case: str) -> None:
    assert_same_in_onnxruntime(graph_of(CASES[case]))


def test_every_operator_has_an_export_rule() -> None:
    assert set(RULES) == set(OPERATORS)


@pytest.mark.parametrize(
    "case", [c for c in indexing_cases() if "NaN" not in c.title and "wild" not in c.title], ids=lambda case: case.id
)
def test_exported_operators_with_indices_give_the_reference_numbers(case: Case) -> None:
    inputs = [value for value in case.node.present_inputs if not value.is_constant]
    arrays = [
        array
        for array, value in zip(case.arrays, case.node.inputs, strict=True)
        if array is not None and value in inputs
    ]
    for index, value in enumerate(case.node.present_inputs):
        value.name = f"v{index}"
    graph = Graph("one", inputs, list(case.node.outputs), [case.node])
    bounded = [
        array.clip(-1, 2) if value.dtype in INDEX_DTYPES and case.node.input(0) is not value else array
        for array, value in zip(arrays, inputs, strict=True)
    ]
    samples = {value.name: array for value, array in zip(inputs, bounded, strict=True)}
    (got,) = OnnxSession(graph).run(samples).values()
    np.testing.assert_allclose(got, evaluate(graph, samples)[case.node.output.name], rtol=1e-5, atol=1e-6)


def test_names_and_origins_survive_the_export() -> None:
    graph = graph_of(_conv_nhwc)
    graph.nodes[0].origins = ("first", "second\n")
    model = export_model(graph)
    (conv,) = [node for node in model.graph.node if node.op_type == "Conv"]
    assert conv.name == graph.nodes[0].name
    assert all(node.metadata_props[0].value == '["first", "second\\n"]' for node in model.graph.node)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


def test_values_inside_the_graph_can_be_looked_at() -> None:
    build = GraphBuilder()
    inner = build("Relu", build.input("x", (4,)))
    graph = build.graph_of(build("Tanh", inner))
    inputs = random_inputs(graph)
    got = OnnxSession(graph, extra_outputs=[inner]).run(inputs)
    np.testing.assert_array_equal(got[inner.name], evaluate_all(graph, inputs)[inner])


def test_names_that_helpers_would_take_do_not_collide() -> None:
    build = GraphBuilder()
    x = build.input("conv/Transpose", (1, 3, 3, 2))
    y = build("Conv", x, build.random((4, 1, 1, 2), name="w/perm0312"), layout="NHWC", name="conv")
    assert_same_in_onnxruntime(build.graph_of(y))


def test_inputs_and_constants_may_be_outputs() -> None:
    build = GraphBuilder()
    x = build.input("x", (2,))
    assert_same_in_onnxruntime(build.graph_of(x, build("Relu", x), build.constant([1.0, 2.0])))


def test_equal_graphs_give_equal_files(tmp_path: Path) -> None:
    for name in ("first", "second"):
        save_model(graph_of(_conv), tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_clamp_to_zero_and_infinity_is_a_relu() -> None:
    graph = graph_of(lambda b: b("Add", b.input("x", (2,)), b.input("y", (2,)), clamp_low=0.0, clamp_high=math.inf))
    assert [node.op_type for node in export_model(graph).graph.node] == ["Add", "Relu"]
