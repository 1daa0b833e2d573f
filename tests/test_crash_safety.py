"""Whoever is killed, and whatever is full: files are there whole or not at all, and caches can be shared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.onnx_models import model_of, node
from tinyopt import disk_cache
from tinyopt.artifact.folder import check_dump_folder
from tinyopt.disk_cache import read_cached, write_cached
from tinyopt.errors import UsageError
from tinyopt.whole_files import whole_file

KILLED = """
import os, pathlib, sys
whole = pathlib.Path.write_bytes
def half(self, content):
    whole(self, content[: len(content) // 2])
    os.kill(os.getpid(), 9)
pathlib.Path.write_bytes = half
from tinyopt.disk_cache import write_cached
write_cached(pathlib.Path(sys.argv[1]), "kernels", "abcd.c", b"0123456789")
"""


@pytest.mark.slow
def test_four_compilations_at_once_share_an_empty_cache_and_give_what_one_alone_gives(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    steps = [node("Relu", "x", "h"), node("Sigmoid", "h", "g"), node("Softmax", "g", axis=1)]
    model.write_bytes(model_of(steps, {"x": (1, 4)}).SerializeToString())

    def start(folder: str, cache: str) -> subprocess.Popen[bytes]:
        options = ["-t", "c", "-q", "-o", folder, "--cache-dir", cache]
        return subprocess.Popen([sys.executable, "-m", "tinyopt.cli", "compile", str(model), *options], cwd=tmp_path)

    alone = start("alone", "own")
    assert alone.wait() == 0
    running = [start(f"together{number}", "shared") for number in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    for number in range(4):
        assert _files(tmp_path / f"together{number}") == _files(tmp_path / "alone")
    assert _kernels(tmp_path / "shared") == _kernels(tmp_path / "own")
    assert _files(tmp_path / "shared").keys() == _files(tmp_path / "own").keys()  # what passes did holds times


def _kernels(cache: Path) -> dict[str, bytes]:
    return _files(cache / "kernels")


def _files(folder: Path) -> dict[str, bytes]:
    """Every file but the reports, which hold times."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("report")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_who_is_killed_while_he_writes_into_the_cache_leaves_nothing_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -9
    (left,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left.read_bytes() == b"01234"
    assert read_cached(tmp_path, "kernels", "abcd.c") is None
    monkeypatch.setattr(disk_cache, "_DEAD_AFTER_SECONDS", -1)
    write_cached(tmp_path, "kernels", "abcd.c", b"0123456789")
    assert read_cached(tmp_path, "kernels", "abcd.c") == b"0123456789"
    assert not left.exists()


@pytest.mark.parametrize("place", ["/dev/full", "a-file", "below/a-file"])
def test_a_cache_that_cannot_be_written_is_no_error(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("")
    Path("below").symlink_to("a-file")
    write_cached(Path(place), "kernels", "abcd.c", b"0123456789")
    assert read_cached(Path(place), "kernels", "abcd.c") is None


def test_a_full_disk_leaves_no_half_file_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        with open(self, "wb") as file:
            file.write(content[:5])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    write_cached(tmp_path, "kernels", "abcd.c", b"0123456789")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    file, link = tmp_path / "page.html", tmp_path / "link.html"
    file.write_text("old")
    link.symlink_to(file)
    with pytest.raises(UsageError, match=r"page.html cannot be written: No space left"):
        _fail_to_write(file)
    assert file.read_text() == "old"
    with whole_file(link) as work:
        work.write_text("new")
        assert file.read_text() == "old"
    assert link.is_symlink()
    assert file.read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


def _fail_to_write(file: Path) -> None:
    with whole_file(file) as work:
        work.write_text("half")
        raise OSError(28, os.strerror(28))


def test_passes_are_not_dumped_over_what_is_not_ours(tmp_path: Path) -> None:
    check_dump_folder(tmp_path / "new")
    check_dump_folder(tmp_path)
    (tmp_path / "00-import.onnx").touch()
    (tmp_path / "12-fuse-operators.txt").touch()
    check_dump_folder(tmp_path)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UsageError, match="is no folder of passes"):
        check_dump_folder(tmp_path)
