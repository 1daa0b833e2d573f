"""Read any ONNX model as an outline: also one that holds operators which tinyopt has no rule for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tinyopt import guard
from tinyopt.errors import InvalidModelError
from tinyopt.onnx_import.functions import expand_functions
from tinyopt.onnx_import.reading import read_model
from tinyopt.onnx_import.shapes import fix_input_shapes
from tinyopt.outline import Dimension, Operation, Outline, Tensor

_NEUTRAL: Mapping[str, int] = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "QLinearConv", "ConvInteger"})  # the kernel's shape is the weight's


def read_outline(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Outline:
    """The model in the file `path`; with `shapes` (which may be empty) its input shapes are fixed as for compiling.

    Raises UsageError where the file cannot be read, InvalidModelError where it holds no ONNX model.
    """
    with guard.reading(path):
        model = expand_functions(read_model(path), path.stem)
        if shapes is not None:
            _fix_shapes(model, shapes)
        return _outline(model, path.stem)


def _fix_shapes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    fixed, _ = fix_input_shapes(inputs, shapes)
    for value in inputs:
        tensor_type = value.type.tensor_type
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, tensor_type.elem_type, fixed[value.name]))


def _outline(model: onnx.ModelProto, name: str) -> Outline:
    types = _types(model)
    tensors: dict[str, Tensor] = {proto.name: _constant(proto.name, proto) for proto in model.graph.initializer}
    inputs = tuple(_tensor(value.name, types) for value in model.graph.input if value.name not in tensors)
    tensors |= {tensor.name: tensor for tensor in inputs}
    opsets = {entry.domain if entry.domain != "ai.onnx" else "": int(entry.version) for entry in model.opset_import}
    operations: list[Operation] = []
    for node in model.graph.node:
        constant = _constant_of(node)
        if constant is not None:
            tensors[constant.name] = constant
            continue
        read = tuple(tensors.setdefault(n, _tensor(n, types)) if n else None for n in node.input)
        # a file whose nodes are out of order has readers before their makers
        written = tuple(tensors.setdefault(n, _tensor(n, types)) for n in node.output if n)
        attributes = _attributes(node, opsets.get(_domain(node), 1))
        operations.append(Operation(_operator(node), node.name, read, written, attributes))
    outputs = tuple(tensors.setdefault(v.name, _tensor(v.name, types)) for v in model.graph.output)
    return Outline(name, opsets, inputs, outputs, tuple(operations))


def _types(model: onnx.ModelProto) -> dict[str, tuple[str, tuple[Dimension, ...] | None]]:
    """What shape inference finds, or what the file states where it cannot follow."""
    with suppress(onnx.shape_inference.InferenceError, ValueError):  # beyond 2 GB, or an odd node: shapes are extras
        model = onnx.shape_inference.infer_shapes(model)
    known = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    return {value.name: _type(value.type.tensor_type) for value in known}


def _type(tensor_type: onnx.TypeProto.Tensor) -> tuple[str, tuple[Dimension, ...] | None]:
    if not tensor_type.HasField("shape"):
        return _dtype(tensor_type.elem_type), None
    return _dtype(tensor_type.elem_type), tuple(
        int(dimension.dim_value) if dimension.HasField("dim_value") else dimension.dim_param or None
        for dimension in tensor_type.shape.dim
    )


def _dtype(element_type: int) -> str:
    """numpy's name of an ONNX element type, "" where it is not stated."""
    if element_type == onnx.TensorProto.UNDEFINED:
        return ""
    name = str(onnx.TensorProto.DataType.Name(element_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _tensor(name: str, types: Mapping[str, tuple[str, tuple[Dimension, ...] | None]]) -> Tensor:
    return Tensor(name, *types.get(name, ("", None)))


def _constant(name: str, proto: onnx.TensorProto) -> Tensor:
    try:
        array = onnx.numpy_helper.to_array(proto)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidModelError(f"the data of '{name}' does not fit its type and shape: {error}") from error
    return Tensor(name, _dtype(proto.data_type), tuple(int(size) for size in proto.dims), array)


def _constant_of(node: onnx.NodeProto) -> Tensor | None:
    """What a Constant node holds, None for other nodes (and for constants that are no plain numbers)."""
    if _operator(node) != "Constant" or len(node.output) != 1 or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        return _constant(node.output[0], attribute.t)
    if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
        dtype = np.float32 if "float" in attribute.name else np.int64
        return _array_constant(node.output[0], np.array(onnx.helper.get_attribute_value(attribute), dtype))
    return None


def _array_constant(name: str, array: np.ndarray[Any, np.dtype[Any]]) -> Tensor:
    return Tensor(name, array.dtype.name, array.shape, array)


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else str(node.domain)


def _operator(node: onnx.NodeProto) -> str:
    return f"{_domain(node)}.{node.op_type}" if _domain(node) else str(node.op_type)


def _attributes(node: onnx.NodeProto, opset: int) -> dict[str, Any]:
    """Attributes as plain values with the schema's defaults; such as say nothing, like pads of zero, are left out."""
    values = dict(_defaults(str(node.op_type), opset, _domain(node)))
    values |= {attribute.name: _plain(attribute) for attribute in node.attribute if not attribute.ref_attr_name}
    return {key: value for key, value in sorted(values.items()) if not _says_nothing(node, key, value)}


def _says_nothing(node: onnx.NodeProto, key: str, value: Any) -> bool:
    if key == "kernel_shape":
        return node.op_type in _WEIGHTED
    if key == "auto_pad":
        return bool(value == "NOTSET")
    return key in _NEUTRAL and isinstance(value, tuple) and all(item == _NEUTRAL[key] for item in value)


@cache
def _defaults(op: str, opset: int, domain: str) -> Mapping[str, Any]:
    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return {}
    known = {name: attribute.default_value for name, attribute in schema.attributes.items()}
    return {name: _plain(default) for name, default in known.items() if default.type}


def _plain(attribute: onnx.AttributeProto) -> Any:
    """Numbers, text, and tuples of them; a digest for tensors and graphs."""
    return _plain_value(onnx.helper.get_attribute_value(attribute))


def _plain_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Iterable):
        return tuple(_plain_value(item) for item in value)
    return "#" + hashlib.sha256(value.SerializeToString(deterministic=True)).hexdigest()[:8]
