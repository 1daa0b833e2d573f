"""Check that a model is within the limits and that its texts are texts, before anything else looks at it.

ONNX's own checker does not: it accepts inputs of 10^12 elements and opset 999, and runs for hours on nested functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, ValueInfoProto

from tinyopt.errors import InvalidModelError
from tinyopt.onnx_import.limits import (
    DEEPEST_NESTING,
    LONGEST_NAME_BYTES,
    MOST_ATTRIBUTES,
    MOST_BOUNDARY_TENSORS,
    MOST_CONNECTIONS,
    MOST_NODES,
    MOST_NUMBERS_PER_ATTRIBUTE,
    MOST_TENSORS,
)


def check_limits(model: onnx.ModelProto, name: str) -> None:
    """Raises InvalidModelError for what is beyond `limits`, and for names that are no text.

    Everything is counted before it is gone through: a message that is empty has two bytes in the file, and hundreds as
    an object of Python.
    """
    _check_count(len(model.functions), MOST_NODES, "functions", name)
    _check_count(len(model.opset_import), MOST_NODES, "opsets", name)
    graphs, nodes = _graphs_and_nodes(model, name)
    _check_count(sum(len(node.input) + len(node.output) for node in nodes), MOST_CONNECTIONS, "connections", name)
    for graph in graphs:
        tensors = len(graph.initializer) + len(graph.sparse_initializer) + len(graph.value_info)
        _check_count(tensors, MOST_TENSORS, "tensors", name)
        _check_count(len(graph.input), MOST_BOUNDARY_TENSORS, "inputs", name)
        _check_count(len(graph.output), MOST_BOUNDARY_TENSORS, "outputs", name)
        _check_graph_names(graph, name)
    for node in nodes:
        _check_node(node, name)
    _check_names([entry.domain for entry in model.opset_import], "an opset's domain", name)
    for function in model.functions:
        texts = [function.name, function.domain, function.overload, *function.input, *function.output]
        _check_names([*texts, *function.attribute], "a function", name)


def _graphs_and_nodes(model: onnx.ModelProto, name: str) -> tuple[list[GraphProto], list[NodeProto]]:
    """The graph with all its subgraphs, and all nodes, those of functions included.

    Raises InvalidModelError where there are too many, and where they are nested too deeply.
    """
    level: list[GraphProto] = [model.graph]
    graphs: list[GraphProto] = []
    nodes: list[NodeProto] = []
    bodies: list[Sequence[NodeProto]] = [function.node for function in model.functions]
    for _ in range(DEEPEST_NESTING):
        graphs += level
        bodies += [graph.node for graph in level]
        _check_count(len(nodes) + sum(map(len, bodies)), MOST_NODES, "nodes", name)
        found = [node for body in bodies for node in body]
        for node in found:
            _check_attribute_count(node, name)
        attributes = [attribute for node in found for attribute in node.attribute]
        level = [g for a in attributes for g in ([a.g] if a.HasField("g") else []) + list(a.graphs)]
        nodes += found
        bodies = []
        if not level:
            return graphs, nodes
    raise InvalidModelError(f"model '{name}' has subgraphs nested more than {DEEPEST_NESTING} levels deep")


def _check_count(count: int, most: int, what: str, name: str) -> None:
    if count > most:
        raise InvalidModelError(f"model '{name}' has {count:,} {what}; tinyopt takes up to {most:,}")


def _check_node(node: NodeProto, name: str) -> None:
    where = _where(node)
    texts = [node.name, node.op_type, node.domain, node.overload, *node.input, *node.output]
    _check_names([*texts, *(attribute.name for attribute in node.attribute)], where, name)
    for attribute in node.attribute:
        _check_attribute(attribute, where, name)


def _where(node: NodeProto) -> str:
    return f"node '{_shown(node.name)}' ({_shown(node.op_type)})"


def _check_attribute_count(node: NodeProto, name: str) -> None:
    if len(node.attribute) > MOST_ATTRIBUTES:
        raise InvalidModelError(
            f"{_where(node)} of model '{name}' has {len(node.attribute):,} attributes; tinyopt takes up to "
            f"{MOST_ATTRIBUTES}"
        )


def _check_attribute(attribute: AttributeProto, where: str, name: str) -> None:
    numbers = len(attribute.ints) + len(attribute.floats) + len(attribute.strings)
    if numbers > MOST_NUMBERS_PER_ATTRIBUTE:
        raise InvalidModelError(
            f"attribute '{attribute.name}' of {where} of model '{name}' has {numbers:,} values; tinyopt takes up to "
            f"{MOST_NUMBERS_PER_ATTRIBUTE:,}"
        )
    tensors = ([attribute.t] if attribute.HasField("t") else []) + list(attribute.tensors)
    for tensor in tensors:
        _check_names([tensor.name], where, name)
        if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data):
            raise InvalidModelError(
                f"attribute '{attribute.name}' of {where} of model '{name}' lies in another file; only weights may"
            )


def _check_graph_names(graph: GraphProto, name: str) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        _check_value_names(value, name)
    for tensor in graph.initializer:
        _check_names([tensor.name], "a weight", name)
        _check_count(len(tensor.external_data), MOST_ATTRIBUTES, f"places for weights '{tensor.name}'", name)
        entries = [text for entry in tensor.external_data for text in (entry.key, entry.value)]
        _check_names(entries, f"the place of weights '{tensor.name}'", name)
    for sparse in graph.sparse_initializer:
        _check_names([sparse.values.name, sparse.indices.name], "a sparse weight", name)


def _check_value_names(value: ValueInfoProto, name: str) -> None:
    sizes = len(value.type.tensor_type.shape.dim)
    if sizes > MOST_TENSORS:
        raise InvalidModelError(f"'{_shown(value.name)}' of model '{name}' has {sizes:,} dimensions")
    dimensions = [dimension.dim_param for dimension in value.type.tensor_type.shape.dim]
    _check_names([value.name], "a tensor", name)
    _check_names(dimensions, f"the shape of '{value.name}'", name)


def _check_names(texts: Sequence[object], where: str, name: str) -> None:
    """protobuf gives bytes where a text is no UTF-8."""
    for text in texts:
        if not isinstance(text, str):
            raise InvalidModelError(f"model '{name}' is damaged: {_shown(text)}, in {where}, is no UTF-8")
        if "\0" in text:
            raise InvalidModelError(f"model '{name}' has a name with a NUL in it, in {where}: '{_shown(text)}'")
        if len(text) > LONGEST_NAME_BYTES // 4 and len(text.encode("utf-8", "replace")) > LONGEST_NAME_BYTES:
            raise InvalidModelError(
                f"model '{name}' has a name of {len(text):,} characters, in {where}: '{_shown(text)}'; "
                f"tinyopt takes up to {LONGEST_NAME_BYTES:,} bytes"
            )


def _shown(text: object) -> str:
    """Enough of a name to find it by."""
    shown = text if isinstance(text, str) else repr(text)
    return shown if len(shown) <= 60 else shown[:60] + "..."
