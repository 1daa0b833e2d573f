"""Graphs with int16 activations, from QuantizeLinear to compiled code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.graph_builder import GraphBuilder, context_for, random_inputs
from tests.quantized_graphs import bias, lowered, quantize, real, weights
from tests.test_execution import need_tools
from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.evaluate import evaluate
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.validate import validate
from tinyopt.ir import Graph, Quantization, Value
from tinyopt.onnx_export import export_model, save_model
from tinyopt.onnx_import import import_model
from tinyopt.onnx_session import OnnxSession
from tinyopt.options import CompileOptions
from tinyopt.passes.lower_integer import LowerInteger
from tinyopt.toolchain import DEFAULT_COMPILER

FINE = 20 / 32767
EMULATED = ("arm", "cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m55")
TARGETS = ["c", "host", *(pytest.param(name, marks=pytest.mark.qemu) for name in EMULATED)]


def int16(build: GraphBuilder, value: Value, scale: float) -> Value:
    return build("QuantizeLinear", value, quantization=Quantization.per_tensor(scale, 0), dtype="int16")


def classifier() -> Graph:
    """A convolution to int16, a pool and a dense layer on it, int16 logits, and int8 probabilities."""
    build = GraphBuilder()
    x = real(build, quantize(build, build.input("x", (1, 6, 6, 4)), 0.03, -3))
    wide = build("Conv", x, weights(build, (8, 3, 3, 4)), bias(build, 8, 0.03), layout="NHWC", pads=(1, 1, 1, 1))
    wide = real(build, int16(build, wide, 3 / 32767))
    small = real(build, int16(build, build("MaxPool", wide, layout="NHWC", strides=(2, 2)), 3 / 32767))
    pooled = real(build, quantize(build, build("ReduceMean", small, axes=(1, 2), keepdims=0), 0.02, -9))
    logits = real(build, int16(build, build("Dense", pooled, weights(build, (5, 8)), bias(build, 5, 0.02)), FINE))
    return build.graph_of(real(build, quantize(build, build("Softmax", logits, axis=1), 1 / 256, -128)))


def ops(graph: Graph) -> list[str]:
    return [f"{node.op} {node.output.dtype}" for node in graph.nodes]


def test_each_value_keeps_its_own_type() -> None:
    graph = classifier()
    qdq = graph.copy()
    lowered(graph, "int8")
    expected = ["QConv int16", "MaxPool int16", "QReduceSum int8", "QDense int16", "QSoftmax int8"]
    assert ops(graph) == expected
    sample = random_inputs(graph)
    (ours,) = evaluate(graph, sample).values()
    (probabilities,) = OnnxSession(qdq).run({"x": (sample["x"].astype(np.float32) + 3) * np.float32(0.03)}).values()
    assert np.max(np.abs((ours.astype(int) + 128) / 256 - probabilities)) <= 1.5 / 256


def test_the_onnx_form_has_int16_and_comes_back_as_it_was(tmp_path: Path) -> None:
    graph = classifier()
    model = export_model(graph)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 21
    save_model(graph, tmp_path / "model.onnx")
    found = import_model(tmp_path / "model.onnx", {}).graph
    types = sorted((v.dtype, v.quantization.scale) for v in found.values() if v.quantization and not v.is_constant)
    assert types == sorted(
        (v.dtype, v.quantization.scale) for v in graph.values() if v.quantization and not v.is_constant
    )
    sample = random_inputs(graph)
    for ours, theirs in zip(
        OnnxSession(graph).run(sample).values(), OnnxSession(found).run(sample).values(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs)


def remarks_of(build: GraphBuilder, result: Value) -> str:
    graph = build.graph_of(result)
    context = context_for()
    LowerInteger("int8").run(graph, context)
    return "\n".join(remark.message for remark in context.remarks if remark.kind == "declined")


def test_sums_that_could_exceed_32_bits_stay_in_float_and_one_step_below_they_do_not() -> None:
    for depth, is_refused in ((516, False), (517, True)):  # 516 * 127 * 32768 < 2^31 <= 517 * 127 * 32768
        build = GraphBuilder()
        x = build.input("x", (1, depth), "int16", Quantization.per_tensor(0.001, 0))
        heavy = build.constant(np.full((2, depth), 127, np.int8), quantization=Quantization.per_tensor(0.01, 0))
        y = build("Dense", real(build, x), real(build, heavy))
        said = remarks_of(build, real(build, int16(build, y, 0.1)))
        assert ("stays in float: its sums of int16 do not fit 32 bits" in said) == is_refused


def test_functions_of_int16_stay_in_float_but_for_clamps() -> None:
    for op, is_refused in (("Sigmoid", True), ("Tanh", True), ("Relu", False)):
        build = GraphBuilder()
        x = build.input("x", (1, 8), "int16", Quantization.per_tensor(0.001, 0))
        said = remarks_of(build, real(build, quantize(build, build(op, real(build, x)), 1 / 128, 0)))
        assert ("a table has the 256 levels of int8" in said) == is_refused


def compiled(model: Path, target: str, out: Path) -> None:
    compile_model(model, out, CompileOptions(target=target, cache_dir=default_cache_dir()))


@pytest.mark.parametrize("target", TARGETS)
def test_the_classifier_gives_the_reference_s_bytes_on_every_target(target: str, tmp_path: Path) -> None:
    need_tools(target)
    save_model(classifier(), tmp_path / "classifier.onnx")
    compiled(tmp_path / "classifier.onnx", target, tmp_path / "out")
    built = load_built_model(tmp_path / "out")
    assert {value.dtype for value in built.graph.values() if not value.is_constant} >= {"int8", "int16"}
    samples = [random_inputs(built.graph, seed) for seed in range(3)]
    found = validate(built, samples, DEFAULT_COMPILER, default_cache_dir())
    assert found.first_difference is None
    assert (found.different_bytes, found.float_layers) == (0, 0)
    assert found.onnxruntime_steps <= 1


def test_an_int16_output_stands_in_the_header_with_its_type(tmp_path: Path) -> None:
    build = GraphBuilder()
    x = real(build, quantize(build, build.input("x", (1, 8)), 0.03, -3))
    y = build("Dense", x, weights(build, (5, 8)), bias(build, 5, 0.03))
    save_model(build.graph_of(real(build, int16(build, y, FINE))), tmp_path / "logits.onnx")
    compiled(tmp_path / "logits.onnx", "c", tmp_path / "out")
    header = (tmp_path / "out" / "logits.h").read_text()
    assert re.search(r"output 0: \w+, int16_t 1x5, real = \(q - ZERO_POINT\) \* SCALE", header)
    assert "LOGITS_OUTPUT_0_BYTES 10u" in header
    assert "int8_t 1x8" in header
