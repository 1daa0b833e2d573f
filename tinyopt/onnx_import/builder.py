"""Make IR nodes for ONNX nodes: names, types, origins, and the quantization of integers that are only moved.

Tensors of uint8 live in the IR as int8 (x ^ 0x80, zero point less 128); `Builder.unsigned` remembers which they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tinyopt.ir import DTYPES, Array, Attribute, Node, Quantization, TensorType, Value, merged_origins
from tinyopt.onnx_import.limits import LARGEST_RANK, LARGEST_TENSOR_BYTES
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.ops import OPERATORS
from tinyopt.ops.along_axis import ORDERED
from tinyopt.ops.dense import WHOLE
from tinyopt.ops.integer_rules import ACTIVATION_DTYPES
from tinyopt.ops.nd import POOLED
from tinyopt.ops.pointwise import FUNCTIONS
from tinyopt.ops.recurrent import GATES
from tinyopt.ops.reduce import NUMBERS, REDUCED_DTYPES

UNCLAMPED: Mapping[str, Attribute] = {"clamp_low": -np.inf, "clamp_high": np.inf}

_MOVERS = frozenset(
    """
    MaxPool ReduceMax ReduceMin Reshape Transpose Concat Split Slice Pad Gather Resize Identity FlipSign Expand
    DynamicGather GatherElements GatherND ScatterElements ScatterND OneHot ReverseSequence
    """.split()
)
_HELPERS = frozenset({"Reshape", "Transpose", "Identity", "DequantizeLinear"})  # made around the node that is meant
_PLAIN = frozenset({"Cast", "Trilu", *(function.name for function in FUNCTIONS)})  # they work on uint8 itself
_TAKEN_DTYPES: Mapping[str, tuple[str, ...]] = {
    "Trilu": tuple(DTYPES),
    "DequantizeLinear": ("int8", "int16", "int32"),
    "FlipSign": ("int8", "uint8"),
    "Interpolate": ("float32", "int64"),
    "MaxPool": ("float32", "int8", "int16"),
    **dict.fromkeys(sorted(_MOVERS - {"FlipSign", "MaxPool", "ReduceMax", "ReduceMin"}), tuple(DTYPES)),
    **REDUCED_DTYPES,
    **dict.fromkeys(("ArgMax", "ArgMin", "TopK"), ORDERED),
    **dict.fromkeys(("IntegerConvNd", "IntegerMatMul"), WHOLE),
    "MaxPoolNd": POOLED,
    **dict.fromkeys(GATES, ("float32", "int32")),
    **dict.fromkeys(("CumSum", "CumProd"), NUMBERS),
    **{function.name: (*function.takes, "bool") for function in FUNCTIONS},
    "Cast": tuple(DTYPES),
}


class Builder:
    """Collects the nodes of a graph in running order."""

    def __init__(self, reserved_names: Iterable[str]) -> None:
        self.nodes: list[Node] = []
        self.unsigned: set[Value] = set()
        self._producers: dict[Value, Node] = {}
        self._value_names = set(reserved_names)
        self._node_names: set[str] = set()
        self._copies: dict[tuple[Value, Quantization], Value] = {}
        self._flipped: dict[Value, Value] = {}
        self._origin: tuple[str, ...] = ()
        self._stem = self._label = ""
        self._first_node = 0
        self._fresh: set[Value] = set()

    # Names

    def begin(self, node: OnnxNode) -> None:
        """From here on, nodes are made for `node`."""
        self._origin = (node.name,)
        self._label = node.name
        self._stem = node.output_names[0] if node.is_used(0) else node.name
        self._first_node = len(self.nodes)
        self._fresh.clear()

    def finish(self, node: OnnxNode, results: Sequence[Value]) -> None:
        """Give the nodes and values made for `node` their ONNX names."""
        for value, name in zip(results, node.output_names, strict=False):
            if name and value in self._fresh:
                self._value_names.discard(value.name)
                value.name = name
        made = self.nodes[self._first_node :]
        main = next((new for new in made if new.op not in _HELPERS), made[0] if made else None)
        if main is not None:
            self._node_names.discard(main.name)
            main.name = self.unique_node_name(node.name)

    def begin_boundary(self, name: str) -> None:
        """From here on, nodes are made between the graph's input or output `name` and the nodes of the model."""
        self._origin = ()
        self._label = self._stem = name

    def unique_node_name(self, stem: str) -> str:
        """`stem`, or `stem_2`, ... where a node already has that name; from now on it is taken."""
        return _unique(stem, self._node_names)

    def unique_value_name(self, stem: str) -> str:
        """`stem`, or `stem_2`, ... where a tensor already has that name; from now on it is taken."""
        return _unique(stem, self._value_names)

    # Values and nodes

    def constant(self, array: Array, stem: str, quantization: Quantization | None = None) -> Value:
        """A new constant."""
        contiguous = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes scalars 1-D
        value = Value.of(self.unique_value_name(stem), contiguous, quantization)
        self._fresh.add(value)
        return value

    def emit(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        quantization: Quantization | None = None,
        dtype: str = "float32",
    ) -> Value:
        """The output of a new node. Raises Refusal where `op` does not take inputs of these types.

        dtype: for an operator that gives whatever type is asked of it.
        """
        return self.emit_many(op, inputs, attributes or {}, 1, quantization, dtype)[0]

    def emit_many(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Attribute],
        count: int,
        quantization: Quantization | None = None,
        dtype: str = "float32",
    ) -> list[Value]:
        """The `count` outputs of a new node; `quantization` is theirs, integers that are only moved keep their own."""
        is_plain = op == "FlipSign" or op in _PLAIN or attributes.get("reduction", "none") != "none"
        signed = [value if value is None or is_plain else self.signed(value) for value in inputs]
        _check_dtypes(op, signed)
        is_unsigned = op in _MOVERS and any(value in self.unsigned for value in signed)
        if op in _MOVERS and op != "FlipSign" and quantization is None:
            quantization = self._common_quantization(signed)
            signed = [self._agreeing(value, quantization) for value in signed]
        stem = f"{self._stem}_{op.lower()}"
        outputs = [Value(self.unique_value_name(stem), TensorType(dtype, ()), None, quantization) for _ in range(count)]
        node = Node(op, self._label, signed, outputs, dict(attributes), self._origin)  # as errors shall name it
        for output, inferred in zip(outputs, OPERATORS[op].infer(node), strict=True):
            output.type = inferred
            if reason := unusable_type(inferred):
                raise Refusal(f"its output {reason}")
        node.name = self.unique_node_name(stem)
        self._add(node)
        if is_unsigned and op != "FlipSign":
            self.unsigned.update(outputs)
        return outputs

    def flip(self, value: Value) -> Value:
        """uint8 as int8, or back."""
        return self.emit("FlipSign", [value])

    def pointwise(
        self, op: str, inputs: Sequence[Value], attributes: Mapping[str, Attribute] | None = None, dtype: str = ""
    ) -> Value:
        """The output of a new node that works on uint8 as it is, not as int8: all of `tinyopt.ops.pointwise` do.

        dtype: what Cast casts to.
        """
        result = self.emit(op, [self.plain(value) for value in inputs], attributes, None, dtype or "float32")
        if result.dtype != "uint8":
            return result
        flipped = self.flip(result)
        self.unsigned.add(flipped)
        return flipped

    def plain(self, value: Value) -> Value:
        """`value` in the type that the ONNX model gives it: uint8 where it is stored as int8."""
        if value not in self.unsigned:
            return value
        if value.constant is not None:
            return self.constant(value.constant.view(np.uint8) ^ np.uint8(0x80), value.name)
        producer = self.producer(value)
        return producer.input(0) if producer is not None and producer.op == "FlipSign" else self.flip(value)

    def dtype(self, value: Value) -> str:
        """The element type that the ONNX model gives `value`."""
        return "uint8" if value in self.unsigned else value.dtype

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """`value` in `shape`; itself where it has that shape already."""
        return value if value.shape == tuple(shape) else self.emit("Reshape", [value], {"shape": tuple(shape)})

    def producer(self, value: Value) -> Node | None:
        """The node that gives `value`; None for graph inputs and constants."""
        return self._producers.get(value)

    def _add(self, node: Node) -> None:
        self.nodes.append(node)
        self._producers.update(dict.fromkeys(node.outputs, node))
        self._fresh.update(node.outputs)

    # Constants behind DequantizeLinear

    def is_fixed(self, value: Value) -> bool:
        """Whether `value` is known at compile time: a constant, or the DequantizeLinear of one."""
        return self.fixed_array(value) is not None

    def fixed_array(self, value: Value) -> Array | None:
        """The real numbers of a constant or of the DequantizeLinear of one; None for anything else."""
        if value.constant is not None:
            return value.constant
        source = self._dequantized_constant(value)
        if source is None or source.quantization is None:
            return None
        return source.quantization.dequantize(source.data)

    def with_constants(self, node: OnnxNode) -> OnnxNode:
        """`node` with constants of real numbers in place of the DequantizeLinears of constants that it reads."""
        return replace(
            node, inputs=tuple(value if value is None else self._as_constant(value) for value in node.inputs)
        )

    def _as_constant(self, value: Value) -> Value:
        array = self.fixed_array(value)
        return value if array is None or value.is_constant else self.constant(array, value.name)

    def rearranged(self, value: Value, function: Callable[[Array], Array], axes: Sequence[int]) -> Value:
        """`function` (which only moves elements) of a fixed `value`; axis i of it becomes axis `axes[i]`."""
        if value.constant is not None:
            return self.constant(function(value.constant), value.name, value.quantization)
        source = self._dequantized_constant(value)
        assert source is not None
        assert source.quantization is not None
        old = source.quantization
        moved = Quantization(old.scale, old.zero_point, None if old.axis is None else axes[old.axis])
        origin = self._origin
        self._origin = merged_origins(self._producers[value], Node("", "", [], [], {}, origin))
        result = self.emit("DequantizeLinear", [self.constant(function(source.data), source.name, moved)])
        self._origin = origin
        return result

    def _dequantized_constant(self, value: Value) -> Value | None:
        node = self._producers.get(value)
        if node is None or node.op != "DequantizeLinear" or not node.input(0).is_constant:
            return None
        return node.input(0)

    # Integers

    def signed(self, value: Value) -> Value:
        """A constant of uint8 as int8 (x ^ 0x80); any other value as it is."""
        if value.dtype != "uint8" or value.constant is None:
            return value
        if value not in self._flipped:
            flipped = self.constant((value.constant ^ np.uint8(0x80)).view(np.int8), value.name)
            self.unsigned.add(flipped)
            self._flipped[value] = flipped
        return self._flipped[value]

    def with_quantization(self, value: Value, quantization: Quantization) -> Value:
        """`value` read with `quantization`: itself, or a copy where it already stands for other real numbers."""
        if value.quantization is None:
            self._spread(value, quantization)
        if value.quantization == quantization:
            return value
        if (value, quantization) not in self._copies:
            self._copies[value, quantization] = self._copy(value, quantization)
        return self._copies[value, quantization]

    def _copy(self, value: Value, quantization: Quantization) -> Value:
        if value.constant is not None:
            copy = self.constant(value.constant, value.name, quantization)
        else:
            copy = self.emit("Identity", [value], quantization=quantization)
        if value in self.unsigned:
            self.unsigned.add(copy)
        return copy

    def _spread(self, value: Value, quantization: Quantization) -> None:
        """Set the quantization of `value` and of all integers that are the same numbers moved."""
        if value.quantization is not None or value.dtype not in ("int8", "int16", "int32"):
            return
        value.quantization = quantization
        for node in self.nodes:
            neighbours = [*node.present_inputs, *node.outputs]
            if node.op in _MOVERS and node.op != "FlipSign" and any(value is other for other in neighbours):
                for other in neighbours:
                    if other.dtype == value.dtype:  # indices are no real numbers
                        self._spread(other, quantization)

    def _common_quantization(self, inputs: Sequence[Value | None]) -> Quantization | None:
        found = [v.quantization for v in inputs if v is not None and v.dtype in ACTIVATION_DTYPES and v.quantization]
        return found[0] if found else None

    def _agreeing(self, value: Value | None, quantization: Quantization | None) -> Value | None:
        if value is None or quantization is None or value.dtype not in ACTIVATION_DTYPES:
            return value
        return self.with_quantization(value, quantization)


def unusable_type(tensor_type: TensorType) -> str | None:
    """Why no tensor of this type can be computed with; None where it can."""
    if tensor_type.rank > LARGEST_RANK:
        return f"has {tensor_type.rank} dimensions; tinyopt takes up to {LARGEST_RANK}"
    if not tensor_type.elements:
        return f"has no elements (shape {tensor_type.shape})"
    if tensor_type.bytes > LARGEST_TENSOR_BYTES:
        return (
            f"takes {tensor_type.bytes} bytes (shape {tensor_type.shape}); tinyopt takes up to {LARGEST_TENSOR_BYTES}"
        )
    return None


def _check_dtypes(op: str, inputs: Sequence[Value | None]) -> None:
    taken = _TAKEN_DTYPES.get(op, ("float32",))
    for value in inputs:
        if value is not None and value.dtype not in taken:
            raise Refusal(f"input '{value.name}' is {value.dtype}; {op} takes {' or '.join(taken)}")


def _unique(stem: str, taken: set[str]) -> str:
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name
