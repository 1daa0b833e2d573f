"""Compile models for many targets, run each on real samples, and print a table of differences and costs.

    python tools/matrix.py --models DIR --data DIR [--target T ...] [--model M ...] [--samples N] [--float]
                           [--cc CC] [--opt LEVEL]

A model is calibrated on `<data>/<name>.npz:calib` (for a name such as kws01_hybrid the part before the underscore)
and checked on `<data>/<name>.npz:x`; models without data are checked on noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import TinyoptError
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.measure import firmware_bytes, measure
from tinyopt.execution.validate import validate
from tinyopt.options import CompileOptions
from tinyopt.samples import load_samples, random_samples
from tinyopt.targets.cortex_m import CORTEX_M
from tinyopt.toolchain import OPTIMIZATIONS, CompilerChoice

DEFAULT_TARGETS = ("host", "arm", *sorted(core.name for core in CORTEX_M), "c")
PIXEL_SCALES = {"vww01": 1 / 255}  # pixels / 255; every other model takes its samples as they are


@dataclass(frozen=True)
class Outcome:
    """One cell of the table."""

    model: str
    target: str
    layers: int
    different_bytes: int
    output_bytes: int
    first_difference: str | None
    onnxruntime_steps: int
    onnxruntime_error: float
    instructions: int | None
    macs: int
    flash_bytes: int | None
    firmware_bytes: int | None
    arena_bytes: int
    compile_seconds: float
    error: str | None


def main() -> int:
    """Print the table; the exit code is 1 where anything failed or differed."""
    arguments = _arguments()
    outcomes: list[Outcome] = []
    for model in _models(arguments.models, arguments.model):
        for target in arguments.target or DEFAULT_TARGETS:
            outcomes.append(_outcome(model, target, arguments))
            print(_line(outcomes[-1]), flush=True)
    Console(width=150).print(_table(outcomes))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    return int(any(outcome.error or outcome.first_difference or outcome.different_bytes for outcome in outcomes))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=Path, required=True, help="folder of ONNX files")
    parser.add_argument("--data", type=Path, required=True, help="folder of .npz files named as the models")
    parser.add_argument("--model", action="append", help="only these (file names without .onnx)")
    parser.add_argument("--target", action="append", help="only these")
    parser.add_argument("--samples", type=int, default=3, help="samples checked on each target")
    parser.add_argument("--cc", help="C compiler for all targets, such as clang-19")
    parser.add_argument("--opt", choices=OPTIMIZATIONS, default="O3", help="its optimization level")
    parser.add_argument("--float", action="store_true", help="compile in float32: no calibration")
    parser.add_argument("--prune", type=float, default=0.0)
    parser.add_argument("--cluster", type=int, default=0)
    parser.add_argument("--elf", action="store_true", help="link the smallest program and measure its flash")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def _models(folder: Path, wanted: list[str] | None) -> list[Path]:
    found = sorted(folder.glob("*.onnx"))
    return [path for path in found if path.stem in wanted] if wanted else found


def _outcome(model: Path, target: str, arguments: argparse.Namespace) -> Outcome:
    try:
        with tempfile.TemporaryDirectory(prefix="tinyopt-matrix-") as folder:
            return _compile_and_check(model, target, arguments, Path(folder) / "out")
    except TinyoptError as error:
        return Outcome(model.stem, target, 0, 0, 0, None, 0, 0.0, None, 0, None, None, 0, 0.0, str(error))


def _compile_and_check(model: Path, target: str, arguments: argparse.Namespace, output: Path) -> Outcome:
    data = arguments.data / f"{model.stem.partition('_')[0]}.npz"
    scale = PIXEL_SCALES.get(data.stem, 1.0)
    is_calibrated = data.is_file() and not arguments.float and "qdq" not in model.stem
    options = CompileOptions(
        target=target,
        calibration=f"{data}:calib" if is_calibrated else None,
        calibration_scale=scale,
        prune=arguments.prune,
        cluster=arguments.cluster,
        cache_dir=default_cache_dir(),
    )
    started = time.monotonic()
    report = compile_model(model, output, options).report
    seconds = time.monotonic() - started
    built = load_built_model(output)
    inputs = built.graph.inputs
    if data.is_file():
        samples = load_samples(f"{data}:x", inputs, 0.0, scale, arguments.samples)
    else:
        samples = random_samples(inputs, arguments.samples, 0)
    choice = CompilerChoice(arguments.cc, arguments.opt)
    checked = validate(built, samples, choice, default_cache_dir())
    instructions = None
    if built.target.emulator.kind != "native":
        instructions = measure(built, samples[:1], choice, default_cache_dir()).instructions[0]
    after = report["after"]
    return Outcome(
        model.stem,
        target,
        checked.exact_layers + checked.float_layers,
        checked.different_bytes,
        checked.output_bytes,
        checked.first_difference,
        checked.onnxruntime_steps,
        checked.onnxruntime_error,
        instructions,
        after["macs"],
        after["flash_bytes"],
        firmware_bytes(built, choice) if arguments.elf else None,
        after["arena_bytes"],
        round(seconds, 1),
        None,
    )


def _line(outcome: Outcome) -> str:
    verdict = outcome.error or outcome.first_difference or f"{outcome.different_bytes} of {outcome.output_bytes} bytes"
    return f"{outcome.model} {outcome.target}: {verdict}"


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("model", "target"):
        table.add_column(title)
    for title in (
        "layers",
        "bytes that differ",
        "ORT steps",
        "ORT error",
        "M insns",
        "M MACs",
        "flash",
        "ELF",
        "arena",
        "s",
    ):
        table.add_column(title, justify="right")
    for outcome in outcomes:
        if outcome.error:
            table.add_row(outcome.model, outcome.target, "", f"FAILED: {outcome.error}")
            continue
        table.add_row(
            outcome.model,
            outcome.target,
            str(outcome.layers),
            f"{outcome.different_bytes} of {outcome.output_bytes}",
            str(outcome.onnxruntime_steps),
            f"{outcome.onnxruntime_error:.2g}",
            "" if outcome.instructions is None else f"{outcome.instructions / 1e6:.3f}",
            f"{outcome.macs / 1e6:.3f}",
            "" if outcome.flash_bytes is None else f"{outcome.flash_bytes:,}",
            "" if outcome.firmware_bytes is None else f"{outcome.firmware_bytes:,}",
            f"{outcome.arena_bytes:,}",
            f"{outcome.compile_seconds:.0f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
