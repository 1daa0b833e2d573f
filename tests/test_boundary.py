"""Models that take and give integers, with another boundary asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pytest

from tests.onnx_models import model_of, node
from tinyopt.evaluate import evaluate
from tinyopt.ir import Array, Graph, Quantization
from tinyopt.onnx_import import convert_boundary, import_proto
from tinyopt.verify import verify

_SCALE, _WIDER = np.float32(0.02), np.float32(0.05)
_ZEROS = {"int8": (3, -20), "uint8": (131, 108)}


def _model(dtype: str) -> Graph:
    """Two inputs and two outputs of integers."""
    nodes = [
        node("DequantizeLinear", "a s z", "ar"),
        node("DequantizeLinear", "b s z", "br"),
        node("Add", "ar br", "c"),
        node("QuantizeLinear", "c t u", "y"),
        node("Relu", "br", "r"),
        node("QuantizeLinear", "r s z", "w"),
    ]
    zero, other = (np.array(value, dtype) for value in _ZEROS[dtype])
    constants = {"s": _SCALE, "t": _WIDER, "z": zero, "u": other}
    inputs = {"a": (dtype, (1, 40)), "b": (dtype, (1, 40))}
    proto = model_of(nodes, inputs, constants, outputs="y w", output_dtypes={"y": dtype, "w": dtype})
    return import_proto(proto, "tiny", {}).graph


def _levels(dtype: str) -> dict[str, Array]:
    random = np.random.default_rng(0)
    limits = np.iinfo(dtype)
    return {name: random.integers(limits.min, limits.max + 1, (1, 40)).astype(dtype) for name in ("a", "b")}


def _converted(dtype: str, boundary: Literal["int8", "float"]) -> tuple[Graph, Mapping[str, Array], list[str]]:
    before = _model(dtype)
    expected = evaluate(before, _levels(dtype))
    notes = convert_boundary(before, boundary)
    verify(before, after="convert_boundary")
    assert [value.name for value in (*before.inputs, *before.outputs)] == ["a", "b", "y", "w"]
    return before, expected, notes


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_integers_become_real_numbers_in_the_scales_of_the_model(dtype: str) -> None:
    graph, expected, notes = _converted(dtype, "float")
    assert {value.dtype for value in (*graph.inputs, *graph.outputs)} == {"float32"}
    assert len(notes) == 4
    inside, outside = (int(zero) for zero in _ZEROS[dtype])
    reals = {name: (levels.astype(np.float32) - inside) * np.float32(_SCALE) for name, levels in _levels(dtype).items()}
    found = evaluate(graph, reals)
    np.testing.assert_allclose(found["y"], (expected["y"].astype(np.float32) - outside) * _WIDER, atol=1e-6)
    np.testing.assert_allclose(found["w"], (expected["w"].astype(np.float32) - inside) * _SCALE, atol=1e-6)
    assert not convert_boundary(graph, "float")


def test_uint8_becomes_int8_with_a_zero_point_less_128() -> None:
    graph, expected, _ = _converted("uint8", "int8")
    assert {value.dtype for value in (*graph.inputs, *graph.outputs)} == {"int8"}
    assert graph.inputs[0].quantization == Quantization.per_tensor(0.02, 3)
    assert graph.outputs[0].quantization == Quantization.per_tensor(0.05, -20)
    assert not any(node.op == "FlipSign" for node in graph.nodes)
    found = evaluate(graph, {name: (levels ^ 0x80).view(np.int8) for name, levels in _levels("uint8").items()})
    for name, levels in found.items():
        np.testing.assert_array_equal(levels.view(np.uint8) ^ 0x80, expected[name])


def test_an_int8_model_keeps_int8_and_integers_without_a_scale_stay_with_a_note() -> None:
    assert not convert_boundary(_model("int8"), "int8")
    proto = model_of([node("Identity", "x", "y")], {"x": ("int8", (1, 4))}, output_dtypes={"y": "int8"})
    graph = import_proto(proto, "tiny", {}).graph
    graph.inputs[0].quantization = graph.outputs[0].quantization = None
    notes = convert_boundary(graph, "float")
    assert graph.inputs[0].dtype == "int8"
    assert all("the model says no scale of it" in note for note in notes)
