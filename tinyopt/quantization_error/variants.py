"""Graphs between a float graph and its QDQ form: some layers in float, some in int8, some activations in int16.

x -> Q -> D -> Conv(D(int8 w)) -> Q -> D -> y    =>    x -> Conv(w) -> y        both parts in float
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tinyopt.ir import Graph, Node, Quantization, TensorType, Value
from tinyopt.quantization_error.model import QuantizedLayer, QuantizedModel, is_moving

_LARGEST_INT16 = 32767
_TINIEST = 1e-30  # the scale's numerator where only zeros were seen


@dataclass(frozen=True)
class Precision:
    """The element types of a layer's constants (weights, bias, operands) and of what it gives."""

    constants: Literal["float", "int8"] = "int8"
    output: Literal["float", "int8", "int16"] = "int8"


FLOAT = Precision("float", "float")


def all_float(model: QuantizedModel) -> dict[str, Precision]:
    """For `with_precision`: every layer in float."""
    return {layer.name: FLOAT for layer in model.layers}


def with_precision(
    model: QuantizedModel, precisions: Mapping[str, Precision], magnitudes: Mapping[str, float] | None = None
) -> Graph:
    """A copy of the QDQ graph in which the layers (and graph inputs) that are named have these precisions.

    Others stay as they are. Operators that only move values follow: one that reads a float value gives an unrounded
    one, and all values that they connect with one in int16 are int16, with one scale.
    magnitudes: the largest absolute output of layers by name, for the scale of int16; int8's range counts in any case.
    """
    graph = model.graph.copy()
    here = {layer.name: layer for layer in QuantizedModel(model.float_graph, graph).layers}
    chosen = [(here[name], precision) for name, precision in precisions.items() if name in here]
    _restore_constants(graph, [layer for layer, precision in chosen if precision.constants == "float"])
    rounded = [(layer, precision) for layer, precision in chosen if layer.levels is not None]
    _bypass(graph, {layer.value for layer, precision in rounded if precision.output == "float"})
    limits = {layer.value: (magnitudes or {}).get(layer.name, 0.0) for layer in here.values()}
    _widen(graph, [layer.value for layer, precision in rounded if precision.output == "int16"], limits)
    graph.remove_unused()
    return graph


def _restore_constants(graph: Graph, layers: Iterable[QuantizedLayer]) -> None:
    """Let nodes read the float constants instead of dequantized ones."""
    taken = {value.name for value in graph.values()}
    copies: dict[Value, Value] = {}
    for layer in layers:
        if layer.node is None or layer.exact_node is None:
            continue
        for index in layer.constants:
            exact = layer.exact_node.input(index)
            if exact not in copies:
                name = exact.name if exact.name not in taken else graph.unique_name(f"{exact.name}_float")
                copies[exact] = replace(exact, name=name)
                taken.add(name)
            layer.node.inputs[index] = copies[exact]


def _bypass(graph: Graph, floats: set[Value]) -> None:
    """Let the readers of rounded values read these values themselves, however often they are rounded.

    What only moves such a value gives it unrounded. `floats` grows by that.
    """
    exact: dict[Value, Value] = {}  # for rounded values what they were
    exact_of_levels: dict[Value, Value] = {}  # for the integers between
    for node in graph.nodes:
        node.inputs = [value if value is None else exact.get(value, value) for value in node.inputs]
        if node.op == "QuantizeLinear" and node.input(0) in floats:
            exact_of_levels[node.output] = node.input(0)
        elif node.op == "DequantizeLinear" and node.input(0) in exact_of_levels:
            exact[node.output] = exact_of_levels[node.input(0)]
        elif is_moving(node) and any(value in floats for value in node.present_inputs):
            floats.update(node.outputs)
    for output in list(graph.outputs):
        if output in exact:
            _give(graph, exact[output], output)


def _give(graph: Graph, value: Value, rounded: Value) -> None:
    """`value` in the place of `rounded`, a graph output, and under its name."""
    if not graph.is_output(value) and not any(value is given for given in graph.inputs):
        value.name, rounded.name = rounded.name, value.name
        graph.outputs = [value if output is rounded else output for output in graph.outputs]
        return
    producer = next(node for node in graph.nodes if rounded in node.outputs)
    name = graph.unique_name(f"{producer.name}_identity")
    graph.replace_node(producer, [Node("Identity", name, [value], [rounded], {}, producer.origins)])


def _widen(graph: Graph, wide: Iterable[Value], limits: Mapping[Value, float]) -> None:
    """Round each value of `wide`, and all that movers connect with it, to int16 with one scale for all of them."""
    groups, producers = _groups(graph), graph.producers()
    for group in {id(group): group for value in wide for group in (groups.get(value, {value}),)}.values():
        quantizers = [node for node in graph.nodes if _is_rounding(producers, node, group)]
        limit = max([limits.get(value, 0.0) for value in group] + [_reach(node.output) for node in quantizers])
        quantization = Quantization.per_tensor(max(limit, _TINIEST) / _LARGEST_INT16, 0)
        for node in quantizers:
            node.output.type = TensorType("int16", node.output.shape)
            node.output.name = _wide_name(graph, node.output.name)
            node.output.quantization = quantization
        _widen_constants(graph, group, quantization)


def _is_rounding(producers: Mapping[Value, Node], node: Node, group: set[Value]) -> bool:
    return node.op == "QuantizeLinear" and _unrounded(producers, node.input(0)) in group


def _groups(graph: Graph) -> dict[Value, set[Value]]:
    """For each value that movers read or give, all that are connected with it through movers, before rounding."""
    groups: dict[Value, set[Value]] = {}
    producers = graph.producers()
    for node in graph.nodes:
        if not is_moving(node):
            continue
        members = [_unrounded(producers, value) for value in node.variable_inputs if value.dtype == "float32"]
        joined: set[Value] = set()
        for value in [*members, *node.outputs]:
            joined |= groups.get(value, {value})
        groups |= dict.fromkeys(joined, joined)
    return groups


def _unrounded(producers: Mapping[Value, Node], value: Value) -> Value:
    """What was rounded, perhaps several times, to become `value`."""
    while (node := producers.get(value)) is not None and node.op in ("QuantizeLinear", "DequantizeLinear"):
        value = node.input(0)
    return value


def _widen_constants(graph: Graph, group: set[Value], quantization: Quantization) -> None:
    """Constants that movers mix with values of the group are rounded like these."""
    producers = graph.producers()
    for node in graph.nodes:
        if not is_moving(node) or not any(output in group for output in node.outputs):
            continue
        for value in node.present_inputs:
            source = producers.get(value)
            if source is None or source.op != "DequantizeLinear" or not source.input(0).is_constant:
                continue
            old = source.input(0)
            assert old.quantization is not None, old.name
            levels = quantization.quantize(old.quantization.dequantize(old.data), "int16")
            source.inputs[0] = Value.of(_wide_name(graph, old.name), levels, quantization)


def _wide_name(graph: Graph, name: str) -> str:
    return graph.unique_name(f"{name.removesuffix('_int8')}_int16") if name.endswith("_int8") else name


def _reach(levels: Value) -> float:
    """The largest absolute number that the integers can stand for."""
    assert levels.quantization is not None, levels.name
    limits = np.array([np.iinfo(levels.dtype).min, np.iinfo(levels.dtype).max])
    return float(np.max(np.abs(levels.quantization.dequantize(limits))))
