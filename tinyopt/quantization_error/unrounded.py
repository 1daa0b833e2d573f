"""A model that arrived quantized beside itself without the rounding: the same operators and weights, in float.

    x -> Q -> D -> Conv(D(int8 w)) -> Q -> D -> y    =>    x -> Conv(w) -> y

What training or another tool rounded the weights from is not known: they count as exact. Values beyond the range of the
integers stay cut off in both: a QuantizeLinear often stands for the Relu before it.
"""

from __future__ import annotations

import numpy as np

from tinyopt.ir import Graph, Node, Value
from tinyopt.quantization_error.model import QuantizedModel


def beside_itself(graph: Graph) -> QuantizedModel | None:
    """A quantized graph and its float form, as copies; None where no activation is rounded."""
    quantized = graph.copy()
    producers = quantized.producers()
    for node in quantized.nodes:
        if node.op == "QuantizeLinear" and not node.input(0).is_constant:
            _clamp(producers.get(node.input(0)), node.output)
    exact = quantized.copy()
    producers = exact.producers()
    rounded = [(node, producers.get(node.input(0))) for node in exact.nodes if node.op == "DequantizeLinear"]
    pairs = [(node, maker.input(0)) for node, maker in rounded if maker and maker.op == "QuantizeLinear"]
    for node, value in pairs:
        _let_pass(exact, node, value)
    for node, maker in rounded:
        if maker is None:
            _restore_constant(exact, node)
    exact.remove_unused()
    return QuantizedModel(exact, quantized) if pairs else None


def _clamp(maker: Node | None, levels: Value) -> None:
    """Cut off what lies beyond the integers where the operator before them can do that; nothing else does it then."""
    quantization = levels.quantization
    if maker is None or quantization is None or "clamp_low" not in maker.attributes:
        return
    limits = np.iinfo(levels.dtype)
    low, high = (float(end) for end in quantization.dequantize(np.array([limits.min, limits.max])))
    maker.attributes["clamp_low"] = max(low, maker.float("clamp_low"))
    maker.attributes["clamp_high"] = min(high, maker.float("clamp_high"))


def _let_pass(graph: Graph, dequantize: Node, value: Value) -> None:
    """Readers of what is dequantized read `value`, which it was rounded from; a graph output becomes a copy of it."""
    for node in graph.nodes:
        node.inputs = [value if old is dequantize.output else old for old in node.inputs]
    if graph.is_output(dequantize.output):
        dequantize.op, dequantize.inputs = "Identity", [value]


def _restore_constant(graph: Graph, dequantize: Node) -> None:
    """The real numbers in place of a constant's DequantizeLinear; graph inputs and outputs stay as they are."""
    source = dequantize.input(0)
    if source.constant is not None and source.quantization is not None and not graph.is_output(dequantize.output):
        real = source.quantization.dequantize(source.constant)
        graph.replace_uses(dequantize.output, Value.of(dequantize.output.name, real))
