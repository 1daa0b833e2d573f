"""Check that a model's graph holds together: versions, boundary, who gives what to whom, and the tensors it holds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from tinyopt.errors import InvalidModelError, UnsupportedOperatorError
from tinyopt.onnx_import.limits import (
    LARGEST_RANK,
    LARGEST_TENSOR_ELEMENTS,
    LARGEST_WEIGHT_BYTES,
    NEWEST_IR_VERSION,
    NEWEST_OPSET,
    OLDEST_IR_VERSION,
    OLDEST_OPSET,
)
from tinyopt.onnx_import.tensors import check_shape, check_tensor

_DEFAULT_DOMAINS = ("", "ai.onnx")
_INFINITE = frozenset({"value", "min", "max", "value_float", "value_floats"})
"""Attributes that may be infinite: a mask is filled with minus infinity, a clip without bounds has infinite ones."""


def check_model(model: onnx.ModelProto, name: str) -> int:
    """The opset of the model's standard operators.

    Raises InvalidModelError that names what is broken: versions outside of what is known, an empty graph, tensors that
    nobody or two nodes give, nodes out of order or in a cycle, types that are no tensors, weights with the wrong amount
    of data or with NaN.
    """
    opset = _check_versions(model, name)
    graph = model.graph
    if not graph.node:
        raise InvalidModelError(f"model '{name}' has an empty graph: there is nothing to compile")
    if not graph.output:
        raise InvalidModelError(f"model '{name}' has no outputs")
    if graph.sparse_initializer:
        raise InvalidModelError(f"model '{name}' has sparse weights: export them as dense tensors")
    _check_boundary(graph, name)
    _check_weights(graph, name)
    _check_order(graph, name)
    for node in graph.node:
        _check_attributes(node, name)
    _check_pads(graph, name)
    return opset


def _check_versions(model: onnx.ModelProto, name: str) -> int:
    if not OLDEST_IR_VERSION <= model.ir_version <= NEWEST_IR_VERSION:
        raise InvalidModelError(
            f"model '{name}' has IR version {model.ir_version}; tinyopt reads {OLDEST_IR_VERSION} to"
            f" {NEWEST_IR_VERSION}: export it with another ONNX version"
        )
    stated: dict[str, set[int]] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain in _DEFAULT_DOMAINS else entry.domain
        stated.setdefault(domain, set()).add(int(entry.version))
    versions = stated.pop("", set())
    if not versions:
        raise InvalidModelError(f"model '{name}' states no opset for the standard operators; export it again")
    for opset in sorted(versions):
        if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
            raise InvalidModelError(
                f"model '{name}' has opset {opset}; tinyopt reads {OLDEST_OPSET} to {NEWEST_OPSET}:"
                " export it with one of these"
            )
    for domain, found in {"": versions, **stated}.items():
        if len(found) > 1:
            whose = f"domain '{domain}'" if domain else "the standard operators"
            raise InvalidModelError(f"model '{name}' states several opsets for {whose}: {sorted(found)}")
    return versions.pop()


def _check_boundary(graph: GraphProto, name: str) -> None:
    _check_unique([value.name for value in graph.input], "input", name)
    _check_unique([value.name for value in graph.output], "output", name)
    for kind, values in (("input", graph.input), ("output", graph.output), ("tensor", graph.value_info)):
        for value in values:
            _check_type(value, kind, name)


def _check_unique(names: Sequence[str], kind: str, name: str) -> None:
    seen: set[str] = set()
    for each in names:
        if not each:
            raise InvalidModelError(f"model '{name}' has an {kind} without a name")
        if each in seen:
            raise InvalidModelError(f"model '{name}' has two {kind}s of the name '{each}'")
        seen.add(each)


def _check_type(value: ValueInfoProto, kind: str, name: str) -> None:
    where = f"{kind} '{value.name}' of model '{name}'"
    found = value.type.WhichOneof("value")
    if found is None:
        if kind == "input":
            raise InvalidModelError(f"{where} has no type; export it again")
        return
    if found != "tensor_type":
        raise UnsupportedOperatorError(f"{where} is a {found.removesuffix('_type')}; tinyopt takes tensors")
    element = value.type.tensor_type.elem_type
    if element not in TensorProto.DataType.values():
        raise InvalidModelError(f"{where} has the unknown element type {element}")
    sizes = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    if any(size < -1 for size in sizes):  # some exporters write -1 for a size that is open
        raise InvalidModelError(f"{where} has the shape {sizes}: sizes are not negative")
    check_shape(tuple(max(size, 0) for size in sizes), where)


def _check_weights(graph: GraphProto, name: str) -> None:
    _check_unique([tensor.name for tensor in graph.initializer], "initializer", name)
    total = 0
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise InvalidModelError(
                f"weights '{tensor.name}' of model '{name}' lie in another file: import the file by path"
            )
        total += check_tensor(tensor, f"initializer '{tensor.name}' of model '{name}'")
        if total > LARGEST_WEIGHT_BYTES:
            raise InvalidModelError(f"model '{name}' has more than {LARGEST_WEIGHT_BYTES:,} bytes of weights")


def _check_order(graph: GraphProto, name: str) -> None:
    """Every tensor is given once, and before it is read."""
    known = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    made = {output for node in graph.node for output in node.output if output}
    for node in graph.node:
        where = _label(node, name)
        if not node.op_type:
            raise InvalidModelError(f"{where} has no operator")
        for read in node.input:
            if not read or read in known:
                continue
            if read in made:
                raise InvalidModelError(f"{where} reads '{read}' before it is there: nodes are out of order or a cycle")
            raise InvalidModelError(f"{where} reads '{read}', which is no input, no weight, and no node's output")
        for output in node.output:
            if output and output in known:
                raise InvalidModelError(f"{where} gives '{output}', which is there already")
            known.add(output)
    for value in graph.output:
        if value.name not in known:
            raise InvalidModelError(f"output '{value.name}' of model '{name}' is produced by no node")


def _check_attributes(node: NodeProto, name: str) -> None:
    seen: set[str] = set()
    for attribute in node.attribute:
        where = f"attribute '{attribute.name}' of {_label(node, name)}"
        if attribute.name in seen:
            raise InvalidModelError(f"{where} is given twice")
        seen.add(attribute.name)
        numbers = [attribute.f, *attribute.floats]
        if any(math.isnan(number) for number in numbers):
            raise InvalidModelError(f"{where} is NaN")
        if attribute.name not in _INFINITE and any(math.isinf(number) for number in numbers):
            raise InvalidModelError(f"{where} is infinite")
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type != TensorProto.STRING:
            check_tensor(attribute.t, where)


def _check_pads(graph: GraphProto, name: str) -> None:
    """What Pad adds is within the limits: ONNX's shape inference, which looks first, ends the process at 2^62."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.output:
            constants[node.output[0]] = node.attribute[0].t
        if node.op_type != "Pad":
            continue
        pads = [pad for attribute in node.attribute if attribute.name == "pads" for pad in attribute.ints]
        tensor = constants.get(node.input[1]) if len(node.input) > 1 else None
        if tensor is not None and tensor.data_type == TensorProto.INT64 and math.prod(tensor.dims) <= 2 * LARGEST_RANK:
            pads += numpy_helper.to_array(tensor).reshape(-1).tolist()
        if wrong := [pad for pad in pads if abs(pad) > LARGEST_TENSOR_ELEMENTS]:
            most = f"tensors have up to {LARGEST_TENSOR_ELEMENTS:,} elements"
            raise InvalidModelError(f"{_label(node, name)} pads by {wrong[0]}: {most}")


def _label(node: NodeProto, name: str) -> str:
    """A node for messages: by its name, or by what it gives."""
    known_as = node.name or next((output for output in node.output if output), "")
    return f"{node.op_type or 'a node'} '{known_as}' of model '{name}'"
