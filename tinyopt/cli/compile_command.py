"""`tinyopt compile`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyopt.artifact.folder import check_dump_folder
from tinyopt.cli.build_options import Depfile
from tinyopt.cli.compile_options import compile_options, options_of
from tinyopt.cli.completing import FILE
from tinyopt.cli.console import Output, reported_errors
from tinyopt.errors import UsageError
from tinyopt.onnx_import import import_model

if TYPE_CHECKING:
    from tinyopt.ir import Graph
    from tinyopt.pipeline import PipelineStep
    from tinyopt.recipes import Recipe


@click.command("compile", short_help="Compile an ONNX file into C sources or a library.")
@click.argument("model", type=FILE, required=False)
@compile_options
def compile_command(
    model: Path | None,
    output: Path | None,
    recipe: Recipe | None,
    print_passes: bool,
    print_changed: bool,
    dump_passes: Path | None,
    depfile: Path | None,
    depfile_target: str | None,
    verbose: int,
    quiet: bool,
    is_json: bool,
    **given: Any,
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
    tinyopt compile photos.onnx -t cortex-m7 --calib photos/ --calib-scale 1/255 --calib-samples 200 -o out
    tinyopt compile kws.onnx -t cortex-m4 --calib calib.npz:x --emit zephyr --emit cmsis-pack
    tinyopt compile --recipe tinyopt.toml -o out
    tinyopt compile --recipe out/recipe.lock.toml -o again
    """
    if model is None:
        raise click.UsageError("Missing argument 'MODEL': name an ONNX file, or a recipe that does with --recipe")
    screen = Output(-1 if quiet else verbose, is_json)
    with reported_errors(screen):
        dependencies = Depfile.of(depfile, depfile_target)
        options = options_of(given)
        if print_passes:
            from tinyopt.cli.list_commands import print_pipeline
            from tinyopt.targets import target_named

            print_pipeline(screen, options, target_named(options.target))
            return
        if dump_passes is not None:
            check_dump_folder(dump_passes)
        folder = output or Path(model.stem or "out")
        imported = import_model(model, options.shapes)
        # not earlier: a model that is refused should not wait for the rest of the compiler to be loaded
        from tinyopt.api import compile_imported
        from tinyopt.output_files import dump_passes as write_dump
        from tinyopt.recipes import Origin
        from tinyopt.report.text import remarks, renderable
        from tinyopt.samples import NOISE_WARNING, RANDOM

        origin = Origin() if recipe is None else recipe.origin
        with _changes(screen, imported.graph, print_changed) as on_step, screen.progress() as progress:
            result = compile_imported(imported, model, folder, options, progress, on_step, origin)
        if dependencies is not None:
            read = () if recipe is None else (recipe.path,)
            dependencies.write(model, options, result.original.inputs, read)
        if dump_passes is not None:
            write_dump(dump_passes, result.original, result.steps)
        screen.show(renderable(result.report), result.report)
        if verbose:
            screen.log.print(remarks(result.report), markup=False)
        if options.calibration == (RANDOM,):
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
