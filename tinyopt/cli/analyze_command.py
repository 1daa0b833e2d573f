"""`tinyopt analyze`."""

from __future__ import annotations

from pathlib import Path

import click

from tinyopt.cli.completing import FILE
from tinyopt.cli.console import Output, reported_errors
from tinyopt.cli.parsing import parse_shapes
from tinyopt.cli.target_option import target_option
from tinyopt.errors import UnsupportedOperatorError
from tinyopt.report.analysis import analyze
from tinyopt.report.analysis_table import analysis_table
from tinyopt.targets import target_named


@click.command("analyze", short_help="Look at an ONNX file: operators, MACs, memory, support.")
@click.argument("model", type=FILE)
@target_option
@click.option("--shape", "shapes", multiple=True, metavar="NAME=1,3,96,96", help="Shape of an input.")
@click.option("--top", default=10, show_default=True, type=click.IntRange(0), help="How many layers to list.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON, with all layers.")
def analyze_command(model: Path, target: str, shapes: tuple[str, ...], top: int, is_json: bool) -> None:
    """Look at the ONNX file MODEL: operators, MACs, parameters, estimated memory, and all that is not supported.

    Nothing is compiled, run or written. Memory is estimated before kernels are chosen: without their scratch, and
    without outputs that take over their input's memory.

    \b
    tinyopt analyze model.onnx --target cortex-m4

    Exit codes: 0 ok, 3 some nodes are not supported (they are listed, and the rest is still analyzed).
    """
    screen = Output(0, is_json)
    with reported_errors(screen):
        analysis = analyze(model, target_named(target), parse_shapes(shapes))
        screen.show(analysis_table(analysis, top), analysis)
        if analysis["unsupported"]:
            raise UnsupportedOperatorError(f"{len(analysis['unsupported'])} node(s) of {model} are not supported")
