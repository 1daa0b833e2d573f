"""The compiler as a library: `compile_model` is the whole way from an ONNX file to an output folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyopt import __version__
from tinyopt.artifact.c_source import Names
from tinyopt.artifact.emit import check_emit, write_shapes
from tinyopt.artifact.folder import check_output_folder, fresh_folder
from tinyopt.artifact.names import c_identifier, check_regions
from tinyopt.artifact.write import measure_code, write_libraries, write_sources
from tinyopt.budgets import check_budgets
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import AccuracyError, UsageError
from tinyopt.evaluate import evaluate_all
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.runner import run_built_model
from tinyopt.graph_file import save_graph
from tinyopt.ir import Array, Graph, Value
from tinyopt.lowering.estimates import NodeEstimates
from tinyopt.lowering.lower import lower, planned_arena_bytes
from tinyopt.lowering.program import Program
from tinyopt.lowering.sections import check_threads
from tinyopt.onnx_export import save_model
from tinyopt.onnx_import import ImportResult, convert_boundary, import_model
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import LabelledSamples, PassContext
from tinyopt.pipeline import (
    DRIFT_SAMPLES,
    PipelineStep,
    as_real,
    build_pipeline,
    check_installed,
    float_reference,
    graph_inputs,
    no_observer,
    real_outputs,
    run_pipeline,
)
from tinyopt.recipes import LOCK_NAME, make_lock, read_recipe
from tinyopt.report.build import Evaluation, build_report, to_json
from tinyopt.report.clustering import four_bit_notes
from tinyopt.report.compression import compression_section
from tinyopt.report.csv import ENCODING as CSV_ENCODING
from tinyopt.report.csv import layers_csv
from tinyopt.report.figures import layer_errors, source_lines
from tinyopt.report.gate import accuracy_gate
from tinyopt.report.html.build import compiled_page, drawing_notes
from tinyopt.report.quantization import compiled_quantization
from tinyopt.report.text import plain_text
from tinyopt.samples import (
    NOISE_WARNING,
    Calibration,
    NoiseSamples,
    Sample,
    fingerprint,
    load_calibration_set,
    load_labelled,
    random_samples,
    source_of,
)
from tinyopt.target_costs import find_code_compiler, target_costs
from tinyopt.targets import all_targets, target_named
from tinyopt.targets.target import Target
from tinyopt.text import print_graph
from tinyopt.toolchain import CompilerChoice, find_compiler

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class CompileResult:
    """What one compilation gave. `report` is what report.json holds."""

    folder: Path
    original: Graph  # as it was imported
    program: Program
    steps: tuple[PipelineStep, ...]
    report: dict[str, Any]


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody looks at."""


def compile_model(
    model: Path,
    output: Path,
    options: CompileOptions,
    on_progress: Progress = no_progress,
    on_step: Callable[[PipelineStep], None] = no_observer,
) -> CompileResult:
    """Compile the ONNX file `model` into the folder `output`, which is written whole or not at all.

    on_step: called after each pass, so that what passes did can be seen even where a later one fails.
    Raises TinyoptError: see its subclasses for what can be wrong.
    """
    return compile_imported(import_model(model, options.shapes), model, output, options, on_progress, on_step)


def compile_imported(
    imported: ImportResult,
    model: Path,
    output: Path,
    options: CompileOptions,
    on_progress: Progress = no_progress,
    on_step: Callable[[PipelineStep], None] = no_observer,
) -> CompileResult:
    """`compile_model` for what was imported from the file `model` with the shapes of `options`; it is changed."""
    target = target_named(options.target)
    check_output_folder(output)
    check_regions(options.memory)
    check_threads(target, options.threads, options.memory)
    _check_dtype(target, options)
    check_emit(target, options.emit)
    check_installed(options)
    replayed = None if options.recipe is None else read_recipe(options.recipe).lock
    boundary_notes = [] if options.boundary is None else convert_boundary(imported.graph, options.boundary)
    original = imported.graph.copy()
    calibrating = load_calibration(imported.graph, options, on_progress)
    calibration = calibrating.samples
    labelled = None
    if options.evaluation:
        labelled = load_labelled(
            options.evaluation,
            imported.graph.inputs,
            options.calibration_mean,
            options.calibration_scale,
            on_progress=on_progress,
        )
    compiler = find_compiler(target, options.cc) if target.code == "object" else find_code_compiler(target, options.cc)
    names = Names(c_identifier(options.name or model.stem))
    version = None if compiler is None else compiler.version()
    lock = make_lock(model, output, options, names.prefix, version, replayed)
    if replayed is not None:
        replayed.check(lock)

    evaluation = None if labelled is None else LabelledSamples(*labelled)
    steps = optimize(imported.graph, target, options, calibration, on_progress, on_step, evaluation, calibrating.labels)
    program = lower(
        imported.graph,
        target,
        options.cache_dir,
        lambda done, count: on_progress("compiling kernels", done, count),
        options.memory,
        options.threads,
    )

    with fresh_folder(output) as folder:
        raw_sample = (calibration or random_samples(original.inputs, 1, options.seed))[0]
        sample = graph_inputs(program.graph, raw_sample)
        computed = evaluate_all(program.graph, sample)
        write_sources(program, names, folder, __version__, sample, computed)
        save_graph(program.graph, folder / f"{names.prefix}.graph.npz")
        if target.code == "object":
            assert compiler is not None, "object targets always find a compiler or raise"
            write_libraries(program, names, folder, __version__, compiler)
        write_shapes(folder, options.emit, program, names, __version__)
        write_passes(folder / "passes", original, steps)
        code = None if compiler is None else measure_code(program, names, folder, compiler, options.cache_dir)
        facts = layer_facts(original, steps, program, raw_sample, computed, folder / f"{names.prefix}.c")
        notes = [*imported.notes, *boundary_notes, *four_bit_notes(program.calls, options.weight_bits)]
        notes += [NOISE_WARNING] if isinstance(calibration, NoiseSamples) else []
        notes += [calibrating.note] if calibrating.note else []
        notes += drawing_notes(original)
        report = build_report(model.name, lock.model_sha256, names.prefix, original, notes, steps, program, code, facts)
        if calibration:
            report["calibration"] = _calibration_facts(calibrating, options)
            report["quantization"] = compiled_quantization(original, steps, calibration, on_progress)
        is_integer = any(step.record.pass_name == "quantize" and step.record.is_changed for step in steps)
        estimate = NodeEstimates(target, is_integer).instructions
        if section := compression_section(steps, calibration, estimate, on_progress):
            report["compression"] = section
        if labelled is not None or options.max_cycles is not None:
            _write_report(folder, report)  # what is run is loaded from the folder
        check_budgets(program, code, options, folder, sample)
        if labelled is not None:
            evaluated = _evaluate(original, program, *labelled, options, folder)
            _require_accuracy(evaluated, options.max_drop)
            report["evaluation"] = evaluated.as_dict()
        if gate := accuracy_gate(report, options.max_drop):
            report["gate"] = gate
        _write_report(folder, report)
        page = compiled_page(report, original, steps, program)
        (folder / "report.html").write_text(page, encoding="utf-8")
        (folder / LOCK_NAME).write_text(lock.text(), encoding="utf-8")
    return CompileResult(output, original, program, tuple(steps), report)


def optimize(
    graph: Graph,
    target: Target,
    options: CompileOptions,
    calibration: Sequence[Sample],
    on_progress: Progress = no_progress,
    on_step: Callable[[PipelineStep], None] = no_observer,
    evaluation: LabelledSamples | None = None,
    labels: NDArray[np.int64] | None = None,
) -> list[PipelineStep]:
    """Run the pipeline on `graph` in place; its drift is measured on calibration samples, or on noise without any.

    labels: the classes of the calibration samples, where they are known.
    """
    pipeline = build_pipeline(options, options.boundary or target.boundary)
    context = PassContext(
        target.facts,
        calibration,
        options.seed,
        on_progress=on_progress,
        arena_bytes=lambda candidate: planned_arena_bytes(candidate, target),
        original=graph.copy(),
        evaluation=evaluation,
        cache_dir=options.cache_dir,
        labels=labels,
        costs=target_costs(target, options, pipeline, calibration),
    )
    drift_samples = calibration[:DRIFT_SAMPLES] or random_samples(graph.inputs, DRIFT_SAMPLES, options.seed)
    return run_pipeline(graph, pipeline, context, drift_samples, on_step)


def layer_facts(
    original: Graph,
    steps: Sequence[PipelineStep],
    program: Program,
    sample: Sample,
    computed: Mapping[Value, Array],
    source: Path,
) -> dict[str, dict[str, Any]]:
    """For each layer its error against the float graph that was quantized, if one was, and its place in the C file."""
    facts = {name: {"c": c} for name, c in source_lines(program, source.name, source.read_text("ascii")).items()}
    reference = float_reference(original, steps)
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


def load_calibration(graph: Graph, options: CompileOptions, on_progress: Progress) -> Calibration:
    """The calibration samples that the options ask for; none where they ask for none."""
    if options.calibration is None:
        return Calibration()
    return load_calibration_set(
        options.calibration,
        graph.inputs,
        graph.outputs[0].type.elements,
        options.calibration_mean,
        options.calibration_scale,
        options.calibration_samples,
        on_progress,
        options.seed,
    )


def _calibration_facts(calibration: Calibration, options: CompileOptions) -> dict[str, Any]:
    """Where the calibration samples came from, for the report."""
    assert options.calibration is not None, "there are samples only where the user gave some"
    facts = {
        "source": source_of(options.calibration),
        "samples": len(calibration.samples),
        "sha256": fingerprint(calibration.samples),
        "is_random": isinstance(calibration.samples, NoiseSamples),
    }
    if calibration.labels is not None:
        facts["labels_sha256"] = hashlib.sha256(calibration.labels.astype("<i8").tobytes()).hexdigest()
    return facts


def _check_dtype(target: Target, options: CompileOptions) -> None:
    """Raises UsageError that names the targets with float16, where it is asked for and this one has none."""
    if options.dtype == "float16" and not target.facts.has_float16:
        able = ", ".join(name for name, other in all_targets().items() if other.facts.has_float16)
        raise UsageError(f"--dtype float16: not every CPU of target '{target.name}' has it; these have: {able}")


def _evaluate(
    original: Graph,
    program: Program,
    samples: Sequence[Sample],
    labels: NDArray[np.int64],
    options: CompileOptions,
    folder: Path,
) -> Evaluation:
    """Top-1 of the model as it came and as it was compiled.

    On targets that run here the compiled library itself is asked, elsewhere the numpy reference, whose bytes it gives.
    """
    before = np.array([outputs[0].argmax() for outputs in real_outputs(original, samples)])
    fed = [graph_inputs(program.graph, sample) for sample in samples]
    output = program.graph.outputs[0]
    if program.target.emulator.kind == "native":
        runs = run_built_model(
            load_built_model(folder), fed, "run", CompilerChoice(options.cc), options.cache_dir or default_cache_dir()
        )
        found, source = [run[output.name] for run in runs.outputs], "the compiled library"
    else:
        found, source = [evaluate_all(program.graph, sample)[output] for sample in fed], "the numpy reference"
    after = np.array([as_real(array, output).argmax() for array in found])
    return Evaluation(
        len(labels),
        float_top1=float(np.mean(before == labels)),
        compiled_top1=float(np.mean(after == labels)),
        agreement=float(np.mean(before == after)),
        source=source,
    )


def _require_accuracy(evaluated: Evaluation, max_drop: float | None) -> None:
    """The accuracy gate over everything: pruning, clustering, quantization, and the integer operators themselves."""
    drop = 100 * (evaluated.float_top1 - evaluated.compiled_top1)
    if max_drop is not None and drop > max_drop + 1e-9:
        raise AccuracyError(
            f"the compiled model loses {drop:.2f} points of top-1 on {evaluated.samples} labelled samples "
            f"({evaluated.source}); --max-drop allows {max_drop:.2f} points: allow more, or prune and cluster less"
        )


def _write_report(folder: Path, report: dict[str, Any]) -> None:
    (folder / "report.json").write_text(to_json(report), encoding="utf-8")
    (folder / "report.txt").write_text(plain_text(report), encoding="utf-8")
    (folder / "report.csv").write_text(layers_csv(report), encoding=CSV_ENCODING, newline="")
