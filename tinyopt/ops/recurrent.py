"""LSTM, GRU and RNN in one direction: the loop over time behind a Dense layer that has done all input products at once.

Inputs, None where absent (T steps, B sequences, H cells, G = 4, 3, 1 gates in ONNX's order iofc, zrh, one):
    gates [T, B, G*H]: input times weights plus the biases; r [H, G*H]: recurrent weights, transposed;
    h0 [B, H]; lengths int32 [B]: how many steps of each sequence there are;
    LSTM: c0 [B, H], peepholes [3*H] (i, o, f); GRU: b [H], the bias that is multiplied with the reset gate.
Outputs: y [T, B, H], zero behind the end of a sequence; y_h [B, H]; LSTM: y_c [B, H].
Attributes: reverse; clip (inf: none) of what goes into activations; activations, names separated by blanks, and their
alphas and betas; LSTM: input_forget (coupled gates); GRU: linear_before_reset.
Equations: the ONNX operators' specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.record import opaque_float_operator
from tinyopt.ops.rules import present, reals, require, require_rank, require_shape

GATES: Mapping[str, int] = {"LSTM": 4, "GRU": 3, "RNN": 1}
ACTIVATION_COUNTS: Mapping[str, int] = {"LSTM": 3, "GRU": 2, "RNN": 1}
LENGTHS = 3  # the index of the input


@dataclass(frozen=True)
class Activation:
    """An activation function with its parameters' defaults; None where it has no such parameter."""

    function: Callable[[Array, float, float], Array]
    alpha: float | None = None
    beta: float | None = None


def _sigmoid(x: Array, _alpha: float, _beta: float) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


ACTIVATIONS: Mapping[str, Activation] = {
    "Relu": Activation(lambda x, _a, _b: np.maximum(x, 0)),
    "Tanh": Activation(lambda x, _a, _b: np.tanh(x)),
    "Sigmoid": Activation(_sigmoid),
    "Softsign": Activation(lambda x, _a, _b: x / (1 + np.abs(x))),
    "Softplus": Activation(lambda x, _a, _b: np.logaddexp(0, x)),
    "Affine": Activation(lambda x, alpha, beta: alpha * x + beta, 1.0, 0.0),
    "LeakyRelu": Activation(lambda x, alpha, _b: np.where(x < 0, alpha * x, x), 0.01),
    "ThresholdedRelu": Activation(lambda x, alpha, _b: np.where(x > alpha, x, 0), 1.0),
    "ScaledTanh": Activation(lambda x, alpha, beta: alpha * np.tanh(beta * x), 1.0, 1.0),
    "HardSigmoid": Activation(lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1), 0.2, 0.5),
    "Elu": Activation(lambda x, alpha, _b: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x), 1.0),
}


def _infer(node: Node) -> list[TensorType]:
    gates, weights = node.input(0), node.input(1)
    require_rank(node, gates, 3)
    require_rank(node, weights, 2)
    cells = weights.shape[0]
    wide = GATES[node.op] * cells
    require(gates.shape[2] == weights.shape[1] == wide, node, f"gates {gates.shape} do not fit weights {weights.shape}")
    steps, batch, _ = gates.shape
    state = (batch, cells)
    require_shape(node, node.optional_input(2), state)
    require_shape(node, node.optional_input(LENGTHS), (batch,))
    if node.op == "LSTM":
        require_shape(node, node.optional_input(4), state)
        require_shape(node, node.optional_input(5), (3 * cells,))
    elif node.op == "GRU":
        require_shape(node, node.optional_input(4), (cells,))
        is_used = node.optional_input(4) is None or bool(node.int("linear_before_reset"))
        require(is_used, node, "the reset gate comes before the products: their bias is one of the gates'")
    _check_types(node)
    names = node.str("activations").split()
    counts = {len(names), len(reals(node, "alphas")), len(reals(node, "betas"))}
    require(counts == {ACTIVATION_COUNTS[node.op]}, node, f"it has {len(names)} activations")
    require(all(name in ACTIVATIONS for name in names), node, f"an activation of {', '.join(names)} is unknown")
    states = 2 if node.op == "LSTM" else 1
    return [TensorType("float32", (steps, *state)), *[TensorType("float32", state)] * states]


def _check_types(node: Node) -> None:
    for index, value in enumerate(node.inputs):
        wanted = "int32" if index == LENGTHS else "float32"
        if value is not None:
            require(value.dtype == wanted, node, f"input '{value.name}' is {value.dtype}, not {wanted}")


@dataclass(frozen=True)
class _Run:
    """The arrays of one run, and its activations with clipping before them."""

    node: Node
    arrays: Sequence[Array | None]

    @property
    def weights(self) -> Array:
        return present(self.arrays[1])

    def activate(self, index: int, x: Array) -> Array:
        name, limit = self.node.str("activations").split()[index], np.float32(self.node.float("clip"))
        alpha, beta = (float(np.float32(reals(self.node, key)[index])) for key in ("alphas", "betas"))
        function = ACTIVATIONS[name].function
        return np.asarray(function(np.clip(x, -limit, limit), alpha, beta), np.float32)

    def state(self, index: int) -> Array:
        """The initial state that input `index` gives; zeros where it is absent."""
        given = self.arrays[index]
        shape = (present(self.arrays[0]).shape[1], self.weights.shape[0])
        return np.zeros(shape, np.float32) if given is None else given

    def step(self, gates: Array, hidden: Array, cell: Array) -> tuple[Array, Array]:
        """The next hidden state and cell state of all sequences."""
        return _STEPS[self.node.op](self, gates, hidden, cell)


def _lstm_step(run: _Run, gates: Array, hidden: Array, cell: Array) -> tuple[Array, Array]:
    i, o, f, c = np.split(gates + hidden @ run.weights, 4, axis=1)
    peepholes = run.arrays[5]
    p_i, p_o, p_f = np.split(peepholes, 3) if peepholes is not None else (np.float32(0),) * 3
    i = run.activate(0, i + p_i * cell)
    f = 1 - i if run.node.int("input_forget") else run.activate(0, f + p_f * cell)
    cell = f * cell + i * run.activate(1, c)
    return run.activate(0, o + p_o * cell) * run.activate(2, cell), cell


def _gru_step(run: _Run, gates: Array, hidden: Array, cell: Array) -> tuple[Array, Array]:
    w_z, w_r, w_h = np.split(run.weights, 3, axis=1)
    g_z, g_r, g_h = np.split(gates, 3, axis=1)
    z, r = run.activate(0, g_z + hidden @ w_z), run.activate(0, g_r + hidden @ w_r)
    bias = run.arrays[4] if run.arrays[4] is not None else np.float32(0)
    product = r * (hidden @ w_h + bias) if run.node.int("linear_before_reset") else (r * hidden) @ w_h
    return (1 - z) * run.activate(1, g_h + product) + z * hidden, cell


def _rnn_step(run: _Run, gates: Array, hidden: Array, cell: Array) -> tuple[Array, Array]:
    return run.activate(0, gates + hidden @ run.weights), cell


_STEPS: Mapping[str, Callable[[_Run, Array, Array, Array], tuple[Array, Array]]] = {
    "LSTM": _lstm_step,
    "GRU": _gru_step,
    "RNN": _rnn_step,
}


def _evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    run, gates = _Run(node, arrays), present(arrays[0])
    hidden = run.state(2)
    cell = run.state(4) if node.op == "LSTM" else hidden
    steps, batch, _ = gates.shape
    lengths = arrays[LENGTHS] if arrays[LENGTHS] is not None else np.full(batch, steps)
    result = np.zeros((steps, *hidden.shape), np.float32)
    for time in reversed(range(steps)) if node.int("reverse") else range(steps):
        runs = (time < present(lengths))[:, None]
        new_hidden, new_cell = run.step(gates[time], hidden, cell)
        hidden, cell = np.where(runs, new_hidden, hidden), np.where(runs, new_cell, cell)
        result[time] = np.where(runs, new_hidden, 0)
    return [result, hidden, cell] if node.op == "LSTM" else [result, hidden]


def _macs(node: Node) -> int:
    steps, batch, _ = node.input(0).shape
    return steps * batch * node.input(1).type.elements


RECURRENT_OPERATORS = tuple(opaque_float_operator(name, _infer, _evaluate, _macs) for name in GATES)
