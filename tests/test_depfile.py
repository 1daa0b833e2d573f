"""Build systems know what a compiled model depends on, and what did not change is not compiled again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.onnx_models import model_of, node
from tests.test_cli import assert_refused, tinyopt
from tinyopt.artifact.depfile import compiler_files, write_depfile
from tinyopt.artifact.folder import fresh_folder
from tinyopt.onnx_import import external_files, import_model
from tinyopt.samples import files_of

AWKWARD = "my samples #1 for $5: all.npz"


def times_of(out: Path, text: str) -> tuple[int, int]:
    """Times of a file that is always the same and of one that holds `text`, in a folder that is written anew."""
    with fresh_folder(out) as folder:
        (folder / "passes").mkdir()
        (folder / "passes" / "same.txt").write_text("same")
        (folder / "other.txt").write_text(text)
    return (out / "passes" / "same.txt").stat().st_mtime_ns, (out / "other.txt").stat().st_mtime_ns


def test_files_with_equal_bytes_keep_their_times_and_others_do_not(tmp_path: Path) -> None:
    first = times_of(tmp_path / "out", "one")
    assert times_of(tmp_path / "out", "one") == first
    same, other = times_of(tmp_path / "out", "two")
    assert same == first[0]
    assert other > first[1]


@pytest.mark.parametrize("tool", ["make", "ninja"])
def test_files_of_any_name_are_found_and_removed_ones_are_no_error(tool: str, tmp_path: Path) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} on PATH")
    samples, removed = tmp_path / AWKWARD, tmp_path / "removed.npy"
    samples.touch()
    removed.touch()
    (tmp_path / "recorded").touch()
    write_depfile(tmp_path / "rule.d", "stamp", [samples, removed])
    if tool == "make":
        (tmp_path / "Makefile").write_text("stamp:\n\techo run >> runs\n\ttouch stamp\n-include rule.d\n")
    else:
        (tmp_path / "build.ninja").write_text(
            "rule run\n  command = echo run >> runs && touch stamp\n  depfile = rule.d\nbuild stamp: run\n"
        )

    def runs() -> int:
        subprocess.run([tool], cwd=tmp_path, check=True, capture_output=True)
        return (tmp_path / "runs").read_text().count("run")

    assert [runs(), runs()] == [1, 1]
    samples.touch()
    assert [runs(), runs()] == [2, 2]
    removed.unlink()
    assert runs() == 3


def test_every_file_that_is_read_is_a_dependency_and_so_are_folders(tmp_path: Path) -> None:
    weights = np.ones((1, 4), np.float32)
    model = model_of([node("Add", "x w")], {"x": (1, 4)}, {"w": weights})
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    assert external_files(tmp_path / "m.onnx") == [tmp_path / "m.bin"]
    inputs = import_model(tmp_path / "m.onnx", {}).graph.inputs
    for name in ("a.npy", "b.npy", ".hidden"):
        (tmp_path / "samples").mkdir(exist_ok=True)
        np.save(tmp_path / "samples" / name, weights)
    folder = tmp_path / "samples"
    assert files_of(f"x={folder}", inputs) == [folder, folder / "a.npy", folder / "b.npy"]
    assert files_of("random", inputs) == []


def test_the_compiler_itself_is_a_dependency() -> None:
    names = {file.name for file in compiler_files()}
    assert {"fold_batchnorm.py", "cortex_m.py", "kernel_costs.json", "model.c.j2", "METADATA"} <= names


def test_compile_writes_the_rule_once_it_has_written_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(model_of([node("Relu", "x")], {"x": (1, 4)}), "m.onnx")
    np.save("calib.npy", np.ones((4, 4), np.float32))
    assert_refused(tinyopt("compile", "m.onnx", "-t", "c", "-MF", "m.d"), 2, "-MT")
    assert_refused(tinyopt("compile", "m.onnx", "-t", "c", "--io", "int8", "-MF", "m.d", "-MT", "s", "-o", "."), 2)
    assert not Path("m.d").exists()
    done = tinyopt("compile", "m.onnx", "-t", "c", "--calib", "calib.npy", "-MF", "m.d", "-MT", "m.stamp", "-o", "out")
    assert done.code == 0, done.err
    rule = Path("m.d").read_text().splitlines()
    assert rule[0] == "m.stamp: \\"
    assert rule[1:3] == [f"  {tmp_path}/m.onnx \\", f"  {tmp_path}/calib.npy \\"]
    assert f"{tmp_path}/m.onnx:" in rule
