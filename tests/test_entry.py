"""The command's process with limits, and the one that watches it: nothing is left behind, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.digits import MODEL
from tests.onnx_models import model_of, node

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are set on Linux only")

HOOK = r"""
import os, sys
from tinyopt import entry, guard

def prepared():
    import tinyopt.onnx_import.reading as reading
    old = reading.check_structure
    import tinyopt.onnx_import.importer as importer
    def hooked(*arguments):
        {code}
        return old(*arguments)
    importer.check_structure = hooked
    from tinyopt.cli import main
    main()

entry._work = prepared
entry.run()
"""


def hooked(code: str, folder: Path, model: Path = MODEL) -> subprocess.CompletedProcess[str]:
    """Compile with `code` run while the model is read."""
    command = [sys.executable, "-c", HOOK.replace("{code}", code), "compile", str(model), "-t", "c", "-o", "new/out"]
    environment = os.environ | {"TMPDIR": str(folder / "temporary")}
    (folder / "temporary").mkdir()
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("code", "exit_code", "reason"),
    [
        ("os.abort()", 3, "ended the compiler with SIGABRT"),
        ("os.kill(os.getpid(), 9)", 3, "was killed"),
        (
            "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, -1))\n        while True: pass",
            3,
            "too much CPU",
        ),
        ("bytearray(1600 << 20)", 3, "MiB of memory to read"),
    ],
)
def test_what_kills_the_reading_process_is_one_line_that_names_the_model(
    code: str, exit_code: int, reason: str, tmp_path: Path
) -> None:
    done = hooked(code, tmp_path)
    assert done.returncode == exit_code, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert reason in line
    assert "digits.onnx" in line
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["temporary"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["watcher", "worker"])
def test_a_kill_at_any_moment_leaves_the_old_output_or_the_new_one(victim: str, tmp_path: Path) -> None:
    """Five moments of a compilation that takes the place of an older one."""
    model = tmp_path / "m.onnx"
    model.write_bytes(model_of([node("Relu", "x")], {"x": (1, 4)}).SerializeToString())
    command = [sys.executable, "-m", "tinyopt.cli", "compile", str(model), "-t", "c", "-o", "out", "-q"]
    started = time.monotonic()
    subprocess.run(command, cwd=tmp_path, check=True)
    whole = time.monotonic() - started
    files = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    for share in range(1, 6):
        running = subprocess.Popen(command, cwd=tmp_path)
        time.sleep(whole * (0.5 + share / 10))
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        if victim == "watcher" or children:
            os.kill(running.pid if victim == "watcher" else int(children[0]), signal.SIGKILL)
        running.wait()
        _wait_for(children)
        assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == files
        assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "out"]


def _wait_for(processes: list[str]) -> None:
    until = time.monotonic() + 60
    while any(Path(f"/proc/{process}").exists() for process in processes) and time.monotonic() < until:
        time.sleep(0.05)
