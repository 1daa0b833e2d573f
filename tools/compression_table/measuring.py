"""Measure all cases on one model: compiled for a Cortex-M4, and run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyopt.api import compile_model, optimize
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import TinyoptError
from tinyopt.evaluate import evaluate
from tinyopt.execution.built_model import BuiltModel, load_built_model
from tinyopt.execution.measure import measure as measure_library
from tinyopt.ir import Graph
from tinyopt.ops.facts import graph_macs
from tinyopt.pipeline import DEFAULT_PASSES, as_real, graph_inputs
from tinyopt.samples import Sample
from tinyopt.targets import target_named
from tinyopt.toolchain import DEFAULT_COMPILER
from tools.compression_table.cases import FLOAT, Case
from tools.compression_table.rows import Channels, Recovery, Row
from tools.measured.scores import Answers, answers
from tools.measured.subject import Subject

TARGET = "cortex-m4"
_PRUNING, _LAST_RECOVERY = "prune-channels", "distill"

Progress = Callable[[str, int, int], None]


def measure(subject: Subject, cases: Sequence[Case], on_progress: Progress) -> Iterator[Row]:
    """The float model, then each case as it is compiled. Where one cannot be compiled, the row says why."""
    yield _row(subject, FLOAT, subject.yardstick.reference)
    for case in cases:
        started = time.perf_counter()
        try:
            row = _compiled(subject, case, on_progress)
        except TinyoptError as error:
            row = Row(subject.name, case.name, len(subject.samples), failure=str(error))
        yield replace(row, seconds=time.perf_counter() - started)


def measure_channels(subject: Subject, case: Case, on_progress: Progress) -> Channels:
    """What the pass leaves of each layer."""
    target, graph = target_named(TARGET), subject.graph.copy()
    options = replace(case.options(subject.options), disabled_passes=_passes_after(_PRUNING))
    steps = optimize(graph, target, options, subject.calibration, on_progress)
    place = next(i for i, step in enumerate(steps) if step.record.pass_name == _PRUNING)
    layers = _channels(steps[place - 1].record.graph)
    left = _channels(steps[place].record.graph)
    after = tuple(left.get(name, 0) for name in layers)
    return Channels(subject.name, case.name, tuple(layers.values()), after, target.facts.channel_multiple)


def measure_recovery(subject: Subject, case: Case, on_progress: Progress) -> Recovery:
    """How far the outputs of the float model move when it is pruned and recovered, on samples of its own."""
    started, graph = time.perf_counter(), subject.graph.copy()
    options = replace(case.options(subject.options), disabled_passes=_passes_after(_LAST_RECOVERY))
    optimize(graph, target_named(TARGET), options, subject.calibration, on_progress)
    seconds = time.perf_counter() - started
    wanted, found = subject.yardstick.reference.probabilities, answers(graph, subject.samples).probabilities
    error = float(np.sqrt(np.sum((wanted - found) ** 2) / np.sum(wanted**2)))
    return Recovery(subject.name, case.name, graph_macs(graph), graph_macs(subject.graph), error, seconds)


def _compiled(subject: Subject, case: Case, on_progress: Progress) -> Row:
    with tempfile.TemporaryDirectory(prefix="tinyopt-compression-") as text_folder:
        folder = Path(text_folder) / "out"
        after = compile_model(subject.file, folder, case.options(subject.options), on_progress).report["after"]
        built = load_built_model(folder)
        first = graph_inputs(built.graph, subject.samples[0])
        counted = measure_library(built, [first], DEFAULT_COMPILER, default_cache_dir())
        found = _reference_answers(built, subject.samples, on_progress)
    return replace(
        _row(subject, case.name, found),
        weight_bytes=after["flash_constant_bytes"],
        macs=after["macs"],
        instructions=counted.instructions[0],
        arena_bytes=after["arena_bytes"],
    )


def _reference_answers(built: BuiltModel, samples: Sequence[Sample], on_progress: Progress) -> Answers:
    """Those of the numpy reference, whose every byte the library for the target gives, without an emulator."""
    output = built.graph.outputs[0]
    found: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
    for number, sample in enumerate(samples, start=1):
        array = evaluate(built.graph, graph_inputs(built.graph, sample))[output.name]
        found.append(np.asarray(as_real(array, output), np.float64).ravel())
        on_progress("test samples", number, len(samples))
    return Answers(np.stack(found), None)


def _row(subject: Subject, case: str, found: Answers) -> Row:
    score = subject.yardstick.score(found)
    agreement = score.agreement
    differing = None if agreement is None else round(score.samples * (1 - agreement / 100))
    return Row(subject.name, case, score.samples, score.top1, differing, score.snr_db)


def _channels(graph: Graph) -> dict[str, int]:
    return {node.name: node.outputs[0].shape[-1] for node in graph.nodes if node.op in ("Conv", "Dense")}


def _passes_after(name: str) -> tuple[str, ...]:
    names = [step.name for step in DEFAULT_PASSES]
    return tuple(names[names.index(name) + 1 :])
