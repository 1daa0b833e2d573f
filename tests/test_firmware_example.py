"""examples/firmware, built and run as its users do: the digit that the program sees is the one that it was given."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.stand_in import ROOT, need

FOLDER = ROOT / "examples" / "firmware"
PROGRAMS = {
    "cortex-m4-gcc": ("arm-none-eabi-gcc", "qemu-system-arm"),
    "cortex-m4-zig": ("qemu-system-arm",),
    "aarch64-gcc": ("aarch64-linux-gnu-gcc", "qemu-aarch64"),
}


@pytest.mark.qemu
@pytest.mark.parametrize("toolchain", PROGRAMS)
def test_the_firmware_is_built_by_one_command_and_recognizes_its_digit(toolchain: str, tmp_path: Path) -> None:
    need("cmake", "ctest", "make", *PROGRAMS[toolchain])
    if toolchain == "cortex-m4-zig" and find_spec("ziglang") is None:
        pytest.skip("no package ziglang: pip install ziglang")
    tinyopt = tmp_path / "tinyopt"
    tinyopt.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m tinyopt.cli "$@"\n')
    tinyopt.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHON": sys.executable,
    }
    command = ["sh", FOLDER / "run.sh", toolchain, tmp_path / "build"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1: digit: 7\n1: PASS\n" in done.stdout
