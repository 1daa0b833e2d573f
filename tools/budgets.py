"""What `tinyopt compile` says of limits that a model misses by the least there is, and of such as it just keeps.

    python -m tools.budgets --target cortex-m4 examples/digits.onnx,examples/digits.npz:calib,examples/digits.npz:x:y

Each MODEL is a file, or a file with calibration samples, or with labelled samples behind those (file.npz:x:y), too.
For each the command runs without limits, then with --max-flash, --max-ram and --max-cycles one below what it took,
then with all three at what it took. With labelled samples it prunes half of the model, and allows 0.01 points less
than that loses, and then as much (to 0.0001 points). A line for each run: the limit, the exit code, and what the
command said.
Exit code 1: a limit that is too small was kept, or one that is large enough was missed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

MISSED, LOST = 5, 4
_HASTE = ("--calib-samples", "16", "--ranges", "minmax", "--disable-pass", "round-weights")
_HALF = ("--prune", "0.5", "--recover", "none", "--disable-pass", "limit-drop")  # so that something is lost


@dataclass(frozen=True)
class Case:
    """A model with its samples; empty where there are none."""

    model: str
    calibration: str = ""
    labelled: str = ""

    @staticmethod
    def of(text: str) -> Case:
        model, _, samples = text.partition(",")
        calibration, _, labelled = samples.partition(",")
        path, colon, names = labelled.partition(".npz:")
        return Case(model, calibration, path + colon + names.replace(":", ","))


@dataclass(frozen=True)
class Run:
    """exit_code, said: of the command; the last line of its log."""

    exit_code: int
    said: str
    out: Path


class Compiler:
    """Runs the command for one model and target, each time into the same folder."""

    def __init__(self, case: Case, target: str, folder: Path) -> None:
        calibration = ("--calib", case.calibration, *_HASTE) if case.calibration else ()
        self._words = ("compile", case.model, "--target", target, *calibration, "-o", str(folder / "out"))
        self._out = folder / "out"

    def __call__(self, *limits: str) -> Run:
        command = [sys.executable, "-m", "tinyopt.cli", *self._words, *limits]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stderr.strip().splitlines()
        return Run(done.returncode, lines[-1] if done.returncode and lines else "", self._out)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL[,CALIB[,LABELLED]]", type=Case.of)
    parser.add_argument("--target", default="cortex-m4")
    arguments = parser.parse_args()
    print("| model | limit | exit code | message |\n|--|--|--|--|")
    are_right = True
    for case in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            are_right &= _sizes(case, Compiler(case, arguments.target, Path(folder)))
            if case.labelled:
                are_right &= _drop(case, Compiler(case, arguments.target, Path(folder)))
    return 0 if are_right else 1


def _sizes(case: Case, compiler: Compiler) -> bool:
    free = compiler("--max-cycles", "1")
    found = re.search(r"takes ([\d,]+) instructions", free.said)
    if free.exit_code != MISSED or found is None:
        return _row(case, "--max-cycles 1", free, MISSED)
    needed = {"--max-cycles": int(found[1].replace(",", ""))}
    free = compiler()
    if free.exit_code:
        return _row(case, "none", free, 0)
    after = json.loads((free.out / "report.json").read_text(encoding="utf-8"))["after"]
    needed |= {"--max-flash": after["flash_bytes"], "--max-ram": after["arena_bytes"]}
    are_right = True
    for option, size in sorted(needed.items()):
        are_right &= _row(case, f"{option} {size - 1}", compiler(option, str(size - 1)), MISSED)
    limits = [word for option, size in sorted(needed.items()) for word in (option, str(size))]
    return _row(case, " ".join(limits), compiler(*limits), 0) and are_right


def _drop(case: Case, compiler: Compiler) -> bool:
    pruned = (*_HALF, "--eval", case.labelled)
    free = compiler(*pruned)
    if free.exit_code:
        return _row(case, "none", free, 0)
    evaluated = json.loads((free.out / "report.json").read_text(encoding="utf-8"))["evaluation"]
    lost = 100 * (evaluated["float_top1"] - evaluated["compiled_top1"])
    few, enough = f"--max-drop {lost - 0.01:.4f}", f"--max-drop {lost + 0.0001:.4f}"  # not rounded down
    is_right = _row(case, f"{few} (half of it pruned)", compiler(*pruned, *few.split()), LOST)
    return _row(case, f"{enough} (half of it pruned)", compiler(*pruned, *enough.split()), 0) and is_right


def _row(case: Case, limit: str, run: Run, expected: int) -> bool:
    print(f"| {Path(case.model).name} | `{limit}` | {run.exit_code} | {run.said} |", flush=True)
    return run.exit_code == expected


if __name__ == "__main__":
    sys.exit(main())
