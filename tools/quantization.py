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
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from tinyopt.errors import TinyoptError
from tools.quantization_table.bars import verdicts
from tools.quantization_table.baselines import measure_baselines
from tools.quantization_table.measuring import load_subject, measure
from tools.quantization_table.methods import DEFAULT, Method, methods
from tools.quantization_table.page import cells, page, tables
from tools.quantization_table.scores import Row

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "quantization.md"
MODELS = ("kws01", "kws01_hybrid", "ic01", "vww01", "ad01")


def main(words: list[str] | None = None) -> int:
    """Measure or read figures, then print, compare and write them."""
    arguments = _arguments(words)
    try:
        rows, revision = _read(arguments.read) if arguments.read else (list(_measured(arguments)), _revision())
    except TinyoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    console = Console(width=120)
    for table in tables(rows):
        console.print(table)
        console.print()
    if arguments.json:
        content = {"revision": revision, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if arguments.write:
        PAGE.write_text(page(rows, revision), encoding="utf-8")
    found = verdicts(rows) if arguments.bars else []
    for verdict in found:
        print(verdict)
    return int(not all(verdict.passes for verdict in found))


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("models", "data"):
        parser.add_argument(f"--{name}", type=Path, default=os.environ.get(f"TINYOPT_{name.upper()}"))
    parser.add_argument("--model", action="append", help=f"only these (default: {', '.join(MODELS)})")
    parser.add_argument("--calib", help="calibration samples in the place of `calib`, such as random")
    parser.add_argument("--quick", action="store_true", help="the most telling rows only")
    parser.add_argument("--bars", action="store_true", help="the default alone, beside what it must reach")
    parser.add_argument("--baselines", action="store_true", help="measure onnxruntime's quantizer, too")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--from", dest="read", type=Path, action="append", default=[], help="figures of --json")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args(words)
    if not arguments.read and not (arguments.models and arguments.data):
        parser.error("--models and --data are needed, or $TINYOPT_MODELS and $TINYOPT_DATA")
    return arguments


def _read(files: Sequence[Path]) -> tuple[list[Row], str]:
    """The rows of all files, and the revisions that they were measured at."""
    contents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    revisions = dict.fromkeys(content["revision"] for content in contents)
    return [Row(**entry) for content in contents for entry in content["rows"]], ", ".join(revisions)


def _measured(arguments: argparse.Namespace) -> Iterator[Row]:
    for name in arguments.model or MODELS:
        subject = load_subject(Path(arguments.models) / f"{name}.onnx", Path(arguments.data), arguments.calib)
        for row in measure(subject, _wanted(arguments), _show_progress):
            yield _shown(row)
        for row in measure_baselines(subject) if arguments.baselines else ():
            yield _shown(row)


def _wanted(arguments: argparse.Namespace) -> list[Method]:
    if arguments.bars:
        return [method for method in methods() if method.name == DEFAULT]
    return [method for method in methods() if method.is_quick or not arguments.quick]


def _show_progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what} {done}/{total}", end="", file=sys.stderr, flush=True)


def _shown(row: Row) -> Row:
    start = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{start}{row.model}, {row.group}, {row.method}: {' '.join(cells(row))}", file=sys.stderr, flush=True)
    return row


def _revision() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
