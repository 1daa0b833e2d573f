"""Functions of one float32 tensor, element by element; all may work in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Overlap, Refusal
from tinyopt.targets.kernels.scalar.loops import clamp_float
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc, constant, math_call, maximum, select


@dataclass(frozen=True)
class UnarySpec:
    """function: a key of `FUNCTIONS`; parameters: what it takes beside the element."""

    function: str
    parameters: tuple[float, ...]
    elements: int


def _number(value: float) -> Expr:
    return constant(value, "float32")


def _relu(x: Expr) -> Expr:
    return maximum(x, _number(0))


def _leaky_relu(x: Expr, alpha: float) -> Expr:
    return select(x < _number(0), x * _number(alpha), x)


def _sigmoid(x: Expr) -> Expr:
    return _number(1) / (_number(1) + math_call("expf", _number(0) - x))


def _tanh(x: Expr) -> Expr:
    return math_call("tanhf", x)


def _hard_sigmoid(x: Expr, alpha: float, beta: float) -> Expr:
    return clamp_float(x * _number(alpha) + _number(beta), 0, 1)


def _hard_swish(x: Expr) -> Expr:
    return x * _hard_sigmoid(x, 1 / 6, 0.5)


def _gelu(x: Expr) -> Expr:
    return _number(0.5) * x * (_number(1) + math_call("erff", x * _number(math.sqrt(0.5))))


def _gelu_tanh(x: Expr) -> Expr:
    inner = _number(math.sqrt(2 / math.pi)) * (x + _number(0.044715) * x * x * x)
    return _number(0.5) * x * (_number(1) + math_call("tanhf", inner))


FUNCTIONS: Mapping[str, Callable[..., Expr]] = {
    "relu": _relu,
    "clip": clamp_float,
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}


def plan_relu(node: Node) -> Kernel | Refusal:
    """Relu."""
    return _plan(node, "relu")


def plan_clip(node: Node) -> Kernel | Refusal:
    """Clip."""
    return _plan(node, "clip", node.float("low"), node.float("high"))


def plan_leaky_relu(node: Node) -> Kernel | Refusal:
    """LeakyRelu."""
    return _plan(node, "leaky_relu", node.float("alpha"))


def plan_sigmoid(node: Node) -> Kernel | Refusal:
    """Sigmoid."""
    return _plan(node, "sigmoid")


def plan_tanh(node: Node) -> Kernel | Refusal:
    """Tanh."""
    return _plan(node, "tanh")


def plan_hard_sigmoid(node: Node) -> Kernel | Refusal:
    """HardSigmoid."""
    return _plan(node, "hard_sigmoid", node.float("alpha"), node.float("beta"))


def plan_hard_swish(node: Node) -> Kernel | Refusal:
    """HardSwish."""
    return _plan(node, "hard_swish")


def plan_gelu(node: Node) -> Kernel | Refusal:
    """Gelu, by erf or approximated by tanh."""
    return _plan(node, {"none": "gelu", "tanh": "gelu_tanh"}[node.str("approximate")])


def _plan(node: Node, function: str, *parameters: float) -> Kernel:
    spec = UnarySpec(function, parameters, node.output.type.elements)
    return Kernel(
        apply_function, spec, f"{function}_f32", (InputArgument(0), OutputArgument(0)), overlaps=(Overlap.in_place(0),)
    )


def apply_function(spec: UnarySpec) -> PrimFunc:
    """y = function(x), element by element."""
    kernel = KernelBuilder(f"{spec.function}_f32")
    with kernel.function():
        x = kernel.buffer("x", "float32", spec.elements)
        y = kernel.buffer("y", "float32", spec.elements)
        with kernel.loop(spec.elements) as i:
            y[i] = FUNCTIONS[spec.function](kernel.let(x[i]), *spec.parameters)
    return kernel.finish()
