"""BatchNormalization, and normalizations by layer, group, instance, norm and neighbouring channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Attribute, Value
from tinyopt.onnx_import.builder import UNCLAMPED, Builder
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.onnx_import.pointwise import Rule, scalar


def _layer(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    node = builder.with_constants(node)
    x = node.value(0)
    axis = node.axis(node.integer("axis", -1), x.type.rank)
    scale, bias = node.optional(1), node.optional(2)
    is_exact = all(value is None or value.shape == x.shape[axis:] for value in (scale, bias))
    attributes: dict[str, Attribute] = {"axis": axis, "epsilon": node.real("epsilon", 1e-5)}
    count = 3 if node.is_used(1) or node.is_used(2) else 1
    if is_exact:
        return builder.emit_many("LayerNormalization", [x, scale, bias], attributes, count)
    y, *statistics = builder.emit_many("LayerNormalization", [x, None, None], attributes, count)
    return [_scaled(builder, y, scale, bias), *statistics]


def _rms(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    node = builder.with_constants(node)
    x, scale = node.value(0), node.value(1)
    axis = node.axis(node.integer("axis", -1), x.type.rank)
    attributes: dict[str, Attribute] = {"axis": axis, "epsilon": node.real("epsilon", 1e-5)}
    if scale.shape == x.shape[axis:]:
        return [builder.emit("RMSNormalization", [x, scale], attributes)]
    return [_scaled(builder, builder.emit("RMSNormalization", [x, None], attributes), scale, None)]


def _scaled(builder: Builder, y: Value, scale: Value | None, bias: Value | None) -> Value:
    y = y if scale is None else builder.emit("Mul", [y, scale], UNCLAMPED)
    return y if bias is None else builder.emit("Add", [y, bias], UNCLAMPED)


def _normalized_groups(builder: Builder, node: OnnxNode, groups: int) -> Value:
    """x [N, C, ...] with each of `groups` groups of channels normalized by itself."""
    x = node.value(0)
    if x.type.rank < 2 or groups < 1 or x.shape[1] % groups:
        raise node.invalid(f"input '{x.name}' of shape {x.shape} has no {groups} groups of channels")
    rows = builder.reshape(x, (x.shape[0] * groups, math.prod(x.shape[1:]) // groups))
    attributes: dict[str, Attribute] = {"axis": 1, "epsilon": node.real("epsilon", 1e-5)}
    return builder.reshape(builder.emit("LayerNormalization", [rows, None, None], attributes), x.shape)


def _by_channel(builder: Builder, value: Value, rank: int) -> Value:
    """[C] as [C, 1, ...], so that it broadcasts over [N, C, ...] of `rank` dimensions."""
    return builder.reshape(value, (*value.shape, *(1,) * (rank - 2)))


def _instance(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    node = builder.with_constants(node)
    x = node.value(0)
    y = _normalized_groups(builder, node, x.shape[1] if x.type.rank > 1 else 0)
    scale, bias = (_by_channel(builder, node.value(index), x.type.rank) for index in (1, 2))
    return [_scaled(builder, y, scale, bias)]


def _group(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """Scale and bias are one for each channel: the form with one for each group, of opset 18, is deprecated."""
    node = builder.with_constants(node)
    y = _normalized_groups(builder, node, int(node.required("num_groups")))
    scale, bias = (_by_channel(builder, node.value(index), y.type.rank) for index in (1, 2))
    return [_scaled(builder, y, scale, bias)]


def _lp(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """x / norm; where the norm is 0, so is x, which stays."""
    x, p = node.value(0), node.integer("p", 2)
    if p not in (1, 2):
        raise node.invalid(f"p is {p}; it is 1 or 2")
    axis = node.axis(node.integer("axis", -1), x.type.rank)
    norm = builder.emit(f"ReduceL{p}", [x], {"axes": (axis,), "keepdims": 1})
    is_zero = builder.pointwise("Equal", [norm, scalar(builder, 0, norm)])
    divisor = builder.pointwise("Where", [is_zero, scalar(builder, 1, norm), norm])
    return [builder.emit("Div", [x, divisor], UNCLAMPED)]


def _lrn(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    size = int(node.required("size"))
    if size % 2 == 0:
        raise Refusal(f"size is {size}; tinyopt takes odd ones, which have as many neighbours on both sides")
    attributes: dict[str, Attribute] = {
        "size": size,
        "alpha": node.real("alpha", 1e-4),
        "beta": node.real("beta", 0.75),
        "bias": node.real("bias", 1.0),
    }
    return [builder.emit("LRN", [node.value(0)], attributes)]


def _batch(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """The statistics are those of training; where they are computed, so is the normalization."""
    if node.integer("training_mode", 0) or any(node.is_used(index) for index in range(1, 5)):
        raise Refusal("it is in training mode: export the model for inference")
    if not node.integer("spatial", 1):
        raise Refusal("it normalizes every element by itself (spatial=0)")
    node = builder.with_constants(node)
    x, parameters = node.value(0), [node.value(index) for index in range(1, 5)]
    epsilon = node.real("epsilon", 1e-5)
    if all(value.is_constant for value in parameters):
        return [builder.emit("BatchNormalization", [x, *parameters], {"epsilon": epsilon, "axis": 1})]
    scale, bias, mean, variance = (_by_channel(builder, value, x.type.rank) for value in parameters)
    guarded = builder.emit("Add", [variance, builder.constant(np.array(epsilon, np.float32), "epsilon")], UNCLAMPED)
    factor = builder.emit("Div", [scale, builder.pointwise("Sqrt", [guarded])], UNCLAMPED)
    centred = builder.emit("Sub", [x, mean], UNCLAMPED)
    return [_scaled(builder, centred, factor, bias)]


NORMALIZATION_RULES: dict[tuple[str, str], Rule] = {
    ("", "LayerNormalization"): _layer,
    ("", "RMSNormalization"): _rms,
    ("", "InstanceNormalization"): _instance,
    ("", "GroupNormalization"): _group,
    ("", "LpNormalization"): _lp,
    ("", "LRN"): _lrn,
    ("", "BatchNormalization"): _batch,
}
