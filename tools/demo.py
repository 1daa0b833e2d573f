"""The demonstration: the digits network, float in, int8 on two emulated Arm machines; prints what it costs.

Where an emulator or cross-compiler is missing it says what to install, and runs on this machine's CPU instead.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import ToolchainError
from tinyopt.execution.built_model import BuiltModel, load_built_model
from tinyopt.execution.measure import measure
from tinyopt.execution.runner import run_built_model
from tinyopt.options import CompileOptions
from tinyopt.samples import Sample, load_labelled, to_input
from tinyopt.toolchain import DEFAULT_COMPILER

ROOT = Path(__file__).resolve().parents[1]
MODEL, DATA = ROOT / "examples" / "digits.onnx", ROOT / "examples" / "digits.npz"
OUTPUT = ROOT / "demo"
TARGETS = ("arm", "cortex-m4")
FALLBACK = "host"


@dataclass(frozen=True)
class Figures:
    """One row of the table that the demonstration prints."""

    target: str
    float_top1: float
    int8_top1: float
    flash_bytes: int | None
    arena_bytes: int
    instructions: int | None


def main() -> int:
    """Compile, run emulated, print."""
    console = Console()
    rows: list[Figures] = []
    for target in TARGETS:
        try:
            rows.append(compile_and_run(target))
        except ToolchainError as error:
            console.print(f"{target} is left out: {error}", markup=False)
    if not rows:
        rows.append(compile_and_run(FALLBACK))
    console.print(_table(rows))
    console.print(f"the compiled libraries and their reports are in {OUTPUT.relative_to(ROOT)}/", markup=False)
    return 0


def compile_and_run(target: str) -> Figures:
    """Compile the example for `target`, run all labelled images there, count the instructions of one inference."""
    folder = OUTPUT / target
    options = CompileOptions(
        target=target, calibration=f"{DATA}:calib", evaluation=f"{DATA}:x,y", cache_dir=default_cache_dir()
    )
    report = compile_model(MODEL, folder, options).report
    built = load_built_model(folder)
    samples, labels = load_labelled(f"{DATA}:x,y", built.graph.inputs)
    return Figures(
        target,
        report["evaluation"]["float_top1"],
        _top1(built, samples, labels.tolist()),
        report["after"]["flash_bytes"],
        report["after"]["arena_bytes"],
        _instructions(built, samples[0]),
    )


def _top1(built: BuiltModel, samples: Sequence[Sample], labels: Sequence[int]) -> float:
    """Of the compiled library itself, on its target."""
    fed = [{value.name: to_input(sample[value.name], value) for value in built.graph.inputs} for sample in samples]
    outputs = run_built_model(built, fed, "run", DEFAULT_COMPILER, default_cache_dir()).outputs
    name = built.graph.outputs[0].name
    return float(np.mean([output[name].argmax() == label for output, label in zip(outputs, labels, strict=True)]))


def _instructions(built: BuiltModel, sample: Sample) -> int | None:
    if built.target.emulator.kind == "native":
        return None
    return measure(built, [sample], DEFAULT_COMPILER, default_cache_dir()).instructions[0]


def _table(rows: Sequence[Figures]) -> Table:
    table = Table(title=f"{MODEL.name}, compiled and run", title_justify="left", box=None, pad_edge=False)
    table.add_column("target")
    for title in ("top-1 float", "top-1 int8", "flash bytes", "arena bytes", "instructions"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row.target,
            f"{100 * row.float_top1:.2f} %",
            f"{100 * row.int8_top1:.2f} %",
            "not measured" if row.flash_bytes is None else f"{row.flash_bytes:,}",
            f"{row.arena_bytes:,}",
            "not counted here" if row.instructions is None else f"{row.instructions:,}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
