"""The compiler as a library: `compile_model` is the whole way from an ONNX file to an output folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyopt.artifact.c_source import Names
from tinyopt.artifact.emit import check_emit
from tinyopt.artifact.folder import check_output_folder, fresh_folder
from tinyopt.artifact.names import c_identifier, check_regions
from tinyopt.budgets import check_budgets
from tinyopt.compile_result import CompileResult
from tinyopt.compiled_accuracy import evaluate_compiled, require_accuracy
from tinyopt.errors import UsageError
from tinyopt.ir import Graph
from tinyopt.lowering.estimates import NodeEstimates
from tinyopt.lowering.lower import lower, planned_arena_bytes
from tinyopt.lowering.sections import check_threads
from tinyopt.onnx_import import ImportResult, convert_boundary, import_model
from tinyopt.options import CompileOptions
from tinyopt.output_files import Compiled, Written, write_model, write_page, write_reports
from tinyopt.pass_manager import LabelledSamples, Pass, PassContext
from tinyopt.pipeline import (
    DRIFT_SAMPLES,
    PipelineStep,
    build_pipeline,
    check_installed,
    foreign_passes,
    no_observer,
    run_pipeline,
)
from tinyopt.recipes import LOCK_NAME, Lock, Origin, make_lock
from tinyopt.report.build import build_report
from tinyopt.report.clustering import four_bit_notes
from tinyopt.report.compression import compression_section
from tinyopt.report.gate import accuracy_gate
from tinyopt.report.html.build import drawing_notes
from tinyopt.report.quantization import compiled_quantization
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
from tinyopt.toolchain import Compiler, find_compiler

__all__ = ["CompileResult", "compile_imported", "compile_model", "load_calibration", "no_progress", "optimize"]

Progress = Callable[[str, int, int], None]


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
    origin: Origin | None = None,
    passes: Sequence[Pass] = (),
) -> CompileResult:
    """`compile_model` for what was imported from the file `model` with the shapes of `options`; it is changed.

    origin: where options and files came from, for the lock. passes: the caller's own, see `build_pipeline`.
    """
    graph, target, origin = imported.graph, target_named(options.target), origin or Origin()
    _check(target, output, options)
    notes = [*imported.notes, *([] if options.boundary is None else convert_boundary(graph, options.boundary))]
    original = graph.copy()
    data = _load_data(graph, options, on_progress)
    names, compiler = Names(c_identifier(options.name or model.stem)), _find_compiler(target, options)
    version = None if compiler is None else compiler.version()
    lock = make_lock(model, output, options, names.prefix, version, origin, foreign_passes(passes))
    if origin.lock is not None:
        origin.lock.check(lock)

    steps = optimize(
        graph,
        target,
        options,
        data.calibration.samples,
        on_progress,
        on_step,
        data.evaluation,
        data.calibration.labels,
        passes,
    )
    program = lower(
        graph,
        target,
        options.cache_dir,
        lambda done, count: on_progress("compiling kernels", done, count),
        options.memory,
        options.threads,
    )
    compiled = Compiled(original, tuple(steps), program, names, compiler)

    with fresh_folder(output) as folder:
        raw_sample = (data.calibration.samples or random_samples(original.inputs, 1, options.seed))[0]
        written = write_model(compiled, folder, raw_sample, options)
        report = _report(compiled, written, data, notes, model.name, lock, options, on_progress)
        _check_limits(compiled, written, data, report, options, folder)
        write_reports(folder, report)
        write_page(folder, report, compiled)
        (folder / LOCK_NAME).write_text(lock.text(), encoding="utf-8")
    return CompileResult(output, original, program, compiled.steps, report)


@dataclass(frozen=True, eq=False)
class _Data:
    """The samples that the user gave. evaluation: None where there are none."""

    calibration: Calibration
    evaluation: LabelledSamples | None


def _load_data(graph: Graph, options: CompileOptions, on_progress: Progress) -> _Data:
    calibration = load_calibration(graph, options, on_progress)
    if not options.evaluation:
        return _Data(calibration, None)
    mean, scale = options.calibration_mean, options.calibration_scale
    labelled = load_labelled(options.evaluation, graph.inputs, mean, scale, on_progress=on_progress)
    return _Data(calibration, LabelledSamples(*labelled))


def _find_compiler(target: Target, options: CompileOptions) -> Compiler | None:
    """The C compiler: of sources, None where none is here."""
    return find_compiler(target, options.cc) if target.code == "object" else find_code_compiler(target, options.cc)


def _report(
    compiled: Compiled,
    written: Written,
    data: _Data,
    notes: Sequence[str],
    model_name: str,
    lock: Lock,
    options: CompileOptions,
    on_progress: Progress,
) -> dict[str, Any]:
    """All that is known before the model has run; notes: from its import."""
    original, steps, program = compiled.original, compiled.steps, compiled.program
    calibration = data.calibration.samples
    told = [*notes, *four_bit_notes(program.calls, options.weight_bits)]
    told += [NOISE_WARNING] if isinstance(calibration, NoiseSamples) else []
    told += [data.calibration.note] if data.calibration.note else []
    told += drawing_notes(original)
    report = build_report(
        model_name,
        lock.model_sha256,
        compiled.names.prefix,
        original,
        told,
        steps,
        program,
        written.code_bytes,
        written.layer_facts,
    )
    if calibration:
        report["calibration"] = _calibration_facts(data.calibration, options)
        report["quantization"] = compiled_quantization(original, steps, calibration, on_progress)
    is_integer = any(step.record.pass_name == "quantize" and step.record.is_changed for step in steps)
    estimate = NodeEstimates(program.target, is_integer).instructions
    if section := compression_section(steps, calibration, estimate, on_progress):
        report["compression"] = section
    return report


def _check_limits(
    compiled: Compiled,
    written: Written,
    data: _Data,
    report: dict[str, Any],
    options: CompileOptions,
    folder: Path,
) -> None:
    """Raise BudgetError or AccuracyError where a limit is missed; what was measured goes into the report."""
    if data.evaluation is not None or options.max_cycles is not None:
        write_reports(folder, report)  # what is run is loaded from the folder
    check_budgets(compiled.program, written.code_bytes, options, folder, written.fed)
    if data.evaluation is not None:
        evaluated = evaluate_compiled(compiled.original, compiled.program, data.evaluation, options, folder)
        require_accuracy(evaluated, options.max_drop)
        report["evaluation"] = evaluated.as_dict()
    if gate := accuracy_gate(report, options.max_drop):
        report["gate"] = gate


def optimize(
    graph: Graph,
    target: Target,
    options: CompileOptions,
    calibration: Sequence[Sample],
    on_progress: Progress = no_progress,
    on_step: Callable[[PipelineStep], None] = no_observer,
    evaluation: LabelledSamples | None = None,
    labels: NDArray[np.int64] | None = None,
    passes: Sequence[Pass] = (),
) -> list[PipelineStep]:
    """Run the pipeline on `graph` in place; its drift is measured on calibration samples, or on noise without any.

    labels: the classes of the calibration samples, where they are known. passes: see `build_pipeline`.
    """
    pipeline = build_pipeline(options, options.boundary or target.boundary, passes)
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


def _check(target: Target, output: Path, options: CompileOptions) -> None:
    """Raise TinyoptError for what cannot be asked for, before anything takes time."""
    check_output_folder(output)
    check_regions(options.memory)
    check_threads(target, options.threads, options.memory)
    _check_dtype(target, options)
    check_emit(target, options.emit)
    check_installed(options)


def _check_dtype(target: Target, options: CompileOptions) -> None:
    """Raises UsageError that names the targets with float16, where it is asked for and this one has none."""
    if options.dtype == "float16" and not target.facts.has_float16:
        able = ", ".join(name for name, other in all_targets().items() if other.facts.has_float16)
        raise UsageError(f"--dtype float16: not every CPU of target '{target.name}' has it; these have: {able}")
