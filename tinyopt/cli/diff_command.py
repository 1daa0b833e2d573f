"""`tinyopt diff`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tinyopt.cli.completing import FILE
from tinyopt.cli.console import Output, reported_errors
from tinyopt.errors import VerificationError
from tinyopt.graph_diff import diff_outlines
from tinyopt.onnx_import.outline import read_outline
from tinyopt.report.diff import diff_data, diff_table
from tinyopt.report.diff_page import diff_page
from tinyopt.whole_files import whole_file


@click.command("diff", short_help="Name the nodes that differ between two ONNX files.")
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@click.option("--html", "page", type=FILE, metavar="FILE", help="Also write a page with both models side by side.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit code tells.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def diff_command(old: Path, new: Path, page: Path | None, quiet: bool, is_json: bool) -> None:
    """Name the nodes that differ between the ONNX files OLD and NEW, and by how much.

    Any two models can be compared, also such as tinyopt cannot compile. Names of nodes and inner tensors do not count:
    nodes are recognized by what they compute and by what is around them.

    \b
    tinyopt diff model.onnx edited.onnx --html diff.html
    tinyopt diff out/passes/00-import.onnx out/passes/05-fuse-operators.onnx

    Exit codes: 0 the models are equal, 6 they differ.
    """
    screen = Output(-1 if quiet else 0, is_json)
    with reported_errors(screen):
        outlines = read_outline(old), read_outline(new)
        diff = diff_outlines(*outlines)
        if page is not None:
            names = (old.name, new.name) if old.name != new.name else (str(old), str(new))
            with whole_file(page) as work:
                work.write_text(diff_page(*names, *outlines, diff), encoding="utf-8")
        if is_json or not quiet:
            screen.show(diff_table(str(old), str(new), diff), diff_data(str(old), str(new), diff))
        if not diff.is_equal:
            sys.exit(VerificationError.exit_code)
