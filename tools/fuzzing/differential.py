"""Compile random models and hold what they give against onnxruntime and against the numpy reference."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from tinyopt import __version__
from tinyopt.api import optimize
from tinyopt.artifact.c_source import Names
from tinyopt.artifact.write import write_code, write_weights_and_kernels
from tinyopt.errors import TinyoptError, UnsupportedOperatorError
from tinyopt.evaluate import evaluate_all
from tinyopt.execution.built_model import BuiltModel
from tinyopt.execution.runner import run_built_model
from tinyopt.execution.validate import validate
from tinyopt.ir import Graph
from tinyopt.lowering.kernel_cache import compile_kernels
from tinyopt.lowering.lower import lower, plan
from tinyopt.lowering.program import Program
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
from tinyopt.toolchain import CompilerChoice, find_compiler
from tools.fuzzing.kernels import Group, compile_groups
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

    name: str
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
        self._target = target_named(setting.target)
        self._programs: dict[RandomModel, Program] = {}

    def prepare(self, models: Sequence[RandomModel]) -> None:
        """Optimize all models, and compile all their kernels at once, which starts TVM once.

        What goes wrong is left to `check`, which does it again.
        """
        self._programs.clear()
        planned: dict[RandomModel, tuple[Program, tuple[KernelRequest, ...]]] = {}
        for model in models:
            try:
                planned[model] = plan(self._optimize(model), self._target)
            except Exception:
                continue
        try:
            if self._target.code == "object":
                self._programs = _with_objects(planned)
            else:
                compile_kernels([r for _, requests in planned.values() for r in requests], "c", self.cache, _unseen)
                self._programs = {model: self._lower(program.graph) for model, (program, _) in planned.items()}
        except TinyoptError:
            return

    def _lower(self, graph: Graph) -> Program:
        return lower(graph, self._target, self.cache, _unseen)

    def check(self, model: RandomModel) -> Finding | None:
        """What is wrong with `model` compiled, if anything."""
        with tempfile.TemporaryDirectory(prefix="tinyopt-fuzz-") as folder:
            return guarded(model.name, lambda: self._difference(model, Path(folder)))

    def _difference(self, model: RandomModel, folder: Path) -> str | None:
        program = self._programs.get(model) or self._lower(self._optimize(model))
        # libraries contain the kernels as they are delivered: the compiler sees nothing but the calls
        optimization = "O1" if self.setting.cc or self._target.code == "object" else "O3"
        choice = CompilerChoice(self.setting.cc, optimization)
        built = _built(program, folder, choice)
        if self.setting.is_quantized:
            samples = [graph_inputs(built.graph, sample) for sample in model.samples[:2]]
            return validate(built, samples, choice, self.cache).first_difference
        result = run_built_model(built, [model.inputs], "run", choice, self.cache)
        return difference(model, result.outputs[0])

    def _optimize(self, model: RandomModel) -> Graph:
        """The graph after the pipeline, as `tinyopt compile` would have it."""
        with tempfile.TemporaryDirectory(prefix="tinyopt-fuzz-") as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(model.model, path)
            graph = import_model(path, {}).graph
        options = CompileOptions(target=self.setting.target, is_quantized=self.setting.is_quantized, cc=self.setting.cc)
        optimize(graph, self._target, options, model.samples if self.setting.is_quantized else ())
        return graph


def _with_objects(
    planned: Mapping[RandomModel, tuple[Program, tuple[KernelRequest, ...]]],
) -> dict[RandomModel, Program]:
    """The programs with their kernels compiled, one object file for each model and kind of CPU."""
    with tempfile.TemporaryDirectory(prefix="tinyopt-fuzz-") as folder:
        groups: dict[RandomModel, list[Group]] = {}
        for number, (model, (_, requests)) in enumerate(planned.items()):
            by_target: dict[str, dict[str, KernelRequest]] = {}
            for request in requests:
                by_target.setdefault(repr(request.target), {})[request.key] = request
            groups[model] = [
                Group(tuple(unique.values()), Path(folder) / f"{number}-{i}.o")
                for i, unique in enumerate(by_target.values())
            ]
        compile_groups([group for its_groups in groups.values() for group in its_groups])
        return {
            model: replace(planned[model][0], functions={group.path.stem: group.path.read_bytes() for group in its})
            for model, its in groups.items()
        }


def _built(program: Program, folder: Path, choice: CompilerChoice) -> BuiltModel:
    """The library alone in `folder`: what `tinyopt compile` writes beside it takes longer than all the rest."""
    names = Names("model")
    write_code(program, names, folder, __version__)
    if program.target.code == "object":
        write_weights_and_kernels(program, names, folder, __version__, find_compiler(program.target, choice.cc))
    layers = tuple(
        {
            "index": call.index,
            "name": call.node.name,
            "dtype": call.node.outputs[0].dtype,
            "shape": call.node.outputs[0].shape,
            **asdict(call.outputs[0]),
        }
        for call in program.calls
    )
    regions = tuple(region.name for region in program.regions)
    variants = {variant.name: () for variant in program.variants} if len(program.variants) > 1 else {}
    return BuiltModel(folder, names.prefix, program.target, program.graph, layers, regions, variants)


def _unseen(_done: int, _all: int) -> None:
    """Progress that nobody looks at."""


def check_passes(model: RandomModel) -> Finding | None:
    """Run each exact pass alone on the imported model, and all in turn, and compare the numpy reference's outputs."""
    with tempfile.TemporaryDirectory(prefix="tinyopt-fuzz-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model.model, path)
        return guarded(model.name, lambda: _pass_difference(model, path))


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


def guarded(name: str, check: Callable[[], str | None]) -> Finding | None:
    """What `check` found, errors included."""
    try:
        message = check()
    except UnsupportedOperatorError as error:
        return Finding(name, "refused", str(error))
    except Exception as error:
        return Finding(name, "failed", f"{type(error).__name__}: {error}")
    return None if message is None else Finding(name, "wrong", message)
