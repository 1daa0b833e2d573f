"""The report on a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 120


def plain_text(report: dict[str, Any]) -> str:
    """The report without colours, for report.txt."""
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=PLAIN_WIDTH,
        markup=False,
        emoji=False,
        color_system=None,
        force_terminal=False,
        legacy_windows=False,
    )
    console.print(renderable(report))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def renderable(report: dict[str, Any]) -> RenderableType:
    """Model, passes, layers and totals, in that order: the totals stand last, where the eye is."""
    parts: list[RenderableType] = [_heading(report), *_notes(report), _passes(report), _layers(report), _totals(report)]
    if "evaluation" in report:
        parts.append(_evaluation(report["evaluation"]))
    return Group(*parts)


def remarks(report: dict[str, Any]) -> str:
    """Every remark of every pass, one a line."""
    return "\n".join(
        f"{step['name']}: {remark['kind']}: {_safe(remark['message'])}"
        for step in report["passes"]
        for remark in step["remarks"]
    )


def _heading(report: dict[str, Any]) -> Text:
    model, target = report["model"], report["target"]
    return Text(f"{_safe(model['file'])} for {target['name']}: {target['description']}", style="bold")


def _notes(report: dict[str, Any]) -> Iterable[Text]:
    return (Text(f"note: {_safe(note)}") for note in report["model"]["notes"])


def _passes(report: dict[str, Any]) -> Table:
    table = _table("Passes", ("pass", "nodes", "MACs", "weights B", "drift", "SNR dB", "remarks"))
    before = report["before"]
    for step in report["passes"]:
        after, drift = step["after"], step["drift"]
        table.add_row(
            Text(step["name"], style="" if step["is_changed"] else "dim"),
            _change(before["nodes"], after["nodes"]),
            _change(before["macs"], after["macs"]),
            _change(before["weight_bytes"], after["weight_bytes"]),
            f"{drift['max_abs']:.2g}" if drift else "",
            _decibels(drift),
            _remark_summary(step["remarks"]),
        )
        before = after
    return table


def _decibels(drift: dict[str, Any] | None) -> str:
    if drift is None:
        return ""
    ratio = drift["snr_db"]
    return "exact" if ratio is None or ratio == float("inf") else f"{ratio:.1f}"


def _remark_summary(remarks: list[dict[str, Any]]) -> Text:
    """The first two remarks, and how many more there are."""
    shown = "; ".join(_safe(remark["message"]) for remark in remarks[:2])
    more = f"; {len(remarks) - 2} more" if len(remarks) > 2 else ""
    return Text(shown + more)


def _layers(report: dict[str, Any]) -> Table:
    table = _table("Layers", ("#", "operator", "kernel", "output", "MACs", "weights B", "arena at", "from"))
    for layer in report["layers"]:
        table.add_row(
            str(layer["index"]),
            layer["op"],
            layer["kernel"],
            f"{layer['dtype']} {'x'.join(map(str, layer['shape']))}",
            f"{layer['macs']:,}",
            f"{layer['weight_bytes']:,}",
            str(layer["offset"]),
            Text(_safe(_shortened(", ".join(layer["origins"]), 40))),
        )
    return table


def _totals(report: dict[str, Any]) -> Table:
    before, after = report["before"], report["after"]
    table = _table("Totals", ("", "before", "after", "change"))
    for label, key in (("MACs", "macs"), ("parameters", "parameters"), ("weight bytes", "weight_bytes")):
        table.add_row(label, f"{before[key]:,}", f"{after[key]:,}", _percent(before[key], after[key]))
    table.add_row("arena bytes", "", f"{after['arena_bytes']:,}", f"lower bound {after['arena_lower_bound_bytes']:,}")
    table.add_row("flash: constants", "", f"{after['flash_constant_bytes']:,}", "")
    code = after["flash_code_bytes"]
    table.add_row("flash: code", "", "not measured: no compiler" if code is None else f"{code:,}", "")
    if after["flash_bytes"] is not None:
        table.add_row("flash: all", "", f"{after['flash_bytes']:,}", "")
    return table


def _evaluation(evaluation: dict[str, Any]) -> Text:
    return Text(
        f"top-1 on {evaluation['samples']} samples: {100 * evaluation['float_top1']:.2f} % as it came, "
        f"{100 * evaluation['compiled_top1']:.2f} % compiled ({evaluation['source']}); "
        f"agreement {100 * evaluation['agreement']:.2f} %",
        style="bold",
    )


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    numeric = {"nodes", "MACs", "weights B", "drift", "SNR dB", "#", "arena at", "before", "after"}
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", no_wrap=column in numeric)
    return table


def _change(before: int, after: int) -> str:
    return f"{after:,}" if before == after else f"{after:,} ({after - before:+,})"


def _percent(before: int, after: int) -> str:
    return f"{100 * (after - before) / before:+.1f} %" if before else ""


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else "…" + text[-length + 1 :]


def _safe(text: str) -> str:
    """Names from a model must not steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
