"""The committed list of cases that are refused, each with the reason: tests/backend_expected.toml.

    [[refused]]
    reason = "MaxPool: it is 3-D; tinyopt takes 1-D and 2-D"
    tests = ["test_maxpool_3d_default", ...]

A wrong answer, a crash or a hang is never expected. Only cases that count stand in the list.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.backend_tests.cases import BackendCase
from tools.backend_tests.running import Outcome
from tools.backend_tests.table import generalized

EXPECTED = Path(__file__).resolve().parents[2] / "tests" / "backend_expected.toml"


def expected_refusals(path: Path = EXPECTED) -> dict[str, str]:
    """The reason for each test that is expected to be refused."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return {test: entry["reason"] for entry in content["refused"] for test in entry["tests"]}


def surprises(cases: Sequence[BackendCase], outcomes: Sequence[Outcome], expected: dict[str, str]) -> list[str]:
    """What differs from the list, a line each: also what passes and should not, or is refused for another reason."""
    lines: list[str] = []
    for case, outcome in zip(cases, outcomes, strict=True):
        if outcome.kind in ("wrong", "crash", "hang"):
            lines.append(f"{case.name}: {outcome.kind}: {outcome.reason}")
        elif case.category is None:
            continue
        elif outcome.kind != "refused" and case.name in expected:
            lines.append(f"{case.name} passes: take it from the list")
        elif outcome.kind == "refused" and case.name not in expected:
            lines.append(f"{case.name} is refused: {outcome.reason}")
        elif outcome.kind == "refused" and expected[case.name] != generalized(outcome.reason):
            lines.append(f"{case.name} is refused: {outcome.reason}; the list says: {expected[case.name]}")
    return lines


def as_toml(cases: Sequence[BackendCase], outcomes: Mapping[str, Outcome]) -> str:
    """The list as it should be, from the outcomes of all refused cases by name."""
    tests: dict[str, list[str]] = {}
    for case in cases:
        outcome = outcomes.get(case.name)
        if case.category is not None and outcome is not None and outcome.kind == "refused":
            tests.setdefault(generalized(outcome.reason), []).append(case.name)
    entries = [
        f"[[refused]]\nreason = {_quoted(reason)}\ntests = [\n"
        + "".join(f"    {_quoted(name)},\n" for name in names)
        + "]\n"
        for reason, names in sorted(tests.items())
    ]
    head = "# The backend tests of the onnx package that tinyopt refuses, by reason; see tools/backend_tests.\n"
    return head + "# Written by: python -m tools.backend_tests --update\n\n" + "\n".join(entries)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
