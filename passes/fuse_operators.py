"""Fuse a layer with its bias, the residual that is added to it, and its activation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinyopt.ir import Attribute, Graph, Node, Value
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.linear_layers import LAYERS_WITH_BIAS, has_residual, is_finished, output_axis, per_channel
from tinyopt.passes.rewriting import (
    Rearranged,
    Rewriter,
    StoredConstant,
    is_unclamped,
    rewrite,
    stored_constant,
    with_array,
)
from tinyopt.passes.simplify_arithmetic import clamp_of, composed_clamp

_CLAMPED = ("Conv", "ConvTranspose", "Dense", "Add", "Sub", "Mul", "Div", "AveragePool")
_TAKES_RESIDUAL = ("Conv", "Dense")
_UNCLAMPED: dict[str, Attribute] = {"clamp_low": -math.inf, "clamp_high": math.inf}


@dataclass(frozen=True)
class FuseOperators(Pass):
    """Make one node of a layer, its bias, the residual added to it, and its activation.

    What: MatMul by a constant matrix becomes Dense, its weights transposed; an Add of one constant per channel becomes
        the bias; an Add of another tensor becomes the residual of the Conv or Dense before it; Relu and Clip become the
        clamp of the Conv, ConvTranspose, Dense, Add, Sub, Mul, Div or AveragePool before them.
    Before -> After: Relu(Add(Conv(x, w, b), y)) -> Conv(x, w, b, residual y, clamp 0..inf)
    Exactness: the outputs keep every bit, but where two biases become one: there they move by float32 rounding.
    Refuses when: what comes between has another reader; the residual comes after a clamp or has another shape; integers
        stand between, for their rounding is part of the model.
    Source: the usual epilogue fusion of inference compilers; Chen et al., arXiv:1802.04799, section 3.
    """

    name: ClassVar[str] = "fuse-operators"

    def run(self, graph: Graph, context: PassContext) -> bool:
        return rewrite(graph, context, (_dense_from_matmul, _fuse_bias, _fuse_residual, _fuse_clamp))


def _dense_from_matmul(rewriter: Rewriter, node: Node) -> bool:
    """MatMul(x, constant [K, N]) -> Dense(x, constant [N, K])."""
    if node.op != "MatMul":
        return False
    stored = stored_constant(rewriter, node.input(1))
    if stored is None:
        return False
    if stored.value.type.rank != 2 or stored.value.clusters is not None:
        what = "is clustered" if stored.value.clusters is not None else f"has shape {stored.value.shape}"
        return rewriter.decline(f"MatMul '{node.name}' is no Dense: its constant '{stored.value.name}' {what}", node)
    weights = with_array(
        rewriter, stored, f"{stored.value.name}_transposed", stored.value.data.T, lambda axis: 1 - axis
    )
    dense = Node("Dense", node.name, [node.input(0), weights.operand, None, None], [node.output], dict(_UNCLAMPED))
    rewriter.replace([node], [dense], f"MatMul '{node.name}' by a constant is a Dense layer", weights.new_nodes)
    return True


def _fuse_bias(rewriter: Rewriter, node: Node) -> bool:
    """Add(Conv(x, w, b), constant per channel) -> Conv(x, w, b + constant)."""
    if node.op != "Add":
        return False
    for value, other in _operand_orders(node):
        layer, stored = rewriter.producer(value), stored_constant(rewriter, other)
        if layer is None or layer.op not in LAYERS_WITH_BIAS or stored is None:
            continue
        reason = _bias_refusal(rewriter, layer, stored, node)
        if reason is not None:
            where = f"'{stored.value.name}' of Add '{node.name}'"
            return rewriter.decline(f"{where} is no bias of {layer.op} '{layer.name}': {reason}", node)
        bias = _new_bias(rewriter, layer, stored, node)
        fused = _with_clamp_of(node, layer, {2: bias.operand})
        rewriter.replace([layer, node], [fused], f"Add '{node.name}' is the bias of '{layer.name}'", bias.new_nodes)
        return True
    return False


def _bias_refusal(rewriter: Rewriter, layer: Node, stored: StoredConstant, node: Node) -> str | None:
    if layer.output.shape != node.output.shape:
        return "it changes the shape"
    if per_channel(stored.value.data, layer.output.shape, output_axis(layer)) is None:
        return "it is not one number per output channel"
    if not rewriter.has_one_reader(layer.output):
        return "another reader needs the layer's output without it"
    if is_finished(layer):
        return "a residual or a clamp comes between"
    present = layer.optional_input(2)
    if present is not None and not (present.is_constant and stored.is_float):
        return "there is a bias already, and one of the two is not a float constant"
    return None


def _new_bias(rewriter: Rewriter, layer: Node, stored: StoredConstant, node: Node) -> Rearranged:
    vector = per_channel(stored.value.data, layer.output.shape, output_axis(layer))
    assert vector is not None, node.name
    present = layer.optional_input(2)
    if present is not None:
        vector = (vector.astype(np.float64) + present.data).astype(np.float32)
    return with_array(rewriter, stored, f"{layer.name}_bias", vector, lambda _axis: 0)


def _fuse_residual(rewriter: Rewriter, node: Node) -> bool:
    """Add(Conv(x, w, b), y) -> Conv(x, w, b, residual y), the later of two convolutions."""
    if node.op != "Add" or len(node.variable_inputs) != 2 or node.input(0) is node.input(1):
        return False
    if any(stored_constant(rewriter, value) is not None for value in node.present_inputs):
        return False
    reasons: list[str] = []
    for value, other in sorted(_operand_orders(node), key=lambda pair: -rewriter.rank(pair[0])):
        layer = rewriter.producer(value)
        if layer is None:
            continue
        if layer.op not in _TAKES_RESIDUAL:
            reasons.extend(_behind_integers(rewriter, layer))
            continue
        reason = _residual_refusal(rewriter, layer, other)
        if reason is None:
            fused = _with_clamp_of(node, layer, {3: other})
            rewriter.replace([layer, node], [fused], f"Add '{node.name}' is the residual of {layer.op} '{layer.name}'")
            return True
        reasons.append(f"{layer.op} '{layer.name}' {reason}")
    return bool(reasons) and rewriter.decline(f"Add '{node.name}' is no residual: {'; '.join(reasons)}", node)


def _residual_refusal(rewriter: Rewriter, layer: Node, other: Value) -> str | None:
    if layer.output.shape != other.shape:
        return "has another shape than what is added to it"
    if not rewriter.has_one_reader(layer.output):
        return "has another reader, which needs its output without it"
    if has_residual(layer):
        return "has a residual already"
    return None if is_unclamped(layer) else "has an activation, which comes before the addition"


def _behind_integers(rewriter: Rewriter, node: Node) -> list[str]:
    """The reason, where `node` dequantizes what a layer gave: integers are between the layer and the addition."""
    quantize = rewriter.producer(node.input(0)) if node.op == "DequantizeLinear" else None
    layer = rewriter.producer(quantize.input(0)) if quantize is not None and quantize.op == "QuantizeLinear" else None
    if layer is None or layer.op not in _TAKES_RESIDUAL:
        return []
    return [f"{layer.op} '{layer.name}' is rounded to integers before, and that rounding is part of the model"]


def _fuse_clamp(rewriter: Rewriter, node: Node) -> bool:
    """Relu(Conv(x)) -> Conv(x, clamp 0..inf)."""
    limits = clamp_of(node)
    layer = None if limits is None else rewriter.producer(node.input(0))
    if limits is None or layer is None or layer.op not in _CLAMPED:
        return False
    if not rewriter.has_one_reader(layer.output):
        where = f"{node.op} '{node.name}' is no part of {layer.op} '{layer.name}'"
        return rewriter.decline(f"{where}: another reader needs what comes before it", node)
    low, high = composed_clamp((layer.float("clamp_low"), layer.float("clamp_high")), limits)
    attributes = {**layer.attributes, "clamp_low": low, "clamp_high": high}
    fused = Node(layer.op, layer.name, list(layer.inputs), [node.output], attributes)
    rewriter.replace([layer, node], [fused], f"{node.op} '{node.name}' is the clamp of {layer.op} '{layer.name}'")
    return True


def _with_clamp_of(add: Node, layer: Node, operands: dict[int, Value]) -> Node:
    """`layer` with some inputs set, giving what `add` gave and clamped as it was."""
    inputs: list[Value | None] = [operands.get(index, value) for index, value in enumerate(layer.inputs)]
    clamp = {key: add.attributes[key] for key in _UNCLAMPED}
    return Node(layer.op, layer.name, inputs, [add.output], {**layer.attributes, **clamp})


def _operand_orders(node: Node) -> Iterator[tuple[Value, Value]]:
    yield node.input(0), node.input(1)
    yield node.input(1), node.input(0)
