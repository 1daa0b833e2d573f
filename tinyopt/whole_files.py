"""Files that are there whole or not at all, whoever is killed and whatever is full."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from tinyopt import guard
from tinyopt.errors import UsageError


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """A name beside `path` to write to: it takes the place of `path` when all went well, and vanishes when not.

    A link stays, what it points to is replaced. Pipes and devices are given as they are. Raises UsageError that names
    `path` where it cannot be written.
    """
    place = path.resolve()
    if place.exists() and not place.is_file():
        yield path
        return
    work = place.parent / f".{place.name}-{secrets.token_hex(4)}"
    guard.note_unfinished(work, ())
    try:
        yield work
        os.replace(work, place)
    except BaseException as error:
        with suppress(OSError):
            work.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
        raise
