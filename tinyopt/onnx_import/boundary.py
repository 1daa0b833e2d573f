"""Give a model that takes or gives integers another boundary: real numbers, or int8 where it has uint8.

    uint8 x -> FlipSign -> int8    =>    float x -> QuantizeLinear -> int8        with `--io float`
                                         int8 x                                   with `--io int8`
Scales and zero points are the model's own.
"""

from __future__ import annotations

from typing import Literal

from tinyopt.ir import Graph, Node, TensorType, Value


def convert_boundary(graph: Graph, boundary: Literal["int8", "float"]) -> list[str]:
    """Convert integer inputs and outputs in place; returns a note for each, also where it has no scale and stays."""
    notes: list[str] = []
    for place, value in enumerate(graph.inputs):
        if _is_other(value, boundary):
            integers = _signed_input(graph, value)
            if integers is not None and _has_one_scale(integers):
                graph.inputs[place] = _converted_input(graph, value, integers, boundary)
            notes.append(_note("input", value.dtype, graph.inputs[place]))
    for place, value in enumerate(graph.outputs):
        if _is_other(value, boundary):
            integers = _signed_output(graph, value)
            if integers is not None and _has_one_scale(integers):
                graph.outputs[place] = _converted_output(graph, value, integers, boundary)
            notes.append(_note("output", value.dtype, graph.outputs[place]))
    graph.remove_unused()
    return notes


def _is_other(value: Value, boundary: str) -> bool:
    """Whether the value holds quantized numbers in another type than is asked for."""
    return value.dtype in (("int8", "uint8", "int16") if boundary == "float" else ("uint8",))


def _has_one_scale(value: Value) -> bool:
    return value.quantization is not None and value.quantization.is_per_tensor


def _note(what: str, before: str, after: Value) -> str:
    if after.dtype == before:
        return f"{what} '{after.name}' stays {before}: the model says no scale of it, or uses it as {before}"
    return f"{what} '{after.name}' is {after.dtype} as asked for; the model has {before}"


def _signed_input(graph: Graph, value: Value) -> Value | None:
    """The int8 that all readers of an input work on; None where some read uint8 itself."""
    if value.dtype != "uint8":
        return value
    readers = graph.consumers()[value]
    if not readers or graph.is_output(value) or any(reader.op != "FlipSign" for reader in readers):
        return None
    first = readers[0].output
    for reader in readers[1:]:
        graph.replace_uses(reader.output, first)
    return first


def _converted_input(graph: Graph, value: Value, integers: Value, boundary: str) -> Value:
    graph.remove([node for node in graph.nodes if value in node.inputs and node.op == "FlipSign"])
    if boundary == "int8":
        integers.name = value.name
        return integers
    real = Value(value.name, TensorType("float32", value.shape))
    if integers is value:
        integers.name = graph.unique_name(f"{value.name}_{value.dtype}")
    name = graph.unique_name(f"{real.name}_quantize")
    graph.nodes.insert(0, Node("QuantizeLinear", name, [real], [integers]))
    return real


def _signed_output(graph: Graph, value: Value) -> Value | None:
    """The int8 that an output is made of; None where it is an input, or uint8 by itself."""
    producer = graph.producers().get(value)
    if producer is None:
        return None
    return value if value.dtype != "uint8" else producer.input(0) if producer.op == "FlipSign" else None


def _converted_output(graph: Graph, value: Value, integers: Value, boundary: str) -> Value:
    name, value.name = value.name, graph.unique_name(f"{value.name}_{value.dtype}")
    if boundary == "float":
        real = Value(name, TensorType("float32", value.shape))
        graph.nodes.append(Node("DequantizeLinear", graph.unique_name(f"{name}_dequantize"), [integers], [real]))
        return real
    if integers in graph.producers() and not graph.is_output(integers):
        integers.name = name
        return integers
    copy = Value(name, integers.type, quantization=integers.quantization)
    graph.nodes.append(Node("Identity", graph.unique_name(f"{name}_signed"), [integers], [copy]))
    return copy
