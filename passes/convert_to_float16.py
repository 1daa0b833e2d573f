"""Compute in float16: twice the elements to an instruction, and half the memory for weights and activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Node, TensorType, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.channel_links import label_of
from tinyopt.passes.half_precision.choice import FLOAT16, LARGEST, SMALLEST_NORMAL, why_float32
from tinyopt.quantization_error import evenly_spaced
from tinyopt.samples import Sample

_OBSERVED = 16  # samples that are run to see how far activations reach


@dataclass(frozen=True)
class ConvertToFloat16(Pass):
    """Compute in float16 what the float16 kernels take.

    What: convolutions, dense layers, and the pools, sums, products, Relu, Clip and movers of elements behind them work
        on float16. Weights and biases are rounded once, to the nearest. Casts stand where float32 begins and ends: the
        model's inputs and outputs stay float32, and so does what has no float16 kernel, such as Softmax.
    Before -> After:
        x -> Conv -> Relu -> Softmax -> y  ->  x -> Cast -> Conv -> Relu -> Cast -> Softmax -> y
    Exactness: outputs move by the rounding of float16, 11 significant bits: products are added in float16, averages in
        float32. Layers stay within 1 % of the largest magnitude of their result. Numbers below 6.1e-5 keep fewer bits,
        down to 6e-8; they are not flushed to zero, as long as the program leaves the CPU's FPCR as Linux sets it up.
    Refuses when: weights, or activations seen in calibration, reach beyond what float16 holds (65504; for activations
        a quarter of it, because kernels add some up, and other inputs may reach further); all weights of a layer lie
        below 6.1e-5; weights are clustered; the operator has no float16 kernel for its shape: that stays float32.
    Source: sums in float16 as in XNNPACK's f16 kernels; Micikevicius et al., Mixed Precision Training, ICLR 2018,
        arXiv:1710.03740, for what half precision loses.
    """

    name: ClassVar[str] = "convert-to-float16"

    def run(self, graph: Graph, context: PassContext) -> bool:
        if not context.facts.has_float16:
            raise UsageError(f"{self.name}: {context.facts.name} has no float16 arithmetic")
        reaches = _reaches(graph, context.samples)
        if not reaches:
            context.note("no samples were given, so nobody knows whether activations stay below 65504: see --calib")
        chosen, half = _choose(graph, reaches, context)
        if not chosen:
            return False
        conversion = _Conversion(graph, chosen, half)
        graph.nodes = [new for node in graph.nodes for new in conversion.converted(node)]
        casts = conversion.casts
        context.did(
            f"{len(chosen)} operators compute in float16, between {len(casts)} Casts", chosen, [*chosen, *casts]
        )
        _describe_constants(conversion.constants, context)
        return True


def _reaches(graph: Graph, samples: Sequence[Sample]) -> dict[Value, float]:
    """The largest magnitude of each float32 activation over a few samples; empty without samples."""
    if not samples:
        return {}
    made = {value.name: value for node in graph.nodes for value in node.outputs if value.dtype == "float32"}
    session = OnnxSession(graph, [value for value in made.values() if not graph.is_output(value)])
    known = made | {value.name: value for value in graph.inputs if value.dtype == "float32"}
    reaches: dict[Value, float] = {}
    for index in evenly_spaced(samples, _OBSERVED):
        for name, array in {**samples[index], **session.run(samples[index])}.items():
            if name in known:
                largest = float(np.max(np.abs(array), initial=0.0))
                reaches[known[name]] = max(reaches.get(known[name], 0.0), largest)
    return reaches


def _choose(graph: Graph, reaches: Mapping[Value, float], context: PassContext) -> tuple[list[Node], set[Value]]:
    """The nodes that will compute in float16, and what they make; remarks for those that could not."""
    chosen: list[Node] = []
    half: set[Value] = set()
    for node in graph.nodes:
        if all(value.dtype != "float32" for value in node.outputs):
            continue
        reason = why_float32(node, half, reaches)
        if reason is None:
            chosen.append(node)
            half.update(node.outputs)
        elif node.op != "Cast":
            context.declined(f"{label_of(node)}: stays float32: {reason}", [node])
    return chosen, half


class _Conversion:
    """Gives nodes their new types. casts: those that it made. constants: before and after."""

    def __init__(self, graph: Graph, chosen: Sequence[Node], half: Set[Value]) -> None:
        self.casts: list[Node] = []
        self.constants: dict[Value, Value] = {}
        self._graph = graph
        self._chosen = {id(node) for node in chosen}
        self._half = half
        self._casted: dict[Value, Value] = {}
        self._names = {value.name for value in graph.values()} | {node.name for node in graph.nodes}

    def converted(self, node: Node) -> list[Node]:
        """The node, after the Casts that it needs first and before those that the model's outputs need."""
        is_chosen = id(node) in self._chosen
        before: list[Node] = []
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if is_chosen and value.dtype == "float32":
                node.inputs[index] = self._as_half(value, node, before)
            elif not is_chosen and value in self._half:
                node.inputs[index] = self._cast(value, "float32", node, before)
        after: list[Node] = []
        for index, value in enumerate(node.outputs if is_chosen else []):
            node.outputs[index] = self._made_in_half(value, node, after)
        return [*before, node, *after]

    def _as_half(self, value: Value, node: Node, before: list[Node]) -> Value:
        if not value.is_constant:
            return self._cast(value, FLOAT16, node, before)
        if value not in self.constants:
            self.constants[value] = Value.of(self._fresh(f"{value.name}_float16"), value.data.astype(np.float16))
        return self.constants[value]

    def _made_in_half(self, value: Value, node: Node, after: list[Node]) -> Value:
        """What `node` makes instead of `value`; an output of the model keeps its name and type behind a Cast."""
        if not self._graph.is_output(value):
            value.type = TensorType(FLOAT16, value.shape)
            return value
        inner = Value(self._fresh(f"{value.name}_float16"), TensorType(FLOAT16, value.shape))
        self._casted[value] = inner
        after.append(self._cast_node(inner, value, node))
        return inner

    def _cast(self, value: Value, dtype: str, node: Node, before: list[Node]) -> Value:
        """`value` as `dtype`; made once, before the first node that reads it."""
        if value in self._half and self._graph.is_output(value) and dtype == "float32":
            return value
        if value not in self._casted:
            self._casted[value] = Value(self._fresh(f"{value.name}_{dtype}"), TensorType(dtype, value.shape))
            before.append(self._cast_node(value, self._casted[value], node))
        return self._casted[value]

    def _cast_node(self, source: Value, result: Value, node: Node) -> Node:
        cast = Node("Cast", self._fresh(f"{source.name}_to_{result.dtype}"), [source], [result], {}, node.origins)
        self.casts.append(cast)
        return cast

    def _fresh(self, stem: str) -> str:
        name, count = stem, 1
        while name in self._names:
            count += 1
            name = f"{stem}_{count}"
        self._names.add(name)
        return name


def _describe_constants(constants: Mapping[Value, Value], context: PassContext) -> None:
    """What rounding did to the weights."""
    magnitudes = [np.abs(value.data).ravel() for value in constants]
    numbers = np.concatenate(magnitudes) if magnitudes else np.zeros(0, np.float32)
    tiny = int(np.count_nonzero((numbers > 0) & (numbers < SMALLEST_NORMAL)))
    largest = float(numbers.max(initial=0.0))
    context.note(
        f"{numbers.size:,} numbers of weights and biases reach {largest:.4g} of {LARGEST:g}; "
        f"{tiny:,} of them lie below {SMALLEST_NORMAL:.2g} and keep fewer bits"
    )
