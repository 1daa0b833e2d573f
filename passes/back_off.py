"""Which layers of a quantized graph leave int8, and what the graph becomes when they do.

A layer in float computes with the float weights. What it gives stays unrounded only where all who read it are in float
too: an integer layer reads integers. So rounding of an output is avoided by int16, or by its readers being in float.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tinyopt.ir import Graph, Node, Value
from tinyopt.ops import OPERATORS, QuantizationRule
from tinyopt.pass_manager import PassContext, TargetFacts
from tinyopt.passes.integer_rules.movers import is_float_mover
from tinyopt.passes.lower_integer import LowerInteger
from tinyopt.quantization_error import LayerError, Precision, QuantizedLayer, QuantizedModel, with_precision

Kind = Literal["int16", "float"]
_ANY_MACHINE = TargetFacts("any", 1, is_integer_preferred=True)  # lowering asks nothing of it


@dataclass(frozen=True, eq=False)
class BackOff:
    """One layer that leaves int8: its output becomes int16, or `layers`, it and perhaps its readers, are in float."""

    error: LayerError
    kind: Kind
    layers: tuple[str, ...]

    @property
    def memory(self) -> str:
        """What it takes more of."""
        return "activations" if self.kind == "int16" else "weights"

    @property
    def what(self) -> str:
        """What is changed, for remarks."""
        name = f"'{self.error.name}'"
        if self.kind == "int16":
            return f"{self.error.op} {name} gives int16"
        others = [f"'{layer}'" for layer in self.layers if layer != self.error.name]
        if self.error.name not in self.layers:
            return f"{', '.join(others)}, reading {self.error.op} {name} unrounded, in float"
        return f"{self.error.op} {name}{' and what reads it: ' if others else ''}{', '.join(others)} in float"


@dataclass(frozen=True, eq=False)
class BackOffs:
    """The ways to back off in one quantized model. magnitudes: the largest absolute output by layer."""

    model: QuantizedModel
    magnitudes: Mapping[str, float]

    @cached_property
    def readers(self) -> dict[str, tuple[str, ...]]:
        """For each layer those that read what it gives, perhaps through movers."""
        by_node = {layer.node: layer.name for layer in self.model.layers if layer.node is not None}
        consumers = self.model.graph.consumers()
        return {layer.name: _readers(layer.value, consumers, by_node) for layer in self.model.layers}

    def graph(self, chosen: Iterable[BackOff]) -> Graph:
        """A copy of the quantized graph with these layers backed off."""
        chosen = list(chosen)
        wide = {item.error.name for item in chosen if item.kind == "int16"}
        floats = {name for item in chosen if item.kind == "float" for name in item.layers}
        precisions = {
            layer.name: self._precision(layer, wide, floats)
            for layer in self.model.layers
            if layer.name in wide or layer.name in floats or layer.node is None
        }
        return with_precision(self.model, precisions, self.magnitudes)

    def _precision(self, layer: QuantizedLayer, wide: set[str], floats: set[str]) -> Precision:
        constants: Literal["float", "int8"] = "float" if layer.name in floats else "int8"
        readers = self.readers[layer.name]
        gives_float = bool(readers) if layer.node is None else layer.name in floats
        if gives_float and floats.issuperset(readers):
            return Precision(constants, "float")
        return Precision(constants, "int16" if layer.name in wide else "int8")

    def in_float(self, error: LayerError) -> BackOff:
        """The layer in float, and its readers where they would round what it gives at a cost."""
        own = () if error.op == "Input" else (error.name,)
        behind = self.readers[error.name] if error.is_output_guilty else ()
        return BackOff(error, "float", tuple(dict.fromkeys([*own, *behind])))

    def in_int16(self, error: LayerError) -> BackOff | None:
        """Its output in int16; None where it is so, where it or a reader has no such form, or where sums do not fit."""
        if any(layer.name == error.name and _is_wide(layer) for layer in self.model.layers):
            return None
        found = BackOff(error, "int16", (error.name,))
        return found if _left_in_float(self.graph([found])) <= self._floats_at_first else None

    @cached_property
    def _floats_at_first(self) -> frozenset[str]:
        return _left_in_float(self.graph([]))

    def extra_bytes(self, item: BackOff) -> int:
        """What it adds to constants (float) or to the activation (int16)."""
        layers = {layer.name: layer for layer in self.model.layers}
        if item.kind == "int16":
            return layers[item.error.name].value.type.elements
        constants = {value for name in item.layers for value in layers[name].constants.values()}
        return sum(4 * value.type.elements - value.type.bytes for value in constants)


def _readers(value: Value, consumers: Mapping[Value, Sequence[Node]], layers: Mapping[Node, str]) -> tuple[str, ...]:
    """The layers that read a value, rounded or moved or not, in running order."""
    found: dict[str, None] = {}
    for node in consumers[value]:
        if node in layers:
            found[layers[node]] = None
        elif node.op in ("QuantizeLinear", "DequantizeLinear") or is_float_mover(node):
            for output in node.outputs:
                found |= dict.fromkeys(_readers(output, consumers, layers))
    return tuple(found)


def _is_wide(layer: QuantizedLayer) -> bool:
    return layer.levels is not None and layer.levels.dtype == "int16"


def _left_in_float(graph: Graph) -> frozenset[str]:
    """The names of the nodes that lowering leaves in float; `graph` is lowered."""
    LowerInteger().run(graph, PassContext(_ANY_MACHINE))
    return frozenset(
        node.name
        for node in graph.nodes
        if OPERATORS[node.op].quantization is not QuantizationRule.INTEGER and node.outputs[0].dtype == "float32"
    )
