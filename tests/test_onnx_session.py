"""Sessions of onnxruntime: errors are tinyopt's own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from onnx import ModelProto

from tests.graph_builder import GraphBuilder
from tinyopt import onnx_session
from tinyopt.errors import InvalidModelError
from tinyopt.ir import Array, Graph
from tinyopt.onnx_export import export_model
from tinyopt.onnx_session import OnnxSession


def doubling() -> Graph:
    build = GraphBuilder()
    return build.graph_of(build("Mul", build.input("x", (2,)), build.constant([2.0, 2.0])))


def test_a_model_and_its_graph_run_alike() -> None:
    for session in (OnnxSession(doubling()), OnnxSession(export_model(doubling()))):
        assert session.input_names == ("x",)
        assert session.run({"x": np.array([1, 2])})["mul_out"].tolist() == [2, 4]


def test_many_samples_run_in_order_and_are_read_when_their_turn_comes() -> None:
    taken: list[int] = []

    def samples() -> Iterator[dict[str, Array]]:
        for number in range(100):
            taken.append(number)
            yield {"x": np.full(2, number, np.float32)}

    number = -1
    for number, (sample, outputs) in enumerate(OnnxSession(doubling()).run_each(samples())):
        assert sample["x"][0] == number
        assert outputs["mul_out"].tolist() == [2 * number, 2 * number]
        assert len(taken) <= number + 3
    assert number == 99


def test_a_broken_model_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="does not take model"):
        OnnxSession(ModelProto())


def test_a_wrong_sample_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="no data for input 'x'"):
        OnnxSession(doubling()).run({})
    with pytest.raises(InvalidModelError, match="no data for input 'x'"):
        list(OnnxSession(doubling()).run_each([{}]))
    with pytest.raises(InvalidModelError, match="cannot run"):
        OnnxSession(doubling()).run({"x": np.zeros(3)})


def test_large_weights_that_onnxruntime_does_not_copy_give_the_same_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    build = GraphBuilder()
    layer = build("Conv", build.input("x", (1, 3, 8, 8)), build.random((16, 3, 3, 3)), pads=(1, 1, 1, 1))
    graph, x = build.graph_of(layer), np.random.default_rng(0).standard_normal((1, 3, 8, 8), np.float32)
    (expected,) = OnnxSession(graph).run({"x": x}).values()
    monkeypatch.setattr(onnx_session, "_LARGE_BYTES", 0)
    monkeypatch.setattr(onnx_session, "_MOST_COPIED_BYTES", 0)
    (found,) = OnnxSession(graph).run({"x": x}).values()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
