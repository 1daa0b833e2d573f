"""Run a graph node after node over samples that are held in memory, so that a pass can change what comes next."""

from __future__ import annotations

from collections.abc import Sequence

from tinyopt.ir import DTYPES, Array, Graph, Node, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.samples import Sample

MOST_SAMPLES = 512
FEWEST_SAMPLES = 4
_BYTES = 192 << 20  # of activations held at once


class Walk:
    """What the values of a graph are for each of some samples, computed node after node.

    Only what a node further on reads is kept. A constant behind DequantizeLinear is dequantized when it is asked for:
    it can be replaced until its reader has run.
    """

    def __init__(self, graph: Graph, samples: Sequence[Sample]) -> None:
        self._graph = graph
        self._count = len(samples)
        self._next = 0
        self._readers_left = _reader_counts(graph)
        self._constants = {node.output: node.input(0) for node in graph.nodes if _dequantizes_constant(node)}
        self._arrays: dict[Value, list[Array]] = {
            value: [sample[value.name] for sample in samples] for value in graph.inputs
        }

    def arrays(self, value: Value) -> list[Array]:
        """The value for each sample; it must have been computed, and a node that has not run yet must read it."""
        if value.is_constant:
            return [value.data] * self._count
        if value in self._constants:
            levels = self._constants[value]
            assert levels.quantization is not None, levels.name
            return [levels.quantization.dequantize(levels.data)] * self._count
        return self._arrays[value]

    def run_before(self, node: Node) -> None:
        """Run all nodes that stand before `node` and have not run yet."""
        while self._graph.nodes[self._next] is not node:
            self._run(self._graph.nodes[self._next])
            self._next += 1

    def _run(self, node: Node) -> None:
        if not _dequantizes_constant(node):
            for output, arrays in zip(node.outputs, self._results(node), strict=True):
                self._arrays[output] = arrays
        for value in node.variable_inputs:  # a pass may have given it other constants
            self._readers_left[value] -= 1
            if self._readers_left[value] == 0:
                self._arrays.pop(value, None)

    def _results(self, node: Node) -> list[list[Array]]:
        """For each output of the node its arrays, one for each sample."""
        if node.op == "QuantizeLinear":
            levels = node.output
            assert levels.quantization is not None, levels.name
            return [[levels.quantization.quantize(x, levels.dtype) for x in self.arrays(node.input(0))]]
        if node.op == "DequantizeLinear":
            quantization = node.input(0).quantization
            assert quantization is not None, node.name
            return [[quantization.dequantize(x) for x in self.arrays(node.input(0))]]
        inputs = list(dict.fromkeys(value for value in node.present_inputs if not value.is_constant))
        fed = {value.name: self.arrays(value) for value in inputs}
        session = OnnxSession(Graph(self._graph.name, inputs, list(node.outputs), [node]))
        results = [session.run({name: arrays[i] for name, arrays in fed.items()}) for i in range(self._count)]
        return [[result[output.name] for result in results] for output in node.outputs]


def affordable_samples(graph: Graph) -> int:
    """How many samples a walk over the graph can hold: at most 512, and at least 4 of even the largest model."""
    left, held = _reader_counts(graph), {value: _bytes(value) for value in graph.inputs}
    live = most = max(1, sum(held.values()))
    for node in graph.nodes:
        if not _dequantizes_constant(node):
            held.update({output: _bytes(output) for output in node.outputs})
            live += sum(held[output] for output in node.outputs)
        most = max(most, live)
        for value in node.present_inputs:
            left[value] -= 1
            live -= held.get(value, 0) if left[value] == 0 else 0
    return max(FEWEST_SAMPLES, min(MOST_SAMPLES, _BYTES // most))


def _bytes(value: Value) -> int:
    return value.type.elements * DTYPES[value.dtype].itemsize


def _reader_counts(graph: Graph) -> dict[Value, int]:
    counts: dict[Value, int] = {}
    for node in graph.nodes:
        for value in node.present_inputs:
            counts[value] = counts.get(value, 0) + 1
    return counts


def _dequantizes_constant(node: Node) -> bool:
    return node.op == "DequantizeLinear" and node.input(0).is_constant
