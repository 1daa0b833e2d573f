"""Put the QuantizeLinear and DequantizeLinear that are missing around operators of a partly quantized graph."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from tinyopt.ir import Graph, Node, Quantization, TensorType, Value
from tinyopt.pass_manager import PassContext
from tinyopt.passes.quantization.kept_weights import is_usable, symmetric
from tinyopt.passes.quantization.known_scales import Rounding, Scales, Wiring
from tinyopt.passes.quantization.parameters import from_range
from tinyopt.passes.quantization.weights import LARGEST_LEVEL, Names, dequantized, quantize_parameters

_WEIGHTED = ("Conv", "ConvTranspose", "Dense")
_WITH_CONSTANTS = ("Add", "Sub", "Mul", "MatMul")
_RATIO_TOLERANCE = 2.0**-10  # of one over a scale to the next integer, as the integer Softmax wants it


@dataclass
class Completion:
    """The graph under change. capable: the nodes that become integer operators once all around them is quantized."""

    graph: Graph
    wiring: Wiring
    scales: Scales
    capable: Set[Node]
    context: PassContext

    def __post_init__(self) -> None:
        self._names = Names(self.graph)
        self.is_changed = False

    def complete(self) -> bool:
        """Insert what is missing; returns whether anything was."""
        for value in self._values():
            self._round(value)
        for node in [node for node in self.graph.nodes if node in self.capable]:
            if node.op in _WEIGHTED:
                self._weights(node)
            elif node.op in _WITH_CONSTANTS:
                self._constants(node)
        return self.is_changed

    def _values(self) -> list[Value]:
        """The activations beside capable nodes that are not dequantized integers, in running order."""
        found: dict[Value, None] = {}
        for node in self.graph.nodes:
            if node in self.capable:
                found.update(dict.fromkeys([*self.wiring.activations(node), *node.outputs]))
        return [value for value in found if not self._is_dequantized(value)]

    def _is_dequantized(self, value: Value) -> bool:
        producer = self.wiring.producers.get(value)
        return producer is not None and producer.op == "DequantizeLinear"

    def _round(self, value: Value) -> None:
        """value -> QuantizeLinear -> DequantizeLinear for all who read it in float, or in another scale."""
        rounding = self.scales.rounding(value)
        assert rounding is not None, value.name
        producer = self.wiring.producers.get(value)
        exists_only_rounded = producer in self.capable
        if exists_only_rounded and producer is not None and producer.op == "Softmax":
            rounding = one_over_integer(rounding)
        readers = self.wiring.readers[value]
        own = [reader for reader in readers if reader.op == "QuantizeLinear" and _rounds(reader, rounding)]
        is_shared = exists_only_rounded or producer is None
        late = [
            reader
            for reader in readers
            if reader not in own
            and (exists_only_rounded or reader in self.capable or (is_shared and reader.op == "QuantizeLinear"))
        ]
        is_output = exists_only_rounded and self.graph.is_output(value)
        if late or is_output:
            real = self._pair(value, rounding, own)
            for reader in late:
                reader.inputs = [real if item is value else item for item in reader.inputs]
            if is_output:
                self._give_rounded(value, real)
            self._remark(value, rounding, late)

    def _pair(self, value: Value, rounding: Rounding, own: Sequence[Node]) -> Value:
        """The rounded value, of the QuantizeLinear that the model has or of a new one."""
        producer = self.wiring.producers.get(value)
        origins = () if producer is None else producer.origins
        unique = self._names.unique
        new: list[Node] = []
        if own:
            levels = own[0].output
        else:
            value_type = TensorType(rounding.dtype, value.shape)
            name = unique(f"{value.name}_{rounding.dtype}")
            levels = Value(name, value_type, quantization=rounding.quantization)
            new.append(Node("QuantizeLinear", unique(f"{value.name}_quantize"), [value], [levels], {}, origins))
        real = Value(unique(f"{value.name}_real"), TensorType("float32", value.shape))
        new.append(Node("DequantizeLinear", unique(f"{value.name}_dequantize"), [levels], [real], {}, origins))
        after = own[0] if own else producer
        position = 0 if after is None else self.graph.nodes.index(after) + 1
        self.graph.nodes[position:position] = new
        self.is_changed = True
        return real

    def _give_rounded(self, value: Value, real: Value) -> None:
        """What the model gives is the rounded value, under its old name."""
        self.graph.outputs = [real if item is value else item for item in self.graph.outputs]
        name, value.name = value.name, self._names.unique(f"{value.name}_exact")
        real.name = name

    def _remark(self, value: Value, rounding: Rounding, readers: Sequence[Node]) -> None:
        known = self.scales.known[value]
        quantization = rounding.quantization
        scale = f"{rounding.dtype} of scale {quantization.scale[0]:.4g}, zero point {quantization.zero_point[0]}"
        if not known.is_given:
            self.context.did(f"'{value.name}' gets {scale}: {known.reason}")
        elif names := ", ".join(f"{reader.op} '{reader.name}'" for reader in readers):
            self.context.did(f"'{value.name}' is rounded with {scale} for {names} too: {known.reason}")
        else:
            self.context.did(f"'{value.name}' is rounded with {scale} as an output too: {known.reason}")

    def _weights(self, node: Node) -> None:
        """Weights and bias as the integer kernels take them; those that they take already stay as they are."""
        weights, bias = node.input(1), node.optional_input(2)
        scale = self._input_scale(node)
        integers = self.wiring.integers(weights)
        real_bias = None if bias is None else self.wiring.real(bias)
        if integers is None or (node.op == "ConvTranspose" and not is_usable(node, integers, real_bias, scale)):
            self._new_weights(node, weights, bias, scale)
        elif not is_usable(node, integers, real_bias, scale):
            found = symmetric(integers, real_bias, scale)
            constant = Value.of(self._names.unique(f"{integers.name}_symmetric"), found.levels, found.quantization)
            self._operand(node, 1, constant)
            count = len(found.levels)
            how = "exactly" if not found.rounded else f"{count - found.rounded} of {count} channels exactly"
            self.context.did(f"the weights of '{node.name}' have one scale for each channel and no zero points: {how}")

    def _new_weights(self, node: Node, weights: Value, bias: Value | None, scale: float) -> None:
        for index, value in ((1, weights), (2, bias)):
            if value is not None and not value.is_constant:
                node.inputs[index] = Value.of(self._names.unique(f"{value.name}_constant"), self.wiring.real(value))
        quantized = quantize_parameters(self._names, node, scale)
        for index, constant in ((1, quantized.weights), (2, quantized.bias)):
            if constant is not None:
                self._operand(node, index, constant)
        self.context.did(f"the weights of '{node.name}', which the model has in float, are quantized")
        if quantized.remark is not None:
            self.context.declined(f"{node.op} '{node.name}': {quantized.remark}", [node])

    def _constants(self, node: Node) -> None:
        """Float constants of more than one element, which a table cannot take in."""
        for index, value in enumerate(node.inputs):
            if value is None or not value.is_constant or value.dtype != "float32" or value.type.elements == 1:
                continue
            low, high = float(value.data.min()), float(value.data.max())
            quantization = from_range(low, high)
            if node.op == "MatMul":
                quantization = Quantization.per_tensor(max(-low, high, 1e-30) / LARGEST_LEVEL, 0)
            levels = quantization.quantize(value.data, "int8")
            self._operand(node, index, Value.of(self._names.unique(f"{value.name}_int8"), levels, quantization))
            self.context.did(f"the constant '{value.name}' of {node.op} '{node.name}' is quantized")

    def _operand(self, node: Node, index: int, constant: Value) -> None:
        dequantize = dequantized(self._names, constant, node)
        self.graph.insert(node, [dequantize])
        node.inputs[index] = dequantize.output
        self.is_changed = True

    def _input_scale(self, node: Node) -> float:
        dequantize = self.graph.producers()[node.input(0)]
        quantization = dequantize.input(0).quantization
        assert quantization is not None, node.name
        return quantization.scale[0]


def _rounds(quantize: Node, rounding: Rounding) -> bool:
    return quantize.output.quantization == rounding.quantization and quantize.output.dtype == rounding.dtype


def one_over_integer(rounding: Rounding) -> Rounding:
    """The scale next to the given one that is one over an integer, as the integer Softmax wants it for int8."""
    quantization = rounding.quantization
    scale = quantization.scale[0]
    ratio = max(round(1 / scale), 1)
    if rounding.dtype != "int8" or abs(ratio * scale - 1) <= _RATIO_TOLERANCE:
        return rounding
    return Rounding(Quantization.per_tensor(1 / ratio, quantization.zero_point[0]))
