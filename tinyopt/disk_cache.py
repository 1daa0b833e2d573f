"""Results kept on disk by the content that they depend on; safe for parallel builds."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


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
    return path.read_bytes() if path.is_file() else None


def write_cached(cache_dir: Path | None, kind: str, name: str, content: bytes) -> None:
    """Keep `content`; written beside and renamed, so that nobody ever reads half of it."""
    if cache_dir is None:
        return
    path = _path(cache_dir, kind, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)


def _path(cache_dir: Path, kind: str, name: str) -> Path:
    return cache_dir / kind / name[:2] / name
