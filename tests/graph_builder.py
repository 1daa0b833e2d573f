"""Build small graphs in few words, and run them.

    build = GraphBuilder()
    x = build.input("x", (1, 3, 8, 8))
    y = build("Relu", build("Conv", x, build.random((4, 3, 3, 3)), pads=(1, 1, 1, 1)))
    graph = build.graph_of(y)

Attributes that are not given take the neutral values of `DEFAULTS`; types come from the operators' own shape rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Attribute, Graph, Node, Quantization, TensorType, Value
from tinyopt.ops import OPERATORS
from tinyopt.pass_manager import Pass, PassContext, Remark, TargetFacts
from tinyopt.verify import verify

UNCLAMPED: Mapping[str, Attribute] = {"clamp_low": -math.inf, "clamp_high": math.inf}
_WINDOW: Mapping[str, Attribute] = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "layout": "NCHW"}

DEFAULTS: Mapping[str, Mapping[str, Attribute]] = {
    "Conv": {**_WINDOW, "group": 1, **UNCLAMPED},
    "ConvTranspose": {**_WINDOW, "group": 1, "output_padding": (0, 0), **UNCLAMPED},
    "Dense": UNCLAMPED,
    "MaxPool": {**_WINDOW, "kernel": (2, 2)},
    "AveragePool": {**_WINDOW, "kernel": (2, 2), "counted_pads": (0, 0, 0, 0), **UNCLAMPED},
    "BatchNormalization": {"epsilon": 1e-5, "axis": 1},
    "Add": UNCLAMPED,
    "Sub": UNCLAMPED,
    "Mul": UNCLAMPED,
    "Div": UNCLAMPED,
    "Clip": {"low": -math.inf, "high": math.inf},
    "LeakyRelu": {"alpha": 0.01},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "Gelu": {"approximate": "none"},
    "Pad": {"mode": "constant", "value": 0.0},
    "ReduceMean": {"keepdims": 1},
    "ReduceSum": {"keepdims": 1},
    "ReduceMax": {"keepdims": 1},
}

INPUT_COUNTS: Mapping[str, int] = {"Conv": 4, "ConvTranspose": 3, "Dense": 4, "QConv": 5, "QDense": 5}
"""Operators whose list of inputs has a fixed length, absent ones being None."""


class GraphBuilder:
    """Makes nodes in the order of the calls; names are the operator's in small letters, numbered from the second on."""

    def __init__(self, name: str = "test", seed: int = 0) -> None:
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self._name = name
        self._counts: dict[str, int] = {}
        self._random = np.random.default_rng(seed)

    def input(
        self, name: str, shape: Sequence[int], dtype: str = "float32", quantization: Quantization | None = None
    ) -> Value:
        """A graph input."""
        value = Value(name, TensorType(dtype, tuple(shape)), quantization=quantization)
        self.inputs.append(value)
        return value

    def constant(
        self,
        array: Array | Sequence[Any] | float,
        name: str = "c",
        dtype: str = "float32",
        quantization: Quantization | None = None,
    ) -> Value:
        """A constant; `dtype` says what lists and numbers become, an array keeps its own."""
        data = array if isinstance(array, np.ndarray) else np.array(array, dtype)
        return Value.of(self._unique(name), data, quantization)

    def random(self, shape: Sequence[int], name: str = "w") -> Value:
        """A float32 constant of random values about 0."""
        return Value.of(self._unique(name), self._random.normal(size=tuple(shape)).astype(np.float32))

    def random_int8(self, shape: Sequence[int], quantization: Quantization, name: str = "w") -> Value:
        """An int8 constant of random levels."""
        levels = self._random.integers(-127, 128, size=tuple(shape)).astype(np.int8)
        return Value.of(self._unique(name), levels, quantization)

    def __call__(
        self,
        op: str,
        *inputs: Value | None,
        name: str | None = None,
        quantization: Quantization | None = None,
        dtype: str = "float32",
        **attributes: Attribute,
    ) -> Value:
        """A node of one output; returns that output."""
        (output,) = self.many(op, *inputs, outputs=1, name=name, quantization=quantization, dtype=dtype, **attributes)
        return output

    def many(
        self,
        op: str,
        *inputs: Value | None,
        outputs: int,
        name: str | None = None,
        quantization: Quantization | None = None,
        dtype: str = "float32",
        **attributes: Attribute,
    ) -> list[Value]:
        """A node of `outputs` outputs. Integer outputs take the first input's quantization unless one is given.

        dtype: int16 for operators that give int8 or int16, as their output says.
        """
        node_name = self._unique(name or op.lower())
        padded = [*inputs, *[None] * (INPUT_COUNTS.get(op, 0) - len(inputs))]
        node = Node(op, node_name, padded, [], {**DEFAULTS.get(op, {}), **attributes}, (node_name,))
        node.outputs = [Value(f"{node_name}_out", TensorType(dtype, ())) for _ in range(outputs)]
        inherited = None if op == "DequantizeLinear" else quantization or node.input(0).quantization
        for index, value in enumerate(node.outputs):
            value.name = f"{node_name}_out" if outputs == 1 else f"{node_name}_out{index}"
            value.quantization = inherited
        for value, value_type in zip(node.outputs, OPERATORS[op].infer(node), strict=True):
            value.type = value_type
        self.nodes.append(node)
        return node.outputs

    def graph_of(self, *outputs: Value) -> Graph:
        """The graph that gives `outputs`, verified."""
        graph = Graph(self._name, self.inputs, list(outputs), self.nodes)
        verify(graph, after="the test's graph builder")
        return graph

    def _unique(self, stem: str) -> str:
        count = self._counts[stem] = self._counts.get(stem, 0) + 1
        return stem if count == 1 else f"{stem}_{count}"


def graph_of(body: Callable[[GraphBuilder], Value | Sequence[Value]]) -> Graph:
    """The graph whose outputs `body` returns, given a fresh builder."""
    build = GraphBuilder()
    outputs = body(build)
    return build.graph_of(*([outputs] if isinstance(outputs, Value) else outputs))


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """One random array for each graph input: normal floats, all levels of integers."""
    generator = np.random.default_rng(seed)
    return {value.name: _random_array(value.type, generator) for value in graph.inputs}


def _random_array(tensor_type: TensorType, generator: np.random.Generator) -> Array:
    if tensor_type.dtype.startswith("float"):
        return generator.normal(size=tensor_type.shape).astype(tensor_type.dtype)
    limits = np.iinfo(tensor_type.dtype)
    return generator.integers(limits.min, limits.max, size=tensor_type.shape, endpoint=True).astype(tensor_type.dtype)


def outputs_of(graph: Graph, inputs: Mapping[str, Array]) -> list[Array]:
    """What the operators' numpy references give for `inputs`."""
    known: dict[Value, Array] = {value: inputs[value.name] for value in graph.inputs}
    for node in graph.nodes:
        arrays = [None if v is None else v.data if v.is_constant else known[v] for v in node.inputs]
        known.update(zip(node.outputs, OPERATORS[node.op].evaluate(node, arrays), strict=True))
    return [value.data if value.is_constant else known[value] for value in graph.outputs]


def context_for(samples: Sequence[Mapping[str, Array]] = (), channel_multiple: int = 4) -> PassContext:
    """A context for running one pass in a test."""
    return PassContext(TargetFacts("test", channel_multiple, is_integer_preferred=True), samples)


def apply(step: Pass, graph: Graph) -> list[Remark]:
    """Run `step`, verify what it left, see that a second run changes nothing more; returns the remarks."""
    context = context_for()
    step.run(graph, context)
    verify(graph, after=step.name)
    assert not step.run(graph.copy(), context_for()), f"{step.name} is not idempotent"
    return context.remarks


def assert_same_numbers(before: Graph, after: Graph, tolerance: float = 1e-5) -> None:
    """Both graphs give the same outputs, names and types, up to `tolerance` relative to the largest element."""
    inputs = random_inputs(before)
    assert [v.name for v in before.inputs] == [v.name for v in after.inputs]
    assert [(v.name, v.type) for v in before.outputs] == [(v.name, v.type) for v in after.outputs]
    for expected, got in zip(outputs_of(before, inputs), outputs_of(after, inputs), strict=True):
        magnitude = max(1.0, float(np.max(np.abs(expected.astype(np.float64)), initial=0.0)))
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * magnitude)


def changed_by(step: Pass, graph: Graph, tolerance: float = 1e-5) -> list[Remark]:
    """`apply`, and the numbers stay the same."""
    before = graph.copy()
    remarks = apply(step, graph)
    assert_same_numbers(before, graph, tolerance)
    return remarks


def ops_of(graph: Graph) -> list[str]:
    """The operators in running order."""
    return [node.op for node in graph.nodes]


def messages(remarks: Sequence[Remark], kind: str) -> list[str]:
    """The texts of the remarks of one kind."""
    return [remark.message for remark in remarks if remark.kind == kind]


def floats(array: NDArray[Any]) -> list[float]:
    """The elements as Python floats, flat."""
    return [float(item) for item in array.ravel()]
