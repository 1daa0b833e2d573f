"""The wheel: every module and data file is in it, and it works where nothing else of the project is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.digits import CALIBRATION, MODEL

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {"passes/": "tinyopt/passes/", "targets/": "tinyopt/targets/", "tools/emulation/": "tinyopt/emulation/"}
DATA = (".j2", ".css", ".js", ".c", ".ld", ".json", ".cmake")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def committed_files() -> list[str]:
    """The files that git knows, or would if they were added."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).exists()]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the committed files as they are now, built elsewhere."""
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools 77 or later to build the wheel")
    folder = tmp_path_factory.mktemp("source")
    for name in committed_files():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place, follow_symlinks=False)
    built = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(built)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = built.glob("*.whl")
    return path


def expected_files(committed: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for name in committed:
        room = next((room for room in ROOMS if name.startswith(room)), "tinyopt/")
        if name.startswith(room) and (name.endswith(".py") or name.endswith(DATA)):
            found.add(ROOMS.get(room, room) + name.removeprefix(room))
    return found


def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected_files(committed_files())


def test_the_wheel_names_its_command_and_its_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(f"{folder}/METADATA").decode()
        commands = archive.read(f"{folder}/entry_points.txt").decode()
    extras = {line.split()[1] for line in metadata.splitlines() if line.startswith("Provides-Extra:")}
    assert extras >= {"distill", "zig", "docs", "dev"}
    assert "tinyopt = tinyopt.entry:run" in commands


@pytest.mark.slow
def test_the_installed_wheel_compiles_and_runs_a_model_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    others = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    python = tmp_path / "venv" / "bin" / "python"
    # the wheel's folder stands first, before the checkout that the other packages may link to
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *others]), "PYTHONSAFEPATH": "1"}

    def must(*words: str | Path) -> str:
        command = [str(word) for word in (python, *words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = must("-c", "import tinyopt.passes, tinyopt.targets; print(tinyopt.__file__, tinyopt.passes.__file__)")
    assert all(path.startswith(str(site)) for path in where.split())
    options = ("--calib", CALIBRATION, "--calib-samples", "10", "-q")
    must("-m", "tinyopt.cli", "compile", MODEL, "-t", "c", *options, "-o", "out")
    assert "PASS" in must("-m", "tinyopt.cli", "validate", "out", "--samples", "1")


@pytest.mark.parametrize("name", ["passes", "targets"])
def test_the_rooms_cannot_be_imported_under_their_folders_names(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert f"ImportError: import tinyopt.{name}" in done.stderr
