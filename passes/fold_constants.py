"""Compute what depends on constants alone, and keep the integers of quantized layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinyopt.ir import Array, Graph, Node, TensorType, Value, merged_origins
from tinyopt.ops import OPERATORS
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.rewriting import Rewriter, rearranged_quantization, rewrite

_SMALL_BYTES = 4096  # results up to here may grow by any factor
_MOVERS = ("Reshape", "Transpose")
_LINEAR = ("Conv", "ConvTranspose", "Dense", "MatMul")


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute what depends on constants alone.

    What: a node all of whose inputs are constants becomes a constant. Integer weights behind a DequantizeLinear become
        floats only where no activation of the model is quantized, or a bias or other operand is added in float;
        otherwise the integers stay, and a Reshape or Transpose between them and the layer is applied to the integers.
    Before -> After: Conv(x, Transpose(w)) -> Conv(x, w'); Transpose(DequantizeLinear(w)) -> DequantizeLinear(w')
    Exactness: the outputs keep every bit: it is computed what the model would have computed.
    Refuses when: a result would take more than `max_bytes`, or more than 4 KiB and `max_growth` times the bytes of its
        inputs; the result is an output of the model; a per-channel quantization has no axis in the reshaped tensor.
    Source: textbook constant propagation.
    """

    name: ClassVar[str] = "fold-constants"

    max_bytes: int = 16 * 1024 * 1024
    max_growth: int = 16

    def run(self, graph: Graph, context: PassContext) -> bool:
        return rewrite(graph, context, (_rearrange_integers, self._fold))

    def _fold(self, rewriter: Rewriter, node: Node) -> bool:
        if not node.present_inputs or node.variable_inputs:
            return False
        where = f"{node.op} '{node.name}'"
        if any(rewriter.graph.is_output(output) for output in node.outputs):
            return rewriter.decline(f"{where} is constant, but an output of the model", node)
        if node.op == "DequantizeLinear" and feeds_quantized_layer(rewriter, node):
            return False  # the layer is computed on these integers: there is nothing to fold
        too_large = self._too_large(node)
        if too_large is not None:
            return rewriter.decline(f"{where} is constant, but its result {too_large}", node)
        if any(_is_per_channel(value) for value in node.present_inputs) and node.op not in (
            *_MOVERS,
            "DequantizeLinear",
        ):
            return rewriter.decline(f"{where} is constant, but works on a per-channel quantization", node)
        return _evaluate(rewriter, node)

    def _too_large(self, node: Node) -> str | None:
        result = sum(output.type.bytes for output in node.outputs)
        source = sum(value.type.bytes for value in node.present_inputs)
        if result > self.max_bytes:
            return f"takes {result} bytes, more than max_bytes = {self.max_bytes}"
        if result > _SMALL_BYTES and result > self.max_growth * source:
            return (
                f"takes {result} bytes, more than max_growth = {self.max_growth} times the {source} bytes it is made of"
            )
        return None


def feeds_quantized_layer(rewriter: Rewriter, node: Node) -> bool:
    """Whether a node, directly or through Reshape and Transpose, is an operand of a layer on quantized activations."""
    for reader in rewriter.readers(node.output):
        if reader.op in _MOVERS:
            if feeds_quantized_layer(rewriter, reader):
                return True
        elif _is_quantized_layer(rewriter, reader, node.output):
            return True
    return False


def _is_quantized_layer(rewriter: Rewriter, layer: Node, operand: Value) -> bool:
    """Whether a reader of the constant `operand` works on quantized activations, or adds `operand` as a bias to one."""
    others = [value for value in layer.variable_inputs if value is not operand]
    if any(_is_quantized_activation(rewriter, value) for value in others):
        return True
    if layer.op in _LINEAR and layer.input(1) is operand and _has_quantized_activations(rewriter.graph):
        return True  # the scale of its input may still be inferred
    return layer.op in ("Add", "Sub") and any(_is_quantized_product(rewriter, value) for value in others)


def _has_quantized_activations(graph: Graph) -> bool:
    return any(node.op == "DequantizeLinear" and not node.input(0).is_constant for node in graph.nodes)


def _is_quantized_activation(rewriter: Rewriter, value: Value) -> bool:
    """Whether `value` is an activation that a DequantizeLinear gives, directly or moved."""
    node = rewriter.producer(value)
    while node is not None and node.op in (*_MOVERS, "Pad", "Identity"):
        node = rewriter.producer(node.input(0))
    return node is not None and node.op == "DequantizeLinear" and not node.input(0).is_constant


def _is_quantized_product(rewriter: Rewriter, value: Value) -> bool:
    """Whether `value` is what a layer on quantized activations gives, so that a constant added to it is its bias."""
    node = rewriter.producer(value)
    return node is not None and node.op in _LINEAR and _is_quantized_activation(rewriter, node.input(0))


def _rearrange_integers(rewriter: Rewriter, node: Node) -> bool:
    """Reshape or Transpose of DequantizeLinear(constant) -> DequantizeLinear of the moved integers."""
    if node.op not in _MOVERS:
        return False
    dequantize = rewriter.producer(node.input(0))
    if dequantize is None or dequantize.op != "DequantizeLinear" or not dequantize.input(0).is_constant:
        return False
    source = dequantize.input(0)
    axis = _moved_axis(node, source)
    if axis is None:
        return rewriter.decline(
            f"{node.op} '{node.name}' breaks up the axis of the quantization of '{source.name}'", node
        )
    moved = rewriter.new_constant(
        f"{source.name}_moved", _moved(node, source.data), rearranged_quantization(source.quantization, axis)
    )
    new = Node("DequantizeLinear", node.name, [moved], [node.output], dict(dequantize.attributes), dequantize.origins)
    rewriter.replace([node], [new], f"{node.op} '{node.name}' is applied to the integers of '{source.name}'")
    return True


def _moved(node: Node, array: Array) -> Array:
    return array.reshape(node.ints("shape")) if node.op == "Reshape" else array.transpose(node.ints("perm"))


def _moved_axis(node: Node, source: Value) -> Callable[[int], int] | None:
    """Where the mover puts each axis; None where the axis of the quantization does not survive."""
    if node.op == "Transpose":
        return node.ints("perm").index
    if not _is_per_channel(source):
        return lambda axis: axis
    quantization = source.quantization
    assert quantization is not None
    assert quantization.axis is not None
    before, size = source.shape[: quantization.axis], source.shape[quantization.axis]
    places = [
        axis
        for axis, new_size in enumerate(node.ints("shape"))
        if new_size == size and math.prod(node.ints("shape")[:axis]) == math.prod(before)
    ]
    return (lambda _axis: places[0]) if places else None


def _is_per_channel(value: Value) -> bool:
    return value.quantization is not None and not value.quantization.is_per_tensor


def _evaluate(rewriter: Rewriter, node: Node) -> bool:
    source = node.input(0)
    if node.op in _MOVERS and _is_per_channel(source):
        axis = _moved_axis(node, source)
        if axis is None:
            return rewriter.decline(
                f"{node.op} '{node.name}' breaks up the axis of the quantization of its input", node
            )
        node.output.quantization = rearranged_quantization(source.quantization, axis)
    arrays = [None if value is None else value.data for value in node.inputs]
    with np.errstate(all="ignore"):  # overflow to infinity is what float32 defines, not a defect
        results = OPERATORS[node.op].evaluate(node, arrays)
    for output, array in zip(node.outputs, results, strict=True):
        assert TensorType.of(array) == output.type, (node.name, output.type)
        output.constant = array
        for reader in rewriter.readers(output):
            reader.origins = merged_origins(reader, node)
    rewriter.context.did(f"{node.op} '{node.name}' of constants is a constant", [node], [])
    rewriter.remove(node)
    return True
