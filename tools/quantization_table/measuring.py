"""Measure all methods on one model: the passes run on its graph, and the default is compiled as well."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.runner import run_built_model
from tinyopt.ir import Graph
from tinyopt.lowering.lower import planned_arena_bytes
from tinyopt.pass_manager import Pass, PassContext, run_pass
from tinyopt.pipeline import as_real, build_pipeline, graph_inputs
from tinyopt.targets import target_named
from tinyopt.toolchain import CompilerChoice
from tools.measured.scores import Answers, answers
from tools.measured.subject import Subject
from tools.quantization_table.methods import ADD_ONS, DEFAULT, Method
from tools.quantization_table.rows import Row, row_of

TARGET = "host"
COMPILED = f"{DEFAULT}, compiled"
_TIMED = ("quantize", *ADD_ONS)
_AFTER_QUANTIZATION = "limit-drop"

Progress = Callable[[str, int, int], None]


def measure(subject: Subject, methods: Sequence[Method], on_progress: Progress) -> Iterator[Row]:
    """The float model, then each method as its QDQ graph; after the default that of the compiled library."""
    stages = _Stages(subject, on_progress)
    yield row_of(subject, "Float", "float", subject.yardstick.reference, None)
    for method in methods:
        graph, seconds = stages.quantized(method)
        yield row_of(subject, method.group, method.name, answers(graph, subject.samples), seconds)
        if method.name == DEFAULT:
            yield _compiled(subject, method.group, on_progress)


@dataclass(frozen=True, eq=False)
class _Stage:
    """A graph as some passes left it. done: those that changed it, with their options."""

    done: tuple[str, ...]
    graph: Graph
    float_graph: Graph | None
    seconds: float  # of the last pass alone


@dataclass(eq=False)
class _Stages:
    """Runs pipelines over one model; what two of them begin with is run once."""

    subject: Subject
    on_progress: Progress
    known: dict[tuple[str, ...], _Stage] = field(default_factory=dict[tuple[str, ...], _Stage])

    def quantized(self, method: Method) -> tuple[Graph, float]:
        """The QDQ graph, and the seconds that its quantization took."""
        stage, seconds = _Stage((), self.subject.graph, None, 0.0), 0.0
        for step in build_pipeline(method.options(), target_named(TARGET).boundary):
            if step.name == _AFTER_QUANTIZATION:
                break
            stage = self._after(stage, step)
            seconds += stage.seconds if step.name in _TIMED else 0.0
        return stage.graph, seconds

    def _after(self, stage: _Stage, step: Pass) -> _Stage:
        key = (*stage.done, repr(step))
        if key not in self.known:
            self.known[key] = self._run(stage, step)
        return self.known[key]

    def _run(self, stage: _Stage, step: Pass) -> _Stage:
        target, graph = target_named(TARGET), stage.graph.copy()
        context = PassContext(
            target.facts,
            self.subject.calibration,
            on_progress=self.on_progress,
            arena_bytes=lambda candidate: planned_arena_bytes(candidate, target),
            original=self.subject.graph,
            float_graph=stage.float_graph,
        )  # without a cache, whose seconds would be those of the second time
        record = run_pass(step, graph, context)
        if not record.is_changed:
            return _Stage(stage.done, stage.graph, stage.float_graph, record.seconds)
        return _Stage((*stage.done, repr(step)), graph, context.float_graph, record.seconds)


def _compiled(subject: Subject, group: str, on_progress: Progress) -> Row:
    """The library that a user gets, run on every sample."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tinyopt-quantization-") as folder:
        compile_model(subject.file, Path(folder) / "out", subject.options, on_progress)
        seconds = time.perf_counter() - started
        built = load_built_model(Path(folder) / "out")
        fed = [graph_inputs(built.graph, sample) for sample in subject.samples]
        runs = run_built_model(built, fed, "run", CompilerChoice(), default_cache_dir())
    output = built.graph.outputs[0]
    found = [np.asarray(as_real(run[output.name], output), np.float64).ravel() for run in runs.outputs]
    return row_of(subject, group, COMPILED, Answers(np.stack(found), None), seconds)
