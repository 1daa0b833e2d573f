"""What the default must reach, model by model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.measured.verdict import Verdict
from tools.quantization_table.measuring import COMPILED
from tools.quantization_table.methods import DEFAULT
from tools.quantization_table.rows import Row


@dataclass(frozen=True)
class Bar:
    """The least signal to noise in decibels, and percentages; one sample is 100 / samples percent.

    agreement: None where all samples but one shall agree. top1_drop: None where one sample may be lost.
    """

    snr_db: float
    agreement: float | None = None
    top1_drop: float | None = None
    has_classes: bool = True


BARS = {
    "kws01": Bar(32.0, 99.6),
    "kws01_hybrid": Bar(32.0, 99.6),
    "ic01": Bar(26.5, 98.9, 0.3),
    "vww01": Bar(33.5),
    "ad01": Bar(43.5, has_classes=False),
}


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """The default, as a graph and compiled, beside the bars of each model that has some."""
    floats = {row.model: row for row in rows if row.method == "float"}
    return [
        verdict
        for row in rows
        if row.method in (DEFAULT, COMPILED) and row.model in BARS
        for verdict in _verdicts(row, floats[row.model], BARS[row.model])
    ]


def _verdicts(row: Row, exact: Row, bar: Bar) -> list[Verdict]:
    found = [Verdict(row.model, row.method, "SNR in dB", row.snr_db, bar.snr_db)]
    if bar.has_classes:
        sample = 100 / row.samples
        agreement = 100 - sample if bar.agreement is None else bar.agreement
        drop = sample if bar.top1_drop is None else bar.top1_drop
        least = (exact.top1 or 0.0) - drop
        found.append(Verdict(row.model, row.method, "agreement in %", row.agreement, agreement))
        found.append(Verdict(row.model, row.method, "top-1 in %", row.top1, least))
    return found
