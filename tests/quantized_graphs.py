"""Build quantized graphs in few words, lower them, and compare with onnxruntime."""

from __future__ import annotations

import numpy as np

from tests.graph_builder import GraphBuilder, context_for, random_inputs
from tinyopt.evaluate import evaluate
from tinyopt.ir import Array, Graph, Quantization, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.ops import OPERATORS
from tinyopt.ops.integer_rules import ACTIVATION_DTYPES
from tinyopt.pass_manager import Remark
from tinyopt.passes.lower_integer import LowerInteger
from tinyopt.verify import verify

Q = Quantization.per_tensor


def lowered(graph: Graph, boundary: str = "float") -> list[Remark]:
    """Lower in place, verify, and see that a second run changes nothing."""
    context = context_for()
    LowerInteger(boundary).run(graph, context)
    verify(graph, after="lower-integer")
    assert not LowerInteger(boundary).run(graph, context_for())
    return context.remarks


def real(build: GraphBuilder, value: Value) -> Value:
    return build("DequantizeLinear", value)


def quantize(build: GraphBuilder, value: Value, scale: float, zero_point: int) -> Value:
    return build("QuantizeLinear", value, quantization=Q(scale, zero_point))


def weights(build: GraphBuilder, shape: tuple[int, ...], axis: int | None = 0) -> Value:
    """Random int8 weights behind a DequantizeLinear."""
    count = 1 if axis is None else shape[axis]
    scale = np.linspace(0.003, 0.02, count)
    quantization = Q(0.01, 0) if axis is None else Quantization.per_channel(scale, [0] * count, axis)
    return real(build, build.random_int8(shape, quantization))


def bias(build: GraphBuilder, channels: int, input_scale: float) -> Value:
    """A random int32 bias in units of the products with `weights`, behind a DequantizeLinear."""
    scale = np.linspace(0.003, 0.02, channels) * input_scale
    levels = np.random.default_rng(1).integers(-900, 900, channels).astype(np.int32)
    return real(build, build.constant(levels, quantization=Quantization.per_channel(scale, [0] * channels, 0)))


def steps_from_onnxruntime(qdq: Graph, integer: Graph, seed: int = 0) -> int:
    """The largest difference between the two in output levels, of graphs that take and give int8."""
    sample = random_inputs(qdq, seed)
    expected = OnnxSession(qdq).run(sample)
    got = evaluate(integer, sample)
    assert expected.keys() == got.keys()
    return max(int(np.max(np.abs(expected[key].astype(int) - got[key].astype(int)))) for key in got)


def assert_each_layer_within_one_step(qdq: Graph, integer: Graph, sample: dict[str, Array]) -> int:
    """Give each integer node what onnxruntime has computed before it, in QDQ form; returns how many were compared."""
    levels = [v for v in qdq.values() if v.dtype in ACTIVATION_DTYPES and not v.is_constant and v not in qdq.inputs]
    known = {**sample, **OnnxSession(qdq, [v for v in levels if not qdq.is_output(v)]).run(sample)}
    compared = 0
    for node in integer.nodes:
        arrays = [None if v is None else v.data if v.is_constant else known[v.name] for v in node.inputs]
        for value, array in zip(node.outputs, OPERATORS[node.op].evaluate(node, arrays), strict=True):
            expected = known.setdefault(value.name, array)
            if value.dtype in ACTIVATION_DTYPES:
                assert np.max(np.abs(expected.astype(int) - array.astype(int))) <= 1, node.name
                compared += 1
    return compared
