"""`tinyopt compile`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from tinyopt.artifact.folder import check_dump_folder
from tinyopt.cli.build_options import BUILD_OPTIONS, Depfile
from tinyopt.cli.compression_options import COMPRESSION_OPTIONS
from tinyopt.cli.console import Output, reported_errors
from tinyopt.cli.parsing import parse_memory, parse_settings, parse_shapes
from tinyopt.cli.quantize_options import WEIGHT_BITS, ranges_option, weights_option
from tinyopt.cli.recipe_option import recipe_option
from tinyopt.cli.sample_options import SOURCES, parse_numbers
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import UsageError
from tinyopt.onnx_import import import_model
from tinyopt.options import MOST_THREADS, CompileOptions, EmitShape

if TYPE_CHECKING:
    from tinyopt.ir import Graph
    from tinyopt.pipeline import PipelineStep

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _options(command: _Command) -> _Command:
    """The options of `tinyopt compile`, in the order of its help."""
    for option in reversed(
        [
            recipe_option,
            click.option("--target", "-t", default="arm", show_default=True, help="See `tinyopt targets`."),
            click.option("--output", "-o", type=Path, help="Folder to write.  [default: the model's name]"),
            click.option("--name", help="Prefix of C names and files.  [default: the model's name]"),
            click.option("--shape", "shapes", multiple=True, metavar="NAME=1,3,96,96", help="Shape of an input."),
            click.option(
                "--calib",
                multiple=True,
                metavar="FILE",
                help=f"Calibration samples: {SOURCES}; or `random` to try without any. "
                "Several inputs: --calib NAME=FILE for each.",
            ),
            click.option(
                "--calib-mean",
                type=parse_numbers,
                default="0",
                show_default=True,
                metavar="MEAN",
                help="real = (raw - mean) * scale: a number, or one per channel such as 123.7,116.3,103.5.",
            ),
            click.option(
                "--calib-scale",
                type=parse_numbers,
                default="1",
                show_default=True,
                metavar="SCALE",
                help="For pixels from 0 to 1: 1/255.",
            ),
            click.option(
                "--calib-samples",
                type=click.IntRange(1),
                metavar="N",
                help="Use only N: the first of a file, evenly spaced ones of a folder.",
            ),
            click.option("--quantize/--no-quantize", default=True, help="int8 where --calib is given.  [default: yes]"),
            click.option(
                "--dtype",
                type=click.Choice(["float32", "float16"]),
                default="float32",
                show_default=True,
                help="What a model computes in that is not quantized; float16 on CPUs that have it.",
            ),
            ranges_option,
            weights_option,
            *COMPRESSION_OPTIONS,
            click.option(
                "--max-drop",
                type=click.FloatRange(0, 100),
                metavar="POINTS",
                help="Largest loss of top-1: layers go back to int16 or float until it is met, or exit code 4.",
            ),
            click.option("--io", type=click.Choice(["int8", "float"]), help="Boundary.  [default: the target's]"),
            click.option("--mem", metavar="NAME=SIZE,...", help="RAM regions, the fastest first: dtcm=64K,sram=256K."),
            click.option(
                "--patches",
                default="off",
                show_default=True,
                metavar="auto|N|off",
                help="First layers in N bands of rows.",
            ),
            click.option(
                "--threads",
                type=click.IntRange(1, MOST_THREADS),
                default=1,
                show_default=True,
                help="Threads that share the large layers: same bytes.",
            ),
            click.option(
                "--eval",
                "evaluation",
                metavar="FILE",
                help="Labelled samples: file.npz:x,y, or a folder of pictures by class. Prints top-1.",
            ),
            click.option("--disable-pass", "disabled", multiple=True, metavar="PASS", help="Leave a pass out."),
            click.option("--set", "settings", multiple=True, metavar="PASS.OPTION=VALUE", help="Set a pass's option."),
            click.option("--print-passes", is_flag=True, help="Print the pipeline with its options, and stop."),
            click.option("--print-changed", is_flag=True, help="Print what each pass changed, as a diff of the graph."),
            click.option("--dump-passes", type=Path, metavar="DIR", help="Also write each pass's graph there."),
            click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all that is random."),
            click.option("--cc", help="C compiler.  [default: $TINYOPT_CC, the target's own, ziglang]"),
            click.option(
                "--cache-dir", type=Path, help="Compiled kernels and calibration.  [default: ~/.cache/tinyopt]"
            ),
            click.option("--no-cache", is_flag=True, help="Compile and calibrate anew."),
            *BUILD_OPTIONS,
            click.option("-v", "--verbose", count=True, help="Say more: -v every remark, -vv tracebacks."),
            click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
            click.option("--json", "is_json", is_flag=True, help="Print report.json instead of tables."),
        ]
    ):
        command = option(command)
    return command


@click.command("compile")
@click.argument("model", type=Path, required=False)
@_options
def compile_command(
    model: Path | None,
    recipe: Path | None,
    target: str,
    output: Path | None,
    name: str | None,
    shapes: tuple[str, ...],
    calib: tuple[str, ...],
    calib_mean: tuple[float, ...],
    calib_scale: tuple[float, ...],
    calib_samples: int | None,
    quantize: bool,
    dtype: Literal["float32", "float16"],
    ranges: str,
    weights: str,
    prune: float,
    prune_to: str,
    prune_layers: tuple[str, ...],
    keep: tuple[str, ...],
    importance: str,
    recover: Literal["none", "normalization", "refit", "distill"],
    recover_parameters: Literal["all", "bias-scale", "last"],
    cluster: int | Literal["auto"],
    cluster_layers: tuple[str, ...],
    cluster_cost: float,
    max_flash: int | None,
    max_ram: int | None,
    max_cycles: int | None,
    max_drop: float | None,
    io: Literal["int8", "float"] | None,
    mem: str | None,
    patches: str,
    threads: int,
    evaluation: str | None,
    disabled: tuple[str, ...],
    settings: tuple[str, ...],
    print_passes: bool,
    print_changed: bool,
    dump_passes: Path | None,
    seed: int,
    cc: str | None,
    cache_dir: Path | None,
    emit: tuple[EmitShape, ...],
    depfile: Path | None,
    depfile_target: str | None,
    no_cache: bool,
    verbose: int,
    quiet: bool,
    is_json: bool,
) -> None:
    """Compile the ONNX file MODEL into a folder with C sources or a library.

    MODEL and every option may stand in a recipe instead; the command line has the last word.

    \b
    tinyopt compile kws.onnx --target cortex-m4 --calib calib.npz:x
    tinyopt compile kws.onnx --target arm --no-quantize
    tinyopt compile kws.onnx --target cortex-a76 --no-quantize --dtype float16
    tinyopt compile kws.onnx -t cortex-m7 --calib calib.npz:x --mem dtcm=8K,sram=64K
    tinyopt compile kws.onnx -t cortex-m4 --calib calib.npz:x --prune 0.2 --cluster 32 --eval test.npz:x,y
    tinyopt compile kws.onnx -t cortex-m4 --calib calib.npz:x --weights int4 --eval test.npz:x,y --max-drop 1
    tinyopt compile photos.onnx -t cortex-m7 --calib photos/ --calib-scale 1/255 --calib-samples 200
    tinyopt compile kws.onnx -t cortex-m4 --calib calib.npz:x --emit zephyr --emit cmsis-pack
    tinyopt compile --recipe tinyopt.toml -o out
    tinyopt compile --recipe out/recipe.lock.toml -o again
    """
    if model is None:
        raise click.UsageError("Missing argument 'MODEL': name an ONNX file, or a recipe that does with --recipe")
    screen = Output(-1 if quiet else verbose, is_json)
    with reported_errors(screen):
        dependencies = Depfile.of(depfile, depfile_target)
        options = CompileOptions(
            target=target,
            name=name,
            shapes=parse_shapes(shapes),
            calibration=calib or None,
            calibration_mean=calib_mean,
            calibration_scale=calib_scale,
            calibration_samples=calib_samples,
            evaluation=evaluation,
            is_quantized=quantize,
            dtype=dtype,
            prune=prune,
            prune_to=prune_to,
            prune_layers=prune_layers,
            keep=keep,
            importance=importance,
            recover=recover,
            recover_parameters=recover_parameters,
            cluster=cluster,
            cluster_layers=cluster_layers,
            max_flash=max_flash,
            max_ram=max_ram,
            max_cycles=max_cycles,
            cluster_cost=cluster_cost,
            weight_bits=WEIGHT_BITS[weights],
            ranges=ranges,
            max_drop=max_drop,
            boundary=io,
            memory=parse_memory(mem),
            patches=patches,
            threads=threads,
            disabled_passes=disabled,
            settings=parse_settings(settings),
            emit=emit,
            cc=cc,
            cache_dir=None if no_cache else cache_dir or default_cache_dir(),
            seed=seed,
            recipe=recipe,
        )
        if print_passes:
            from tinyopt.cli.list_commands import print_pipeline
            from tinyopt.targets import target_named

            print_pipeline(screen, options, target_named(target))
            return
        if dump_passes is not None:
            check_dump_folder(dump_passes)
        folder = output or Path(model.stem or "out")
        imported = import_model(model, options.shapes)
        # not earlier: a model that is refused should not wait for the rest of the compiler to be loaded
        from tinyopt.api import compile_imported
        from tinyopt.api import dump_passes as write_dump
        from tinyopt.report.text import remarks, renderable
        from tinyopt.samples import NOISE_WARNING, RANDOM

        with _changes(screen, imported.graph, print_changed) as on_step, screen.progress() as progress:
            result = compile_imported(imported, model, folder, options, progress, on_step)
        if dependencies is not None:
            dependencies.write(model, options, result.original.inputs, (recipe,) if recipe else ())
        if dump_passes is not None:
            write_dump(dump_passes, result.original, result.steps)
        screen.show(renderable(result.report), result.report)
        if verbose:
            screen.log.print(remarks(result.report), markup=False)
        if calib == (RANDOM,):
            screen.say(NOISE_WARNING)
        screen.say(f"wrote {folder}; next: tinyopt validate {folder}, tinyopt profile {folder}")


@contextmanager
def _changes(screen: Output, graph: Graph, is_wanted: bool) -> Generator[Callable[[PipelineStep], None]]:
    """Collects what the passes do and prints it at the end, when no progress bar is in the way, or after a failure."""
    from tinyopt.pipeline import no_observer
    from tinyopt.report.changes import ChangePrinter

    if not is_wanted:
        yield no_observer
        return
    if screen.is_json:
        raise UsageError("--print-changed and --json both print to stdout: give one of them")
    printer = ChangePrinter(graph.copy())
    steps: list[PipelineStep] = []
    try:
        yield steps.append
    finally:
        for number, step in enumerate(steps, start=1):
            for line in printer.after(number, step.record):
                screen.data.print(line, soft_wrap=True)
