"""The ONNX model of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx import ModelProto, ValueInfoProto, helper

from tinyopt.errors import UnsupportedOperatorError
from tinyopt.ir import DTYPES, Graph, Value
from tinyopt.onnx_export.emitter import Emitter, ExportRule
from tinyopt.onnx_export.float_rules import FLOAT_RULES
from tinyopt.onnx_export.indexing_rules import INDEXING_RULES
from tinyopt.onnx_export.integer_rules import INTEGER_RULES
from tinyopt.onnx_export.movement_rules import MOVEMENT_RULES
from tinyopt.onnx_export.nd_rules import ND_RULES
from tinyopt.onnx_export.pointwise_rules import POINTWISE_RULES
from tinyopt.onnx_export.recurrent_rules import RECURRENT_RULES

OPSET = 20  # the first with Gelu
OPSET_INT16 = 21  # the first that quantizes to int16
OPSETS: Mapping[str, int] = {
    "CumProd": 26,
    "RMSNormalization": 23,
}  # the first opset that has an operator, where OPSET does not
IR_VERSION = 10  # the first with metadata on nodes

RULES: Mapping[str, ExportRule] = {
    **FLOAT_RULES,
    **MOVEMENT_RULES,
    **INDEXING_RULES,
    **INTEGER_RULES,
    **POINTWISE_RULES,
    **RECURRENT_RULES,
    **ND_RULES,
}


def export_model(graph: Graph, extra_outputs: Sequence[Value] = ()) -> ModelProto:
    """The graph as ONNX; `extra_outputs` are values inside it that are wanted as outputs too.

    Values, inputs and outputs keep their names, and so do nodes; the ONNX nodes that a node came from stand in its
    metadata under "tinyopt.origins". Equal graphs give equal models.
    Raises UnsupportedOperatorError for a node whose operator has no rule here.
    """
    emit = Emitter(graph)
    for node in graph.nodes:
        if node.op not in RULES:
            raise UnsupportedOperatorError(f"{node.op} (node '{node.name}') cannot be written as ONNX")
        emit.start(node)
        RULES[node.op](node, emit)
    outputs = dict.fromkeys([*graph.outputs, *extra_outputs])
    for value in outputs:
        emit.value(value)  # a constant output needs its initializer
    proto = helper.make_graph(
        emit.nodes,
        graph.name or "graph",  # ONNX wants a name
        [_info(value) for value in graph.inputs],
        [_info(value) for value in outputs],
        value_info=[_info(v) for node in graph.nodes for v in node.outputs if v not in outputs],
    )
    opsets = [helper.make_opsetid("", _opset(graph))]
    model = helper.make_model(proto, producer_name="tinyopt", opset_imports=opsets, ir_version=IR_VERSION)
    while emit.initializers:  # moved one by one, for together they may take much memory
        model.graph.initializer.append(emit.initializers.popleft())
    return model


def _opset(graph: Graph) -> int:
    needed = [OPSETS[node.op] for node in graph.nodes if node.op in OPSETS]
    return max([OPSET, *needed, *(OPSET_INT16 for value in graph.values() if value.dtype == "int16")])


def save_model(graph: Graph, path: Path) -> None:
    """Write the graph as ONNX."""
    path.write_bytes(export_model(graph).SerializeToString(deterministic=True))


def _info(value: Value) -> ValueInfoProto:
    element_type = helper.np_dtype_to_tensor_dtype(DTYPES[value.dtype])
    return helper.make_tensor_value_info(value.name, element_type, value.shape)
