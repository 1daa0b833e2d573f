"""Measure every compression on the models' test samples: pruned, clustered, both; compiled for a Cortex-M4.

    python -m tools.compression --models DIR --data DIR                 all models, all cases
    python -m tools.compression ... --model kws01 --case "prune 0.2"    some of it
    python -m tools.compression ... --quick                             the most telling cases
    python -m tools.compression ... --bars                              the cases with bars, beside what they must reach
    python -m tools.compression ... --json FILE                         also write the figures to a file
    python -m tools.compression --from FILE --from FILE --write         write docs/compression.md from such files

The folders default to $TINYOPT_MODELS and $TINYOPT_DATA. A model is calibrated on `<data>/<name>.npz:calib` alone (for
a name such as kws01_hybrid the part before the underscore) and tested on all of `x`, with the labels `y`; mobilenetv2,
which has no data, is calibrated and tested on noise, in float. Exit code 1: a bar is missed.
Cases: tools/compression_table/cases.py; bars: tools/compression_table/bars.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from tinyopt.errors import TinyoptError
from tools.compression_table.bars import BARS, RECOVERED, TWINS, verdicts
from tools.compression_table.cases import CASES, PLAIN, Case, case_named
from tools.compression_table.measuring import TARGET, measure, measure_channels, measure_recovery
from tools.compression_table.page import cells, details, page, tables
from tools.compression_table.rows import Channels, Recovery, Row
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
from tools.measured.subject import Subject, load_subject

PAGE = ROOT / "docs" / "compression.md"
MODELS = ("kws01", "kws01_hybrid", "ic01", "vww01", "mobilenetv2")
_PRUNED = case_named("prune 0.2")


@dataclass(frozen=True)
class Figures:
    """Everything that was measured."""

    rows: list[Row] = field(default_factory=list[Row])
    channels: list[Channels] = field(default_factory=list[Channels])
    recoveries: list[Recovery] = field(default_factory=list[Recovery])


def main(words: list[str] | None = None) -> int:
    """Measure or read figures, then print, compare and write them."""
    arguments = _arguments(words)
    try:
        found, measured_at = _read(arguments) if arguments.read else (_measured(arguments), revision())
    except TinyoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    console = Console(width=140)
    for table in tables(found.rows):
        console.print(table)
        console.print()
    for line in details(found.channels, found.recoveries):
        print(line)
    if arguments.json:
        lists: dict[str, Sequence[Any]] = {
            "rows": found.rows,
            "channels": found.channels,
            "recoveries": found.recoveries,
        }
        write_figures(arguments.json, lists)
    if arguments.write:
        PAGE.write_text(page(found.rows, found.channels, found.recoveries, measured_at), encoding="utf-8")
    judged = verdicts(found.rows, found.channels, found.recoveries) if arguments.bars else []
    for verdict in judged:
        print(verdict)
    return int(not all(verdict.passes for verdict in judged))


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = table_arguments(__doc__, PAGE, MODELS)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only these, and int8")
    parser.add_argument("--quick", action="store_true", help="the most telling cases only")
    return parsed(parser, words)


def _read(arguments: argparse.Namespace) -> tuple[Figures, str]:
    """What was measured before, and at which revisions; of a case in several files the last."""
    lists, revisions = read_figures(arguments.read)
    rows = {(entry["model"], entry["case"]): Row(**entry) for entry in lists["rows"]}
    channels = [Channels(**entry) for entry in lists["channels"]]
    recoveries = [Recovery(**entry) for entry in lists["recoveries"]]
    return Figures(list(rows.values()), channels, recoveries), revisions


def _measured(arguments: argparse.Namespace) -> Figures:
    found = Figures()
    for name in arguments.model or MODELS:
        calibration = "random" if name in RECOVERED else None
        file = Path(arguments.models) / f"{name}.onnx"
        subject = load_subject(file, Path(arguments.data), calibration, TARGET)
        if name in RECOVERED:
            found.recoveries.extend(_recoveries(subject))
            continue
        cases = _wanted(arguments, name)
        if _PRUNED in cases and name in (*TWINS, *TWINS.values()):
            found.channels.append(measure_channels(subject, _PRUNED, show_progress))
            show_line(details(found.channels[-1:], [])[0])
        found.rows.extend(_rows(subject, cases))
    return found


def _rows(subject: Subject, cases: list[Case]) -> Iterator[Row]:
    known: list[Row] = []  # the float model comes first, then the one that is only quantized
    for row in measure(subject, cases, show_progress):
        known.append(row)
        texts = cells(row, known[0], known[1] if len(known) > 1 else None)
        show_line(f"{row.model}, {row.case}: {' '.join(filter(None, texts))}")
        yield row


def _recoveries(subject: Subject) -> Iterator[Recovery]:
    for name in ("prune 0.2, not recovered", _PRUNED.name):
        recovery = measure_recovery(subject, case_named(name), show_progress)
        show_line(details([], [recovery])[0])
        yield recovery


def _wanted(arguments: argparse.Namespace, model: str) -> list[Case]:
    """The cases to measure, always with the one that instructions are compared with."""
    if model in TWINS:
        return [case for case in CASES if case.name in (PLAIN, _PRUNED.name)]
    names = arguments.case or [case.name for case in CASES if case.is_quick or not arguments.quick]
    if arguments.bars and model in BARS:
        names = [name for name in names if name in BARS[model]]
    return [case for case in CASES if case.name in (PLAIN, *names)]


if __name__ == "__main__":
    sys.exit(main())
