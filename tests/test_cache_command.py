"""`tinyopt cache`: what is kept, and removing it while others compile."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from tests.test_cli import assert_refused, tinyopt
from tinyopt.disk_cache import read_cached, write_cached


def _age(path: Path, seconds: float) -> None:
    written = time.time() - seconds
    os.utime(path, (written, written))


def _info(folder: Path) -> dict[str, tuple[int, int]]:
    data = json.loads(tinyopt("cache", "info", "--cache-dir", folder, "--json").out)
    assert data["entries"] == sum(kind["entries"] for kind in data["kinds"])
    return {kind["name"]: (kind["entries"], kind["bytes"]) for kind in data["kinds"] if kind["entries"]}


def test_what_is_old_goes_and_what_is_not_a_kept_entry_stays(tmp_path: Path) -> None:
    write_cached(tmp_path, "kernels", "abcd.c", b"12345")
    write_cached(tmp_path, "kernels", "efgh.c", b"123")
    write_cached(tmp_path, "passes", "0123", b"1")
    _age(tmp_path / "kernels" / "ab" / "abcd.c", 3 * 86400)
    strangers = [tmp_path / "photos" / "ab" / "abcd", tmp_path / "kernels" / "ab" / "notes.txt"]
    writing = tmp_path / "passes" / "45" / ".4567-0a1b2c3d"
    for path in (*strangers, writing):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    assert _info(tmp_path) == {"kernels": (2, 8), "passes": (1, 1)}
    done = tinyopt("cache", "clear", "--cache-dir", tmp_path, "--older-than", "2d")
    assert "removed 1 entries, 5 bytes" in done.err
    assert _info(tmp_path) == {"kernels": (1, 3), "passes": (1, 1)}
    assert tinyopt("cache", "clear", "--cache-dir", tmp_path).code == 0
    assert _info(tmp_path) == {}
    assert all(path.read_text() == "mine" for path in (*strangers, writing))
    _age(writing, 2 * 86400)
    assert tinyopt("cache", "clear", "--cache-dir", tmp_path).code == 0
    assert not writing.exists()


def test_entries_are_whole_or_missing_while_the_cache_is_cleared(tmp_path: Path) -> None:
    stop, wrong = threading.Event(), list[bytes]()
    content = b"x" * 100_000

    def use() -> None:
        while not stop.is_set():
            write_cached(tmp_path, "kernels", "abcd", content)
            if (found := read_cached(tmp_path, "kernels", "abcd")) not in (None, content):
                wrong.append(found or b"")

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    codes = [tinyopt("cache", "clear", "-q", "--cache-dir", tmp_path).code for _ in range(20)]
    stop.set()
    for thread in threads:
        thread.join()
    assert (codes, wrong) == ([0] * 20, [])


@pytest.mark.parametrize("age", ["3", "d", "-1d", "1y"])
def test_an_age_that_is_none_is_refused(age: str, tmp_path: Path) -> None:
    assert_refused(tinyopt("cache", "clear", "--cache-dir", tmp_path, f"--older-than={age}"), 2, "90m, 12h, 30d")


def test_what_a_parallel_compilation_kept_already_is_not_written_twice(tmp_path: Path) -> None:
    write_cached(tmp_path, "kernels", "abcd", b"same")
    (path,) = (file for file in tmp_path.rglob("*") if file.is_file())
    first = path.stat()
    write_cached(tmp_path, "kernels", "abcd", b"same")
    assert path.stat() == first
    write_cached(tmp_path, "kernels", "abcd", b"not damaged")
    assert read_cached(tmp_path, "kernels", "abcd") == b"not damaged"
    assert [file.name for file in path.parent.iterdir()] == ["abcd"]
