"""How functions of single elements are written in ONNX.

Integers are computed in a type that onnxruntime has the operator for, and cast back: int32, or int64 for uint32.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import helper

from tinyopt.ir import DTYPES, Node
from tinyopt.onnx_export.emitter import Emitter, ExportRule
from tinyopt.ops.pointwise import FUNCTIONS

_NAMES = {"IntegerAdd": "Add", "IntegerSub": "Sub", "IntegerMul": "Mul", "IntegerDiv": "Div"}
_ATTRIBUTES = {"bias": "bias", "threshold": "lambd", "positive": "detect_positive", "negative": "detect_negative"}
_WIDER: Mapping[str, str] = {"int8": "int32", "uint8": "int32", "int16": "int32", "uint16": "int32", "uint32": "int64"}
_SMALL = {"int8": "int32", "uint8": "int32", "int16": "int32", "uint16": "int32"}
_AS_THEY_ARE: Mapping[str, str] = {}
_WIDER_IN: Mapping[str, Mapping[str, str]] = {
    "BitwiseNot": _AS_THEY_ARE,
    "BitwiseAnd": _AS_THEY_ARE,
    "BitwiseOr": _AS_THEY_ARE,
    "BitwiseXor": _AS_THEY_ARE,
    "Abs": _AS_THEY_ARE,
    "Sign": _AS_THEY_ARE,
    "Max": _SMALL,
    "Min": _SMALL,
    "Where": {**_SMALL, "uint8": "uint8", "bool": "uint8", "uint32": "int64", "uint64": "int64"},
    "BitShift": {"uint16": "uint32"},
}


def _cast(node: Node, emit: Emitter) -> None:
    emit.bind(emit("Cast", emit.value(node.input(0)), name=node.name, to=_element_type(node.output.dtype)), node.output)


def _pointwise(node: Node, emit: Emitter) -> None:
    dtype = node.present_inputs[-1].dtype
    wide = _WIDER_IN.get(node.op, _WIDER).get(dtype, dtype)
    first = int(node.op == "Where")  # the condition stays as it is
    operands = [
        emit("Cast", emit.value(value), to=_element_type(wide))
        if wide != dtype and index >= first
        else emit.value(value)
        for index, value in enumerate(node.present_inputs)
    ]
    attributes = {_ATTRIBUTES.get(key, key): value for key, value in node.attributes.items()}
    result = emit(_NAMES.get(node.op, node.op), *operands, name=node.name, **attributes)
    if wide != dtype and node.output.dtype == dtype:
        result = emit("Cast", result, to=_element_type(dtype))
    emit.bind(result, node.output)


def _element_type(dtype: str) -> int:
    return helper.np_dtype_to_tensor_dtype(DTYPES[dtype])


POINTWISE_RULES: Mapping[str, ExportRule] = {
    "Cast": _cast,
    **{function.name: _pointwise for function in FUNCTIONS},
}
