"""ArgMax, ArgMin, TopK, CumSum, CumProd and Hardmax: what goes along one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from tinyopt.ir import Attribute, Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.onnx_node import OnnxNode


def _arg(op: str, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    attributes: dict[str, Attribute] = {
        "axis": node.axis(node.integer("axis", 0), x.type.rank),
        "keepdims": node.integer("keepdims", 1),
        "select_last": node.integer("select_last_index", 0),
    }
    return [builder.emit(op, [x], attributes)]


def _top_k(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """Before opset 10, k was an attribute."""
    x = node.value(0)
    k = int(node.required("k")) if node.opset < 10 else int(node.required_scalar(1, "k"))
    attributes: dict[str, Attribute] = {
        "axis": node.axis(node.integer("axis", -1), x.type.rank),
        "k": k,
        "largest": node.integer("largest", 1),
    }
    values, places = builder.emit_many("TopK", [x], attributes, 2, x.quantization)
    places.quantization = None
    if x in builder.unsigned:
        builder.unsigned.add(values)
    return [values, places]


def _cumulative(op: str, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    attributes: dict[str, Attribute] = {
        "axis": node.axis(int(node.required_scalar(1, "axis")), x.type.rank),
        "exclusive": node.integer("exclusive", 0),
        "reverse": node.integer("reverse", 0),
    }
    return [builder.emit(op, [x], attributes)]


def along_axis(op: str, builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """Softmax, LogSoftmax, Hardmax: before opset 13 the dimensions from `axis` on were one."""
    x = node.value(0)
    rank = x.type.rank
    if node.opset >= 13:
        return [builder.emit(op, [x], {"axis": node.axis(node.integer("axis", -1), rank)})]
    axis = node.axis(node.integer("axis", 1), rank)
    if axis == rank - 1:
        return [builder.emit(op, [x], {"axis": axis})]
    flat = builder.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
    return [builder.reshape(builder.emit(op, [flat], {"axis": 1}), x.shape)]


ALONG_AXIS_RULES: dict[tuple[str, str], Rule] = {
    ("", "ArgMax"): partial(_arg, "ArgMax"),
    ("", "ArgMin"): partial(_arg, "ArgMin"),
    ("", "TopK"): _top_k,
    ("", "CumSum"): partial(_cumulative, "CumSum"),
    ("", "CumProd"): partial(_cumulative, "CumProd"),
    ("", "Hardmax"): partial(along_axis, "Hardmax"),
    ("", "Softmax"): partial(along_axis, "Softmax"),
    ("", "LogSoftmax"): partial(along_axis, "LogSoftmax"),
}
