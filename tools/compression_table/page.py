"""The figures as tables for people: on the terminal, and docs/compression.md."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from tools.compression_table.bars import saved_share, verdicts
from tools.compression_table.cases import FLOAT, PLAIN
from tools.compression_table.rows import Channels, Recovery, Row

COLUMNS = (
    "top-1 %",
    "against float",
    "other answers",
    "SNR dB",
    "weights B",
    "MACs",
    "instructions",
    "against int8",
    "of asked",
    "s",
)

_HEAD = """# Compression: what pruning and clustering cost and save

Written by `python -m tools.compression --write`; do not edit. Measured at revision {revision}, on a machine that was
shared (the seconds are no benchmark, and less where the cache knows a part). How to use it:
[compression-guide.md](compression-guide.md).

Calibrated on the `calib` samples of each model alone, without labels, with default options; then measured on all of its
test samples, which nothing was fitted to. Everything below `int8` is the int8 model as it is compiled for a Cortex-M4.

- **top-1 %**: test samples whose best class is the label; **against float**: points above or below the float model.
  **other answers**: samples whose best class is not the float model's. **SNR dB**: 10 log10(sum p^2 / sum (p - q)^2)
  of the outputs, p: the float model's.
- **weights B**: all constants in flash: weights (packed indices and codebooks where they are clustered), biases and
  factors.
- **instructions**: of one inference, counted under QEMU as `tinyopt profile` does; **against int8**: beside the model
  that is only quantized; **of asked**: the share of instructions that was saved over the share that `--prune` asked
  for.

The sets are small. One sample is 0.33 points of kws01, 0.26 of ic01, 1.6 of vww01. Dead channels of vww01 are gone in
every row, before `--prune` takes more.

To measure a part of it again: `python -m tools.compression --models DIR --data DIR --model kws01 --case "prune 0.2"`;
with `--bars` it prints what must be reached. `--models examples --data examples --model digits` needs nothing but this
repository.
"""


def tables(rows: Sequence[Row]) -> list[Table]:
    """One for each model."""
    return [_table(model, [row for row in rows if row.model == model]) for model in _models(rows)]


def details(channels: Sequence[Channels], recoveries: Sequence[Recovery]) -> list[str]:
    """A line for each figure that is in no table."""
    found = [
        f"{entry.model}, {entry.case}: channels {' '.join(map(str, entry.before))} -> {' '.join(map(str, entry.after))}"
        for entry in channels
    ]
    return found + [
        f"{entry.model}, {entry.case}: MACs {entry.macs_before:,} -> {entry.macs:,} "
        f"({_change(entry.macs, entry.macs_before)}), output error {100 * entry.error:.3g} %, {entry.seconds:.0f} s"
        for entry in recoveries
    ]


def page(rows: Sequence[Row], channels: Sequence[Channels], recoveries: Sequence[Recovery], revision: str) -> str:
    """docs/compression.md."""
    found = verdicts(rows, channels, recoveries)
    parts = [
        _HEAD.format(revision=revision),
        "## What must be reached\n\n" + "\n".join(f"- {verdict}" for verdict in found) + "\n",
        *(f"## {model}\n\n" + _markdown([row for row in rows if row.model == model]) for model in _models(rows)),
    ]
    if channels or recoveries:
        lines = "\n".join(f"- {line}" for line in details(channels, recoveries))
        parts.append(f"## Channels, and float models before quantization\n\n{lines}\n")
    return "\n".join(parts)


def cells(row: Row, exact: Row | None, plain: Row | None) -> list[str]:
    """The figures of a row as text, blank where there are none."""
    if row.failure is not None:
        return [f"failed: {row.failure}", *[""] * (len(COLUMNS) - 1)]
    is_compared = row.case not in (FLOAT, PLAIN)
    share = saved_share(row, plain)
    return [
        _number(row.top1, 2),
        "" if row.case == FLOAT else _points(row.top1, exact.top1 if exact else None),
        _number(row.differing if row.case != FLOAT else None, 0),
        _number(row.snr_db, 1),
        _number(row.weight_bytes, 0),
        _number(row.macs, 0),
        _number(row.instructions, 0),
        _change(row.instructions, plain.instructions) if is_compared and plain else "",
        _number(share, 2),
        _number(row.seconds, 0),
    ]


def _number(figure: float | None, digits: int) -> str:
    return "" if figure is None else f"{figure:,.{digits}f}"


def _points(found: float | None, wanted: float | None) -> str:
    return "" if found is None or wanted is None else f"{found - wanted:+.2f}"


def _change(found: int | None, before: int | None) -> str:
    return "" if found is None or not before else f"{100 * (found / before - 1):+.1f} %"


def _models(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))


def _lines(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    by_case = {row.case: row for row in rows}
    return [(row.case, cells(row, by_case.get(FLOAT), by_case.get(PLAIN))) for row in rows]


def _table(model: str, rows: Sequence[Row]) -> Table:
    table = Table(title=f"{model}, {rows[0].samples} samples", box=None, pad_edge=False, title_justify="left")
    table.add_column("case", no_wrap=True)
    for title in COLUMNS:
        table.add_column(title, justify="right")
    for case, texts in _lines(rows):
        table.add_row(case, *texts)
    return table


def _markdown(rows: Sequence[Row]) -> str:
    lines = [f"{rows[0].samples} samples.\n", f"| | {' | '.join(COLUMNS)} |", f"|--|{'--:|' * len(COLUMNS)}"]
    lines += [f"| {case} | {' | '.join(texts)} |" for case, texts in _lines(rows)]
    return "\n".join(lines) + "\n"
