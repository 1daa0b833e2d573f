"""What each case must reach, model by model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tools.compression_table.cases import FLOAT, PLAIN, case_named
from tools.compression_table.rows import Channels, Recovery, Row
from tools.measured.verdict import Verdict

_KILO = 1000


@dataclass(frozen=True)
class Bar:
    """None: no such bar. top1_drop: points below the float model. differing: answers other than the float model's.

    weight_bytes: of all constants. saved: of the share of instructions that was asked for, the share that is saved.
    """

    top1_drop: float | None = None
    differing: int | None = None
    weight_bytes: int | None = None
    saved: float | None = None


BARS: dict[str, dict[str, Bar]] = {
    "kws01": {
        "prune 0.1": Bar(0.4),
        "prune 0.2": Bar(0.5, saved=0.9),
        "prune 0.3": Bar(saved=0.9),
        "prune 0.2, distill": Bar(0.2),
        "prune 0.3, distill": Bar(0.3),
        "cluster 32": Bar(0.3, weight_bytes=19 * _KILO),
        "cluster 16": Bar(1.0, weight_bytes=16 * _KILO),
        "prune 0.2, cluster 32": Bar(0.6, weight_bytes=15_500),
    },
    "ic01": {
        "prune 0.1": Bar(1.5),
        "prune 0.2": Bar(3.5, saved=0.9),
        "prune 0.3": Bar(saved=0.9),
        "prune 0.2, distill": Bar(2.2),
        "prune 0.3, distill": Bar(4.0),
        "cluster 32": Bar(0.6, weight_bytes=52 * _KILO),
        "cluster 16": Bar(2.5, weight_bytes=42 * _KILO),
    },
    "vww01": {
        "prune 0.1": Bar(differing=1),
        "prune 0.2": Bar(differing=2, saved=0.9),
        "prune 0.3": Bar(saved=0.9),
        "cluster 32": Bar(differing=2, weight_bytes=33 * _KILO),
        "cluster 16": Bar(differing=2, weight_bytes=28_500),
    },
}
TWINS = {"kws01_hybrid": "kws01"}  # the same network stored in another way: pruned alike, give or take a lane
RECOVERED = {"mobilenetv2": 5.0}  # the error without recovery over that with it, at least


def saved_share(row: Row, plain: Row | None) -> float | None:
    """Of the share of instructions that the case asks for, the share that is saved.

    None where it asks for none, or for clusters too, which take instructions to look up.
    """
    case = None if row.case == FLOAT else case_named(row.case)
    if (
        case is None
        or not case.prune
        or case.cluster
        or row.instructions is None
        or plain is None
        or plain.instructions is None
    ):
        return None
    return (1 - row.instructions / plain.instructions) / case.prune


def verdicts(rows: Sequence[Row], channels: Sequence[Channels], recoveries: Sequence[Recovery]) -> list[Verdict]:
    """Every figure that has a bar, of the models that were measured."""
    found: list[Verdict] = []
    for model in dict.fromkeys(row.model for row in rows if row.model in BARS):
        by_case = {row.case: row for row in rows if row.model == model}
        for case, bar in BARS[model].items():
            row = by_case.get(case, Row(model, case, 0))
            found += _row_verdicts(row, by_case.get(FLOAT), by_case.get(PLAIN), bar)
    return [*found, *_twin_verdicts(channels), *_recovery_verdicts(recoveries)]


def _row_verdicts(row: Row, exact: Row | None, plain: Row | None, bar: Bar) -> Iterator[Verdict]:
    if bar.top1_drop is not None:
        least = (exact.top1 if exact and exact.top1 is not None else 100.0) - bar.top1_drop
        yield Verdict(row.model, row.case, "top-1 in %", row.top1, least)
    if bar.differing is not None:
        yield Verdict(row.model, row.case, "answers that differ", row.differing, bar.differing, is_limit=True)
    if bar.weight_bytes is not None:
        yield Verdict(row.model, row.case, "bytes of weights", row.weight_bytes, bar.weight_bytes, is_limit=True)
    if bar.saved is not None:
        what = "instructions saved of those asked for"
        yield Verdict(row.model, row.case, what, saved_share(row, plain), bar.saved)


def _twin_verdicts(channels: Sequence[Channels]) -> Iterator[Verdict]:
    known = {(entry.model, entry.case): entry for entry in channels}
    for entry in channels:
        twin = known.get((TWINS.get(entry.model, ""), entry.case))
        if twin is not None:
            what = f"channels of a layer other than {twin.model}'s"
            yield Verdict(entry.model, entry.case, what, _largest_gap(entry, twin), entry.lane, is_limit=True)


def _largest_gap(entry: Channels, twin: Channels) -> int | None:
    """None where they do not have the same layers."""
    if len(entry.after) != len(twin.after):
        return None
    return max((abs(a - b) for a, b in zip(entry.after, twin.after, strict=True)), default=0)


def _recovery_verdicts(recoveries: Sequence[Recovery]) -> Iterator[Verdict]:
    for model, bar in RECOVERED.items():
        errors = {entry.case: entry.error for entry in recoveries if entry.model == model}
        if errors:
            gain = errors["prune 0.2, not recovered"] / errors["prune 0.2"]
            yield Verdict(model, "prune 0.2", "times less output error than without refit", gain, bar)
