"""Measure all methods on one model: the passes run on its graph, and the default is compiled as well."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.runner import run_built_model
from tinyopt.ir import Graph
from tinyopt.lowering.lower import planned_arena_bytes
from tinyopt.onnx_import import import_model
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import Pass, PassContext, run_pass
from tinyopt.pipeline import as_real, build_pipeline, graph_inputs
from tinyopt.samples import Sample, load_labelled, load_samples, random_samples
from tinyopt.samples.numpy_files import array_names
from tinyopt.targets import target_named
from tinyopt.toolchain import CompilerChoice
from tools.quantization_table.methods import ADD_ONS, DEFAULT, Method
from tools.quantization_table.scores import Answers, Row, Yardstick, answers

TARGET = "host"
PIXEL_SCALES = {"vww01": 1 / 255}  # pixels / 255; every other model takes its samples as they are
COMPILED = f"{DEFAULT}, compiled"
_TIMED = ("quantize", *ADD_ONS)
_AFTER_QUANTIZATION = "limit-drop"
_NOISE_SAMPLES, _NOISE_SEED = 16, 1  # to test a model without data; calibration noise has seed 0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with its samples. labels: None where there are none."""

    name: str
    file: Path
    graph: Graph  # as it was imported
    options: CompileOptions
    calibration: Sequence[Sample]
    samples: Sequence[Sample]
    labels: NDArray[np.int64] | None

    def yardstick(self) -> Yardstick:
        """The float model, as it came."""
        return Yardstick(self.name, answers(self.graph, self.samples), self.labels)


def load_subject(file: Path, data: Path, calibration: str | None) -> Subject:
    """`file` with `calib`, `x` and, if it is there, `y` of the .npz in `data` named as the model up to an underscore.

    calibration: a spec in the place of `calib`. A model without data is tested on noise, and has no labels.
    Raises TinyoptError where the model or its data is unusable.
    """
    graph = import_model(file, {}).graph
    arrays = data / f"{file.stem.partition('_')[0]}.npz"
    scale = PIXEL_SCALES.get(arrays.stem, 1.0)
    spec = calibration or f"{arrays}:calib"
    options = CompileOptions(TARGET, calibration=spec, calibration_scale=scale, cache_dir=default_cache_dir())
    calibrating = load_samples(spec, graph.inputs, 0.0, scale)
    if not arrays.is_file():
        noise = random_samples(graph.inputs, _NOISE_SAMPLES, _NOISE_SEED)
        return Subject(file.stem, file, graph, options, calibrating, noise, None)
    if "y" in array_names(arrays):
        samples, labels = load_labelled(f"{arrays}:x,y", graph.inputs, 0.0, scale)
        return Subject(file.stem, file, graph, options, calibrating, samples, labels)
    samples = load_samples(f"{arrays}:x", graph.inputs, 0.0, scale)
    return Subject(file.stem, file, graph, options, calibrating, samples, None)


def measure(subject: Subject, methods: Sequence[Method], on_progress: Progress) -> Iterator[Row]:
    """The float model, then each method as its QDQ graph; after the default that of the compiled library."""
    yardstick, stages = subject.yardstick(), _Stages(subject, on_progress)
    yield yardstick.row("Float", "float", yardstick.reference, None)
    for method in methods:
        graph, seconds = stages.quantized(method)
        yield yardstick.row(method.group, method.name, answers(graph, subject.samples), seconds)
        if method.name == DEFAULT:
            yield _compiled(subject, yardstick, method.group, on_progress)


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


def _compiled(subject: Subject, yardstick: Yardstick, group: str, on_progress: Progress) -> Row:
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
    return yardstick.row(group, COMPILED, Answers(np.stack(found), None), seconds)
