"""How LSTM, GRU and RNN are written in ONNX: their input products are done, so that the input weights are the unit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinyopt.ir import Node, Value
from tinyopt.onnx_export.emitter import Emitter, ExportRule
from tinyopt.ops.recurrent import ACTIVATIONS, GATES
from tinyopt.ops.rules import reals


def _recurrent(node: Node, emit: Emitter) -> None:
    gates, weights = node.input(0), node.input(1)
    cells, width = weights.shape[0], gates.shape[2]
    attributes: dict[str, Any] = {
        "hidden_size": cells,
        "direction": "reverse" if node.int("reverse") else "forward",
        **_activations(node),
    }
    for key in ("input_forget", "linear_before_reset"):
        if key in node.attributes:
            attributes[key] = node.int(key)
    if math.isfinite(node.float("clip")):
        attributes["clip"] = node.float("clip")
    inputs = [
        emit.value(gates),
        _unit_weights(node, emit, width),
        _shaped(node, emit, emit.transposed(weights, (1, 0)), (1, width, cells)),
        _late_bias(node, emit, cells, width),
        emit.value(node.inputs[3]),
        *(_with_direction(node, emit, value) for value in (node.inputs[2], *_own_inputs(node))),
    ]
    results = emit.many(node.op, *inputs, name=node.name, outputs=len(node.outputs), **attributes)
    for result, output in zip(results, node.outputs, strict=True):
        emit.bind(_shaped(node, emit, result, output.shape), output)


def _activations(node: Node) -> dict[str, Any]:
    """ONNX lists parameters for those activations alone that have them."""
    names = node.str("activations").split()
    listed = list(zip(names, reals(node, "alphas"), reals(node, "betas"), strict=True))
    alphas = [alpha for name, alpha, _ in listed if ACTIVATIONS[name].alpha is not None]
    betas = [beta for name, _, beta in listed if ACTIVATIONS[name].beta is not None]
    chosen: dict[str, Any] = {"activations": names}
    chosen |= {"activation_alpha": alphas} if alphas else {}
    return chosen | ({"activation_beta": betas} if betas else {})


def _unit_weights(node: Node, emit: Emitter, width: int) -> str:
    """[1, width, width], made at run time: stored it would be much larger than the model."""
    zeros = emit("ConstantOfShape", emit.ints((width, width), f"{node.name}/unit"))
    return _shaped(node, emit, emit("EyeLike", zeros), (1, width, width))


def _late_bias(node: Node, emit: Emitter, cells: int, width: int) -> str:
    """[1, 2 * width] of zeros but for a GRU's bias behind its reset gate, the last of the recurrent biases."""
    if node.op != "GRU" or node.inputs[4] is None:
        return ""
    zeros = emit.array(np.zeros(2 * width - cells, np.float32), f"{node.name}/zeros")
    bias = emit("Concat", zeros, emit.value(node.inputs[4]), axis=0)
    return _shaped(node, emit, bias, (1, 2 * width))


def _own_inputs(node: Node) -> Sequence[Value | None]:
    return node.inputs[4:] if node.op == "LSTM" else ()


def _with_direction(node: Node, emit: Emitter, value: Value | None) -> str:
    return "" if value is None else _shaped(node, emit, emit.value(value), (1, *value.shape))


def _shaped(node: Node, emit: Emitter, tensor: str, shape: Sequence[int]) -> str:
    return emit("Reshape", tensor, emit.ints(shape, f"{node.name}/shape"))


RECURRENT_RULES: Mapping[str, ExportRule] = dict.fromkeys(GATES, _recurrent)
