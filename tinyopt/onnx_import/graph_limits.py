"""Check an imported graph: what it would take to run, weights that are infinite, outputs that are not as declared."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx

from tinyopt.errors import InvalidModelError
from tinyopt.ir import DTYPES, Graph, Node, Value
from tinyopt.onnx_import.limits import (
    LARGEST_ACTIVATION_BYTES,
    LARGEST_LIVE_BYTES,
    MOST_MULTIPLICATIONS,
    MOST_WINDOW_READS,
)
from tinyopt.ops import OPERATORS

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Dense", "MatMul", "BatchNormalization", "PRelu"})
_VIEWS = frozenset({"Reshape", "Identity"})
_POOLS = frozenset({"MaxPool", "AveragePool"})


def check_graph(graph: Graph) -> None:
    """Raises InvalidModelError for graphs beyond the limits, and for layers whose weights are infinite."""
    for node in graph.nodes:
        if node.op in _WEIGHTED:
            _check_finite(node)
    _check_memory(graph)
    _check_work(graph.nodes, graph.name)


def check_declared(graph: Graph, outputs: Iterable[onnx.ValueInfoProto]) -> None:
    """Raises InvalidModelError where the model declares another type or shape for an output than it has."""
    found = {value.name: value for value in graph.outputs}
    for proto in outputs:
        value, tensor_type = found.get(proto.name), proto.type.tensor_type
        if value is None:
            continue
        if tensor_type.elem_type not in (0, onnx.helper.np_dtype_to_tensor_dtype(DTYPES[value.dtype])):
            raise InvalidModelError(
                f"output '{proto.name}' of model '{graph.name}' is declared with element type "
                f"{onnx.TensorProto.DataType.Name(tensor_type.elem_type)} and is {value.dtype}; export the model again"
            )
        if not tensor_type.HasField("shape"):
            continue
        sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in tensor_type.shape.dim]
        fits = len(sizes) == value.type.rank and all(
            declared in (None, size) for declared, size in zip(sizes, value.shape, strict=True)
        )
        if not fits:
            declared = ", ".join("?" if size is None else str(size) for size in sizes)
            raise InvalidModelError(
                f"output '{proto.name}' of model '{graph.name}' is declared as [{declared}] and has the shape "
                f"{list(value.shape)}; export the model again"
            )


def _check_finite(node: Node) -> None:
    for value in node.present_inputs:
        array = value.constant
        if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidModelError(f"{node.op} '{node.name}': its weights '{value.name}' are not all finite")


def _check_memory(graph: Graph) -> None:
    last = {id(value): i for i, node in enumerate(graph.nodes) for value in node.present_inputs}
    ending: dict[int, int] = {}  # bytes by the node behind which nobody reads them
    live = total = sum(value.type.bytes for value in graph.inputs)
    for index, node in enumerate(graph.nodes):
        made: list[Value] = [] if node.op in _VIEWS else node.outputs
        size = sum(value.type.bytes for value in made)
        for value in made:
            end = last.get(id(value), len(graph.nodes))
            ending[end] = ending.get(end, 0) + value.type.bytes
        live, total = live + size, total + size
        for found, limit, what in (
            (live, LARGEST_LIVE_BYTES, "tensors that are needed at one time"),
            (total, LARGEST_ACTIVATION_BYTES, "tensors in all"),
        ):
            if found > limit:
                raise InvalidModelError(
                    f"{node.op} '{node.name}' brings the model to {found:,} bytes of {what}; tinyopt takes up to "
                    f"{limit:,}"
                )
        live -= ending.pop(index, 0)


def _check_work(nodes: Iterable[Node], name: str) -> None:
    multiplications = reads = 0
    for node in nodes:
        multiplications += OPERATORS[node.op].macs(node)
        if node.op in _POOLS:
            reads += node.output.type.elements * math.prod(node.ints("kernel"))
        for found, limit, what in (
            (multiplications, MOST_MULTIPLICATIONS, "multiplications"),
            (reads, MOST_WINDOW_READS, "elements read by pooling windows"),
        ):
            if found > limit:
                raise InvalidModelError(
                    f"{node.op} '{node.name}' brings model '{name}' to {found:,} {what} for one run; tinyopt takes up "
                    f"to {limit:,}"
                )
