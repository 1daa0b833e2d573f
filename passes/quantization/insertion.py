"""Put QuantizeLinear and DequantizeLinear around the operators that were chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tinyopt.ir import Graph, Node, Quantization, TensorType, Value
from tinyopt.pass_manager import PassContext
from tinyopt.passes.channel_links import label_of
from tinyopt.passes.quantization.parameters import PARAMETER_INPUTS, Choice, Parameters, activation_inputs, from_range
from tinyopt.passes.quantization.weights import Names, WeightOptions, dequantized, quantize_parameters

_WEIGHTED = ("Conv", "ConvTranspose", "Dense")


@dataclass
class _Insertion:
    """The graph under change. reals: an activation after quantizing and dequantizing, by its quantization."""

    graph: Graph
    names: Names
    choice: Choice
    parameters: Parameters
    weights: WeightOptions
    context: PassContext
    nodes: list[Node] = field(default_factory=list[Node])
    reals: dict[tuple[Value, Quantization], Value] = field(default_factory=dict[tuple[Value, Quantization], Value])


def make_explicit(
    graph: Graph, choice: Choice, parameters: Parameters, weights: WeightOptions, context: PassContext
) -> None:
    """Quantize and dequantize every activation that a chosen operator reads or gives, and its constants.

    Operators that stay in float read an activation unrounded where its producer is float too.
    """
    work = _Insertion(graph, Names(graph), choice, parameters, weights, context)
    chosen = set(choice.nodes)
    for value in graph.inputs:
        _round_trip(work, value, ())
    for node in graph.nodes:
        if node in chosen:
            _quantize_inputs(work, node)
        work.nodes.append(node)
        for output in node.outputs:
            _round_trip(work, output, node.origins)
    left = [node for node in graph.nodes if node not in chosen]
    for output in (output for node in graph.nodes if node in chosen for output in node.outputs):
        _let_float_readers_read_rounded(work, output, left)
    graph.nodes = work.nodes


def _round_trip(work: _Insertion, value: Value, origins: tuple[str, ...]) -> None:
    """value -> QuantizeLinear -> DequantizeLinear, and once more where movers need it in their group's scale."""
    given = work.parameters.given.get(value)
    if given is None:
        return
    is_wide = value in work.parameters.wide
    real = _quantize_dequantize(work, value, value.name, given, origins, "int16" if is_wide else "int8")
    work.reals[value, given] = real
    common = work.parameters.in_group[value]
    if common != given and any(value in node.inputs for node in work.choice.movers):
        work.reals[value, common] = _quantize_dequantize(work, real, f"{value.name}_rescaled", common, origins)


def _quantize_dequantize(
    work: _Insertion,
    value: Value,
    stem: str,
    quantization: Quantization,
    origins: tuple[str, ...],
    dtype: str = "int8",
) -> Value:
    unique = work.names.unique
    levels = Value(unique(f"{stem}_{dtype}"), TensorType(dtype, value.shape), quantization=quantization)
    real = Value(unique(f"{stem}_real"), TensorType("float32", value.shape))
    work.nodes.append(Node("QuantizeLinear", unique(f"{stem}_quantize"), [value], [levels], {}, origins))
    work.nodes.append(Node("DequantizeLinear", unique(f"{stem}_dequantize"), [levels], [real], {}, origins))
    return real


def _quantize_inputs(work: _Insertion, node: Node) -> None:
    parameters = work.parameters
    needed = parameters.in_group if node in work.choice.movers else parameters.given
    scale = next((needed[value].scale[0] for value in activation_inputs(node)), 1.0)
    if node.op in _WEIGHTED:
        _quantize_weights(work, node, scale)
    group = next((needed[value] for value in activation_inputs(node)), None) if node in work.choice.movers else None
    skipped = PARAMETER_INPUTS.get(node.op, ())
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype != "float32" or index in skipped:
            continue
        if value.is_constant:
            node.inputs[index] = _quantized_constant(work, node, value, group)
        else:
            node.inputs[index] = work.reals[value, needed[value]]


def _quantize_weights(work: _Insertion, node: Node, input_scale: float) -> None:
    options = work.weights
    if node.output in work.parameters.wide:  # no kernel that gives int16 looks weights up: 4 bits would save nothing
        options = replace(options, bits=8)
    quantized = quantize_parameters(work.names, node, input_scale, options)
    for index, constant in ((1, quantized.weights), (2, quantized.bias)):
        if constant is not None:
            dequantize = dequantized(work.names, constant, node)
            work.nodes.append(dequantize)
            node.inputs[index] = dequantize.output
    if quantized.remark is not None:
        work.context.declined(f"{label_of(node)}: {quantized.remark}", [node])


def _quantized_constant(work: _Insertion, node: Node, value: Value, group: Quantization | None) -> Value:
    """A constant operand, in the scale of the movers' group where there is one."""
    quantization = group or _constant_quantization(node, value)
    levels = quantization.quantize(value.data, "int8")
    constant = Value.of(work.names.unique(f"{value.name}_int8"), levels, quantization)
    dequantize = dequantized(work.names, constant, node)
    work.nodes.append(dequantize)
    return dequantize.output


def _constant_quantization(node: Node, value: Value) -> Quantization:
    if node.op == "MatMul":  # without a zero point it can become a Dense layer
        return Quantization.per_tensor(max(float(np.max(np.abs(value.data))) / 127, 1e-30), 0)
    return from_range(float(value.data.min()), float(value.data.max()))


def _let_float_readers_read_rounded(work: _Insertion, value: Value, left: Sequence[Node]) -> None:
    """What a quantized operator gives exists only in int8: other readers, and the model's outputs, dequantize it."""
    real = work.reals[value, work.parameters.given[value]]
    for reader in left:
        reader.inputs = [real if item is value else item for item in reader.inputs]
    if work.graph.is_output(value):
        work.graph.outputs = [real if item is value else item for item in work.graph.outputs]
        name = value.name
        value.name = work.names.unique(f"{name}_exact")
        real.name = name
