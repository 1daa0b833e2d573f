"""Which scale each activation of a partly quantized graph has: as the model says, or as follows from its neighbours.

    known:     v -> QuantizeLinear(q)                        the model says it
    forward:   int8(q) -> DequantizeLinear -> MaxPool -> v   v has no other values than its input: q
    backward:  v -> Reshape -> QuantizeLinear(q)             every value of v is in what it becomes: q
    fixed:     Softmax -> v                                  v lies in [0, 1]

Rules run until none finds anything new.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinyopt.ir import Array, Graph, Node, Quantization, Value
from tinyopt.ops import OPERATORS, QuantizationRule
from tinyopt.passes.integer_rules.movers import is_float_mover
from tinyopt.passes.quantization.parameters import FIXED, PARAMETER_INPUTS, from_range

_TINIEST = 1e-30  # the largest number where there are only zeros
_ROUNDING_OPS = ("QuantizeLinear", "DequantizeLinear")
_SAME_RANGE = frozenset({"Relu", "Clip", "AveragePool", "ReduceMean"})  # what they give lies between what they read
_FUNCTIONS = frozenset({"LeakyRelu", "HardSwish", "Gelu", "PRelu", "Add", "Sub", "Mul"})  # where one input varies
_KEEPS_ALL = frozenset({"Reshape", "Transpose", "Identity", "Pad", "Concat"})  # all they read is in what they give


@dataclass(frozen=True)
class Rounding:
    """How an activation is rounded: its scale, and int8 or int16."""

    quantization: Quantization
    dtype: str = "int8"

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest real number that the integers stand for."""
        scale, zero_point = self.quantization.scale[0], self.quantization.zero_point[0]
        levels = np.iinfo(self.dtype)
        return (levels.min - zero_point) * scale, (levels.max - zero_point) * scale

    @classmethod
    def covering(cls, low: float, high: float, dtype: str) -> Rounding:
        """The finest one for [low, high] and zero."""
        if dtype == "int8":
            return cls(from_range(low, high))
        return cls(Quantization.per_tensor(max(-low, high, _TINIEST) / np.iinfo(dtype).max, 0), dtype)


@dataclass(frozen=True)
class Known:
    """The rounding of an activation and where it is from. is_given: the model says it."""

    rounding: Rounding
    reason: str
    is_given: bool


@dataclass
class Wiring:
    """Who makes and who reads each value of a graph, and which values are constants behind DequantizeLinear."""

    graph: Graph
    producers: Mapping[Value, Node] = field(init=False)
    readers: Mapping[Value, list[Node]] = field(init=False)

    def __post_init__(self) -> None:
        self.producers = self.graph.producers()
        self.readers = self.graph.consumers()

    def is_fixed(self, value: Value) -> bool:
        """Whether the value is a constant, or a constant's DequantizeLinear."""
        return value.is_constant or self.integers(value) is not None

    def integers(self, value: Value) -> Value | None:
        """The integer constant that `value` is dequantized from; None where it is no such."""
        node = self.producers.get(value)
        is_stored = node is not None and node.op == "DequantizeLinear" and node.input(0).is_constant
        return node.input(0) if node is not None and is_stored else None

    def activations(self, node: Node) -> list[Value]:
        """The float inputs that change from run to run and are no parameters."""
        parameters = PARAMETER_INPUTS.get(node.op, ())
        return [
            value
            for index, value in enumerate(node.inputs)
            if value is not None and value.dtype == "float32" and index not in parameters and not self.is_fixed(value)
        ]

    def constants(self, node: Node) -> list[Array]:
        """The real numbers of the float operands that never change and are no parameters."""
        parameters = PARAMETER_INPUTS.get(node.op, ())
        found = [v for i, v in enumerate(node.inputs) if v is not None and i not in parameters and self.is_fixed(v)]
        return [real for value in found if (real := self.real(value)).dtype == np.float32]

    def real(self, value: Value) -> Array:
        """The numbers that a fixed value stands for."""
        source = self.integers(value)
        if source is None:
            return value.data
        assert source.quantization is not None, source.name
        return source.quantization.dequantize(source.data)

    def float_nodes(self) -> list[Node]:
        """The nodes that compute in float and could be part of an integer graph, in running order."""
        return [node for node in self.graph.nodes if node.op not in _ROUNDING_OPS and self.activations(node)]


class Scales:
    """The known scales of a graph's float activations, and their inference."""

    def __init__(self, wiring: Wiring) -> None:
        self.known: dict[Value, Known] = {}
        self._wiring = wiring
        for node in wiring.graph.nodes:
            if node.op == "DequantizeLinear" and not node.input(0).is_constant and (given := _given([node.input(0)])):
                self.known[node.output] = Known(given[0], "it is dequantized", is_given=True)
        for value, readers in wiring.readers.items():
            given = _given([reader.output for reader in readers if reader.op == "QuantizeLinear"])
            if value not in self.known and given and not _cuts_off_for_others(wiring, value, given):
                widest = max(given, key=lambda rounding: (rounding.dtype == "int16", rounding.quantization.scale))
                self.known[value] = Known(widest, "the model quantizes it", is_given=True)

    def rounding(self, value: Value) -> Rounding | None:
        """How a value is rounded; None where that is not known."""
        found = self.known.get(value)
        return None if found is None else found.rounding

    def set(self, value: Value, rounding: Rounding, reason: str) -> None:
        """From now on `value` is rounded so."""
        self.known[value] = Known(rounding, reason, is_given=False)

    def infer(self) -> None:
        """Apply all rules until nothing new is found."""
        nodes = self._wiring.float_nodes()
        count = -1
        while count != len(self.known):
            count = len(self.known)
            for node in reversed(nodes):  # backward first: it adds no rounding
                self._backward(node)
            for node in nodes:
                self._forward(node)

    def _forward(self, node: Node) -> None:
        missing = [output for output in node.outputs if output not in self.known and output.dtype == "float32"]
        found = self._of_outputs(node) if missing else None
        if found is not None:
            for output in missing:
                self.set(output, found, f"it follows from what {node.op} '{node.name}' reads")

    def _of_outputs(self, node: Node) -> Rounding | None:
        """The scale of what the operator gives; None where nothing tells."""
        if fixed := FIXED.get(OPERATORS[node.op].quantization):
            return Rounding(fixed)
        sources = [self.rounding(value) for value in self._wiring.activations(node)]
        inputs = [source for source in sources if source is not None]
        found = _from_inputs(self._wiring, node, inputs) if len(inputs) == len(sources) else None
        return found or _from_clamp(node)

    def _backward(self, node: Node) -> None:
        is_clamp = node.op in ("Relu", "Clip")  # rounding and clamping can change places, where limits are levels
        if not (is_float_mover(node) or is_clamp) or len(node.outputs) != 1:
            return
        rounding = self.rounding(node.output)
        if rounding is None:
            return
        for value in self._wiring.activations(node):
            is_alone = len(self._wiring.readers[value]) == 1 and not self._wiring.graph.is_output(value)
            if value not in self.known and (is_alone or node.op in _KEEPS_ALL):
                self.set(value, rounding, f"{node.op} '{node.name}' gives it on in a known scale")


def _given(integers: Sequence[Value]) -> list[Rounding]:
    """How these integers are rounded, of those that have one scale."""
    return [
        Rounding(value.quantization, value.dtype)
        for value in integers
        if value.quantization is not None and value.quantization.is_per_tensor
    ]


def _cuts_off_for_others(wiring: Wiring, value: Value, given: Sequence[Rounding]) -> bool:
    """Whether a QuantizeLinear that stands for a Relu is one of several readers, and others read what is below 0."""
    are_all_rounding = all(reader.op == "QuantizeLinear" for reader in wiring.readers[value])
    if value not in wiring.producers or (are_all_rounding and not wiring.graph.is_output(value)):
        return False
    return all(rounding.limits[0] >= 0 for rounding in given) and not _is_non_negative(wiring, value)


def _is_non_negative(wiring: Wiring, value: Value) -> bool:
    """Whether operators show that no element is below 0."""
    node = wiring.producers.get(value)
    if node is None:
        return False
    if node.op == "DequantizeLinear":
        return any(rounding.limits[0] >= 0 for rounding in _given([node.input(0)]))
    if node.op == "Relu" or OPERATORS[node.op].quantization is QuantizationRule.UNIT_INTERVAL:
        return True
    low = node.attributes.get("low" if node.op == "Clip" else "clamp_low", -math.inf)
    if isinstance(low, int | float) and low >= 0:
        return True
    passes_on = node.op in _SAME_RANGE or (is_float_mover(node) and node.op not in ("Pad", "Concat"))
    return passes_on and all(_is_non_negative(wiring, source) for source in wiring.activations(node))


def _from_clamp(node: Node) -> Rounding | None:
    """The scale that a clamp with two ends gives, whatever is clamped."""
    keys = ("low", "high") if node.op == "Clip" else ("clamp_low", "clamp_high")
    if any(key not in node.attributes for key in keys):
        return None
    low, high = (node.float(key) for key in keys)
    return Rounding(from_range(low, high)) if math.isfinite(low) and math.isfinite(high) else None


def _from_inputs(wiring: Wiring, node: Node, inputs: Sequence[Rounding]) -> Rounding | None:
    """The scale of the output by those of the inputs, all of which are known; None where they do not tell."""
    if is_float_mover(node):
        extra = [np.array([node.float("value")])] if node.op == "Pad" and node.str("mode") == "constant" else []
        return _covering(inputs, [*wiring.constants(node), *extra])
    if node.op in _SAME_RANGE:
        return inputs[0]
    return _of_function(wiring, node, inputs[0]) if node.op in _FUNCTIONS and len(inputs) == 1 else None


def _covering(inputs: Sequence[Rounding], constants: Sequence[Array]) -> Rounding:
    """One scale for all that is put together: the inputs' own where they agree and constants fit in."""
    low, high = min(each.limits[0] for each in inputs), max(each.limits[1] for each in inputs)
    numbers = [number for array in constants for number in (float(array.min()), float(array.max()))]
    if all(each == inputs[0] for each in inputs) and all(low <= number <= high for number in numbers):
        return inputs[0]
    dtype = "int16" if any(each.dtype == "int16" for each in inputs) else "int8"
    return Rounding.covering(min([low, *numbers]), max([high, *numbers]), dtype)


def _of_function(wiring: Wiring, node: Node, source: Rounding) -> Rounding | None:
    """The range that a function of one variable takes over the levels of its input."""
    levels = np.iinfo(source.dtype)
    reals = source.quantization.dequantize(np.arange(levels.min, int(levels.max) + 1))
    arrays = [
        None if value is None else wiring.real(value) if wiring.is_fixed(value) else reals for value in node.inputs
    ]
    if any(array is not None and array is not reals and array.size != 1 for array in arrays):
        return None
    scalars = [array if array is None or array is reals else array.reshape(()) for array in arrays]
    with np.errstate(all="ignore"):  # a range that is not finite is refused below
        (result,) = OPERATORS[node.op].evaluate(node, scalars)
    if not np.all(np.isfinite(result)):
        return None
    return Rounding.covering(float(result.min()), float(result.max()), source.dtype)


def structural_refusal(wiring: Wiring, node: Node) -> str | None:
    """Why a node could not be an integer operator whatever scales were known; None where it could."""
    rule = OPERATORS[node.op].quantization
    if rule is QuantizationRule.FLOAT_ONLY or (node.op == "Resize" and not is_float_mover(node)):
        return f"{node.op} has no integer form"
    if any(output.dtype != "float32" for output in node.outputs):
        return "it gives no real numbers"
    for index in PARAMETER_INPUTS.get(node.op, ()):
        value = node.optional_input(index)
        if value is not None and not wiring.is_fixed(value):
            return f"its parameter '{value.name}' is not a constant"
    return None
