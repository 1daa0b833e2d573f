"""The exact graph passes, one after the other, on the MLPerf Tiny models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_builder import context_for, messages, ops_of, outputs_of, random_inputs

from tinyopt.ir import Graph
from tinyopt.onnx_import import import_model
from tinyopt.onnx_session import OnnxSession
from tinyopt.pass_manager import Pass, Remark, run_pass
from tinyopt.passes.fold_batchnorm import FoldBatchNorm
from tinyopt.passes.fold_constants import FoldConstants
from tinyopt.passes.fuse_operators import FuseOperators
from tinyopt.passes.nhwc_layout import NhwcLayout
from tinyopt.passes.simplify import Simplify

STEPS: tuple[Pass, ...] = (FoldConstants(), Simplify(), FoldBatchNorm(), NhwcLayout(), FuseOperators())
FLOAT_MODELS = ("kws01", "kws01_hybrid", "vww01", "ic01", "ad01")
INT8_MODELS = ("kws01_int8_qdq", "vww01_int8_qdq", "ic01_int8_qdq", "ad01_int8_qdq")


def optimized(model: Path) -> tuple[Graph, list[Remark]]:
    graph = import_model(model, {}).graph
    remarks: list[Remark] = []
    for step in STEPS:
        remarks.extend(run_pass(step, graph, context_for()).remarks)
        assert not step.run(graph.copy(), context_for()), f"{step.name} is not idempotent"
    return graph, remarks


@pytest.mark.parametrize("model", [*FLOAT_MODELS, pytest.param("mobilenetv2", marks=pytest.mark.slow)])
def test_a_float_model_is_left_with_its_layers_alone(models_dir: Path, model: str) -> None:
    graph, _ = optimized(models_dir / f"{model}.onnx")
    assert set(ops_of(graph)) <= {"Conv", "AveragePool", "Reshape", "Dense", "Softmax"}
    assert ops_of(graph).count("Reshape") <= 1
    before = import_model(models_dir / f"{model}.onnx", {}).graph
    inputs = random_inputs(before)
    (expected,) = OnnxSession(before).run(inputs).values()
    (got,) = outputs_of(graph, inputs)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize("model", INT8_MODELS)
def test_an_int8_model_keeps_its_integers_and_every_bit(models_dir: Path, model: str) -> None:
    graph, _ = optimized(models_dir / f"{model}.onnx")
    assert not {"Transpose", "MatMul", "Relu"} & set(ops_of(graph))
    producers = graph.producers()
    for node in graph.nodes:
        if node.op in ("Conv", "Dense"):
            weights, bias = (producers[node.input(index)].input(0) for index in (1, 2))
            assert (weights.dtype, bias.dtype) == ("int8", "int32")
    before = import_model(models_dir / f"{model}.onnx", {}).graph
    inputs = random_inputs(before)
    np.testing.assert_array_equal(outputs_of(graph, inputs)[0], outputs_of(before, inputs)[0])


def test_the_additions_of_the_int8_residual_network_say_why_they_stay(models_dir: Path) -> None:
    graph, remarks = optimized(models_dir / "ic01_int8_qdq.onnx")
    assert ops_of(graph).count("Add") == 3
    reasons = [reason for reason in messages(remarks, "declined") if "rounding is part of the model" in reason]
    assert len(reasons) == 3


def test_every_onnx_node_is_among_the_origins(models_dir: Path) -> None:
    before = import_model(models_dir / "ic01_int8_qdq.onnx", {}).graph
    graph, _ = optimized(models_dir / "ic01_int8_qdq.onnx")
    wanted = {origin for node in before.nodes for origin in node.origins}
    assert wanted == {origin for node in graph.nodes for origin in node.origins}
