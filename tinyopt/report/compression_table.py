"""What pruning took and what recovery gave back, on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tinyopt.report.plain import printable, shortened, signed_percent
from tinyopt.report.quantization_table import decibels

_NAME_WIDTH = 40


def compression_tables(section: dict[str, Any]) -> list[RenderableType]:
    """The layers with what they keep, then the outputs after each pass."""
    return [_layers(section), Text(), _ladder(section), Text()] if section["ladder"] else [_layers(section), Text()]


def _layers(section: dict[str, Any]) -> Table:
    """A group's layers lose the same channels."""
    columns = ("group", "layer", "channels", "", "MACs", "", "instructions ≈", "", "parameters", "")
    table = _table("Pruned channels", columns)
    for layer in section["layers"]:
        name = Text(shortened(printable(layer["name"]), _NAME_WIDTH))
        figures = [text for key in ("macs", "instructions", "parameters") for text in _change(layer[key])]
        table.add_row(", ".join(map(str, layer["groups"])), name, *_channels(layer["channels"]), *figures)
    totals = [text for key in ("macs", "instructions") for text in _change(section[key])]
    table.add_row("", "whole model", "", "", *totals, style="bold")
    return table


def _channels(pair: dict[str, int]) -> tuple[str, str]:
    before, after = pair["before"], pair["after"]
    return f"{after} of {before}", "removed" if not after else signed_percent(before, after)


def _change(pair: dict[str, float]) -> tuple[str, str]:
    return f"{pair['after']:,}", signed_percent(pair["before"], pair["after"])


def _ladder(section: dict[str, Any]) -> Table:
    samples = section["samples"]
    table = _table(
        f"Outputs after each compression, beside those before pruning ({samples} calibration samples)",
        ("pass", "SNR dB", "other answers"),
    )
    table.min_width = len(str(table.title))
    for rung in section["ladder"]:
        differing = "" if rung["differing"] is None else f"{rung['differing']} of {samples}"
        table.add_row(rung["pass"], decibels(rung["snr_db"]), differing)
    return table


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        is_text = column in ("layer", "pass")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    return table
