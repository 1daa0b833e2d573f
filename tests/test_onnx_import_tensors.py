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
