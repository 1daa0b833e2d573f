"""What quantization broke, on a terminal: the layers in the order to look at."""

from __future__ import annotations

import math
from typing import Any

from rich.table import Table
from rich.text import Text

from tinyopt.report.plain import printable, shortened

_NAME_WIDTH = 28
_BAD_DB, _POOR_DB = 20.0, 35.0
_COLUMNS = ("#", "layer", "alone", "accumulated", "channels", "at outputs", "saturated", "range", "worst", "what to do")


def quantization_table(section: dict[str, Any], top: int | None = None) -> Table:
    """One line for each suspect, or for the first `top`; a title that says what was measured."""
    layers = {layer["name"]: layer for layer in section["layers"]}
    names = section["suspects"][:top]
    left_out = len(section["suspects"]) - len(names)
    table = Table(
        title=f"What quantization broke, signal to noise in dB: {decibels(section['snr_db'])} at the outputs, "
        f"over {section['samples']} samples",
        caption=f"and {left_out} more; `tinyopt debug-quant` lists all" if left_out else None,
        caption_justify="left",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    is_measured = any(layer["is_measured_at_outputs"] for layer in layers.values())
    columns = [column for column in _COLUMNS if is_measured or column != "at outputs"]
    for column in columns:
        is_text = column in ("layer", "what to do")
        table.add_column(
            column, justify="left" if is_text else "right", no_wrap=column != "what to do", overflow="fold"
        )
    for number, name in enumerate(names, start=1):
        cells = _cells(number, layers[name])
        table.add_row(*(cells[column] for column in columns))
    return table


def decibels(ratio: float | None) -> str:
    """A ratio as text; infinities, which JSON has as null, are exact."""
    if ratio is None or ratio == math.inf:
        return "exact"
    return "no signal" if ratio == -math.inf else f"{ratio:.1f}"


def _cells(number: int, layer: dict[str, Any]) -> dict[str, Text]:
    name = shortened(printable(layer["name"]), _NAME_WIDTH)
    worst = layer["worst_channels"][:1]
    cost = layer["snr_model_db"] if layer["is_measured_at_outputs"] else None
    return {
        "#": Text(str(number)),
        "layer": Text.assemble(f"{layer['op']} {name}", (_type_text(layer), "dim")),
        "alone": Text(decibels(layer["snr_alone_db"])),
        "accumulated": Text(decibels(layer["snr_accumulated_db"])),
        "channels": Text(decibels(layer["snr_channels_db"]), _colour(layer["snr_channels_db"])),
        "at outputs": Text(decibels(cost) if layer["is_measured_at_outputs"] else "", _colour(cost)),
        "saturated": Text("" if not layer["saturated"] else f"{100 * layer['saturated']:.3f} %"),
        "range": Text(f"{100 * layer['range_used']:.0f} %" if layer["output"] != "float32" else ""),
        "worst": Text(f"{worst[0]['index']}: {decibels(worst[0]['snr_db'])}" if worst else ""),
        "what to do": Text(layer["advice"]),
    }


def _type_text(layer: dict[str, Any]) -> str:
    return "" if layer["output"] == "int8" else f" {layer['output']}"


def _colour(ratio: float | None) -> str:
    if ratio is None or ratio >= _POOR_DB:
        return ""
    return "red" if ratio < _BAD_DB else "yellow"
