"""Compile the onnx package's backend tests for this machine, run them, and print what passes and what is refused.

python -m tools.backend_tests                       a table by category, then the refusals by reason
python -m tools.backend_tests --match 'reduce_.*'   only tests whose names match, each with its outcome
python -m tools.backend_tests --sample 250          so many of those that count, always the same ones
Exit code 1: something is wrong, crashes, hangs, or is not refused as tests/backend_expected.toml says.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

from tinyopt.disk_cache import default_cache_dir
from tools.backend_tests.cases import BackendCase, load_cases
from tools.backend_tests.expectations import EXPECTED, as_toml, expected_refusals, surprises
from tools.backend_tests.running import Outcome
from tools.backend_tests.suite import prepare_cases, run_cases
from tools.backend_tests.table import refusals, table


def main() -> int:
    """0 where all is as expected, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.backend_tests", description=__doc__)
    parser.add_argument("--match", help="a regular expression that the names of the tests to run match")
    parser.add_argument("--sample", type=int, help="how many, drawn from those that count")
    parser.add_argument("--cache", type=Path, help="where compiled kernels are kept (default: tinyopt's own cache)")
    parser.add_argument("--update", action="store_true", help="write the list of the cases that are refused")
    options = parser.parse_args()
    started = time.monotonic()
    if options.update:
        return _update()
    cases = [case for case in load_cases() if options.match is None or re.search(options.match, case.name)]
    if options.sample is not None:
        cases = random.Random(8).sample([case for case in cases if case.category is not None], options.sample)
    outcomes = run_cases(cases, options.cache or default_cache_dir(), lambda text: print(text, file=sys.stderr))
    if options.match is not None:
        print("\n".join(_line(case, outcome) for case, outcome in zip(cases, outcomes, strict=True)))
    print(table(cases, outcomes))
    print(refusals(cases, outcomes))
    surprising = surprises(cases, outcomes, expected_refusals())
    print("\n".join(surprising))
    print(f"{Counter(outcome.kind for outcome in outcomes)} in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 1 if surprising else 0


def _update() -> int:
    """Cases are imported and planned, which is where they are refused, but not compiled."""
    cases = load_cases()
    _, outcomes = prepare_cases(cases)
    EXPECTED.write_text(as_toml(cases, outcomes), encoding="utf-8")
    lost = [outcome for outcome in outcomes.values() if outcome.kind != "refused"]
    print("\n".join(f"{outcome.kind}: {outcome.name}: {outcome.reason}" for outcome in lost))
    return 1 if lost else 0


def _line(case: BackendCase, outcome: Outcome) -> str:
    return f"{outcome.kind:8} {case.category or '-':12} {case.name}  {outcome.reason}"


if __name__ == "__main__":
    sys.exit(main())
