"""What models cost on Cortex-M cores: compiled, run under QEMU, compared with the reference, measured."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.evaluate import evaluate_all
from tinyopt.execution.built_model import BuiltModel, load_built_model
from tinyopt.execution.measure import Measurement, measure
from tinyopt.execution.profile import profile_layers
from tinyopt.execution.runner import run_built_model
from tinyopt.ir import Array, Value
from tinyopt.options import CompileOptions
from tinyopt.samples import Sample, load_samples
from tinyopt.targets.cortex_m import CORTEX_M
from tinyopt.toolchain import DEFAULT_COMPILER, CompilerChoice
from tools.benchmark_field import LAYER_CORES, Layer, compare_layers, field_layers

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GCC, CLANG = "arm-none-eabi-gcc", "clang-19"
CORES = tuple(core.name for core in CORTEX_M)
BUILDS = (
    CompilerChoice(GCC, "O3"),
    CompilerChoice(GCC, "O2"),
    CompilerChoice(CLANG, "O3"),
    CompilerChoice(CLANG, "O2"),
)
SAMPLES = 3  # the first is counted for the table; the others show whether the count depends on the input


@dataclass(frozen=True)
class Model:
    """A model as it is measured; `field`: its name in the tables of the field, empty where it is not in them."""

    name: str
    file: str
    field: str
    scale: float = 1.0
    disabled_passes: tuple[str, ...] = ()


MODELS = (
    Model("digits", "digits", ""),
    Model("kws01", "kws01", "kws01"),
    Model("vww01", "vww01", "vww01", 1 / 255),
    Model("vww01, dead channels kept", "vww01", "vww01", 1 / 255, ("eliminate-dead-channels",)),
    Model("ic01", "ic01", "ic01"),
    Model("ad01", "ad01", "ad01"),
)


@dataclass(frozen=True)
class Figures:
    """One line of the table. Instructions are those of the first test sample, sizes those of the library's objects.

    different_bytes: of every layer of the first sample, and of the outputs of all samples, against the numpy reference.
    """

    model: str
    core: str
    compiler: str
    optimization: str
    instructions: int
    is_input_dependent: bool
    code_bytes: int
    table_bytes: int
    weight_bytes: int
    static_ram_bytes: int
    arena_bytes: int
    arena_lower_bound_bytes: int
    stack_bytes: int
    different_bytes: int


@dataclass(frozen=True)
class Folders:
    """Where the models and their data lie; the example's are in the repository."""

    models: Path
    data: Path

    def model(self, model: Model) -> Path:
        return (self.models if model.field else EXAMPLES) / f"{model.file}.onnx"

    def samples(self, model: Model) -> Path:
        return (self.data if model.field else EXAMPLES) / f"{model.file}.npz"


def measure_model(
    model: Model, core: str, builds: Sequence[CompilerChoice], folders: Folders
) -> tuple[list[Figures], list[Layer]]:
    """Compile `model` for `core` once, build it by each of `builds`; layers only for the cores that are compared."""
    data = folders.samples(model)
    options = CompileOptions(
        target=core,
        calibration=f"{data}:calib",
        calibration_scale=model.scale,
        disabled_passes=model.disabled_passes,
        cache_dir=default_cache_dir(),
    )
    with tempfile.TemporaryDirectory(prefix="tinyopt-benchmark-") as folder:
        after = compile_model(folders.model(model), Path(folder) / "out", options).report["after"]
        built = load_built_model(Path(folder) / "out")
        samples = load_samples(f"{data}:x", built.graph.inputs, 0.0, model.scale, SAMPLES)
        reference = [evaluate_all(built.graph, sample) for sample in samples]
        figures = [_figures(model, core, built, samples, reference, choice, after) for choice in builds]
        layers: list[Layer] = []
        if model.field and core in LAYER_CORES:
            counted = profile_layers(built, samples[0], DEFAULT_COMPILER, default_cache_dir())
            layers = compare_layers(model.name, core, built.graph, counted, field_layers(model.field, core))
    return figures, layers


def _figures(
    model: Model,
    core: str,
    built: BuiltModel,
    samples: Sequence[Sample],
    reference: Sequence[Mapping[Value, Array]],
    choice: CompilerChoice,
    after: dict[str, int],
) -> Figures:
    found = measure(built, samples, choice, default_cache_dir())
    traced = run_built_model(built, samples[:1], "trace", choice, default_cache_dir()).traces[0]
    return Figures(
        model=model.name,
        core=core,
        compiler=choice.cc or "",
        optimization=choice.optimization,
        instructions=found.instructions[0],
        is_input_dependent=len(set(found.instructions)) > 1,
        code_bytes=found.library.code,
        table_bytes=found.library.tables,
        weight_bytes=found.library.weights,
        static_ram_bytes=found.library.static_ram,
        arena_bytes=after["arena_bytes"],
        arena_lower_bound_bytes=after["arena_lower_bound_bytes"],
        stack_bytes=found.stack_bytes,
        different_bytes=_wrong_outputs(built, found, reference) + _wrong_layers(built, traced, reference[0]),
    )


def _wrong_outputs(built: BuiltModel, found: Measurement, reference: Sequence[Mapping[Value, Array]]) -> int:
    return sum(
        _different_bytes(outputs[value.name], expected[value])
        for outputs, expected in zip(found.outputs, reference, strict=True)
        for value in built.graph.outputs
    )


def _wrong_layers(built: BuiltModel, traced: Sequence[Array], expected: Mapping[Value, Array]) -> int:
    results = {node.name: node.outputs[0] for node in built.graph.nodes}
    return sum(
        _different_bytes(ours, expected[results[layer["name"]]])
        for layer, ours in zip(built.layers, traced, strict=True)
    )


def _different_bytes(ours: Array, expected: Array) -> int:
    return int(np.count_nonzero(np.frombuffer(ours.tobytes(), np.uint8) != np.frombuffer(expected.tobytes(), np.uint8)))
