"""Figures of the report beside the plain totals: estimates per pass, node counts, error per layer, lines of C."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.lowering.lifetimes import estimate_arena
from tinyopt.lowering.program import Program
from tinyopt.ops.facts import graph_macs, weight_bytes
from tinyopt.pass_manager import Remark
from tinyopt.targets.costs import estimate_instructions
from tinyopt.targets.target import Target
from tinyopt.text import print_node

NO_CHANGES: Mapping[str, int] = {"removed": 0, "added": 0, "changed": 0, "fused": 0}


def totals(graph: Graph, target: Target) -> dict[str, Any]:
    """What a graph costs. Arena and instructions are estimates: those of the graph run node by node as it stands."""
    return {
        "nodes": len(graph.nodes),
        "macs": graph_macs(graph),
        "parameters": sum(constant.type.elements for constant in graph.constants()),
        "weight_bytes": weight_bytes(graph),
        "estimated_arena_bytes": estimate_arena(graph),
        "estimated_instructions": estimate_instructions(graph, target.costs),
    }


def content(node: Node) -> str:
    """The node as text without the names of node and values: those change with its neighbours."""
    inputs = [None if value is None else replace(value, name="") for value in node.inputs]
    return print_node(Node(node.op, "", list(inputs), [replace(v, name="") for v in node.outputs], node.attributes))


def is_same_node(one: Node, other: Node) -> bool:
    """Whether two nodes are seen to be equal, names included, without a look into their constants: those are shared."""
    return (
        (one.op, one.name, one.origins) == (other.op, other.name, other.origins)
        and one.attributes == other.attributes
        and are_same_values(one.inputs, other.inputs)
        and are_same_values(one.outputs, other.outputs)
    )


def are_same_values(some: Sequence[Value | None], others: Sequence[Value | None]) -> bool:
    """Whether values are seen to be equal, one by one."""
    return len(some) == len(others) and all(map(is_same_value, some, others))


def is_same_value(one: Value | None, other: Value | None) -> bool:
    """Whether two values are seen to be equal: a constant's array is shared."""
    if one is None or other is None:
        return one is other
    return (
        one.constant is other.constant
        and one.clusters is other.clusters
        and (one.name, one.type, one.quantization) == (other.name, other.type, other.quantization)
    )


def node_changes(before: Graph, after: Graph, remarks: Sequence[Remark]) -> dict[str, int]:
    """How many nodes a pass removed, added, changed in place, and fused: one that took the place of several."""
    old, new = {n.name: n for n in before.nodes}, {n.name: n for n in after.nodes}
    both = [(old[name], new[name]) for name in old.keys() & new.keys()]
    changed = sum(not is_same_node(one, other) and content(one) != content(other) for one, other in both)
    fused = {
        remark.after[0]
        for remark in remarks
        if remark.kind == "did" and len(remark.after) == 1 and len(set(remark.before)) > 1 and remark.after[0] in new
    }
    return {
        "removed": len(old.keys() - new.keys()),
        "added": len(new.keys() - old.keys()),
        "changed": changed,
        "fused": len(fused),
    }


def buffers(program: Program) -> list[dict[str, Any]]:
    """Every buffer of the arena with its place and its life, in order of birth."""
    return [asdict(buffer) for buffer in sorted(program.buffers, key=lambda b: (b.first, b.region, b.offset))]


def layer_errors(
    reference: Graph, exact: Mapping[Value, Array], program: Program, computed: Mapping[Value, Array]
) -> dict[str, dict[str, Any]]:
    """For each layer how far its output is from the same node's in the float graph `reference`, on one sample.

    exact, computed: the values of both graphs. Layers that have no twin of equal name and shape are left out.
    """
    twins = {node.name: node.outputs[0] for node in reference.nodes}
    errors: dict[str, dict[str, Any]] = {}
    for call in program.calls:
        output, twin = call.node.outputs[0], twins.get(call.node.name)
        if output.quantization is None or twin is None or twin.dtype != "float32" or twin.shape != output.shape:
            continue
        wanted = exact[twin].astype(np.float64)
        noise = output.quantization.dequantize(computed[output]).astype(np.float64) - wanted
        power = float(np.sum(noise**2))
        errors[call.node.name] = {
            "snr_db": None if power == 0 else float(10 * np.log10(max(float(np.sum(wanted**2)), 1e-300) / power)),
            "max_error_steps": float(np.max(np.abs(noise), initial=0.0) / output.quantization.scale[0]),
        }
    return errors


def source_lines(program: Program, file: str, text: str) -> dict[str, dict[str, Any]]:
    """For each layer its call in the C file, and its kernel where that is C, too: line numbers and text."""
    lines = text.splitlines()
    markers: dict[str, int] = {}
    for number, line in enumerate(lines):
        if match := re.search(r"_BEFORE_LAYER\((\d+)\)$", line):
            markers.setdefault(match[1], number)  # of several variants the fastest stands first
    kernels = {
        match[1]: n for n, line in enumerate(lines) if (match := re.match(r"static [^=;]*?\b(\w+)\(.*\{$", line))
    }
    found: dict[str, dict[str, Any]] = {}
    for call in program.calls:
        position = markers[str(call.index)] + 1
        kernel = kernels.get(lines[position].strip().partition("(")[0])
        found[call.node.name] = {
            "file": file,
            "call_line": position + 1,
            "call": lines[position].strip(),
            "kernel_line": None if kernel is None else kernel + 1,
            "kernel": None if kernel is None else lines[kernel].removesuffix("{").strip(),
        }
    return found
