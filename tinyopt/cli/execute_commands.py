"""`tinyopt run`, `tinyopt validate` and `tinyopt profile`: what was compiled, run here or emulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from rich.table import Table

from tinyopt.cli.completing import FILE
from tinyopt.cli.console import Output, reported_errors
from tinyopt.cli.profile_tables import comparison_table, picked, profile_table
from tinyopt.cli.sample_options import SOURCES, parse_numbers
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import UsageError, VerificationError
from tinyopt.execution.built_model import BuiltModel, load_built_model
from tinyopt.execution.compare import pair_layers
from tinyopt.execution.cpus import on_cpu
from tinyopt.execution.profile import Profile, profile
from tinyopt.execution.runner import run_built_model
from tinyopt.execution.validate import Validation, validate
from tinyopt.ir import Array
from tinyopt.report.html.build import refresh_page
from tinyopt.report.plain import printable
from tinyopt.samples import Numbers, Sample, load_samples, random_samples, save_arrays
from tinyopt.toolchain import OPTIMIZATIONS, CompilerChoice

_CC = click.option("--cc", help="C compiler.  [default: $TINYOPT_CC, the target's own, ziglang]")
_OPT = click.option(
    "--opt", type=click.Choice(OPTIMIZATIONS), default="O3", show_default=True, help="Optimization level of C code."
)
_MEAN = click.option(
    "--mean",
    type=parse_numbers,
    default="0",
    metavar="MEAN",
    help="real = (raw - mean) * scale: a number, or one per channel.",
)
_SCALE = click.option(
    "--scale", type=parse_numbers, default="1", metavar="SCALE", help="For pixels from 0 to 1: 1/255."
)
_SAMPLES = click.option(
    "--samples",
    type=click.IntRange(1),
    metavar="N",
    help="Use only N: the first of a file, evenly spaced ones of a folder.",
)
_CPU = click.option(
    "--cpu",
    metavar="CPU",
    help="For 64-bit and 32-bit Arm: emulate this CPU: a target, QEMU's name of one, or i8mm, dotprod, neon.",
)
_JSON = click.option("--json", "is_json", is_flag=True, help="Print JSON.")
_FOLDER = click.argument("folder", type=FILE)


@click.command("run", short_help="Run a compiled model on samples: here, or under QEMU.")
@_FOLDER
@click.option(
    "--input",
    "data",
    required=True,
    multiple=True,
    metavar="FILE",
    help=f"Samples: {SOURCES}; NAME=FILE for each input.",
)
@click.option("--output", "-o", type=FILE, help="Write the outputs to this .npz file.")
@_MEAN
@_SCALE
@_SAMPLES
@_CC
@_OPT
@_CPU
@_JSON
def run_command(
    folder: Path,
    data: tuple[str, ...],
    output: Path | None,
    mean: tuple[float, ...],
    scale: tuple[float, ...],
    samples: int | None,
    cc: str | None,
    opt: str,
    cpu: str | None,
    is_json: bool,
) -> None:
    """Run the compiled model in FOLDER on samples: here, or under QEMU for Arm targets.

    \b
    tinyopt run out --input samples.npz:x -o outputs.npz
    """
    screen = Output(0, is_json)
    with reported_errors(screen):
        built = on_cpu(load_built_model(folder), cpu)
        fed = load_samples(data, built.graph.inputs, mean, scale, samples)
        result = run_built_model(built, fed, "run", CompilerChoice(cc, opt), default_cache_dir())
        names = [value.name for value in built.graph.outputs]
        stacked = {name: _stacked([sample[name] for sample in result.outputs]) for name in names}
        if output is not None:
            save_arrays(output, stacked)
            screen.say(f"wrote {output}")
        else:
            screen.show(_output_table(stacked), {name: array.tolist() for name, array in stacked.items()})


def _stacked(arrays: Sequence[Array]) -> Array:
    """All samples' arrays along a leading dimension, in the place of a batch dimension of 1 where there is one."""
    return np.concatenate(arrays) if arrays[0].shape[:1] == (1,) else np.stack(arrays)


def _output_table(stacked: dict[str, Array]) -> Table:
    table = Table("output", "sample", "largest at", "values", box=None, pad_edge=False)
    for name, array in stacked.items():
        for number, row in enumerate(array.reshape(len(array), -1)):
            values = " ".join(f"{float(value):.4g}" for value in row[:8]) + (" ..." if row.size > 8 else "")
            table.add_row(printable(name), str(number), str(int(row.argmax())), values)
    return table


@click.command("validate", short_help="Compare a compiled model with the numpy reference.")
@_FOLDER
@click.option("--data", multiple=True, metavar="FILE", help=f"Samples: {SOURCES}.  [default: noise]")
@_MEAN
@_SCALE
@_SAMPLES
@_CC
@_OPT
@_CPU
@_JSON
def validate_command(
    folder: Path,
    data: tuple[str, ...],
    mean: tuple[float, ...],
    scale: tuple[float, ...],
    samples: int | None,
    cc: str | None,
    opt: str,
    cpu: str | None,
    is_json: bool,
) -> None:
    """Compare the compiled model in FOLDER with the numpy reference, layer by layer, and with onnxruntime.

    \b
    tinyopt validate out --data samples.npz:x --samples 20
    """
    screen = Output(0, is_json)
    with reported_errors(screen):
        built = on_cpu(load_built_model(folder), cpu)
        fed = _samples(built, data, mean, scale, samples)
        result = validate(built, fed, CompilerChoice(cc, opt), default_cache_dir())
        screen.show(_validation_table(built, result), asdict(result))
        if result.first_difference is not None:
            raise VerificationError(f"{folder}: {result.first_difference}")


def _samples(
    built: BuiltModel, data: tuple[str, ...], mean: Numbers, scale: Numbers, limit: int | None
) -> Sequence[Sample]:
    if not data:
        return random_samples(built.graph.inputs, limit or 4, 0)
    return load_samples(data, built.graph.inputs, mean, scale, limit)


def _validation_table(built: BuiltModel, result: Validation) -> Table:
    table = Table("check", "result", box=None, pad_edge=False)
    table.add_row("target", built.target.name)
    if result.variant is not None:
        table.add_row("kernels picked at run time", picked(result.variant, list(built.variants)))
    table.add_row("samples", str(result.samples))
    table.add_row("layers equal to the numpy reference, bit for bit", f"{result.exact_layers} checked")
    if result.float_layers:
        table.add_row("float layers, within tolerance", f"{result.float_layers} checked")
    table.add_row(
        "output bytes that differ from the numpy reference", f"{result.different_bytes} of {result.output_bytes}"
    )
    table.add_row("largest difference from onnxruntime, integer outputs", f"{result.onnxruntime_steps} steps")
    table.add_row("largest difference from onnxruntime, float outputs", f"{result.onnxruntime_error:.3g}")
    table.add_row("first difference", result.first_difference or "none: PASS")
    return table


def _keep(folder: Path, counted: Profile, screen: Output) -> None:
    """Show the counts in the folder's report.html from now on; a folder that nobody may write to stays as it is."""
    try:
        refresh_page(folder, asdict(counted))
    except UsageError as error:
        screen.say(f"the counts are not in the folder: {error}")


@click.command("profile", short_help="Count the instructions of every layer, under QEMU.")
@_FOLDER
@click.option("--data", multiple=True, metavar="FILE", help="Samples; the first is run.  [default: noise]")
@_MEAN
@_SCALE
@_CC
@_OPT
@_CPU
@click.option("--compare", "other", type=FILE, metavar="OTHER", help="Another output folder: print what changed since.")
@_JSON
def profile_command(
    folder: Path,
    data: tuple[str, ...],
    mean: tuple[float, ...],
    scale: tuple[float, ...],
    cc: str | None,
    opt: str,
    cpu: str | None,
    other: Path | None,
    is_json: bool,
) -> None:
    """Count the instructions of every layer of the compiled model in FOLDER, exactly, under QEMU.

    Measures the stack that one inference takes and the library's bytes of code and constants, too.

    \b
    tinyopt profile out
    tinyopt profile out --cc clang-19 --opt O2
    tinyopt profile out --cpu cortex-a72      of a library for arm: with the kernels that this CPU gets
    tinyopt profile pruned --compare out      what changed from out to pruned, layer by layer
    """
    screen = Output(0, is_json)
    with reported_errors(screen):

        def profile_of(built: BuiltModel) -> Profile:
            (sample,) = _samples(built, data, mean, scale, 1)
            return profile(built, sample, CompilerChoice(cc, opt), default_cache_dir())

        builds = [on_cpu(load_built_model(path), cpu) for path in (other, folder) if path is not None]
        profiles = [profile_of(built) for built in builds]
        for built, counted in zip(builds, profiles, strict=True):
            _keep(built.folder, counted, screen)
        if other is None:
            is_cortex_m = builds[0].target.name.startswith("cortex-m")
            screen.show(profile_table(profiles[0], is_cortex_m), asdict(profiles[0]))
            return
        pairs = pair_layers(*(counted.layers for counted in profiles))
        titles = [f"{built.folder} ({built.target.name})" for built in builds]
        screen.show(comparison_table(titles[0], titles[1], pairs), [asdict(pair) for pair in pairs])
