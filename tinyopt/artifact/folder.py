"""The output folder: written whole or not at all, and never in the place of something that is not ours."""

from __future__ import annotations

import ctypes
import errno
import filecmp
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from tinyopt import guard
from tinyopt.errors import UsageError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DEAD_AFTER_SECONDS = 24 * 3600  # a compilation that has written nothing for so long has ended
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_DUMPED = re.compile(r"\d+-[a-z0-9_.-]+\.(onnx|txt)")


def check_output_folder(output: Path) -> None:
    """Raises UsageError where `output` holds what tinyopt did not write, or is the present folder."""
    _check_place(output, _is_report(output / "report.json"), "output folder", "--output")


def check_dump_folder(folder: Path) -> None:
    """`check_output_folder` for the folder of --dump-passes, which holds a text and a model for each pass."""
    is_ours = folder.is_dir() and all(_DUMPED.fullmatch(entry.name) for entry in folder.iterdir())
    _check_place(folder, is_ours, "folder of passes", "--dump-passes")


def _check_place(output: Path, is_ours: bool, kind: str, option: str) -> None:
    if Path.cwd().is_relative_to(output.resolve()):
        raise UsageError(f"{output} holds the present folder, and would be replaced; choose another with {option}")
    for parent in output.resolve().parents:
        if parent.exists() and not parent.is_dir():
            raise UsageError(f"{output} cannot be a folder: {parent} is a file; choose another with {option}")
    if output.is_dir() and (is_ours or not any(output.iterdir())):
        return
    if output.exists():
        raise UsageError(f"{output} exists and is no {kind} of tinyopt; choose another with {option}")


def _is_report(file: Path) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "tinyopt" in content and "schema_version" in content


@contextmanager
def fresh_folder(output: Path) -> Generator[Path]:
    """A new folder beside `output` that takes its place when all went well, and vanishes when not.

    It takes the place in one step: whoever looks sees what was there before or all that is new. Files whose bytes are
    as before keep their time of modification, so that builds do nothing again because of them.
    Raises UsageError where no folder can be made there, and where the disk is full.
    """
    place = output.resolve()  # a link stays, what it points to is replaced
    missing = [parent for parent in place.parents if not parent.exists()]
    work = place.parent / f".{place.name}-{secrets.token_hex(4)}"
    try:
        guard.note_unfinished(work, missing)
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(place)
        work.mkdir(mode=0o755)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}; choose another place") from error
    try:
        yield work
        _keep_times(place, work)
        _replace(place, work)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        for parent in missing:
            parent.rmdir()
        if isinstance(error, OSError) and error.errno in FULL:
            raise UsageError(f"{output} cannot be written: {error.strerror}; make room or choose another") from error
        raise


def _remove_dead(place: Path) -> None:
    """Remove what compilations into the same place left that were killed together with the process watching them."""
    for folder in place.parent.glob(f".{place.name}-????????"):
        if not folder.is_symlink() and time.time() - _last_change(folder) > _DEAD_AFTER_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _last_change(folder: Path) -> float:
    try:
        return max(entry.stat(follow_symlinks=False).st_mtime for entry in (folder, *folder.rglob("*")))
    except OSError:  # somebody else is at it
        return time.time()


def _keep_times(place: Path, work: Path) -> None:
    """Give the files of `work` that are equal to those at `place` the times of these."""
    for new in work.rglob("*"):
        old = place / new.relative_to(work)
        with suppress(OSError):  # what cannot be read counts as another file
            if new.is_file() and old.is_file() and filecmp.cmp(old, new, shallow=False):
                status = old.stat()
                os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))


def _replace(place: Path, work: Path) -> None:
    """Let `work` take the place of the folder that may be at `place`."""
    if not place.exists():
        os.replace(work, place)
        return
    if _exchange(work, place):
        shutil.rmtree(work)
        return
    old = place.parent / f".{place.name}-{secrets.token_hex(4)}"
    os.replace(place, old)
    os.replace(work, place)
    shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
