"""Expand operators that tinyopt has no rule for, and that ONNX defines by others, into these.

Of a node `Attention(q, k, v)` become the nodes of its definition in ONNX's own table of operators, where all of them
have rules. Operators with a rule are never expanded: what has a kernel of its own is faster and rounds less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx.inliner

from tinyopt.onnx_import.limits import MOST_NODES

MOST_ROUNDS = 4  # definitions of operators that are defined themselves: losses, of log-probabilities
_DOMAIN = "tinyopt.definitions"

IsKnown = Callable[[onnx.NodeProto], bool]


@dataclass(frozen=True)
class Origin:
    """The user's node that an operator of a definition comes from."""

    op: str
    name: str


@dataclass(frozen=True)
class Expansion:
    """The model with operators expanded, and what the user should know.

    origins: for the name of each node that an expansion made.
    """

    model: onnx.ModelProto
    notes: tuple[str, ...] = ()
    origins: Mapping[str, Origin] = field(default_factory=dict[str, Origin])


def expand_definitions(model: onnx.ModelProto, opset: int, is_known: IsKnown) -> Expansion:
    """Expand what `is_known` says nothing of, as far as ONNX defines it; the rest stays for others to refuse.

    Bounded by `MOST_ROUNDS` rounds and `MOST_NODES` nodes.
    """
    if all(is_known(node) for node in model.graph.node):
        return Expansion(model)
    whole = Expansion(_without_weights(model))
    for _ in range(MOST_ROUNDS):
        one_round = _one_round(whole, opset, is_known)
        if one_round is None or len(one_round.model.graph.node) > MOST_NODES:
            break
        whole = one_round
    if not whole.notes:
        return Expansion(model)
    whole.model.graph.ClearField("input")
    whole.model.graph.input.extend(model.graph.input)
    whole.model.graph.initializer.extend(model.graph.initializer)
    return whole


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with inputs in place of its weights, for they are copied with every step here."""
    light = onnx.ModelProto()
    light.ir_version = max(model.ir_version, 10)  # the first with functions whose operators have overloads
    light.opset_import.extend(model.opset_import)
    for key in ("node", "input", "output", "value_info"):
        getattr(light.graph, key).extend(getattr(model.graph, key))
    for index, node in enumerate(light.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"  # by its place in the user's file
        node.doc_string = node.name
    light.graph.name = model.graph.name or "graph"
    listed = {value.name for value in light.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in listed:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.graph.input.append(info)
    return light


def _one_round(whole: Expansion, opset: int, is_known: IsKnown) -> Expansion | None:
    """The model with one more level of definitions expanded; None where there is nothing that can be expanded."""
    types = _types(whole.model)
    calling = onnx.ModelProto()
    calling.CopyFrom(whole.model)
    notes, origins = list(whole.notes), dict(whole.origins)
    for index, node in enumerate(calling.graph.node):
        if is_known(node) or node.domain not in ("", "ai.onnx"):
            continue
        definition = _definition(node, opset, types)
        if definition is None:
            continue
        definition.name, definition.domain = f"definition_{index}", _DOMAIN
        del definition.opset_import[:]
        definition.opset_import.append(onnx.helper.make_opsetid("", opset))
        for place, inner in enumerate(definition.node):
            inner.doc_string = f"{node.name}/{inner.op_type}_{place}"
            origins[inner.doc_string] = origins.get(node.name, Origin(node.op_type, node.name))
        calling.functions.append(definition)
        notes.append(
            f"{node.op_type} '{node.name}' has no rule: it is computed as ONNX defines it,"
            f" by {len(definition.node)} operators"
        )
        node.op_type, node.domain = definition.name, _DOMAIN
    if not calling.functions:
        return None
    calling.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    inlined = _inlined(calling)
    return None if inlined is None else Expansion(inlined, tuple(notes), origins)


def _inlined(calling: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with the definitions in place of their calls; None where the inliner cannot."""
    try:
        inlined = onnx.inliner.inline_local_functions(calling)
    except Exception:  # the inliner is C++ and raises whatever it likes; the operators stay, and are refused
        return None
    kept = [entry for entry in inlined.opset_import if entry.domain != _DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    for node in inlined.graph.node:  # it gives names of its own
        node.name = node.doc_string
    return inlined


def _types(light: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    try:
        inferred = onnx.shape_inference.infer_shapes(light)
    except (onnx.shape_inference.InferenceError, ValueError):  # the model is broken, which others will say
        inferred = light
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    return {value.name: value.type for value in values}


def _definition(node: onnx.NodeProto, opset: int, types: Mapping[str, onnx.TypeProto]) -> onnx.FunctionProto | None:
    """What ONNX defines the node by; None where it does not. Gives the node its attributes' default values."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    present = {attribute.name for attribute in node.attribute}
    for name, attribute in schema.attributes.items():
        if name not in present and attribute.default_value.name:
            node.attribute.append(attribute.default_value)
    body = _body(schema, node, opset, [types.get(name, onnx.TypeProto()) for name in node.input])
    if body is None or any(_has_subgraph(inner) for inner in body.node):
        return None
    return body


def _body(
    schema: Any,  # an OpSchema, of whose definitions onnx's type stubs know nothing
    node: onnx.NodeProto,
    opset: int,
    types: Sequence[onnx.TypeProto],
) -> onnx.FunctionProto | None:
    content: bytes = b""
    try:
        if schema.has_context_dependent_function:
            versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
            if versions:
                content = schema.get_context_dependent_function_with_opset_version(
                    max(versions), node.SerializeToString(), [each.SerializeToString() for each in types]
                )
        elif schema.has_function:
            versions = [version for version in schema.function_opset_versions if version <= opset]
            if versions:
                content = schema.get_function_with_opset_version(max(versions))
    except Exception:  # the C++ behind it raises whatever it likes; then the operator is one without a rule
        return None
    return onnx.FunctionProto.FromString(content) if content else None


def _has_subgraph(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
