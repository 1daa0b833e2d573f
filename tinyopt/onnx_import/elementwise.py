"""Arithmetic on two or more tensors and activation functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from tinyopt.ir import Attribute, Value
from tinyopt.onnx_import.builder import UNCLAMPED, Builder
from tinyopt.onnx_import.onnx_node import OnnxNode
from tinyopt.onnx_import.pointwise import extreme, general_clip, general_prelu, scalar

Rule = Callable[[Builder, OnnxNode], Sequence[Value]]


def _plain(op: str, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [builder.emit(op, [node.value(0)])]


def clip(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """Clip of real numbers; to bounds that are not known, or of integers: by Max and Min."""
    if not _is_limited_by_constants(builder, node):
        return general_clip(builder, node)
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


def _is_limited_by_constants(builder: Builder, node: OnnxNode) -> bool:
    bounds = [value for value in node.inputs[1:] if value is not None]
    return node.value(0).dtype == "float32" and all(builder.is_fixed(bound) for bound in bounds)


def _limit(key: str, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """Max and Min of one float tensor and constants of one element: a Clip; of anything else an operator."""
    node = builder.with_constants(node)
    varying = [value for value in node.inputs if value is not None and value.constant is None]
    limits = [value.data for value in node.inputs if value is not None and value.constant is not None]
    if len(varying) != 1 or not limits or any(limit.size != 1 for limit in limits) or varying[0].dtype != "float32":
        return extreme(builder, node)
    low_or_high = (max if key == "low" else min)(
        (float(limit.reshape(-1)[0]) for limit in limits), default=-math.inf if key == "low" else math.inf
    )
    shape = (1,) * max(value.type.rank for value in node.inputs if value is not None)
    result = builder.emit("Clip", [varying[0]], {"low": -math.inf, "high": math.inf, key: low_or_high})
    return [builder.reshape(result, (*shape[varying[0].type.rank :], *varying[0].shape))]


def _leaky_relu(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [builder.emit("LeakyRelu", [node.value(0)], {"alpha": node.real("alpha", 0.01)})]


def _prelu(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    if not builder.is_fixed(node.value(1)) or node.value(0).dtype != "float32":
        return general_prelu(builder, node)
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
    x, alpha = node.value(0), node.real("alpha", 1.0)
    steep = x if alpha == 1 else builder.emit("Mul", [x, scalar(builder, alpha, x)], UNCLAMPED)
    return [builder.emit("Mul", [x, builder.emit("Sigmoid", [steep])], UNCLAMPED)]


ELEMENTWISE_RULES: dict[tuple[str, str], Rule] = {
    **{("", op): partial(_plain, op) for op in ("Sigmoid", "Tanh", "HardSwish")},
    ("", "Max"): partial(_limit, "low"),
    ("", "Min"): partial(_limit, "high"),
    ("", "LeakyRelu"): _leaky_relu,
    ("", "PRelu"): _prelu,
    ("", "HardSigmoid"): _hard_sigmoid,
    ("", "Gelu"): _gelu,
    ("com.microsoft", "Gelu"): _gelu,
    ("", "Swish"): _swish,
}
