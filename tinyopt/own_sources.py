"""Hashes of our own sources: what a compiler gives follows from them, whatever its version says."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parent
_SUFFIXES = (".py", ".j2", ".css", ".js", ".json", ".cmake", ".c", ".ld")


@cache
def sources_digest() -> str:
    """The sha256 of every source and data file of tinyopt, with their names: the same in a checkout and in a wheel."""
    digest = hashlib.sha256()
    for path in _source_files():
        content = (_ROOT / path).read_bytes()
        digest.update(f"{path} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _source_files() -> list[str]:
    """Relative to the package; rooms that are links in a checkout are gone through, too."""
    found: list[str] = []
    for folder, _, names in os.walk(_ROOT, followlinks=True):
        place = Path(folder).relative_to(_ROOT)
        found += [(place / name).as_posix() for name in names if name.endswith(_SUFFIXES)]
    return sorted(found)
