"""Outcomes as text: a table by category, and the refusals by reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tools.backend_tests.cases import CATEGORIES, BackendCase
from tools.backend_tests.running import Outcome

KINDS = ("pass", "bound", "folded", "refused", "wrong", "crash", "hang")

PASSED = KINDS[:3]


def table(cases: Sequence[BackendCase], outcomes: Sequence[Outcome]) -> str:
    """Markdown; what counts is in the first rows, by category, and what does not in the last one."""
    lines = [f"| category | cases | {' | '.join(KINDS)} | passed |", f"|---|{'--:|' * (len(KINDS) + 2)}"]
    for category in (*CATEGORIES, None):
        kinds = Counter(
            outcome.kind for case, outcome in zip(cases, outcomes, strict=True) if case.category == category
        )
        count = kinds.total()
        share = f"{100 * sum(kinds[kind] for kind in PASSED) / count:.1f} %" if count else "-"
        numbers = " | ".join(str(kinds[kind]) for kind in KINDS)
        lines.append(f"| {category or 'not counted'} | {count} | {numbers} | {share} |")
    return "\n".join(lines)


def refusals(cases: Sequence[BackendCase], outcomes: Sequence[Outcome]) -> str:
    """The reasons for which cases that count are refused, the most frequent first."""
    reasons: dict[str, list[str]] = {}
    for case, outcome in zip(cases, outcomes, strict=True):
        if case.category is not None and outcome.kind == "refused":
            reasons.setdefault(f"{case.category}: {generalized(outcome.reason)}", []).append(outcome.name)
    ordered = sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
    return "\n".join(f"{len(names):4} {reason}  ({names[0]})" for reason, names in ordered)


def generalized(reason: str) -> str:
    """A reason without the names of one model."""
    return re.sub(r"'[^']*'", "'_'", re.sub(r" \(node '[^']*'\)", "", reason))[:160].rstrip()
