"""The files of an output folder: the library with its self-test, the graph after each pass, the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyopt import __version__
from tinyopt.artifact.c_source import Names
from tinyopt.artifact.emit import write_shapes
from tinyopt.artifact.folder import fresh_folder
from tinyopt.artifact.write import measure_code, write_libraries, write_sources
from tinyopt.evaluate import evaluate_all
from tinyopt.graph_file import save_graph
from tinyopt.ir import Array, Graph, Value
from tinyopt.lowering.program import Program
from tinyopt.onnx_export import save_model
from tinyopt.options import CompileOptions
from tinyopt.pipeline import PipelineStep, float_reference, graph_inputs
from tinyopt.report.build import to_json
from tinyopt.report.csv import ENCODING as CSV_ENCODING
from tinyopt.report.csv import layers_csv
from tinyopt.report.figures import layer_errors, source_lines
from tinyopt.report.html.build import compiled_page
from tinyopt.report.text import plain_text
from tinyopt.samples import Sample
from tinyopt.text import print_graph
from tinyopt.toolchain import Compiler


@dataclass(frozen=True, eq=False)
class Compiled:
    """A model that was lowered, and what it came from."""

    original: Graph  # as it was imported
    steps: tuple[PipelineStep, ...]
    program: Program
    names: Names
    compiler: Compiler | None  # None where no compiler for the target is here


@dataclass(frozen=True)
class Written:
    """What is known once the library is there: bytes of its code, None where nothing measures them; facts of layers."""

    code_bytes: int | None
    layer_facts: Mapping[str, Mapping[str, Any]]
    fed: Mapping[str, Array]  # the self-test's sample, in the types of the final graph


def write_model(compiled: Compiled, folder: Path, raw_sample: Sample, options: CompileOptions) -> Written:
    """Write the library, its self-test on `raw_sample`, its shapes for frameworks, the final graph, and each pass's."""
    program, names, compiler = compiled.program, compiled.names, compiled.compiler
    sample = graph_inputs(program.graph, raw_sample)
    computed = evaluate_all(program.graph, sample)
    write_sources(program, names, folder, __version__, sample, computed)
    save_graph(program.graph, folder / f"{names.prefix}.graph.npz")
    if program.target.code == "object":
        assert compiler is not None, "object targets always find a compiler or raise"
        write_libraries(program, names, folder, __version__, compiler)
    write_shapes(folder, options.emit, program, names, __version__)
    write_passes(folder / "passes", compiled.original, compiled.steps)
    code = None if compiler is None else measure_code(program, names, folder, compiler, options.cache_dir)
    facts = _layer_facts(compiled, raw_sample, computed, folder / f"{names.prefix}.c")
    return Written(code, facts, sample)


def _layer_facts(
    compiled: Compiled, sample: Sample, computed: Mapping[Value, Array], source: Path
) -> dict[str, dict[str, Any]]:
    """For each layer its error against the float graph that was quantized, if one was, and its place in the C file."""
    program = compiled.program
    facts = {name: {"c": c} for name, c in source_lines(program, source.name, source.read_text("ascii")).items()}
    reference = float_reference(compiled.original, compiled.steps)
    if reference is not None:
        exact = evaluate_all(reference, graph_inputs(reference, sample))
        for name, error in layer_errors(reference, exact, program, computed).items():
            facts[name] |= {"error": error}
    return facts


def dump_passes(folder: Path, original: Graph, steps: Sequence[PipelineStep]) -> None:
    """`write_passes` into a folder that takes the place of `folder` when it is whole."""
    with fresh_folder(folder) as work:
        write_passes(work, original, steps)


def write_passes(folder: Path, original: Graph, steps: Sequence[PipelineStep]) -> None:
    """`00-import` and one `NN-name` for each pass that changed the graph: .onnx for Netron, .txt for diffs."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = [(i, step.record) for i, step in enumerate(steps, start=1) if step.record.is_changed]
    for number, name, graph in [(0, "import", original), *((i, r.pass_name, r.graph) for i, r in changed)]:
        save_model(graph, folder / f"{number:02d}-{name}.onnx")
        (folder / f"{number:02d}-{name}.txt").write_text(print_graph(graph), encoding="utf-8")


def write_reports(folder: Path, report: dict[str, Any]) -> None:
    """The report as JSON, text and CSV."""
    (folder / "report.json").write_text(to_json(report), encoding="utf-8")
    (folder / "report.txt").write_text(plain_text(report), encoding="utf-8")
    (folder / "report.csv").write_text(layers_csv(report), encoding=CSV_ENCODING, newline="")


def write_page(folder: Path, report: Mapping[str, Any], compiled: Compiled) -> None:
    """The report as a page."""
    page = compiled_page(report, compiled.original, compiled.steps, compiled.program)
    (folder / "report.html").write_text(page, encoding="utf-8")
