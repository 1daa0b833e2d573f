"""Arithmetic on two or more tensors and activation functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from tinyopt.ir import Attribute, Value
from tinyopt.onnx_import.builder import UNCLAMPED, Builder
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal

Rule = Callable[[Builder, OnnxNode], Sequence[Value]]


def _binary(op: str, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [builder.emit(op, [node.value(0), node.value(1)], UNCLAMPED)]


def _plain(op: str, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [builder.emit(op, [node.value(0)])]


def _sum(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    total = node.value(0)
    if len(node.inputs) == 1:
        return [builder.emit("Identity", [total])]
    for index in range(1, len(node.inputs)):
        total = builder.emit("Add", [total, node.value(index)], UNCLAMPED)
    return [total]


def clip(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """Clip of real numbers."""
    if node.opset < 11:
        low, high = node.real("min", -math.inf), node.real("max", math.inf)
    else:
        node = builder.with_constants(node)
        given = node.scalar_of(1, "minimum"), node.scalar_of(2, "maximum")
        low = -math.inf if given[0] is None else given[0]
        high = math.inf if given[1] is None else given[1]
    if math.isnan(low) or math.isnan(high):
        raise node.invalid(f"it clips to {low}..{high}")
    return [builder.emit("Clip", [node.value(0)], {"low": low, "high": high})]


def _limit(key: str, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """Max and Min of one tensor and constants of one element: a Clip."""
    node = builder.with_constants(node)
    varying = [value for value in node.inputs if value is not None and value.constant is None]
    limits = [value.data for value in node.inputs if value is not None and value.constant is not None]
    if len(varying) != 1 or any(limit.size != 1 for limit in limits):
        raise Refusal("tinyopt takes it for one tensor and constants of one element")
    low_or_high = (max if key == "low" else min)(
        (float(limit.reshape(-1)[0]) for limit in limits), default=-math.inf if key == "low" else math.inf
    )
    shape = (1,) * max(value.type.rank for value in node.inputs if value is not None)
    result = builder.emit("Clip", [varying[0]], {"low": -math.inf, "high": math.inf, key: low_or_high})
    return [builder.reshape(result, (*shape[varying[0].type.rank :], *varying[0].shape))]


def _leaky_relu(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [builder.emit("LeakyRelu", [node.value(0)], {"alpha": node.real("alpha", 0.01)})]


def _prelu(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    if not builder.is_fixed(node.value(1)):
        raise Refusal(f"non-constant slope '{node.value(1).name}'")
    return [builder.emit("PRelu", [node.value(0), node.value(1)])]


def _hard_sigmoid(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    attributes: dict[str, Attribute] = {"alpha": node.real("alpha", 0.2), "beta": node.real("beta", 0.5)}
    return [builder.emit("HardSigmoid", [node.value(0)], attributes)]


def _gelu(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    approximate = node.text("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise node.invalid(f"approximate is '{approximate}'")
    return [builder.emit("Gelu", [node.value(0)], {"approximate": approximate})]


def _swish(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    if node.real("alpha", 1.0) != 1:
        raise Refusal(f"alpha is {node.real('alpha', 1.0)}; tinyopt takes 1")
    return [builder.emit("Mul", [x, builder.emit("Sigmoid", [x])], UNCLAMPED)]


ELEMENTWISE_RULES: dict[tuple[str, str], Rule] = {
    **{("", op): partial(_binary, op) for op in ("Add", "Sub", "Mul", "Div")},
    **{("", op): partial(_plain, op) for op in ("Relu", "Sigmoid", "Tanh", "HardSwish")},
    ("", "Sum"): _sum,
    ("", "Max"): partial(_limit, "low"),
    ("", "Min"): partial(_limit, "high"),
    ("", "LeakyRelu"): _leaky_relu,
    ("", "PRelu"): _prelu,
    ("", "HardSigmoid"): _hard_sigmoid,
    ("", "Gelu"): _gelu,
    ("com.microsoft", "Gelu"): _gelu,
    ("", "Swish"): _swish,
}
