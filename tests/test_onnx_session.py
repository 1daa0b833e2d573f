"""Sessions of onnxruntime: errors are tinyopt's own."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from tests.graph_builder import GraphBuilder
from tinyopt.errors import InvalidModelError
from tinyopt.ir import Graph
from tinyopt.onnx_export import export_model
from tinyopt.onnx_session import OnnxSession


def doubling() -> Graph:
    build = GraphBuilder()
    return build.graph_of(build("Mul", build.input("x", (2,)), build.constant([2.0, 2.0])))


def test_a_model_and_its_graph_run_alike() -> None:
    for session in (OnnxSession(doubling()), OnnxSession(export_model(doubling()))):
        assert session.input_names == ("x",)
        assert session.run({"x": np.array([1, 2])})["mul_out"].tolist() == [2, 4]


def test_a_broken_model_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="does not take model"):
        OnnxSession(ModelProto())


def test_a_wrong_sample_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="no data for input 'x'"):
        OnnxSession(doubling()).run({})
    with pytest.raises(InvalidModelError, match="cannot run"):
        OnnxSession(doubling()).run({"x": np.zeros(3)})
