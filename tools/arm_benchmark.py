"""Count what models cost on 64-bit Arm CPUs, under QEMU, with the kernels that each CPU gets; print the tables.

    python -m tools.arm_benchmark --models DIR                    all models, int8 and float32
    python -m tools.arm_benchmark --models DIR --model kws01      one model
    python -m tools.arm_benchmark --models DIR --out FOLDER       keep the libraries there, and use those it has
    python -m tools.arm_benchmark --models DIR --write            also write docs/arm-cpus.md

Each model is compiled once for `arm`; the CPUs differ in what QEMU emulates. int8 models are calibrated on noise, which
moves no instruction. What they give is compared with the numpy reference. Exit code 1: another program is quicker,
code is larger than it may be, or an output is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.evaluate import evaluate
from tinyopt.execution.built_model import BuiltModel, load_built_model
from tinyopt.execution.cpus import on_cpu
from tinyopt.execution.measure import instructions_from_start, measure
from tinyopt.execution.runner import run_built_model
from tinyopt.options import CompileOptions
from tinyopt.samples import random_samples
from tinyopt.toolchain import CompilerChoice

PAGE = Path(__file__).resolve().parents[1] / "docs" / "arm-cpus.md"
DTYPES = ("int8", "float32")
CPUS = {"i8mm": "max,sve=off,pauth-impdef=on", "dotprod": "cortex-a76", "neon": "cortex-a72"}
BEST_CPU = "i8mm"
MOST_CODE = 100 * 1024  # bytes of a library without its weights, for whatever model
MOST_TO_START = 1_000_000  # instructions of a process that runs a model once, beside those of two inferences
MOST_OFF = 1e-4  # of the largest output, for float32

# M instructions of the quickest other program, under the same emulator: ONNX Runtime 1.31, LiteRT 2.3 with XNNPACK,
# MNN 3.6, IREE 3.13 and stock TVM 0.27 were measured on the same models
FIELD: Mapping[tuple[str, str, str], float] = {
    ("kws01", "int8", "i8mm"): 0.739,
    ("vww01", "int8", "i8mm"): 1.906,
    ("ic01", "int8", "i8mm"): 1.259,
    ("ad01", "int8", "i8mm"): 0.047,
    ("mobilenetv2", "int8", "i8mm"): 44.2,
    ("kws01", "int8", "neon"): 1.438,
    ("vww01", "int8", "neon"): 3.621,
    ("ic01", "int8", "neon"): 4.327,
    ("ad01", "int8", "neon"): 0.100,
    ("mobilenetv2", "int8", "neon"): 113.7,
    ("kws01", "float32", "i8mm"): 1.302,
    ("vww01", "float32", "i8mm"): 3.524,
    ("ic01", "float32", "i8mm"): 3.030,
    ("ad01", "float32", "i8mm"): 0.139,
    ("mobilenetv2", "float32", "i8mm"): 113.6,
}


@dataclass(frozen=True)
class Model:
    """A model as it is measured."""

    name: str
    file: str
    disabled_passes: tuple[str, ...] = ()


MODELS = (
    Model("kws01", "kws01"),
    Model("vww01", "vww01"),
    Model("vww01, dead channels kept", "vww01", ("eliminate-dead-channels",)),
    Model("ic01", "ic01"),
    Model("ad01", "ad01"),
    Model("mobilenetv2", "mobilenetv2"),
)


@dataclass(frozen=True)
class Figures:
    """One library. instructions: of one inference, by CPU. error: of the outputs, the largest of all CPUs'.

    process_instructions: of a program that runs the model once, from its start to its end, on the best CPU. int8
    errors are in levels, float32 ones shares of the largest output.
    """

    model: Model
    dtype: str
    instructions: Mapping[str, int]
    process_instructions: int
    code_bytes: int
    weight_bytes: int
    arena_bytes: int
    error: float

    @property
    def faults(self) -> Iterator[str]:
        """What is not as it must be."""
        name = f"{self.model.name}, {self.dtype}"
        for cpu, count in self.instructions.items():
            theirs = FIELD.get((self.model.file, self.dtype, cpu))
            if theirs is not None and count > 1e6 * theirs:
                yield f"{name}: {count:,} instructions on {cpu}, another program takes {theirs} M"
        if self.process_instructions > 2 * self.instructions[BEST_CPU] + MOST_TO_START:
            yield f"{name}: {self.process_instructions:,} instructions of a process that runs it once"
        if self.code_bytes > MOST_CODE:
            yield f"{name}: {self.code_bytes:,} bytes of code"
        if self.error > (0 if self.dtype == "int8" else MOST_OFF):
            yield f"{name}: off by {self.error:.2g}"


def main() -> int:
    """Measure, print, write the page."""
    options = _arguments()
    console = Console()
    chosen = [(m, dtype) for m in MODELS for dtype in options.dtype or DTYPES if m.file in (options.model or m.file)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        work = track(chosen, "models", console=Console(stderr=True))
        figures = [count(options.models, model, dtype, folder) for model, dtype in work]
    console.print(page(figures), markup=False, soft_wrap=True)
    if options.write:
        PAGE.write_text(page(figures), encoding="utf-8")
    faults = [fault for line in figures for fault in line.faults]
    for fault in faults:
        console.print(fault, markup=False, soft_wrap=True)
    return int(bool(faults))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--model", action="append", choices=sorted({model.file for model in MODELS}))
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


def count(models: Path, model: Model, dtype: str, folder: Path) -> Figures:
    """Compile `model` unless `folder` has it, and run it as each CPU does."""
    out = folder / f"{model.file}-{dtype}{'-kept' if model.disabled_passes else ''}"
    if not out.is_dir():
        options = CompileOptions(
            target="arm",
            calibration="random",
            is_quantized=dtype == "int8",
            disabled_passes=model.disabled_passes,
            cache_dir=default_cache_dir(),
        )
        compile_model(models / f"{model.file}.onnx", out, options)
    built = load_built_model(out)
    sample = random_samples(built.graph.inputs, 1, 0)
    runs = {cpu: on_cpu(built, name) for cpu, name in CPUS.items()}
    measured = {cpu: measure(run, sample, CompilerChoice(), default_cache_dir()) for cpu, run in runs.items()}
    library = measured[BEST_CPU].library
    return Figures(
        model,
        dtype,
        {cpu: found.instructions[0] for cpu, found in measured.items()},
        instructions_from_start(runs[BEST_CPU], CompilerChoice(), default_cache_dir()),
        library.code + library.tables,
        library.weights,
        json.loads((out / "report.json").read_text(encoding="utf-8"))["after"]["arena_bytes"],
        max(_error(run, dtype) for run in runs.values()),
    )


def _error(built: BuiltModel, dtype: str) -> float:
    """How far the outputs are from the reference's."""
    (sample,) = random_samples(built.graph.inputs, 1, 0)
    (found,) = run_built_model(built, [sample], "run", CompilerChoice(), default_cache_dir()).outputs
    wanted = evaluate(built.graph, sample)
    errors: list[float] = []
    for name, array in found.items():
        reference = wanted[name].astype(np.float64)
        scale = np.abs(reference).max() if dtype == "float32" else 1.0
        errors.append(float(np.abs(array.astype(np.float64) - reference).max() / scale))
    return max(errors)


def page(figures: Sequence[Figures]) -> str:
    """docs/arm-cpus.md."""
    text = """\
# Arm CPUs: what models cost

Written by `python -m tools.arm_benchmark --models DIR --write`; do not edit. Libraries for `arm`, one thread, batch 1.
*Instructions* are those that one inference executes under QEMU, in millions, exact and repeatable: on a CPU with the
matrix product of int8 (i8mm), with the dot product alone (dotprod, a Cortex-A76), with neither (neon, a Cortex-A72). In
parentheses the fewest of ONNX Runtime 1.31, LiteRT 2.3 with XNNPACK, MNN 3.6, IREE 3.13 and TVM 0.27, on the same model
and emulator, where they were measured. *Process*: the instructions of a whole program that runs the model once, on the
CPU with i8mm, from the first to the last, C library and all. *Code* is what the library holds beside its *weights*, for
all three kinds of CPU; each has its own packing of int8 weights. *Off by*: from the numpy reference, on all three, in
levels of int8 or as a share of the largest float.

"""
    columns = ("model", "type", *CPUS, "process", "code, bytes", "weights, bytes", "arena, bytes", "off by")
    rows = [columns, ("--", "--", *("--:" for _ in columns[2:])), *map(_cells, figures)]
    return text + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _cells(line: Figures) -> tuple[str, ...]:
    sizes = (f"{size:,}" for size in (line.code_bytes, line.weight_bytes, line.arena_bytes))
    error = f"{line.error:.0f}" if line.dtype == "int8" else f"{line.error:.1e}"
    process = f"{line.process_instructions / 1e6:.3f}"
    return line.model.name, line.dtype, *(_against_field(line, cpu) for cpu in CPUS), process, *sizes, error


def _against_field(line: Figures, cpu: str) -> str:
    theirs = FIELD.get((line.model.file, line.dtype, cpu))
    return f"{line.instructions[cpu] / 1e6:.3f}" + (f" ({theirs:.3f})" if theirs is not None else "")


if __name__ == "__main__":
    sys.exit(main())
