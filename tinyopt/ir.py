"""The intermediate representation: a data-flow graph of typed values with static shapes."""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Attribute: TypeAlias = bool | int | float | str | tuple[int, ...] | tuple[float, ...]

DTYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(name)
    for name in (
        "bool",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "float16",
        "float32",
        "float64",
    )
}


@dataclass(frozen=True)
class TensorType:
    """An element type, one of `DTYPES`, and a fully known shape."""

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.dtype in DTYPES, self.dtype

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * DTYPES[self.dtype].itemsize

    @property
    def rank(self) -> int:
        return len(self.shape)

    @classmethod
    def of(cls, array: Array) -> TensorType:
        return cls(array.dtype.name, tuple(int(size) for size in array.shape))


@dataclass(frozen=True)
class Quantization:
    """What an integer stands for: real = (integer - zero_point) * scale.

    `scale` holds float32 values and `zero_point` integers: one of each, or one for each index along `axis`.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None

    def __post_init__(self) -> None:
        assert len(self.scale) == len(self.zero_point)
        assert self.axis is not None or len(self.scale) == 1

    @classmethod
    def per_tensor(cls, scale: float, zero_point: int) -> Quantization:
        return cls((float(np.float32(scale)),), (int(zero_point),), None)

    @classmethod
    def per_channel(cls, scale: Iterable[float], zero_point: Iterable[int], axis: int) -> Quantization:
        return cls(tuple(float(np.float32(s)) for s in scale), tuple(int(z) for z in zero_point), axis)

    @property
    def is_per_tensor(self) -> bool:
        return self.axis is None

    @property
    def is_symmetric(self) -> bool:
        return not any(self.zero_point)

    def scale_array(self, rank: int) -> NDArray[np.float32]:
        """The scales as float32, shaped to broadcast over a tensor of `rank` dimensions."""
        return np.array(self.scale, np.float32).reshape(self._broadcast_shape(rank))

    def zero_point_array(self, rank: int) -> NDArray[np.int32]:
        """The zero points as int32, shaped to broadcast over a tensor of `rank` dimensions."""
        return np.array(self.zero_point, np.int32).reshape(self._broadcast_shape(rank))

    def quantize(self, real: Array, dtype: str) -> Array:
        """round-half-even(real / scale) + zero_point, saturated to `dtype`, as ONNX QuantizeLinear defines it."""
        limits = np.iinfo(DTYPES[dtype])
        levels = np.rint(real.astype(np.float32) / self.scale_array(real.ndim)).astype(np.float64)
        integers = np.clip(levels + self.zero_point_array(real.ndim), limits.min, limits.max)
        return np.asarray(integers, DTYPES[dtype])

    def dequantize(self, integers: Array) -> NDArray[np.float32]:
        """(integer - zero_point) * scale in float32, as ONNX DequantizeLinear defines it."""
        centred = (integers.astype(np.int64) - self.zero_point_array(integers.ndim)).astype(np.float32)
        return np.asarray(centred * self.scale_array(integers.ndim), np.float32)

    def _broadcast_shape(self, rank: int) -> tuple[int, ...]:
        if self.axis is None:
            return ()
        return tuple(len(self.scale) if dim == self.axis else 1 for dim in range(rank))


@dataclass(frozen=True, eq=False)
class Clusters:
    """Weights of which many are equal: weight = codebook[indices] * scale, scale along the output channels (axis 0).

    indices: uint8, the weight's shape. codebook: int8 [clusters]. scale: float32 [output channels].
    cost_limit: how many times the instructions of plain weights a model may take whose kernels look weights up.
    """

    indices: NDArray[np.uint8]
    codebook: NDArray[np.int8]
    scale: NDArray[np.float32]
    cost_limit: float = math.inf

    @property
    def index_bits(self) -> int:
        """Bits that one packed index takes in flash."""
        return max(1, math.ceil(math.log2(len(self.codebook))))

    def integers(self) -> NDArray[np.int8]:
        return np.asarray(self.codebook[self.indices], np.int8)


@dataclass(eq=False, slots=True)
class Value:
    """A tensor: a graph input, a node's output, or a constant. Identity, not name, tells values apart."""

    name: str
    type: TensorType
    constant: Array | None = None
    quantization: Quantization | None = None
    clusters: Clusters | None = None

    @property
    def is_constant(self) -> bool:
        return self.constant is not None

    @property
    def data(self) -> Array:
        """The constant's array; only for values that are known to be constants."""
        assert self.constant is not None, f"{self.name} is not a constant"
        return self.constant

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> str:
        return self.type.dtype

    @classmethod
    def of(cls, name: str, array: Array, quantization: Quantization | None = None) -> Value:
        """A constant."""
        return cls(name, TensorType.of(array), array, quantization)


@dataclass(eq=False, slots=True)
class Node:
    """One operation. `origins` are the names of the ONNX nodes that it came from; passes carry them on."""

    op: builtins.str
    name: builtins.str
    inputs: list[Value | None]
    outputs: list[Value]
    attributes: dict[builtins.str, Attribute] = field(default_factory=dict[builtins.str, Attribute])
    origins: tuple[builtins.str, ...] = ()

    @property
    def output(self) -> Value:
        assert len(self.outputs) == 1, f"{self.op} '{self.name}' has {len(self.outputs)} outputs"
        return self.outputs[0]

    def input(self, index: int) -> Value:
        """Input `index`, which must be there."""
        value = self.inputs[index]
        assert value is not None, f"{self.op} '{self.name}' has no input {index}"
        return value

    def optional_input(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def present_inputs(self) -> list[Value]:
        return [value for value in self.inputs if value is not None]

    @property
    def variable_inputs(self) -> list[Value]:
        """The inputs that are not constants."""
        return [value for value in self.present_inputs if not value.is_constant]

    def int(self, key: builtins.str) -> builtins.int:
        value = self.attributes[key]
        assert isinstance(value, builtins.int), (key, value)
        return value

    def float(self, key: builtins.str) -> builtins.float:
        value = self.attributes[key]
        assert isinstance(value, builtins.int | builtins.float), (key, value)
        return builtins.float(value)

    def str(self, key: builtins.str) -> builtins.str:
        value = self.attributes[key]
        assert isinstance(value, builtins.str), (key, value)
        return value

    def ints(self, key: builtins.str) -> tuple[builtins.int, ...]:
        value = self.attributes[key]
        assert isinstance(value, tuple), (key, value)
        return tuple(builtins.int(item) for item in value)


def merged_origins(*nodes: Node) -> tuple[str, ...]:
    """The origins of a node that replaces `nodes`, in their order, each once."""
    return tuple(dict.fromkeys(origin for node in nodes for origin in node.origins))


@dataclass(eq=False, slots=True)
class Graph:
    """A directed acyclic graph. `nodes` is kept in an order in which it can run."""

    name: str
    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node] = field(default_factory=list[Node])

    def values(self) -> Iterator[Value]:
        """Every value once: inputs, then each node's constants and outputs in running order."""
        seen: set[int] = set()
        for value in [*self.inputs, *(v for n in self.nodes for v in (*n.present_inputs, *n.outputs)), *self.outputs]:
            if id(value) not in seen:
                seen.add(id(value))
                yield value

    def constants(self) -> list[Value]:
        return [value for value in self.values() if value.is_constant]

    def producers(self) -> dict[Value, Node]:
        return {output: node for node in self.nodes for output in node.outputs}

    def consumers(self) -> dict[Value, list[Node]]:
        """For every value, the nodes that read it (each once), in running order."""
        readers: dict[Value, list[Node]] = {value: [] for value in self.values()}
        for node in self.nodes:
            for value in dict.fromkeys(node.present_inputs):
                readers[value].append(node)
        return readers

    def is_output(self, value: Value) -> bool:
        return any(value is output for output in self.outputs)

    def replace_uses(self, old: Value, new: Value) -> None:
        """Let every reader of `old`, the graph's outputs included, read `new`."""
        for node in self.nodes:
            node.inputs = [new if value is old else value for value in node.inputs]
        self.outputs = [new if value is old else value for value in self.outputs]

    def remove(self, nodes: Iterable[Node]) -> None:
        doomed = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in doomed]

    def insert(self, position: Node, nodes: Sequence[Node]) -> None:
        """Put `nodes` just before the node `position`."""
        index = next(i for i, node in enumerate(self.nodes) if node is position)
        self.nodes[index:index] = nodes

    def replace_node(self, old: Node, nodes: Sequence[Node]) -> None:
        """Put `nodes` where `old` stood."""
        index = next(i for i, node in enumerate(self.nodes) if node is old)
        self.nodes[index : index + 1] = nodes

    def remove_unused(self) -> list[Node]:
        """Remove and return the nodes that no output depends on."""
        needed: set[int] = {id(value) for value in self.outputs}
        kept: list[Node] = []
        dropped: list[Node] = []
        for node in reversed(self.nodes):
            if any(id(output) in needed for output in node.outputs):
                needed.update(id(value) for value in node.present_inputs)
                kept.append(node)
            else:
                dropped.append(node)
        self.nodes = kept[::-1]
        return dropped[::-1]

    def sort(self) -> None:
        """Bring the nodes into a running order, the present one where it already is one (stable)."""
        available = {id(value) for value in self.inputs}
        produced = {id(output) for node in self.nodes for output in node.outputs}
        waiting = list(self.nodes)
        ordered: list[Node] = []
        while waiting:
            late: list[Node] = []
            for node in waiting:
                if all(id(v) in available or id(v) not in produced for v in node.present_inputs):
                    ordered.append(node)
                    available.update(id(output) for output in node.outputs)
                else:
                    late.append(node)
            assert len(late) < len(waiting), f"graph '{self.name}' has a cycle through '{late[0].name}'"
            waiting = late
        self.nodes = ordered

    def names(self) -> set[builtins.str]:
        """The names of all nodes and values."""
        return {value.name for value in self.values()} | {node.name for node in self.nodes}

    def unique_name(self, stem: str) -> str:
        """`stem`, or `stem_2`, `stem_3`, ... where a node or value already has that name."""
        taken = self.names()
        if stem not in taken:
            return stem
        return next(name for i in range(2, len(taken) + 3) if (name := f"{stem}_{i}") not in taken)

    def copy(self) -> Graph:
        """A graph of new nodes and values; the arrays of constants are shared, for nobody writes to them."""
        twins: dict[int, Value] = {id(value): replace(value) for value in self.values()}
        nodes = [
            Node(
                node.op,
                node.name,
                [None if value is None else twins[id(value)] for value in node.inputs],
                [twins[id(value)] for value in node.outputs],
                dict(node.attributes),
                node.origins,
            )
            for node in self.nodes
        ]
        return Graph(self.name, [twins[id(v)] for v in self.inputs], [twins[id(v)] for v in self.outputs], nodes)
