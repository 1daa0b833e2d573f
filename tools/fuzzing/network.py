"""A network that grows: the tensors that there are, and nodes that take some of them and give others.

What a node gives is asked of ONNX's own shape inference, so that no rule about shapes is written here a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
from numpy.typing import NDArray

MOST_ELEMENTS = 4096  # of a tensor: small networks find the same mistakes sooner
MOST_RANK = 5
_CODES: Mapping[str, int] = {
    "float32": onnx.TensorProto.FLOAT,
    "int64": onnx.TensorProto.INT64,
    "int32": onnx.TensorProto.INT32,
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
    "bool": onnx.TensorProto.BOOL,
}
_DTYPES: Mapping[int, str] = {code: name for name, code in _CODES.items()}

Array = NDArray[Any]
Attribute = int | float | str | Sequence[int] | Sequence[float]


class UnfitError(Exception):
    """The drawn operation does not exist in this opset, or gives a tensor that is too large, empty or of odd type."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """is_exact: its numbers are small multiples of 1/8, the same on every machine, however sums are ordered.

    Only such may meet an operator that jumps: a comparison, a rounding, a choice of the largest.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_exact: bool = False
    is_constant: bool = False

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class Network:
    """Grows by `node`; `model` gives it as ONNX."""

    def __init__(self, seed: int, opset: int) -> None:
        self.random = np.random.default_rng(seed)
        self.seed, self.opset = seed, opset
        self.tensors: list[Tensor] = []
        self.inputs: list[Tensor] = []
        self._constants: dict[str, Array] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._read: set[str] = set()

    # drawing

    def integer(self, low: int, high: int) -> int:
        """Both ends can come."""
        return int(self.random.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def choice(self, things: Sequence[Any]) -> Any:
        return things[int(self.random.integers(len(things)))]

    def pick(self, suits: Callable[[Tensor], bool]) -> Tensor:
        """A tensor that suits, mostly a late one; raises UnfitError where there is none."""
        found = [tensor for tensor in self.tensors if suits(tensor)]
        if not found:
            raise UnfitError
        return found[-1 - min(int(self.random.geometric(0.4)) - 1, len(found) - 1)]

    def real(self, least_rank: int = 0, most_rank: int = MOST_RANK) -> Tensor:
        return self.pick(lambda t: t.dtype == "float32" and least_rank <= t.rank <= most_rank)

    def image(self, rank: int = 4) -> Tensor:
        """[N, C, H, W]."""
        return self.pick(lambda t: t.dtype == "float32" and t.rank == rank and t.shape[0] <= 2)

    # growing

    def input(self, shape: tuple[int, ...], is_exact: bool) -> Tensor:
        tensor = Tensor(f"input_{len(self.inputs)}", "float32", shape, is_exact)
        self.inputs.append(tensor)
        self.tensors.append(tensor)
        return tensor

    def constant(self, array: Array, is_exact: bool = False) -> Tensor:
        tensor = Tensor(f"constant_{len(self._constants)}", array.dtype.name, array.shape, is_exact, is_constant=True)
        self._constants[tensor.name] = array
        return tensor

    def weights(self, shape: tuple[int, ...], operands: int) -> Tensor:
        """Normal numbers, scaled so that sums of `operands` products stay about as large as what they are made of.

        Sometimes those of another layer of the same shape.
        """
        same = [n for n, a in self._constants.items() if a.shape == shape and a.dtype == np.float32 and a.size > 1]
        if same and self.chance(0.3):
            return Tensor(self.choice(same), "float32", shape, is_constant=True)
        return self.constant((self.random.normal(size=shape) / math.sqrt(operands)).astype(np.float32))

    def exact_constant(self, shape: tuple[int, ...]) -> Tensor:
        return self.constant((self.random.integers(-16, 17, size=shape) / 8).astype(np.float32), is_exact=True)

    def integers(self, numbers: Sequence[int] | int) -> Tensor:
        return self.constant(np.array(numbers, np.int64))

    def node(
        self,
        op: str,
        *inputs: Tensor | None,
        attributes: Mapping[str, Attribute] | None = None,
        outputs: int = 1,
        is_exact: bool = False,
        declared: tuple[int, ...] | None = None,
    ) -> list[Tensor]:
        """Add a node and give its outputs; raises UnfitError where they would be nothing to go on with.

        declared: the shape of the one float output, where onnx infers none.
        """
        try:
            schema = onnx.defs.get_schema(op, self.opset, "")
        except onnx.defs.SchemaError as error:
            raise UnfitError from error
        if schema.deprecated:
            raise UnfitError
        names = [f"{op.lower()}_{len(self._nodes)}_{i}" for i in range(outputs)]
        node = onnx.helper.make_node(
            op, ["" if x is None else x.name for x in inputs], names, name=f"{op.lower()}_{len(self._nodes)}"
        )
        node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in (attributes or {}).items())
        types = self._inferred(schema, node, inputs) if declared is None else [("float32", declared)]
        made = [Tensor(name, *found, is_exact) for name, found in zip(names, types, strict=True)]
        self._nodes.append(node)
        self._read.update(x.name for x in inputs if x is not None)
        self.tensors.extend(made)
        return made

    def _inferred(
        self, schema: onnx.defs.OpSchema, node: onnx.NodeProto, inputs: Sequence[Tensor | None]
    ) -> list[tuple[str, tuple[int, ...]]]:
        present = [x for x in inputs if x is not None]
        types = {x.name: onnx.helper.make_tensor_type_proto(_CODES[x.dtype], x.shape) for x in present}
        data = {x.name: self._constants[x.name] for x in present if x.is_constant}
        protos = {name: onnx.numpy_helper.from_array(array, name) for name, array in data.items()}
        opsets = [onnx.helper.make_opsetid("", self.opset)]
        try:
            found = onnx.shape_inference.infer_node_outputs(schema, node, types, protos, opset_imports=opsets)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            raise UnfitError from error
        return [_plain_type(found.get(name)) for name in node.output]

    # what there is at the end

    def leaves(self) -> list[Tensor]:
        """What no node reads."""
        inputs = {tensor.name for tensor in self.inputs}
        return [tensor for tensor in self.tensors if tensor.name not in self._read and tensor.name not in inputs]

    def model(self, outputs: Sequence[Tensor]) -> onnx.ModelProto:
        """The nodes that `outputs` need, and the inputs that those read."""
        needed = {tensor.name for tensor in outputs}
        kept: list[onnx.NodeProto] = []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                kept.insert(0, node)
                needed.update(node.input)
        graph = onnx.helper.make_graph(
            kept,
            f"random_{self.seed}",
            [_value_info(tensor) for tensor in self.inputs if tensor.name in needed],
            [_value_info(tensor) for tensor in outputs],
            [onnx.numpy_helper.from_array(a, n) for n, a in self._constants.items() if n in needed],
        )
        opset = onnx.helper.make_opsetid("", self.opset)
        return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="tinyopt-fuzz")

    def samples(self, count: int, names: Mapping[str, object]) -> list[dict[str, Array]]:
        """Numbers for those inputs that are among `names`, exact ones where they must be."""
        return [
            {x.name: self._numbers(x) for x in self.inputs if x.name in names}
            for _ in range(count)
        ]  # fmt: skip

    def _numbers(self, tensor: Tensor) -> Array:
        if tensor.is_exact:
            return (self.random.integers(-16, 17, size=tensor.shape) / 8).astype(np.float32)
        return self.random.normal(size=tensor.shape).astype(np.float32)


def _value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(tensor.name, _CODES[tensor.dtype], tensor.shape)


def _plain_type(found: onnx.TypeProto | None) -> tuple[str, tuple[int, ...]]:
    if found is None or not found.HasField("tensor_type"):
        raise UnfitError
    dimensions = found.tensor_type.shape.dim
    shape = tuple(int(d.dim_value) for d in dimensions)
    dtype = _DTYPES.get(found.tensor_type.elem_type)
    is_known = found.tensor_type.HasField("shape") and all(
        d.HasField("dim_value") and d.dim_value > 0 for d in dimensions
    )
    if dtype is None or not is_known or len(shape) > MOST_RANK or math.prod(shape) > MOST_ELEMENTS:
        raise UnfitError
    return dtype, shape
