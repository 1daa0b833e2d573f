"""The layers as a table for spreadsheets: report.csv, one line for each layer (RFC 4180, UTF-8 with a mark)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any

ENCODING = "utf-8-sig"  # without the mark some spreadsheets take UTF-8 for the local code page

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

_COLUMNS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "index": lambda layer: layer["index"],
    "name": lambda layer: layer["name"],
    "operator": lambda layer: layer["op"],
    "kernel": lambda layer: layer["kernel"],
    "origins": lambda layer: "; ".join(layer["origins"]),
    "dtype": lambda layer: layer["dtype"],
    "shape": lambda layer: "x".join(map(str, layer["shape"])),
    "macs": lambda layer: layer["macs"],
    "weight_bytes": lambda layer: layer["weight_bytes"],
    "clusters": lambda layer: layer["clusters"] and layer["clusters"]["count"],
    "bytes_saved_by_clusters": lambda layer: layer["clusters"] and layer["clusters"]["saved_bytes"],
    "arena_offset": lambda layer: layer["offset"],
    "output_bytes": lambda layer: layer["bytes"],
    "estimated_instructions": lambda layer: layer["estimated_instructions"],
    "source_operators": lambda layer: "; ".join(layer["source"]["operators"]),
    "source_macs": lambda layer: layer["source"]["macs"],
    "source_weight_bytes": lambda layer: layer["source"]["weight_bytes"],
    "snr_db": lambda layer: layer.get("error", {}).get("snr_db"),
    "max_error_steps": lambda layer: layer.get("error", {}).get("max_error_steps"),
    "refused_kernels": lambda layer: "; ".join(layer["refusals"]),
}


def layers_csv(report: dict[str, Any]) -> str:
    """The text of report.csv, to be written in `ENCODING` with its line ends as they are."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    for layer in report["layers"]:
        writer.writerow([_cell(column(layer)) for column in _COLUMNS.values()])
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """A name from a model must not become a formula: an apostrophe in front makes it text in every spreadsheet.

    >>> _cell("=HYPERLINK(1)"), _cell("conv"), _cell(-1), _cell(None)
    ("'=HYPERLINK(1)", 'conv', -1, '')
    """
    if value is None:
        return ""
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return f"'{value}"
    return value
