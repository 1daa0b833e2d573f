"""What export rules write with: ONNX nodes and initializers under names that do not collide."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tinyopt.errors import UnsupportedOperatorError
from tinyopt.ir import Array, Graph, Node, Quantization, Value

ORIGINS_KEY = "tinyopt.origins"

TO_NCHW = (0, 3, 1, 2)
TO_NHWC = (0, 2, 3, 1)


class Emitter:
    """Collects the nodes and initializers of one model. Tensors are known by their names."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: deque[TensorProto] = deque()
        self._tensor_names = {value.name for value in graph.values()}
        self._node_names = {node.name for node in graph.nodes}
        self._constants: dict[tuple[Value, str], str] = {}
        self._node: Node | None = None

    def start(self, node: Node) -> None:
        """What is written from here on comes from `node`."""
        self._node = node

    def __call__(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Write one ONNX node of one output, which is returned; "" is an absent input.

        `name` is for the node that stands for the graph's node; helpers around it get names of their own.
        """
        return self.many(op, *inputs, name=name, outputs=1, **attributes)[0]

    def many(self, op: str, *inputs: str, name: str | None, outputs: int, **attributes: Any) -> list[str]:
        """Write one ONNX node of several outputs."""
        assert self._node is not None
        present = list(inputs)
        while present and not present[-1]:
            present.pop()
        names = [_fresh(f"{self._node.name}/{op}", self._tensor_names) for _ in range(outputs)]
        proto = helper.make_node(
            op, present, names, name=name or _fresh(f"{self._node.name}/{op}", self._node_names), **attributes
        )
        origins = proto.metadata_props.add()
        origins.key, origins.value = ORIGINS_KEY, json.dumps(self._node.origins)
        self.nodes.append(proto)
        return names

    def bind(self, tensor: str, value: Value) -> None:
        """Let the tensor, an output of a node written last, be known as `value`."""
        for proto in reversed(self.nodes):
            if tensor in proto.output:
                proto.output[list(proto.output).index(tensor)] = value.name
                return
        raise AssertionError(f"no node gives '{tensor}'")

    def array(self, array: Array, stem: str) -> str:
        """An initializer of its own."""
        name = _fresh(stem, self._tensor_names)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def ints(self, items: Sequence[int], stem: str) -> str:
        """An int64 initializer, as shapes and axes are given."""
        return self.array(np.array(items, np.int64), stem)

    def value(self, value: Value | None) -> str:
        """The tensor of a value; "" for an absent one."""
        if value is None:
            return ""
        return self.derived(value, "", lambda array: array) if value.is_constant else value.name

    def derived(self, constant: Value, suffix: str, change: Callable[[Array], Array]) -> str:
        """An initializer made from a constant; equal suffixes must mean equal changes."""
        key = (constant, suffix)
        if key not in self._constants:
            name = _fresh(constant.name + suffix, self._tensor_names) if suffix else constant.name
            array = change(constant.data)
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
            self._constants[key] = name
        return self._constants[key]

    def transposed(self, value: Value, perm: Sequence[int]) -> str:
        """The value with its axes permuted: constants here, others by a Transpose."""
        if list(perm) == list(range(value.type.rank)):
            return self.value(value)
        if value.is_constant:
            suffix = f"/perm{''.join(map(str, perm))}"
            return self.derived(value, suffix, lambda array: array.transpose(perm))
        return self("Transpose", value.name, perm=perm)

    def as_runnable(self, tensor: str, dtype: str) -> tuple[str, str]:
        """(tensor, dtype): int16 as float32, which holds its levels exactly, for operators that have no int16.

        `as_stored` leads back.
        """
        return (self("Cast", tensor, to=TensorProto.FLOAT), "float32") if dtype == "int16" else (tensor, dtype)

    def as_stored(self, tensor: str, dtype: str) -> str:
        """The result of an operator on what `as_runnable` gave, in the type of the graph's value."""
        return self("Cast", tensor, to=TensorProto.INT16) if dtype == "int16" else tensor

    def clamped(self, tensor: str, low: float, high: float, dtype: str, name: str | None = None) -> str:
        """Relu, Clip or nothing at all, of a tensor of `dtype`."""
        if low == -np.inf and high == np.inf:
            return tensor
        if low == 0 and high == np.inf:
            return self("Relu", tensor, name=name)
        minimum = "" if low == -np.inf else self.array(np.array(low, dtype), f"{tensor}/min")
        maximum = "" if high == np.inf else self.array(np.array(high, dtype), f"{tensor}/max")
        return self("Clip", tensor, minimum, maximum, name=name)

    def dequantized(self, value: Value) -> str:
        """The real numbers that an integer value stands for."""
        assert value.quantization is not None, value.name
        return self.dequantized_tensor(self.value(value), value.quantization, value.dtype)

    def dequantized_tensor(self, tensor: str, quantization: Quantization, dtype: str, name: str | None = None) -> str:
        """DequantizeLinear."""
        scale, zero_point = self._parameters(tensor, quantization, dtype)
        return self("DequantizeLinear", tensor, scale, zero_point, name=name, **_axis(quantization))

    def quantized(self, tensor: str, value: Value, name: str | None = None) -> str:
        """QuantizeLinear to the quantization of `value`."""
        assert value.quantization is not None, value.name
        scale, zero_point = self._parameters(value.name, value.quantization, value.dtype)
        return self("QuantizeLinear", tensor, scale, zero_point, name=name, **_axis(value.quantization))

    def _parameters(self, stem: str, quantization: Quantization, dtype: str) -> tuple[str, str]:
        """Initializers of scale and zero point: scalars where there is one for the whole tensor."""
        shape = () if quantization.is_per_tensor else (-1,)
        scale = self.array(np.array(quantization.scale, np.float32).reshape(shape), f"{stem}/scale")
        if dtype == "int32":
            if not quantization.is_symmetric:
                raise UnsupportedOperatorError(f"'{stem}' is int32 with a zero point: ONNX knows none but 0 there")
            return scale, ""
        return scale, self.array(np.array(quantization.zero_point, dtype).reshape(shape), f"{stem}/zero_point")


def _axis(quantization: Quantization) -> dict[str, int]:
    return {} if quantization.axis is None else {"axis": quantization.axis}


def _fresh(stem: str, taken: set[str]) -> str:
    """`stem`, or the first of stem_2, stem_3, ... that is not taken; takes it."""
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name


ExportRule: TypeAlias = Callable[[Node, Emitter], None]
"""Writes the ONNX nodes of one node of the graph and binds its outputs."""
