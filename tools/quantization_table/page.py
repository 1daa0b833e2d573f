"""The figures as tables for people: on the terminal, and docs/quantization.md."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from tools.quantization_table.bars import verdicts
from tools.quantization_table.rows import Row

COLUMNS = ("SNR dB", "logits dB", "agreement %", "top-1 %", "s")

_HEAD = """# Quantization: what each method brings

Written by `python -m tools.quantization --write`; do not edit. Measured at revision {revision}, on a machine that was
shared (the seconds are no benchmark).

Calibrated on the `calib` samples of each model alone, then measured on all of its test samples, which no method has
seen. A row is a whole run of the passes with some of them left out, or their options changed; all else is as in
`tinyopt compile`. The rows are QDQ graphs run in onnxruntime with every rounding as the graph has it; *default,
compiled* is the library that `tinyopt compile --target host` writes, run on the same samples.

- **SNR dB**: 10 log10(sum p^2 / sum (p - q)^2) over all samples; p: the outputs of the float model (probabilities,
  where it ends in Softmax), q: those of the quantized one. 6 dB are a factor of two in the error.
- **logits dB**: the same for what goes to Softmax. Where Softmax is sure of a class, it hides errors of its input;
  where two classes are close, it magnifies them.
- **agreement %**: samples whose best class is the float model's. **top-1 %**: samples whose best class is the label.
- **s**: of the passes equalize-layers, quantize, round-weights and correct-biases, or of the whole compilation.

How far to trust it: these sets are small. One sample is 0.33 points of kws01, 0.26 of ic01, 1.6 of vww01. Mere luck in
rounding moves kws01 by 1 to 1.7 dB: rows closer together than that are equal, and a method that does better on all
models says more than one that does much better on one. equalize-layers leaves networks alone that gain nothing by it;
its row is then the one above. Models with few rows were measured with `--quick`.

To measure a part of it again: `python -m tools.quantization --models DIR --data DIR --model kws01`; with `--bars` it
measures the default alone, beside what it must reach. `--models examples --data examples --model digits` needs nothing
but this repository.
"""


def tables(rows: Sequence[Row]) -> list[Table]:
    """One for each model."""
    return [_table(model, [row for row in rows if row.model == model]) for model in _models(rows)]


def page(rows: Sequence[Row], revision: str) -> str:
    """docs/quantization.md."""
    models = _models(rows)
    parts = [
        _HEAD.format(revision=revision),
        "## SNR of the outputs in dB, all models\n\n" + _overview(rows, models),
        "## What the default must reach\n\n" + "\n".join(f"- {verdict}" for verdict in verdicts(rows)) + "\n",
        *(f"## {model}\n\n" + _details([row for row in rows if row.model == model]) for model in models),
    ]
    return "\n".join(parts)


def cells(row: Row) -> list[str]:
    """The figures of a row as text, blank where there are none."""
    if row.failure is not None:
        return [f"failed: {row.failure}", "", "", "", ""]
    figures = ((row.snr_db, 2), (row.logits_snr_db, 2), (row.agreement, 2), (row.top1, 2), (row.seconds, 1))
    return ["" if value is None else f"{value:.{digits}f}" for value, digits in figures]


def _models(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))


def _table(model: str, rows: Sequence[Row]) -> Table:
    table = Table(title=f"{model}, {rows[0].samples} samples", box=None, pad_edge=False, title_justify="left")
    table.add_column("method")
    for title in COLUMNS:
        table.add_column(title, justify="right")
    group = None
    for row in rows:
        if row.group != group:
            group = row.group
            table.add_row(f"[bold]{group}[/bold]")
        table.add_row(f"  {row.method}", *cells(row))
    return table


def _overview(rows: Sequence[Row], models: Sequence[str]) -> str:
    found = {(row.group, row.method, row.model): cells(row)[0] for row in rows if row.group != "Float"}
    lines = [f"| | | {' | '.join(models)} |", f"|--|--|{'--:|' * len(models)}"]
    before = None
    for group, method in dict.fromkeys((group, method) for group, method, _ in found):
        figures = " | ".join(found.get((group, method, model), "") for model in models)
        lines.append(f"| {'' if group == before else group} | {method} | {figures} |")
        before = group
    return "\n".join(lines) + "\n"


def _details(rows: Sequence[Row]) -> str:
    lines = [f"{rows[0].samples} samples.\n", f"| | | {' | '.join(COLUMNS)} |", f"|--|--|{'--:|' * len(COLUMNS)}"]
    before = None
    for row in rows:
        group, before = ("" if row.group == before else row.group), row.group
        lines.append(f"| {group} | {row.method} | {' | '.join(cells(row))} |")
    return "\n".join(lines) + "\n"
