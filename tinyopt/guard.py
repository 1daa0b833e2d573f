"""Limits for one run of the command: how the process that does the work tells the one that watches it what it does.

The command runs in a process of its own, which `tinyopt.entry` starts and watches. Where there is none, as in programs
that use tinyopt as a library, everything here does nothing: limits of a process are no library's to set.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tinyopt.errors import InvalidModelError

READING_CPU_SECONDS = 8  # for a small file; the whole command has to stay below 10 for a broken one
READING_BYTES_PER_SECOND = 2_000_000
READING_FREE_BYTES = 32 * 2**20  # of a file: more time and memory only for what is beyond
READING_MEMORY_BYTES = 3 * 2**29  # 1.5 GiB of data for a small file
READING_MEMORY_PER_BYTE = 8
UNFINISHED = "unfinished"  # the folder or file that is being written, and the folders made for it
DOING = "doing"  # what takes time just now

_folder: Path | None = None


def begin(folder: Path) -> None:
    """From here on, say in files of `folder` what this process does."""
    global _folder  # noqa: PLW0603 - there is one such process, and it is this one
    _folder = folder


def note_unfinished(work: Path, parents: Sequence[Path]) -> None:
    """`work`, a folder or file, is about to be written: who outlives us removes it, and `parents` that are empty."""
    if _folder is not None:
        names = b"\0".join(os.fsencode(path) for path in (work, *parents))
        (_folder / UNFINISHED).write_bytes(names)


def remove_unfinished(folder: Path) -> None:
    """Remove what the process that began with `folder` left unfinished: nothing, where it ended well."""
    try:
        work, *parents = (Path(os.fsdecode(name)) for name in (folder / UNFINISHED).read_bytes().split(b"\0"))
    except OSError:
        return
    shutil.rmtree(work, ignore_errors=True)
    with suppress(OSError):  # it is a file
        work.unlink(missing_ok=True)
    for parent in parents:
        with suppress(OSError):  # not empty
            parent.rmdir()


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Less time and memory while the file `path` is read, which may come from anywhere."""
    if _folder is None:
        yield
        return
    import resource  # which other systems do not have; there nothing begins

    size = max(_size(path) - READING_FREE_BYTES, 0)
    seconds = READING_CPU_SECONDS + size // READING_BYTES_PER_SECOND
    memory = READING_MEMORY_BYTES + READING_MEMORY_PER_BYTE * size
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    before = [_lowered(resource.RLIMIT_CPU, int(used) + seconds), _lowered(resource.RLIMIT_DATA, memory)]
    (_folder / DOING).write_text(f"reading {path} ({seconds} s of CPU time, {memory >> 20:,} MiB)", encoding="utf-8")
    try:
        yield
    except MemoryError as error:
        raise InvalidModelError(
            f"{path} takes more than {memory >> 20:,} MiB of memory to read: it is broken or too large"
        ) from error
    finally:
        for kind, limits in zip((resource.RLIMIT_CPU, resource.RLIMIT_DATA), before, strict=True):
            resource.setrlimit(kind, limits)
        (_folder / DOING).unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # whoever opens it says why
        return 0


def _lowered(kind: int, wanted: int) -> tuple[int, int]:
    """Set the soft limit to `wanted`, unless it is lower already; returns what it was."""
    import resource

    soft, hard = resource.getrlimit(kind)
    known = [limit for limit in (soft, hard, wanted) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(kind, (min(known), hard))
    return soft, hard
