"""C compilers for each target: finding one, and running it."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyopt.errors import ToolchainError, UsageError
from tinyopt.targets.target import Target

COMPILE_TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Compiler:
    """A command that compiles C for one target, its machine flags included."""

    command: tuple[str, ...]
    archiver: tuple[str, ...]
    size: tuple[str, ...]

    def run(self, *arguments: str | Path, folder: Path | None = None) -> str:
        """Run the compiler; returns what it printed. Raises ToolchainError with its first words where it fails."""
        return _run([*self.command, *map(str, arguments)], folder)

    def archive(self, library: Path, objects: Sequence[Path]) -> None:
        """A static library with neither time stamps nor owners in it."""
        library.unlink(missing_ok=True)
        _run([*self.archiver, "rcsD", str(library), *map(str, objects)], None)

    def flash_bytes(self, file: Path) -> int:
        """Bytes of code, constants and initialized data in an object or program (`text` + `data` of the size tool)."""
        text, data = _run([*self.size, str(file)], None).splitlines()[1].split()[:2]
        return int(text) + int(data)


def find_compiler(target: Target, cc: str | None) -> Compiler:
    """The compiler for `target`: `cc`, else $TINYOPT_CC, else the target's own names on PATH, else the ziglang package.

    Raises ToolchainError that names all of these.
    """
    toolchain = target.toolchain
    chosen = cc or os.environ.get("TINYOPT_CC")
    if chosen:
        try:
            words = tuple(shlex.split(chosen))
        except ValueError as error:
            raise UsageError(f"--cc {chosen} cannot be split into words: {error}") from error
        if not words or shutil.which(words[0]) is None:
            raise ToolchainError(f"compiler '{chosen}' is not on PATH; give another with --cc")
        return _gnu_like((*words, *toolchain.flags))
    for name in toolchain.compilers:
        if path := shutil.which(name):
            return _gnu_like((path, *toolchain.flags))
    if toolchain.zig_target and importlib.util.find_spec("ziglang"):
        zig = (sys.executable, "-m", "ziglang")
        machine = ("-target", *shlex.split(toolchain.zig_target)) if toolchain.zig_target != "native" else ()
        return Compiler((*zig, "cc", *machine), (*zig, "ar"), ())
    raise ToolchainError(
        f"no C compiler for {target.name}: looked for --cc, $TINYOPT_CC, {', '.join(toolchain.compilers)} on PATH "
        f"and the Python package ziglang; install {toolchain.packages}"
    )


def host_compiler() -> Compiler:
    """The compiler of this machine, for tools that run here. Raises ToolchainError where there is none."""
    for name in ("cc", "gcc", "clang"):
        if path := shutil.which(name):
            return _gnu_like((path,))
    raise ToolchainError("no C compiler on this machine: looked for cc, gcc and clang on PATH; install gcc (Debian)")


def find_emulator(target: Target) -> str:
    """The path of the target's emulator. Raises ToolchainError that says what to install."""
    emulator = target.emulator
    if path := shutil.which(emulator.program):
        return path
    raise ToolchainError(f"{emulator.program} is needed to run {target.name} code here; install {emulator.packages}")


def _gnu_like(command: tuple[str, ...]) -> Compiler:
    """A compiler whose own archiver and size tool it can name (gcc and clang can)."""

    def tool(name: str) -> tuple[str, ...]:
        found = subprocess.run([command[0], f"-print-prog-name={name}"], capture_output=True, text=True, check=False)
        path = shutil.which(found.stdout.strip() or name)
        return (path,) if path else ()

    # an archiver that is missing fails with its name; sizes stay unmeasured without their tool
    return Compiler(command, tool("ar") or ("ar",), tool("size"))


def _run(command: Sequence[str], folder: Path | None) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_SECONDS, check=False
        )
    except OSError as error:
        raise ToolchainError(f"{command[0]} cannot be run: {error}") from error
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"{command[0]} did not finish in {COMPILE_TIMEOUT_SECONDS} s") from None
    if done.returncode != 0:
        complaints = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
        reason = (complaints or done.stderr.splitlines() or ["no message"])[0]
        raise ToolchainError(f"{Path(command[0]).name} failed: {reason}")
    return done.stdout
