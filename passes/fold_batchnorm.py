"""Fold batch normalization, and other arithmetic with one constant per channel, into the layer before it.

w' = w * s,  b' = b * s + t    where the channel's output y becomes y * s + t;
s = scale / sqrt(variance + epsilon), t = bias - mean * s for a BatchNormalization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Attribute, Graph, Node, Value
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.linear_layers import (
    LAYERS_WITH_BIAS,
    is_finished,
    output_axis,
    per_channel,
    scaled_integers,
    scaled_weights,
)
from tinyopt.passes.rewriting import Rewriter, is_unclamped, rewrite, stored_constant

_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_UNCLAMPED: dict[str, Attribute] = {"clamp_low": -np.inf, "clamp_high": np.inf}


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch normalization into the layer before it.

    What: BatchNormalization, and Mul, Add, Sub, Div by one constant per channel, become part of the weights and bias of
        the Conv, ConvTranspose, Dense or MatMul whose only reader they are; of integer weights the scales change. Any
        other BatchNormalization becomes a Mul and an Add.
    Before -> After: BatchNormalization(Conv(x, w, b), scale, bias, mean, variance) -> Conv(x, w * s, b * s + t)
        with s = scale / sqrt(variance + epsilon), t = bias - mean * s
    Exactness: exact in real arithmetic; in float32 the outputs move by rounding only. Constants are folded in float64.
    Refuses when: the layer's output has another reader, a residual or a clamp comes between, the weights are not
        constant, are clustered, or are integers that channels share, or the constants differ within a channel.
    Source: Jacob et al., arXiv:1712.05877, section 3.2.
    """

    name: ClassVar[str] = "fold-batchnorm"

    def run(self, graph: Graph, context: PassContext) -> bool:
        return rewrite(graph, context, (_fold_into_layer, _fold_into_matmul, _spell_out))


@dataclass(frozen=True, eq=False)
class Affine:
    """y = x * scale + shift, each with one element per channel."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    def after(self, inner: Affine) -> Affine:
        """This one applied to what `inner` gives."""
        return Affine(self.scale * inner.scale, inner.shift * self.scale + self.shift)

    @property
    def is_shift(self) -> bool:
        return bool(np.all(self.scale == 1))

    @property
    def is_finite(self) -> bool:
        return bool(np.all(np.isfinite(self.scale)) and np.all(np.isfinite(self.shift)))


def affine_operand(node: Node) -> Value | None:
    """What a BatchNormalization, or an Add, Sub, Mul, Div with a float constant, is applied to; None for all else."""
    if node.op == "BatchNormalization":
        return node.input(0) if not any(not value.is_constant for value in node.present_inputs[1:]) else None
    if node.op not in _ARITHMETIC or not is_unclamped(node) or len(node.variable_inputs) != 1:
        return None
    operand = node.variable_inputs[0]
    is_inverse = node.op == "Div" and node.input(1) is operand  # constant / x
    return None if is_inverse or len(node.present_inputs) != 2 or operand.shape != node.output.shape else operand


def affine_of(node: Node, axis: int) -> Affine | None:
    """What such a node does along the channel axis; None where its constants differ within a channel."""
    if node.op == "BatchNormalization":
        return batchnorm_affine(node) if node.int("axis") == axis else None
    constant_index = 1 if node.input(1).is_constant else 0
    found = per_channel(node.input(constant_index).data, node.output.shape, axis)
    if found is None:
        return None
    numbers = found.astype(np.float64)
    ones, zeros = np.ones_like(numbers), np.zeros_like(numbers)
    if node.op == "Add":
        return Affine(ones, numbers)
    if node.op == "Sub":
        return Affine(ones, -numbers) if constant_index == 1 else Affine(-ones, numbers)
    with np.errstate(divide="ignore"):
        return Affine(numbers if node.op == "Mul" else 1 / numbers, zeros)


def batchnorm_affine(node: Node) -> Affine:
    scale, bias, mean, variance = (node.input(index).data.astype(np.float64) for index in range(1, 5))
    factor = scale / np.sqrt(variance + node.float("epsilon"))
    return Affine(factor, bias - mean * factor)


def _fold_into_layer(rewriter: Rewriter, node: Node) -> bool:
    operand = affine_operand(node)
    layer = None if operand is None else rewriter.producer(operand)
    if layer is None or layer.op not in LAYERS_WITH_BIAS:
        return False
    affine = affine_of(node, output_axis(layer))
    reason = _refusal(rewriter, layer, affine)
    if reason is not None or affine is None:
        return rewriter.decline(f"{node.op} '{node.name}' is not folded into {layer.op} '{layer.name}': {reason}", node)
    bias = layer.optional_input(2)
    shift = affine.shift if bias is None else _real(rewriter, bias) * affine.scale + affine.shift
    inputs, operands = list(layer.inputs), list[Node]()
    if not affine.is_shift:
        inputs[1], operands = _scaled(rewriter, layer, affine)
    inputs[2] = rewriter.new_constant(f"{layer.name}_bias", shift.astype(np.float32))
    folded = Node(layer.op, layer.name, inputs, [node.output], dict(layer.attributes))
    message = f"{node.op} '{node.name}' is folded into {layer.op} '{layer.name}'"
    rewriter.replace([layer, node], [folded], message, operands)
    return True


def _fold_into_matmul(rewriter: Rewriter, node: Node) -> bool:
    """MatMul [-> Add] -> scaling: the weights are scaled, and one Add is left."""
    operand = affine_operand(node)
    if operand is None:
        return False
    add = rewriter.owned_producer(operand, "Add")
    inner = None if add is None else affine_operand(add)
    matmul = rewriter.producer(operand if inner is None else inner)
    if matmul is None or matmul.op != "MatMul" or stored_constant(rewriter, matmul.input(1)) is None:
        return False
    axis = output_axis(matmul)
    affine = affine_of(node, axis)
    if add is not None and inner is not None and affine is not None:
        shift = affine_of(add, axis)
        affine = None if shift is None else affine.after(shift)
    elif affine is not None and affine.is_shift:
        return False  # MatMul and its bias: the form that is wanted
    reason = _refusal(rewriter, matmul, affine)
    if reason is not None or affine is None:
        return rewriter.decline(f"{node.op} '{node.name}' is not folded into MatMul '{matmul.name}': {reason}", node)
    old = [matmul, node] if add is None or inner is None else [matmul, add, node]
    weights, operands = (matmul.input(1), []) if affine.is_shift else _scaled(rewriter, matmul, affine)
    new = _matmul_and_bias(rewriter, matmul, node, affine, weights)
    rewriter.replace(old, new, f"{node.op} '{node.name}' is folded into '{matmul.name}'", operands)
    return True


def _matmul_and_bias(rewriter: Rewriter, matmul: Node, node: Node, affine: Affine, weights: Value) -> list[Node]:
    if not np.any(affine.shift):
        return [Node("MatMul", matmul.name, [matmul.input(0), weights], [node.output])]
    shift = rewriter.new_constant(f"{matmul.name}_bias", affine.shift.astype(np.float32))
    return [
        Node("MatMul", matmul.name, [matmul.input(0), weights], [matmul.output]),
        Node("Add", node.name, [matmul.output, shift], [node.output], dict(_UNCLAMPED)),
    ]


def _spell_out(rewriter: Rewriter, node: Node) -> bool:
    """A BatchNormalization that no layer takes in -> Mul, Add."""
    if node.op != "BatchNormalization":
        return False
    if affine_operand(node) is None:
        return rewriter.decline(f"BatchNormalization '{node.name}' stays: its statistics are not constant", node)
    affine = batchnorm_affine(node)
    if not affine.is_finite:
        return rewriter.decline(f"BatchNormalization '{node.name}' stays: its factors are not finite", node)
    source = node.input(0)
    shape = [size if axis == node.int("axis") else 1 for axis, size in enumerate(source.shape)]

    def constant(stem: str, numbers: Array) -> Value:
        return rewriter.new_constant(f"{node.name}_{stem}", numbers.astype(np.float32).reshape(shape))

    scaled = rewriter.new_value(f"{node.name}_scaled", source.type)
    add_name = rewriter.unique_name(f"{node.name}_shift")
    new = [
        Node("Mul", node.name, [source, constant("factor", affine.scale)], [scaled], dict(_UNCLAMPED)),
        Node("Add", add_name, [scaled, constant("offset", affine.shift)], [node.output], dict(_UNCLAMPED)),
    ]
    rewriter.replace([node], new, f"BatchNormalization '{node.name}' has no layer to go into: Mul and Add")
    return True


def _scaled(rewriter: Rewriter, layer: Node, affine: Affine) -> tuple[Value, list[Node]]:
    """The weights times the factors, and the DequantizeLinear that gives them where they are integers."""
    stored = stored_constant(rewriter, layer.input(1))
    assert stored is not None, layer.name
    name = f"{layer.name}_weights"
    if stored.dequantize is None:
        return rewriter.new_constant(name, scaled_weights(layer, stored.value.data, affine.scale)), []
    found = scaled_integers(layer, stored.value, affine.scale)
    assert found is not None, layer.name
    constant = rewriter.new_constant(name, *found)
    real = rewriter.new_value(f"{name}_real", layer.input(1).type)
    old = stored.dequantize
    dequantize = Node("DequantizeLinear", rewriter.unique_name(f"{old.name}_scaled"), [constant], [real])
    dequantize.origins = old.origins
    return real, [dequantize]


def _real(rewriter: Rewriter, value: Value) -> NDArray[np.float64]:
    """The numbers of a constant, or of integers behind a DequantizeLinear."""
    stored = stored_constant(rewriter, value)
    assert stored is not None, value.name
    quantization = stored.value.quantization
    real = stored.value.data if quantization is None else quantization.dequantize(stored.value.data)
    return np.asarray(real, np.float64)


def _refusal(rewriter: Rewriter, layer: Node, affine: Affine | None) -> str | None:
    """Why `layer` cannot take `affine` in; None where it can."""
    if affine is None:
        return "its constants are not one number per output channel"
    if not affine.is_finite:
        return "its factors are not finite"
    if not rewriter.has_one_reader(layer.output):
        return "another reader needs the layer's output as it is"
    if is_finished(layer):
        return "a residual or a clamp comes between"
    for operand in (layer.input(1), layer.optional_input(2) if layer.op != "MatMul" else None):
        stored = None if operand is None else stored_constant(rewriter, operand)
        if operand is not None and stored is None:
            return f"'{operand.name}' is not constant"
        if stored is not None and stored.value.clusters is not None:
            return f"'{stored.value.name}' is clustered"
    stored = stored_constant(rewriter, layer.input(1))
    if stored is None or stored.is_float or affine.is_shift:
        return None
    if scaled_integers(layer, stored.value, affine.scale) is None:
        return f"'{stored.value.name}' holds integers that cannot be scaled channel by channel"
    return None
