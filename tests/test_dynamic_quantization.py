"""Quantization with computed scales and products of integers: the importer's graphs against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_models import model_of, node, runtime_outputs

from tinyopt.evaluate import evaluate
from tinyopt.ir import Array
from tinyopt.onnx_import import import_proto

_RANDOM = np.random.default_rng(3)
_Y = {"y": "int32"}
_LEVELS: dict[str, str] = dict.fromkeys(("y", "q", "zero"), "uint8")


def _integers(dtype: str, *shape: int) -> Array:
    limits = np.iinfo(dtype)
    return _RANDOM.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def _check(model: onnx.ModelProto, inputs: dict[str, Array]) -> None:
    graph = import_proto(model, "m", {}).graph
    for mine, theirs in zip(evaluate(graph, inputs).values(), runtime_outputs(model, inputs), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("depth", [7, 300])  # float32 cannot hold a sum of 259 products
def test_products_of_integers_are_exact_however_long_the_sum(depth: int) -> None:
    a, b = _integers("uint8", 3, depth), _integers("uint8", depth, 4)
    a[0], b[:, 0] = 255, 255
    zeros = {"za": np.array(3, np.uint8), "zb": np.array(251, np.uint8)}
    model = model_of(
        [node("MatMulInteger", "a b za zb")],
        {"a": ("uint8", a.shape), "b": ("uint8", b.shape)},
        zeros,
        output_dtypes=_Y,
    )
    _check(model, {"a": a, "b": b})


def test_convolutions_of_integers_are_exact_however_many_channels_they_add() -> None:
    x, weights = _integers("uint8", 1, 70, 5, 6), _integers("uint8", 2, 70, 3, 3)
    x[:, :, 0], weights[0] = 255, 255
    constants = {"w": weights, "zx": np.array(0, np.uint8), "zw": np.array(5, np.uint8)}
    nodes = [node("ConvInteger", "x w zx zw", pads=[1, 1, 0, 1])]
    _check(model_of(nodes, {"x": ("uint8", x.shape)}, constants, output_dtypes=_Y), {"x": x})


@pytest.mark.parametrize("values", [[-1.5, 0.25, 3], [2, 3, 4], [-4, -3, -1]])
def test_the_range_of_dynamic_quantization_holds_zero(values: list[float]) -> None:
    model = model_of(
        [node("DynamicQuantizeLinear", "x", "y scale zero")], {"x": (3,)}, outputs="y scale zero", output_dtypes=_LEVELS
    )
    _check(model, {"x": np.array(values, np.float32)})


def test_scales_and_zero_points_may_be_inputs() -> None:
    x = _RANDOM.normal(0, 20, (2, 3, 4)).astype(np.float32)
    nodes = [
        node("QuantizeLinear", "x scale zero", "q", axis=1),
        node("DequantizeLinear", "q scale zero", "r", axis=1),
    ]
    given = {"x": (2, 3, 4), "scale": (3,), "zero": ("uint8", (3,))}
    scale, zero = np.array([0.1, 0.5, 0.02], np.float32), np.array([0, 128, 255], np.uint8)
    _check(model_of(nodes, given, outputs="q r", output_dtypes=_LEVELS), {"x": x, "scale": scale, "zero": zero})
