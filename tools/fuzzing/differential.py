"""Compile random models and hold what they give against onnxruntime and against the numpy reference."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from tinyopt.api import compile_model, load_calibration, no_progress, optimize
from tinyopt.errors import TinyoptError, UnsupportedOperatorError
from tinyopt.evaluate import evaluate_all
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.runner import run_built_model
from tinyopt.execution.validate import validate
from tinyopt.ir import Graph
from tinyopt.lowering.kernel_cache import compile_kernels
from tinyopt.lowering.lower import plan
from tinyopt.lowering.request import KernelRequest
from tinyopt.onnx_import import import_model
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import Pass, PassContext, run_pass
from tinyopt.passes.eliminate_dead_channels import EliminateDeadChannels
from tinyopt.passes.equalize_layers import EqualizeLayers
from tinyopt.passes.fold_batchnorm import FoldBatchNorm
from tinyopt.passes.fold_constants import FoldConstants
from tinyopt.passes.fuse_operators import FuseOperators
from tinyopt.passes.nhwc_layout import NhwcLayout
from tinyopt.passes.simplify import Simplify
from tinyopt.passes.split_rows import SplitRows
from tinyopt.passes.split_threads import SplitThreads
from tinyopt.pipeline import graph_inputs
from tinyopt.targets import target_named
from tinyopt.toolchain import CompilerChoice
from tools.fuzzing.models import RandomModel
from tools.fuzzing.network import Array

EXACT_PASSES: tuple[Pass, ...] = (
    FoldConstants(),
    Simplify(),
    FoldBatchNorm(),
    NhwcLayout(),
    FuseOperators(),
    EliminateDeadChannels(),
    EqualizeLayers(),
    SplitRows(bands="2"),
    SplitThreads(threads=2),
)
"""The passes that must not change what a float graph computes, but for rounding."""


@dataclass(frozen=True)
class Finding:
    """kind: "refused" (a line that names operator and node), "wrong" (other numbers), "failed" (anything else)."""

    seed: int
    kind: str
    message: str


@dataclass(frozen=True)
class Setting:
    """What a model is compiled for. Quantized ones are held against the numpy reference, layer by layer, bit by bit.

    cc: the C compiler and flags of its own, such as sanitizers; None for the target's.
    """

    target: str = "host"
    is_quantized: bool = False
    cc: str | None = None

    def __str__(self) -> str:
        return f"{'int8' if self.is_quantized else 'float32'} on {self.target}"


Check = Callable[[RandomModel], Finding | None]


class Compilation:
    """Compiles models for one setting; kernels are kept in `cache`."""

    def __init__(self, setting: Setting, cache: Path) -> None:
        self.setting, self.cache = setting, cache

    def prepare(self, models: Sequence[RandomModel]) -> None:
        """Compile the kernels of all models at once, which starts TVM once; what goes wrong is left to `check`."""
        requests: list[KernelRequest] = []
        target = target_named(self.setting.target)
        for model in models:
            with tempfile.TemporaryDirectory(prefix="tinyopt-fuzz-") as folder:
                try:
                    path, options = self._written(model, Path(folder))
                    graph = import_model(path, {}).graph
                    calibration = load_calibration(graph, options, no_progress)
                    optimize(graph, target, options, calibration.samples)
                    requests += plan(graph, target)[1]
                except Exception:
                    continue
        try:
            compile_kernels(requests, target.code, self.cache, lambda _done, _all: None)
        except TinyoptError:
            return

    def check(self, model: RandomModel) -> Finding | None:
        """What is wrong with `model` compiled, if anything."""
        with tempfile.TemporaryDirectory(prefix="tinyopt-fuzz-") as folder:
            return guarded(model.seed, lambda: self._difference(model, Path(folder)))

    def _difference(self, model: RandomModel, folder: Path) -> str | None:
        path, options = self._written(model, folder)
        compile_model(path, folder / "out", options)
        built = load_built_model(folder / "out")
        choice = CompilerChoice(self.setting.cc, "O1" if self.setting.cc else "O3")
        if self.setting.is_quantized:
            samples = [graph_inputs(built.graph, sample) for sample in model.samples[:2]]
            return validate(built, samples, choice, self.cache).first_difference
        result = run_built_model(built, [model.inputs], "run", choice, self.cache)
        return difference(model, result.outputs[0])

    def _written(self, model: RandomModel, folder: Path) -> tuple[Path, CompileOptions]:
        path = folder / "model.onnx"
        onnx.save(model.model, path)
        setting = self.setting
        options = CompileOptions(target=setting.target, is_quantized=False, cc=setting.cc, cache_dir=self.cache)
        if not setting.is_quantized:
            return path, options
        specs: list[str] = []
        for name in model.inputs:
            np.save(folder / f"{name}.npy", np.stack([sample[name] for sample in model.samples]))
            specs.append(f"{name}={folder / name}.npy")
        return path, replace(options, is_quantized=True, calibration=tuple(specs))


def check_passes(model: RandomModel) -> Finding | None:
    """Run each exact pass alone on the imported model, and all in turn, and compare the numpy reference's outputs."""
    with tempfile.TemporaryDirectory(prefix="tinyopt-fuzz-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model.model, path)
        return guarded(model.seed, lambda: _pass_difference(model, path))


def _pass_difference(model: RandomModel, path: Path) -> str | None:
    imported = import_model(path, {}).graph
    if wrong := difference(model, _evaluated(imported, model)):
        return f"imported: {wrong}"
    in_turn = imported.copy()
    for step in EXACT_PASSES:
        for name, graph in ((step.name, imported.copy()), (f"all up to {step.name}", in_turn)):
            run_pass(step, graph, PassContext(target_named("host").facts))
            if wrong := difference(model, _evaluated(graph, model)):
                return f"{name}: {wrong}"
    return None


def _evaluated(graph: Graph, model: RandomModel) -> dict[str, Array]:
    arrays = evaluate_all(graph, model.inputs)
    return {value.name: arrays[value] for value in graph.outputs}


def difference(model: RandomModel, outputs: Mapping[str, Array]) -> str | None:
    """The first output that is not what onnxruntime gives, in one line."""
    for name, expected in model.outputs.items():
        ours = outputs[name]
        if ours.shape != expected.shape or ours.dtype != expected.dtype:
            return f"output '{name}' is {ours.dtype}{list(ours.shape)}, must be {expected.dtype}{list(expected.shape)}"
        gap = np.abs(ours.astype(np.float64) - expected.astype(np.float64))
        wrong = ~(gap <= model.tolerances[name])  # NaN is wrong as well
        if wrong.any():
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            count = f"{int(wrong.sum())} of {ours.size}"
            return f"output '{name}': {count} differ, first at {place}: {ours[place]}, must be {expected[place]}"
    return None


def guarded(seed: int, check: Callable[[], str | None]) -> Finding | None:
    """What `check` found, errors included."""
    try:
        message = check()
    except UnsupportedOperatorError as error:
        return Finding(seed, "refused", str(error))
    except Exception as error:
        return Finding(seed, "failed", f"{type(error).__name__}: {error}")
    return None if message is None else Finding(seed, "wrong", message)
