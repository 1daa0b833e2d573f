"""Evaluate ONNX nodes whose inputs are all constants, with ONNX's own reference implementation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from tinyopt.ir import Array
from tinyopt.onnx_import.onnx_node import OnnxNode

# What exporters compute shapes and constants with. DequantizeLinear is missing on purpose: weights stay integers.
FOLDABLE = frozenset(
    """
    Abs Add And ArgMax ArgMin BlackmanWindow Cast Ceil Clip Compress Concat ConstantOfShape Cos CumSum Div Equal Erf Exp
    Expand Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual HammingWindow HannWindow Identity IsInf
    IsNaN Less LessOrEqual Log Max Mean MelWeightMatrix Min Mod Mul Neg NonZero Not OneHot Or Pow Range Reciprocal
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape ReverseSequence Round ScatterND Sign Sin Slice
    Split Sqrt Squeeze Sub Sum Tile Transpose Trilu Unique Unsqueeze Where Xor
    """.split()
)


def can_fold(node: OnnxNode) -> bool:
    """Whether the node's outputs are known at compile time."""
    present = [value for value in node.inputs if value is not None]
    return node.domain == "" and node.op in FOLDABLE and bool(present) and all(value.is_constant for value in present)


def fold(node: OnnxNode, proto: onnx.NodeProto) -> list[Array]:
    """The node's outputs.

    Raises InvalidModelError where the inputs contradict the operator.
    """
    feeds = {
        name: value.data for name, value in zip(proto.input, node.inputs, strict=False) if name and value is not None
    }
    graph = onnx.helper.make_graph(
        [proto],
        "constants",
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in feeds],
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in proto.output if name],
    )
    try:
        with np.errstate(all="ignore"):
            results = _run(graph, node.opset, feeds)
    except Exception as error:  # whatever numpy or the reference raises, the cause is the model
        raise node.invalid(f"its constants cannot be evaluated: {error}") from error
    by_name = dict(zip([name for name in proto.output if name], results, strict=True))
    return [by_name[name] for name in proto.output if name]


def _run(graph: onnx.GraphProto, opset: int, feeds: dict[str, Array]) -> Sequence[Array]:
    results = ReferenceEvaluator(graph, opsets={"": opset}).run(None, feeds)
    return [np.asarray(result) for result in results]
