"""LSTM, GRU and RNN: one loop over time, so that code does not grow with the sequence.

The hidden and cell states live in the outputs that give the last ones. All products of a step with the recurrent
weights are summed up in working memory before any state changes; the weights lie transposed, so that the innermost
loop runs along memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

from tinyopt.ir import Node
from tinyopt.ops.recurrent import GATES, LENGTHS
from tinyopt.ops.rules import reals
from tinyopt.targets.kernel import Argument, InputArgument, Kernel, OutputArgument, Refusal, ScratchArgument
from tinyopt.targets.kernels.scalar.loops import clamp_float
from tinyopt.targets.kernels.tir import (
    Buffer,
    Expr,
    KernelBuilder,
    PrimFunc,
    constant,
    math_call,
    maximum,
    minimum,
    select,
)

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class ActivationSpec:
    """A key of `_ACTIVATIONS` and its parameters."""

    name: str
    alpha: float
    beta: float


@dataclass(frozen=True)
class RecurrentSpec:
    """inputs: which of the node's inputs there are. variant: input_forget of LSTM, linear_before_reset of GRU."""

    kind: str
    steps: int
    batch: int
    cells: int
    inputs: tuple[bool, ...]
    is_reverse: bool
    clip: float
    activations: tuple[ActivationSpec, ...]
    variant: bool

    @property
    def width(self) -> int:
        """The sums of one step of one sequence."""
        return GATES[self.kind] * self.cells


_VARIANTS: Mapping[str, str] = {"LSTM": "input_forget", "GRU": "linear_before_reset"}


def plan_recurrent(node: Node) -> Kernel | Refusal:
    """LSTM, GRU and RNN in float32."""
    steps, batch, _ = node.input(0).shape
    parameters = zip(node.str("activations").split(), reals(node, "alphas"), reals(node, "betas"), strict=True)
    spec = RecurrentSpec(
        node.op,
        steps,
        batch,
        node.input(1).shape[0],
        tuple(value is not None for value in node.inputs),
        bool(node.int("reverse")),
        node.float("clip"),
        tuple(ActivationSpec(*each) for each in parameters),
        node.op in _VARIANTS and bool(node.int(_VARIANTS[node.op])),
    )
    arguments: list[Argument] = [InputArgument(i) for i, is_there in enumerate(spec.inputs) if is_there]
    arguments += [OutputArgument(i) for i in range(len(node.outputs))]
    arguments.append(ScratchArgument(_FLOAT_BYTES * (spec.width + spec.cells), _FLOAT_BYTES))
    return Kernel(recurrent, spec, f"{node.op.lower()}_f32", tuple(arguments))


def _number(value: float) -> Expr:
    return constant(value, "float32")


def _sigmoid(x: Expr, _alpha: float, _beta: float) -> Expr:
    return _number(1) / (_number(1) + math_call("expf", _number(0) - x))


def _softplus(x: Expr, _alpha: float, _beta: float) -> Expr:
    magnitude = maximum(x, _number(0) - x)
    return maximum(x, _number(0)) + math_call("log1pf", math_call("expf", _number(0) - magnitude))


def _elu(x: Expr, alpha: float, _beta: float) -> Expr:
    return select(x < _number(0), _number(alpha) * math_call("expm1f", minimum(x, _number(0))), x)


_ACTIVATIONS: Mapping[str, Callable[[Expr, float, float], Expr]] = {
    "Relu": lambda x, _a, _b: maximum(x, _number(0)),
    "Tanh": lambda x, _a, _b: math_call("tanhf", x),
    "Sigmoid": _sigmoid,
    "Softsign": lambda x, _a, _b: x / (_number(1) + maximum(x, _number(0) - x)),
    "Softplus": _softplus,
    "Affine": lambda x, alpha, beta: _number(alpha) * x + _number(beta),
    "LeakyRelu": lambda x, alpha, _b: select(x < _number(0), _number(alpha) * x, x),
    "ThresholdedRelu": lambda x, alpha, _b: select(x > _number(alpha), x, _number(0)),
    "ScaledTanh": lambda x, alpha, beta: _number(alpha) * math_call("tanhf", _number(beta) * x),
    "HardSigmoid": lambda x, alpha, beta: clamp_float(_number(alpha) * x + _number(beta), 0, 1),
    "Elu": _elu,
}


@dataclass(frozen=True)
class _Step:
    """One step of one sequence: where its inputs, sums and states lie."""

    kernel: KernelBuilder
    spec: RecurrentSpec
    inputs: Mapping[int, Buffer]
    hidden: Buffer  # [B, H]
    cell: Buffer | None  # [B, H], of an LSTM
    sums: Buffer  # [G * H], and H more
    sequence: Expr

    @property
    def state(self) -> Expr:
        """Where the sequence's states begin."""
        return self.sequence * self.spec.cells

    def activate(self, index: int, x: Expr) -> Expr:
        chosen, clip = self.spec.activations[index], self.spec.clip
        clipped = self.kernel.let(clamp_float(x, -clip, clip) if isfinite(clip) else x)
        return self.kernel.let(_ACTIVATIONS[chosen.name](clipped, chosen.alpha, chosen.beta))

    def gate(self, number: int, j: Expr) -> Expr:
        """The sum of gate `number` for cell j."""
        return self.sums[number * self.spec.cells + j]

    def add_products(self, states: Buffer, start: Expr, first: int, count: int) -> None:
        """Add states[start + k] times row k of the recurrent weights to `count` sums from `first` on."""
        with self.kernel.loop(self.spec.cells) as k:
            state = self.kernel.let(states[start + k])
            with self.kernel.loop(count) as j:
                weight = self.inputs[1][k * self.spec.width + first + j]
                self.sums[first + j] = self.sums[first + j] + state * weight


def recurrent(spec: RecurrentSpec) -> PrimFunc:
    """The loop over time; see tinyopt.ops.recurrent for the equations."""
    kernel = KernelBuilder(f"{spec.kind.lower()}_f32")
    state = spec.batch * spec.cells
    with kernel.function():
        inputs = {
            i: kernel.buffer(f"x{i}", "int32" if i == LENGTHS else "float32", size)
            for i, size in enumerate(_input_sizes(spec))
            if spec.inputs[i]
        }
        y = kernel.buffer("y", "float32", spec.steps * state)
        hidden = kernel.buffer("hidden", "float32", state)
        cell = kernel.buffer("cell", "float32", state) if spec.kind == "LSTM" else None
        sums = kernel.buffer("sums", "float32", spec.width + spec.cells)
        _start(kernel, state, hidden, inputs.get(2))
        if cell is not None:
            _start(kernel, state, cell, inputs.get(4))
        with kernel.loop(spec.steps) as step, kernel.loop(spec.batch) as sequence:
            time = kernel.let(spec.steps - 1 - step if spec.is_reverse else step)
            one = _Step(kernel, spec, inputs, hidden, cell, sums, sequence)
            row = kernel.let((time * spec.batch + sequence) * spec.cells)
            if spec.inputs[LENGTHS]:
                _run_while_it_lasts(one, time, y, row)
            else:
                _run_step(one, time, y, row)
    return kernel.finish()


def _input_sizes(spec: RecurrentSpec) -> tuple[int, ...]:
    state = spec.batch * spec.cells
    own = {"LSTM": (state, 3 * spec.cells), "GRU": (spec.cells,), "RNN": ()}[spec.kind]
    return (spec.steps * spec.batch * spec.width, spec.cells * spec.width, state, spec.batch, *own)


def _start(kernel: KernelBuilder, elements: int, state: Buffer, given: Buffer | None) -> None:
    with kernel.loop(elements) as i:
        state[i] = _number(0) if given is None else given[i]


def _run_while_it_lasts(step: _Step, time: Expr, y: Buffer, row: Expr) -> None:
    """One step, or zeros behind the end of the sequence."""
    kernel = step.kernel
    with kernel.when_else(time < step.inputs[LENGTHS][step.sequence]) as (then, other):
        with then:
            _run_step(step, time, y, row)
        with other, kernel.loop(step.spec.cells) as j:
            y[row + j] = _number(0)


def _run_step(step: _Step, time: Expr, y: Buffer, row: Expr) -> None:
    spec, kernel = step.spec, step.kernel
    with kernel.loop(spec.width) as j:
        step.sums[j] = step.inputs[0][(time * spec.batch + step.sequence) * spec.width + j]
    _UPDATES[spec.kind](step)
    with kernel.loop(spec.cells) as j:
        y[row + j] = step.hidden[step.state + j]


def _update_lstm(step: _Step) -> None:
    spec, cell = step.spec, step.cell
    assert cell is not None
    step.add_products(step.hidden, step.state, 0, spec.width)
    with step.kernel.loop(spec.cells) as j:
        old = step.kernel.let(cell[step.state + j])

        def peeped(gate: int, peephole: int, state: Expr) -> Expr:
            if not spec.inputs[5]:
                return step.gate(gate, j)
            return step.gate(gate, j) + step.inputs[5][peephole * spec.cells + j] * state

        i = step.activate(0, peeped(0, 0, old))
        f = _number(1) - i if spec.variant else step.activate(0, peeped(2, 2, old))
        new = step.kernel.let(f * old + i * step.activate(1, step.gate(3, j)))
        o = step.activate(0, peeped(1, 1, new))
        cell[step.state + j] = new
        step.hidden[step.state + j] = o * step.activate(2, new)


def _update_gru(step: _Step) -> None:
    spec, cells = step.spec, step.spec.cells
    kernel, sums = step.kernel, step.sums
    step.add_products(step.hidden, step.state, 0, 2 * cells)
    with kernel.loop(2 * cells) as j:
        sums[j] = step.activate(0, sums[j])
    if spec.variant:
        _add_reset_products(step)
    else:
        with kernel.loop(cells) as j:
            sums[3 * cells + j] = step.gate(1, j) * step.hidden[step.state + j]
        step.add_products(sums, 3 * cells, 2 * cells, cells)
    with kernel.loop(cells) as j:
        z, old = kernel.let(step.gate(0, j)), kernel.let(step.hidden[step.state + j])
        step.hidden[step.state + j] = (_number(1) - z) * step.activate(1, step.gate(2, j)) + z * old


def _add_reset_products(step: _Step) -> None:
    """linear_before_reset: sums of gate h += r * (hidden @ W_h + b)."""
    spec, cells, sums = step.spec, step.spec.cells, step.sums
    with step.kernel.loop(cells) as j:
        sums[3 * cells + j] = step.inputs[4][j] if spec.inputs[4] else _number(0)
    with step.kernel.loop(cells) as k:
        state = step.kernel.let(step.hidden[step.state + k])
        with step.kernel.loop(cells) as j:
            sums[3 * cells + j] = sums[3 * cells + j] + state * step.inputs[1][k * spec.width + 2 * cells + j]
    with step.kernel.loop(cells) as j:
        sums[2 * cells + j] = sums[2 * cells + j] + step.gate(1, j) * sums[3 * cells + j]


def _update_rnn(step: _Step) -> None:
    step.add_products(step.hidden, step.state, 0, step.spec.cells)
    with step.kernel.loop(step.spec.cells) as j:
        step.hidden[step.state + j] = step.activate(0, step.sums[j])


_UPDATES: Mapping[str, Callable[[_Step], None]] = {"LSTM": _update_lstm, "GRU": _update_gru, "RNN": _update_rnn}
