"""Count the instructions of the grid's layers under QEMU, several hundred layers to a program."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tinyopt.artifact.c_source import Names
from tinyopt.artifact.write import write_libraries, write_sources
from tinyopt.disk_cache import default_cache_dir
from tinyopt.evaluate import evaluate_all
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.profile import profile_layers
from tinyopt.graph_file import save_graph
from tinyopt.ir import Graph, Node, Quantization, TensorType, Value
from tinyopt.lowering.draft import Drafting
from tinyopt.lowering.lower import lower
from tinyopt.pipeline import graph_inputs
from tinyopt.report.build import build_report, to_json
from tinyopt.samples import random_samples
from tinyopt.targets import target_named
from tinyopt.targets.target import Target
from tinyopt.toolchain import CompilerChoice, find_compiler
from tools.instruction_costs.grid import Layer

MOST_BYTES = 1_000_000  # of inputs and outputs in one program


def count_layers(target_name: str, layers: Sequence[Layer], is_quantized: bool) -> Iterator[tuple[Layer, str, int]]:
    """Each layer with the kernel that it gets and its instructions; layers that become several nodes are left out."""
    target = target_named(target_name)
    for batch in _batches(layers, 1 if is_quantized else 4):
        yield from _count(target, batch, is_quantized)


def _batches(layers: Sequence[Layer], element_bytes: int) -> Iterator[list[Layer]]:
    batch: list[Layer] = []
    total = 0
    for layer in layers:
        values = layer.node("")
        size = element_bytes * sum(value.type.elements for value in (*values.present_inputs, *values.outputs))
        if batch and (total + size > MOST_BYTES or len(batch) == 60):
            yield batch
            batch, total = [], 0
        batch.append(layer)
        total += size
    if batch:
        yield batch


def _count(target: Target, layers: list[Layer], is_quantized: bool) -> Iterator[tuple[Layer, str, int]]:
    drafting = Drafting.of_nodes(target.facts, is_quantized)
    drafts = [drafting.draft_node(layer.node("")) for layer in layers]
    with tempfile.TemporaryDirectory(prefix="tinyopt-costs-") as text_folder:
        counted = _profile(_side_by_side(drafts), target, Path(text_folder))
    for number, layer in enumerate(layers):
        if len(drafts[number]) == 1:
            yield layer, *counted[f"l{number}"]


def _side_by_side(drafts: Sequence[Sequence[Node]]) -> Graph:
    """Each draft of one node as a node of its own; those that read images of one type read the same one."""
    graph = Graph("grid", [], [])
    images: dict[tuple[int, TensorType, Quantization | None], Value] = {}
    for number, (node, *others) in enumerate(drafts):
        if others:
            continue
        node.name = f"l{number}"
        for index, value in enumerate(node.inputs):
            if value is not None:
                value.name = f"in{number}_{index}"
                shared = (index, value.type, value.quantization)
                node.inputs[index] = value if value.is_constant else images.setdefault(shared, value)
        for index, value in enumerate(node.outputs):
            value.name = f"out{number}_{index}"
        graph.nodes.append(node)
        graph.outputs += node.outputs
    graph.inputs = list(images.values())
    return graph


def _profile(graph: Graph, target: Target, folder: Path) -> dict[str, tuple[str, int]]:
    program = lower(graph, target, default_cache_dir(), lambda _done, _all: None)
    sample = graph_inputs(program.graph, random_samples(program.graph.inputs, 1, 0)[0])
    names = Names("grid")
    write_sources(program, names, folder, "", sample, evaluate_all(program.graph, sample))
    save_graph(program.graph, folder / "grid.graph.npz")
    if target.code == "object":
        write_libraries(program, names, folder, "", find_compiler(target, None))
    (folder / "report.json").write_text(to_json(build_report("grid", "", "grid", graph, [], [], program, None, {})))
    built = load_built_model(folder)
    counts = profile_layers(built, sample, CompilerChoice(None), default_cache_dir())
    return {layer.name: (layer.kernel, layer.instructions) for layer in counts}
