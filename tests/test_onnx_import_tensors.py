"""Reductions, operators along an axis, products and normalizations: import rules against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import assert_same_as_runtime, model_of, node

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
