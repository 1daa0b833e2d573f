"""Operators that select or move values work on int8 and int16 as they are.

QuantizeLinear is lifted above them, or DequantizeLinear sunk below, until no float lies between. Both are exact:
rounding acts on each element by itself, and it is monotonic, so that the largest stays the largest.

    float -> Mover -> Quantize(q)            =>   float -> Quantize(q) -> Mover (int8)
    int8 -> Dequantize -> Mover -> float     =>   int8 -> Mover (int8) -> Dequantize -> float

A constant that is moved takes the type of what it is moved with.
"""

from __future__ import annotations

import numpy as np

from tinyopt.ir import Node, Quantization, TensorType, Value
from tinyopt.passes.integer_rules.site import Refusal, is_activation, quantization_of
from tinyopt.passes.rewriting import Rewriter

MOVERS = frozenset("Reshape Transpose Concat Split Slice Pad Gather Expand Identity MaxPool ReduceMax Resize".split())


def is_float_mover(node: Node) -> bool:
    """Whether the node moves float32 values, and could move int8 ones."""
    if node.op not in MOVERS or node.outputs[0].dtype != "float32":
        return False
    return node.op != "Resize" or node.str("mode") == "nearest"


def lift_quantize(rewriter: Rewriter, node: Node) -> Node | None:
    """Quantize what the mover reads instead of what it gives. Returns the integer mover, None where that cannot be."""
    quantizers = quantizers_of(rewriter, node.output) if len(node.outputs) == 1 else []
    if not quantizers:
        return None
    target = quantizers[0].output
    quantization = quantization_of(target)
    inputs: list[Value | None] = []
    for value in node.inputs:
        if value is None or value.dtype != "float32":
            inputs.append(value)
        elif value.is_constant:
            levels = quantization.quantize(value.data, target.dtype)
            inputs.append(Value.of(rewriter.unique_name(f"{value.name}_{target.dtype}"), levels, quantization))
        else:
            quantize = _quantize(rewriter, value, target, node)
            rewriter.insert(node, [quantize])
            inputs.append(quantize.output)
    attributes = dict(node.attributes)
    if node.op == "Pad":
        attributes["value"] = _level(node.float("value"), target)
    lifted = Node(node.op, node.name, inputs, [target], attributes, node.origins)
    rewriter.substitute(node, [lifted])
    merge_quantizers(rewriter, quantizers)
    return lifted


def sink_dequantize(rewriter: Rewriter, node: Node) -> Node | Refusal:
    """Dequantize what the mover gives instead of what it reads; all its inputs must have one quantization."""
    sources: list[Value | None] = []
    for value in node.inputs:
        if value is None or value.dtype != "float32":
            sources.append(value)
            continue
        producer = rewriter.producer(value)
        if producer is None or producer.op != "DequantizeLinear":
            return Refusal(f"'{value.name}' is not quantized")
        sources.append(producer.input(0))
    floats = [source for source, value in zip(sources, node.inputs, strict=True) if source is not value and source]
    quantization, dtype = quantization_of(floats[0]), floats[0].dtype
    if not all(is_activation(source) for source in floats):
        return Refusal(f"'{floats[0].name}' is not int8 or int16 with one scale")
    if any((quantization_of(source), source.dtype) != (quantization, dtype) for source in floats):
        return Refusal("its inputs have different scales and its output is not quantized")
    attributes = dict(node.attributes)
    if node.op == "Pad":
        level = attributes["value"] = _level(node.float("value"), floats[0])
        if node.str("mode") == "constant" and _real(level, quantization) != node.float("value"):
            return Refusal(f"it pads with {node.float('value'):g}, which is no level of its input")
    moved = [_twin(rewriter, output, dtype, quantization) for output in node.outputs]
    integer = Node(node.op, node.name, sources, moved, attributes, node.origins)
    names = [rewriter.unique_name(f"{output.name}_dequantize") for output in node.outputs]
    dequantize = [
        Node("DequantizeLinear", name, [source], [output], {}, node.origins)
        for name, source, output in zip(names, moved, node.outputs, strict=True)
    ]
    rewriter.substitute(node, [integer, *dequantize])
    return integer


def quantizers_of(rewriter: Rewriter, value: Value) -> list[Node]:
    """The readers of `value` where all are QuantizeLinear with equal parameters, none where it is a graph output."""
    readers = rewriter.readers(value)
    if rewriter.graph.is_output(value) or not readers or any(reader.op != "QuantizeLinear" for reader in readers):
        return []
    first = readers[0].output
    kinds = {(quantization_of(reader.output), reader.output.dtype) for reader in readers}
    return readers if quantization_of(first).is_per_tensor and len(kinds) == 1 else []


def merge_quantizers(rewriter: Rewriter, quantizers: list[Node]) -> None:
    """Remove these, whose equal results all have become the first one's; graph outputs among them keep their names."""
    target = quantizers[0].output
    for quantize in quantizers:
        rewriter.remove(quantize)
    for twin in quantizers[1:]:
        forward(rewriter, twin.output, target, twin)


def forward(rewriter: Rewriter, old: Value, new: Value, node: Node) -> None:
    """Let readers of `old` read `new`; where `old` is a graph output it becomes a copy of `new`, made by Identity."""
    rewriter.redirect(old, new)
    if rewriter.graph.is_output(old):
        rewriter.append(Node("Identity", node.name, [new], [old], {}, node.origins))


def _quantize(rewriter: Rewriter, value: Value, target: Value, node: Node) -> Node:
    """QuantizeLinear of `value` with the parameters of `target`."""
    quantized = _twin(rewriter, value, target.dtype, quantization_of(target))
    return Node(
        "QuantizeLinear", rewriter.unique_name(f"{value.name}_quantize"), [value], [quantized], {}, node.origins
    )


def _twin(rewriter: Rewriter, value: Value, dtype: str, quantization: Quantization) -> Value:
    return Value(
        rewriter.unique_name(f"{value.name}_{dtype}"), TensorType(dtype, value.shape), quantization=quantization
    )


def _level(real: float, like: Value) -> int:
    """The level of `real` with the parameters of `like`."""
    return int(quantization_of(like).quantize(np.array([real]), like.dtype)[0])


def _real(level: int, quantization: Quantization) -> float:
    return (level - quantization.zero_point[0]) * quantization.scale[0]
