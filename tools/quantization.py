"""Measure every quantization method, alone and combined, on the models' test samples; print the table.

    python -m tools.quantization --models DIR --data DIR                 all models, all methods
    python -m tools.quantization ... --baselines                         and onnxruntime's own quantizer
    python -m tools.quantization ... --model kws01 --quick               one model, the most telling rows
    python -m tools.quantization ... --bars                              the default alone, beside what it must reach
    python -m tools.quantization ... --json FILE                         also write the figures to a file
    python -m tools.quantization --from FILE --from FILE --write         write docs/quantization.md from such files
    python -m tools.quantization ... --model mobilenetv2 --calib random  noise where there are no samples

The folders default to $TINYOPT_MODELS and $TINYOPT_DATA. A model is calibrated on `<data>/<name>.npz:calib` alone (for
a name such as kws01_hybrid the part before the underscore) and tested on all of `x`, with the labels `y`.
Exit code 1: a bar is missed. Methods: see tools/quantization_table/methods.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from tinyopt.errors import TinyoptError
from tools.measured.command import (
    ROOT,
    parsed,
    read_figures,
    revision,
    show_line,
    show_progress,
    table_arguments,
    write_figures,
)
from tools.measured.subject import load_subject
from tools.quantization_table.bars import verdicts
from tools.quantization_table.baselines import measure_baselines
from tools.quantization_table.measuring import TARGET, measure
from tools.quantization_table.methods import DEFAULT, Method, methods
from tools.quantization_table.page import cells, page, tables
from tools.quantization_table.rows import Row

PAGE = ROOT / "docs" / "quantization.md"
MODELS = ("kws01", "kws01_hybrid", "ic01", "vww01", "ad01")


def main(words: list[str] | None = None) -> int:
    """Measure or read figures, then print, compare and write them."""
    arguments = _arguments(words)
    try:
        rows, measured_at = _rows(arguments)
    except TinyoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    console = Console(width=120)
    for table in tables(rows):
        console.print(table)
        console.print()
    if arguments.json:
        write_figures(arguments.json, {"rows": rows})
    if arguments.write:
        PAGE.write_text(page(rows, measured_at), encoding="utf-8")
    found = verdicts(rows) if arguments.bars else []
    for verdict in found:
        print(verdict)
    return int(not all(verdict.passes for verdict in found))


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = table_arguments(__doc__, PAGE, MODELS)
    parser.add_argument("--calib", help="calibration samples in the place of `calib`, such as random")
    parser.add_argument("--quick", action="store_true", help="the most telling rows only")
    parser.add_argument("--baselines", action="store_true", help="measure onnxruntime's quantizer, too")
    return parsed(parser, words)


def _rows(arguments: argparse.Namespace) -> tuple[list[Row], str]:
    """What was measured now or before, and the revisions that it was measured at."""
    if not arguments.read:
        return list(_measured(arguments)), revision()
    lists, revisions = read_figures(arguments.read)
    return [Row(**entry) for entry in lists["rows"]], revisions


def _measured(arguments: argparse.Namespace) -> Iterator[Row]:
    for name in arguments.model or MODELS:
        file = Path(arguments.models) / f"{name}.onnx"
        subject = load_subject(file, Path(arguments.data), arguments.calib, TARGET)
        for row in measure(subject, _wanted(arguments), show_progress):
            yield _shown(row)
        for row in measure_baselines(subject) if arguments.baselines else ():
            yield _shown(row)


def _wanted(arguments: argparse.Namespace) -> list[Method]:
    if arguments.bars:
        return [method for method in methods() if method.name == DEFAULT]
    return [method for method in methods() if method.is_quick or not arguments.quick]


def _shown(row: Row) -> Row:
    show_line(f"{row.model}, {row.group}, {row.method}: {' '.join(cells(row))}")
    return row


if __name__ == "__main__":
    sys.exit(main())
