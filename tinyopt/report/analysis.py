"""A quick look at a model, before anything is compiled: what it holds, what it needs, and what cannot be taken.

Nothing runs and nothing is written. The passes that need no samples have run before memory is estimated, so that a
fused activation takes no room; what only a kernel knows (scratch, outputs in place of inputs) is not in the estimates.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyopt.errors import UnsupportedOperatorError
from tinyopt.ir import Graph, Node, TensorType, Value
from tinyopt.lowering.lifetimes import estimate_arena
from tinyopt.lowering.lower import choose_kernel
from tinyopt.lowering.views import VIEWS
from tinyopt.onnx_import import import_model
from tinyopt.onnx_import.outline import read_outline
from tinyopt.ops import OPERATORS
from tinyopt.ops.facts import graph_macs, weight_bytes
from tinyopt.ops.integer_rules import ACTIVATION_DTYPES
from tinyopt.options import CompileOptions
from tinyopt.outline import Outline, Tensor
from tinyopt.pass_manager import PassContext, run_pass
from tinyopt.pipeline import build_pipeline
from tinyopt.report.outline_costs import outline_arena, outline_macs
from tinyopt.targets.target import Target

SCHEMA_VERSION = 1
BIAS_BYTES = 8  # of an int8 layer, for each output channel: an int32 bias and an int32 multiplier
_TABLE_BYTES = {"Softmax": 1024} | dict.fromkeys(
    ("Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "LeakyRelu", "Gelu"), 256
)  # what becomes a table when it becomes int8


def analyze(path: Path, target: Target, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What `tinyopt analyze --json` prints.

    A model with nodes that cannot be taken is analyzed, too: from what its file says, without the passes.
    """
    outline = read_outline(path, shapes)
    head = _head(path, outline, target)
    try:
        imported = import_model(path, shapes)
    except UnsupportedOperatorError as error:
        return head | _from_outline(outline) | {"unsupported": list(error.parts or (str(error),)), "notes": []}
    original = imported.graph.copy()
    graph = _with_cheap_passes(imported.graph, target)
    return (
        head
        | _from_graph(original, graph)
        | {"unsupported": _without_kernel(graph, target), "notes": list(imported.notes)}
    )


def _head(path: Path, outline: Outline, target: Target) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "opset": outline.opsets.get(""),
        },
        "target": target.name,
        "inputs": [_boundary(tensor) for tensor in outline.inputs],
        "outputs": [_boundary(tensor) for tensor in outline.outputs],
        "operators": dict(Counter(operation.op for operation in outline.operations).most_common()),
        "nodes": len(outline.operations),
        "parameters": sum(tensor.array.size for tensor in _constants(outline) if tensor.array is not None),
    }


def _boundary(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": tensor.shape and list(tensor.shape)}


def _constants(outline: Outline) -> list[Tensor]:
    found = {id(tensor): tensor for operation in outline.operations for _, tensor in operation.constants}
    return list(found.values())


# Models that can be imported


def _with_cheap_passes(graph: Graph, target: Target) -> Graph:
    """`graph` after the pipeline without samples, which leaves a float model in float."""
    context = PassContext(target.facts)
    for step in build_pipeline(CompileOptions(is_quantized=False), target.boundary):
        run_pass(step, graph, context)
    return graph


def _from_graph(original: Graph, graph: Graph) -> dict[str, Any]:
    is_float = not any(value.dtype in ACTIVATION_DTYPES and not value.is_constant for value in graph.values())
    int8 = _as_int8(graph) if is_float else graph
    return {
        "macs": graph_macs(original),
        "weight_bytes": {"float": weight_bytes(graph) if is_float else None, "int8": _int8_weight_bytes(graph)},
        "arena_bytes": {"float": estimate_arena(graph) if is_float else None, "int8": estimate_arena(int8)},
        "layers": [_layer(node) for node in graph.nodes],
    }


def _layer(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "op": node.op,
        "shape": list(node.outputs[0].shape),
        "macs": OPERATORS[node.op].macs(node),
        "parameters": sum(value.type.elements for value in node.present_inputs if value.is_constant),
    }


def _as_int8(graph: Graph) -> Graph:
    """The same graph with one byte for each element of what changes at run time: good for planning only."""
    copy = graph.copy()
    for value in copy.values():
        if value.dtype == "float32" and not value.is_constant:
            value.type = TensorType("int8", value.shape)
    return copy


def _int8_weight_bytes(graph: Graph) -> int:
    """Weights of a byte each, with bias and multiplier for each output channel; tables; other constants as they are."""
    total = sum(_TABLE_BYTES.get(node.op, 0) for node in graph.nodes)
    counted: set[int] = set()
    for node in graph.nodes:
        for position, value in enumerate(node.inputs):
            if value is None or value.constant is None or id(value) in counted:
                continue
            counted.add(id(value))
            total += _int8_constant_bytes(node, position, value)
    return total


def _int8_constant_bytes(node: Node, position: int, value: Value) -> int:
    if value.dtype != "float32":
        return value.type.bytes
    is_weighted = node.op in ("Conv", "ConvTranspose", "Dense")
    if is_weighted and position == 1:
        return value.type.elements + BIAS_BYTES * node.outputs[0].shape[1 if node.op == "ConvTranspose" else -1]
    return 0 if is_weighted else value.type.elements  # the bias is counted with its weights


def _without_kernel(graph: Graph, target: Target) -> list[str]:
    return [
        f"{node.op} (node '{node.name}'): no kernel for {target.name}"
        for node in graph.nodes
        if node.op not in VIEWS and choose_kernel(node, target) is None
    ]


# Models that cannot


def _from_outline(outline: Outline) -> dict[str, Any]:
    macs = outline_macs(outline)
    weights = [tensor.array for tensor in _constants(outline) if tensor.array is not None]
    arenas: Sequence[int | None] = [outline_arena(outline, element_bytes) for element_bytes in (4, 1)]
    return {
        "macs": sum(macs),
        "weight_bytes": {"float": sum(array.nbytes for array in weights), "int8": None},
        "arena_bytes": {"float": arenas[0], "int8": arenas[1]},
        "layers": [
            {
                "name": operation.label,
                "op": operation.op,
                "shape": list(operation.outputs[0].shape or ()) if operation.outputs else [],
                "macs": count,
                "parameters": sum(t.array.size for _, t in operation.constants if t.array is not None),
            }
            for operation, count in zip(outline.operations, macs, strict=True)
        ],
    }
