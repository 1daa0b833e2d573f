"""Results kept on disk by the content that they depend on; safe for parallel builds."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

_DEAD_AFTER_SECONDS = 24 * 3600


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
    """Keep `content`, where that is possible; written beside and renamed, so that nobody ever reads half of it."""
    if cache_dir is None:
        return
    path = _path(cache_dir, kind, name)
    work = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(path.parent)
        work.write_bytes(content)
        os.replace(work, path)
    except OSError:  # a cache that is full or read-only makes the next compilation slower, and this one no worse
        with suppress(OSError):
            work.unlink(missing_ok=True)


def _remove_dead(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote."""
    for work in folder.glob(".*-????????"):
        with suppress(OSError):  # another process is at it, too
            if time.time() - work.stat().st_mtime > _DEAD_AFTER_SECONDS:
                work.unlink()


def _path(cache_dir: Path, kind: str, name: str) -> Path:
    return cache_dir / kind / name[:2] / name
