"""Which operators are quantized, and with which parameters each activation is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tinyopt.ir import Array, Graph, Node, Quantization, Value
from tinyopt.ops import OPERATORS, QuantizationRule
from tinyopt.passes.integer_rules.movers import is_float_mover

FIXED: Mapping[QuantizationRule, Quantization] = {
    QuantizationRule.UNIT_INTERVAL: Quantization.per_tensor(1 / 256, -128),
    QuantizationRule.SIGNED_UNIT_INTERVAL: Quantization.per_tensor(1 / 128, 0),
}

# Inputs that are not activations: weights and biases, which are quantized by themselves, and slopes, which stay.
PARAMETER_INPUTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Dense": (1, 2),
    "PRelu": (1,),
}

LARGEST_WIDE_LEVEL = 32767
_TINIEST_SPAN = 1e-30


@dataclass
class Groups:
    """Values that share one quantization because movers carry the same numbers from one to the other (union-find)."""

    parents: dict[Value, Value] = field(default_factory=dict[Value, Value])

    def root(self, value: Value) -> Value:
        parent = self.parents.setdefault(value, value)
        if parent is value:
            return value
        self.parents[value] = self.root(parent)
        return self.parents[value]

    def join(self, values: Iterable[Value]) -> None:
        first, *others = values
        for other in others:
            self.parents[self.root(other)] = self.root(first)


@dataclass(frozen=True)
class Choice:
    """What is quantized. nodes: with their inputs and outputs. movers: those among `nodes` that work in a group."""

    nodes: tuple[Node, ...]  # in running order
    movers: frozenset[Node]
    groups: Groups

    def activations(self) -> list[Value]:
        """Every activation that some quantized node reads or gives, in running order."""
        found: dict[Value, None] = {}
        for node in self.nodes:
            found.update(dict.fromkeys([*activation_inputs(node), *node.outputs]))
        return list(found)


@dataclass(frozen=True)
class Parameters:
    """The quantization of each activation as its producer gives it, and as the movers that read it need it.

    wide: the activations that are int16.
    """

    given: Mapping[Value, Quantization]
    in_group: Mapping[Value, Quantization]
    wide: frozenset[Value]


def activation_inputs(node: Node) -> list[Value]:
    """The variable float inputs that are not parameters."""
    parameters = PARAMETER_INPUTS.get(node.op, ())
    return [
        value
        for index, value in enumerate(node.inputs)
        if value is not None and index not in parameters and not value.is_constant and value.dtype == "float32"
    ]


def choose(graph: Graph) -> tuple[Choice, list[tuple[Node, str]]]:
    """The operators to quantize, and those that stay in float with the reason.

    A mover is quantized where something it is connected with through movers alone is: it would gain nothing else.
    """
    declined = [(node, reason) for node in graph.nodes if (reason := reason_to_stay_float(node)) is not None]
    stays = {node for node, _ in declined}
    computing = [node for node in graph.nodes if node not in stays and _is_float(node) and not is_float_mover(node)]
    all_movers = [node for node in graph.nodes if is_float_mover(node) and activation_inputs(node)]
    declined += [(node, reason) for node in all_movers if (reason := _infinite_constant(node)) is not None]
    movers = [node for node in all_movers if _infinite_constant(node) is None]
    groups = Groups()
    for node in movers:
        groups.join([*activation_inputs(node), *node.outputs])
    touched = {groups.root(value) for node in computing for value in (*activation_inputs(node), *node.outputs)}
    active = [node for node in movers if groups.root(node.outputs[0]) in touched]
    declined += [(node, "nothing beside it is quantized") for node in movers if node not in active]
    chosen = {*computing, *active}
    nodes = tuple(node for node in graph.nodes if node in chosen)
    return Choice(nodes, frozenset(active), groups), declined


def reason_to_stay_float(node: Node) -> str | None:
    """Why a float operator that does more than move values cannot be quantized, None where it can (or is no such)."""
    if not _is_float(node) or is_float_mover(node):
        return None
    rule = OPERATORS[node.op].quantization
    if rule is QuantizationRule.INTEGER:
        return None
    if rule is QuantizationRule.FLOAT_ONLY or node.op == "Resize":
        return f"{node.op} has no integer form"
    for index in PARAMETER_INPUTS.get(node.op, ()):
        value = node.optional_input(index)
        if value is not None and not value.is_constant:
            return f"its parameter '{value.name}' is not a constant"
    return _infinite_constant(node) if activation_inputs(node) else "it reads constants alone"


def _infinite_constant(node: Node) -> str | None:
    """Why the constants of a node have no range, None where they have."""
    for value in node.present_inputs:
        if value.is_constant and value.dtype == "float32" and not np.all(np.isfinite(value.data)):
            return f"its constant '{value.name}' holds NaN or infinite numbers"
    if node.op == "Pad" and not np.isfinite(node.float("value")):
        return f"it pads with {node.float('value')}"
    return None


def logits(graph: Graph, choice: Choice) -> list[Value]:
    """What a Conv or Dense gives to Softmax alone: as int16 it costs next to nothing, and each of its steps counts."""
    readers, producers = graph.consumers(), graph.producers()
    return [
        value
        for value in choice.activations()
        if not graph.is_output(value)
        and (producer := producers.get(value)) is not None
        and producer.op in ("Conv", "Dense")
        and all(reader.op == "Softmax" and reader in choice.nodes for reader in readers[value])
    ]


def fixed(graph: Graph, choice: Choice) -> list[Value]:
    """What operators give whose outputs always lie in one interval, so that their scale is known."""
    producers = graph.producers()
    return [value for value in choice.activations() if _rule(producers.get(value)) in FIXED]


def parameters_of(
    graph: Graph,
    choice: Choice,
    ranges: Mapping[Value, tuple[float, float]],
    wide: Mapping[Value, tuple[float, float]],
) -> Parameters:
    """The quantization of every activation, from the ranges seen and the rules of the operators.

    wide: the ranges of those that shall be int16; movers do not read them.
    """
    producers = graph.producers()
    members: dict[Value, list[Value]] = {}
    for value in choice.activations():
        members.setdefault(choice.groups.root(value), []).append(value)
    extra = _constants_in_groups(choice)
    given: dict[Value, Quantization] = {}
    in_group: dict[Value, Quantization] = {}
    for root, values in members.items():
        fixed = {value: FIXED.get(_rule(producers.get(value))) for value in values}
        sources = [value for value in values if producers.get(value) not in choice.movers]
        kinds = {fixed[source] for source in sources}
        (kind,) = kinds if len(kinds) == 1 and root not in extra else (None,)
        common = kind or from_range(
            min([ranges[value][0] for value in values] + [float(array.min()) for array in extra.get(root, [])]),
            max([ranges[value][1] for value in values] + [float(array.max()) for array in extra.get(root, [])]),
        )
        for value in values:
            in_group[value] = common
            given[value] = fixed[value] or common
    given.update({value: wide_from_range(*limits) for value, limits in wide.items()})
    in_group.update({value: given[value] for value in wide})
    return Parameters(given, in_group, frozenset(wide))


def from_range(low: float, high: float) -> Quantization:
    """int8 levels for [low, high] and zero: zero is always a level, for padding and Relu."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < _TINIEST_SPAN:
        low, high = 0.0, 1.0  # nothing but zeros was seen: any scale stands for them
    scale = float(np.float32((high - low) / 255))
    return Quantization.per_tensor(scale, int(np.clip(np.rint(-128 - low / scale), -128, 127)))


def wide_from_range(low: float, high: float) -> Quantization:
    """int16 levels about zero, twice as far as the range: there are enough of them."""
    largest = max(abs(low), abs(high))
    return Quantization.per_tensor(2 * largest / LARGEST_WIDE_LEVEL if largest > _TINIEST_SPAN else 1.0, 0)


def _is_float(node: Node) -> bool:
    return all(output.dtype == "float32" for output in node.outputs)


def _rule(node: Node | None) -> QuantizationRule:
    return QuantizationRule.OBSERVED if node is None else OPERATORS[node.op].quantization


def _constants_in_groups(choice: Choice) -> dict[Value, list[Array]]:
    """Constants that movers mix with activations: float inputs of Concat, the value that Pad fills in."""
    found: dict[Value, list[Array]] = {}
    for node in choice.movers:
        arrays = [value.data for value in node.present_inputs if value.is_constant and value.dtype == "float32"]
        if node.op == "Pad" and node.str("mode") == "constant" and node.float("value") != 0:
            arrays.append(np.array([node.float("value")]))
        if arrays:
            found.setdefault(choice.groups.root(node.outputs[0]), []).extend(arrays)
    return found
