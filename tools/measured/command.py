"""What the tools that measure tables have in common on the command line."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def table_arguments(doc: str | None, page: Path, models: Sequence[str]) -> argparse.ArgumentParser:
    """A parser with the options of every table: its folders and models, and where figures go and come from."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("models", "data"):
        parser.add_argument(f"--{name}", type=Path, default=os.environ.get(f"TINYOPT_{name.upper()}"))
    parser.add_argument("--model", action="append", help=f"only these (default: {', '.join(models)})")
    parser.add_argument("--bars", action="store_true", help="what must be reached alone, beside what was")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--from", dest="read", type=Path, action="append", default=[], help="figures of --json")
    parser.add_argument("--write", action="store_true", help=f"write {page.relative_to(ROOT)}")
    return parser


def parsed(parser: argparse.ArgumentParser, words: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; it is an error where there is nothing to measure and nothing to read."""
    arguments = parser.parse_args(words)
    if not arguments.read and not (arguments.models and arguments.data):
        parser.error("--models and --data are needed, or $TINYOPT_MODELS and $TINYOPT_DATA")
    return arguments


def write_figures(file: Path, lists: Mapping[str, Sequence[Any]]) -> None:
    """Records by the name of their list, and the revision that they were measured at."""
    content = {"revision": revision()} | {name: [asdict(entry) for entry in lists[name]] for name in lists}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_figures(files: Sequence[Path]) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """The records of all files, joined, and their revisions."""
    contents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    revisions = dict.fromkeys(content.pop("revision") for content in contents)
    names = dict.fromkeys(name for content in contents for name in content)
    return {name: [entry for content in contents for entry in content.get(name, [])] for name in names}, ", ".join(
        revisions
    )


def revision() -> str:
    """Of this repository, such as v0.1-12-g1234567-dirty."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def show_progress(what: str, done: int, total: int) -> None:
    """One line that is written over, where somebody looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what} {done}/{total}", end="", file=sys.stderr, flush=True)


def show_line(text: str) -> None:
    """A line that stays, in the place of the progress."""
    start = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{start}{text}", file=sys.stderr, flush=True)
