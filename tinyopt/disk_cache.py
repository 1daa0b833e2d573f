"""Results kept on disk by the content that they depend on; safe for parallel builds."""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# all kinds that are kept; folders of other names are not ours and never looked at
_KINDS = {
    "kernels": "compiled kernels",
    "passes": "what costly passes made of graphs",
    "observations": "ranges that were observed on calibration samples",
    "code-sizes": "bytes of compiled code",
    "plugins": "the instruction counter for QEMU",
}
_KEPT_WHEN_CLEARED = "plugins"  # loaded by path from another process, which may be about to
_DEAD_AFTER_SECONDS = 24 * 3600  # what is not renamed for so long was left by a process that was killed


@dataclass(frozen=True)
class CacheKind:
    """The entries of one kind, and their bytes together."""

    name: str
    what: str
    entries: int
    bytes: int


def default_cache_dir() -> Path:
    """$TINYOPT_CACHE_DIR, else tinyopt in the user's cache folder."""
    if configured := os.environ.get("TINYOPT_CACHE_DIR"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyopt"


def read_cached(cache_dir: Path | None, kind: str, name: str) -> bytes | None:
    """What was kept under `kind` as `name`; None where nothing was, or where there is no cache."""
    if cache_dir is None:
        return None
    path = _path(cache_dir, kind, name)
    try:
        return path.read_bytes()
    except OSError:
        return None


def write_cached(cache_dir: Path | None, kind: str, name: str, content: bytes) -> None:
    """Keep `content`, where that is possible; written beside and named, so that nobody ever reads half of it."""
    if cache_dir is None:
        return
    path = _path(cache_dir, kind, name)
    work = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(path.parent)
        work.write_bytes(content)
        _place(work, path)
    except OSError:  # a cache that is full or read-only makes the next compilation slower, and this one no worse
        with suppress(OSError):
            work.unlink(missing_ok=True)


def _place(work: Path, path: Path) -> None:
    """Give the file `work` the name `path`. What a parallel compilation placed there stays, unless it is damaged."""
    try:
        os.link(work, path)
    except FileExistsError:
        if work.read_bytes() != path.read_bytes():
            os.replace(work, path)
    except OSError:  # a file system without links
        os.replace(work, path)
    work.unlink(missing_ok=True)


def _remove_dead(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote."""
    for work in folder.glob(".*-????????"):
        with suppress(OSError):  # another process is at it, too
            if time.time() - work.stat().st_mtime > _DEAD_AFTER_SECONDS:
                work.unlink()


def _path(cache_dir: Path, kind: str, name: str) -> Path:
    return cache_dir / kind / name[:2] / name


def cache_kinds(cache_dir: Path) -> list[CacheKind]:
    """What the cache holds, by kind; nothing of any where there is no cache."""
    found: list[CacheKind] = []
    for name, what in _KINDS.items():
        sizes = [status.st_size for path in _entries(cache_dir, name) if (status := _status(path))]
        found.append(CacheKind(name, what, len(sizes), sum(sizes)))
    return found


def clear_cache(cache_dir: Path, older_than_seconds: float | None = None) -> tuple[int, int]:
    """Remove all entries, or those that were written longer ago; how many they were, and their bytes.

    Others may read and write meanwhile: they find an entry whole or not at all, and what they are writing stays.
    """
    now = time.time()
    entries = size = 0
    for kind in _KINDS:
        if kind == _KEPT_WHEN_CLEARED:
            continue
        for path in _entries(cache_dir, kind, with_unfinished=True):
            status = _status(path)
            if status is None:
                continue
            least = _DEAD_AFTER_SECONDS if path.name.startswith(".") else older_than_seconds
            if least is not None and now - status.st_mtime <= least:
                continue
            try:
                path.unlink()
            except FileNotFoundError:  # somebody else clears, too
                continue
            entries, size = entries + 1, size + status.st_size
    return entries, size


def _entries(cache_dir: Path, kind: str, with_unfinished: bool = False) -> Iterator[Path]:
    """The files of a kind, as `write_cached` places them; those that are being written only where asked for."""
    pattern = "*.so" if kind == _KEPT_WHEN_CLEARED else "??/*"
    for path in sorted((cache_dir / kind).glob(pattern)):
        is_placed = path.parent.name == kind or path.name.lstrip(".").startswith(path.parent.name)
        if is_placed and (with_unfinished or not path.name.startswith(".")):
            yield path


def _status(path: Path) -> os.stat_result | None:
    """Of a regular file that is still there."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None
