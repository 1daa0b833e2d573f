"""LSTM, GRU and RNN: every attribute against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import assert_same_as_runtime, model_of, node

from tinyopt.ir import Array

_STEPS, _BATCH, _INPUTS, _CELLS = 5, 2, 3, 4
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_RANDOM = np.random.default_rng(3)


def _constants(op: str, directions: int) -> dict[str, Array]:
    gates = _GATES[op]
    shapes = {
        "w": (directions, gates * _CELLS, _INPUTS),
        "r": (directions, gates * _CELLS, _CELLS),
        "b": (directions, 2 * gates * _CELLS),
        "h": (directions, _BATCH, _CELLS),
        "c": (directions, _BATCH, _CELLS),
        "p": (directions, 3 * _CELLS),
    }
    arrays = {name: _RANDOM.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    return {**arrays, "l": np.array([3, 5], np.int32)}


def _check(op: str, inputs: str, outputs: str, varying: tuple[str, ...] = (), **attributes: Any) -> None:
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    arrays = {name: array for name, array in _constants(op, directions).items() if name in inputs.split()}
    given = {name: (array.dtype.name, array.shape) for name, array in arrays.items() if name in varying}
    constants = {name: array for name, array in arrays.items() if name not in varying}
    layer = node(op, inputs, outputs, hidden_size=_CELLS, **attributes)
    x = {"x": (_STEPS, _BATCH, _INPUTS), **given}
    assert_same_as_runtime(model_of([layer], x, constants, outputs=" ".join(outputs.replace("-", "").split())))


@pytest.mark.parametrize("op", list(_GATES))
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_every_direction_with_short_sequences_and_initial_states(op: str, direction: str) -> None:
    states = "h c p" if op == "LSTM" else "h"
    _check(op, f"x w r b l {states}", "y yh yc" if op == "LSTM" else "y yh", direction=direction)


@pytest.mark.parametrize("op", list(_GATES))
def test_weights_may_be_computed(op: str) -> None:
    _check(op, "x w r b", "- yh", varying=("w", "r", "b"), direction="bidirectional")


@pytest.mark.parametrize("before", [0, 1])
def test_gru_with_the_reset_gate_before_and_behind_the_products(before: int) -> None:
    _check("GRU", "x w r b - h", "y", linear_before_reset=before, varying=("b", "h"))


def test_parameters_go_to_the_activations_that_have_them() -> None:
    names = ["HardSigmoid", "Tanh", "LeakyRelu"]
    parameters: dict[str, Any] = {"activation_alpha": [0.3, 0.4], "activation_beta": [0.45]}
    _check("LSTM", "x w r", "y yh yc", activations=names, clip=0.9, **parameters)
