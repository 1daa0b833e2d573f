"""Builds with a stand-in for `tinyopt` that writes its folder and depfile as the real one does, in a moment.

It and the C compiler note each time that they run: `Build.did` says what one build did.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

_TINYOPT = """
import sys
from pathlib import Path

from tinyopt.artifact.depfile import write_depfile
from tinyopt.artifact.folder import fresh_folder

words = sys.argv[1:]
option = lambda name: words[words.index(name) + 1]
model, samples, name = Path(words[1]), Path(option("--calib")), option("--name")
with fresh_folder(Path(option("--output"))) as folder:
    text = f"#define {name.upper()}_ARENA_BYTES 96u\\n#include <stdint.h>\\nint {name}_run(void *arena);\\n"
    (folder / f"{name}.h").write_text(text)
    code = f'#include "{name}.h"\\nextern const int {name}_w;\\n'
    code += f"int {name}_run(void *arena) {{ return arena ? {name}_w : 1; }}\\n"
    (folder / f"{name}.c").write_text(f"/* {model.read_text()} */\\n" + code)
    (folder / f"{name}_weights.c").write_text(f"const int {name}_w = {samples.read_text()};\\n")
    (folder / "report.json").write_text('{"tinyopt": "0", "schema_version": 1}')
write_depfile(Path(option("-MF")), option("-MT"), [model, samples])
"""


@dataclass(frozen=True)
class Build:
    """A folder with `build` commands in it, and the notes of what ran."""

    folder: Path
    command: tuple[str, ...]

    def did(self) -> tuple[int, list[str]]:
        """Build: how often tinyopt ran, and which C files were compiled, sorted."""
        notes = self.folder / "notes"
        notes.write_text("")
        must(self.command, self.folder)
        lines = notes.read_text().split()
        return lines.count("tinyopt"), sorted(line for line in lines if line != "tinyopt")


def must(command: Sequence[str | Path], folder: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on PATH")


def write_tools(folder: Path) -> tuple[Path, Path]:
    """`tinyopt` and `cc` in `folder`, each of which notes in the file `notes` there what it does."""
    script = folder / "stand_in_for_tinyopt.py"
    script.write_text(_TINYOPT)
    notes = shlex.quote(str(folder / "notes"))
    python = f"PYTHONPATH={shlex.quote(str(ROOT))} {shlex.quote(sys.executable)}"
    scripts = {
        "tinyopt": f'echo tinyopt >> {notes}\nexec env {python} {shlex.quote(str(script))} "$@"\n',
        "cc": f'for word; do case "$word" in *.c) basename "$word" >> {notes};; esac; done\nexec gcc "$@"\n',
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        os.chmod(folder / name, 0o755)
    return folder / "tinyopt", folder / "cc"


def write_project(folder: Path, names: Sequence[str]) -> None:
    """A main file that runs all models, and for each its model and samples."""
    for name in names:
        (folder / f"{name}.onnx").write_text(f"model {name}")
        (folder / f"{name}.npy").write_text("1")
    lines = [*(f'#include "{name}.h"' for name in names), "int main(void) {", "  int arena = 0;"]
    calls = " + ".join(f"{name}_run(&arena)" for name in names)
    (folder / "main.c").write_text("\n".join([*lines, f"  return {calls} == 0;", "}", ""]))


def assert_settles(build: Build, name: str, everything: list[str]) -> None:
    """1/0/1/1/0 runs: first, nothing changed, samples changed, model touched, again; and C only where bytes changed."""
    assert build.did() == (1, everything)
    assert build.did() == (0, [])
    (build.folder / f"{name}.npy").write_text("2")
    assert build.did() == (1, [f"{name}_weights.c"])
    (build.folder / f"{name}.onnx").touch()
    assert build.did() == (1, [])
    assert build.did() == (0, [])
