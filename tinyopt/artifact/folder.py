"""The output folder: written whole or not at all, and never in the place of something that is not ours."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tinyopt.errors import UsageError


def check_output_folder(output: Path) -> None:
    """Raises UsageError where `output` holds what tinyopt did not write, or is the present folder."""
    if Path.cwd().is_relative_to(output.resolve()):
        raise UsageError(f"{output} holds the present folder, and would be replaced; choose another with --output")
    for parent in output.resolve().parents:
        if parent.exists() and not parent.is_dir():
            raise UsageError(f"{output} cannot be a folder: {parent} is a file; choose another with --output")
    if output.is_dir() and (_is_report(output / "report.json") or not any(output.iterdir())):
        return
    if output.exists():
        raise UsageError(f"{output} exists and is no output folder of tinyopt; choose another with --output")


def _is_report(file: Path) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "tinyopt" in content and "schema_version" in content


@contextmanager
def fresh_folder(output: Path) -> Generator[Path]:
    """A new folder beside `output` that takes its place when all went well, and vanishes when not.

    Raises UsageError where no folder can be made there.
    """
    place = output.resolve()  # a link stays, what it points to is replaced
    missing = [parent for parent in place.parents if not parent.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}; choose another with --output") from error
    try:
        work.chmod(0o755)
        yield work
        _replace(place, work)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        for parent in missing:
            parent.rmdir()
        raise


def _replace(place: Path, work: Path) -> None:
    """Let `work` take the place of the folder that may be at `place`."""
    if not place.exists():
        os.replace(work, place)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{place.name}-old-", dir=place.parent))
    os.replace(place, old / "out")
    os.replace(work, place)
    shutil.rmtree(old)
