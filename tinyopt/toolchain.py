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
from tinyopt.targets.target import Target, Toolchain

COMPILE_TIMEOUT_SECONDS = 600
OPTIMIZATIONS = ("O0", "O1", "O2", "O3", "Os")


@dataclass(frozen=True)
class CompilerChoice:
    """What the user asks for: a compiler's command (None: found as `find_compiler` says) and an optimization level."""

    cc: str | None = None
    optimization: str = "O3"


DEFAULT_COMPILER = CompilerChoice()


@dataclass(frozen=True)
class Compiler:
    """A command that compiles C for one target, its machine flags included; `linker`: the one that links for it.

    static: what makes it link programs for Linux that need no shared library.
    """

    command: tuple[str, ...]
    linker: tuple[str, ...]
    archiver: tuple[str, ...]
    size: tuple[str, ...]
    static: tuple[str, ...] = ("-static",)

    def run(self, *arguments: str | Path, folder: Path | None = None) -> str:
        """Run the compiler; returns what it printed. Raises ToolchainError with its first words where it fails."""
        return _run([*self.command, *map(str, arguments)], folder)

    def link(self, *arguments: str | Path) -> None:
        """Link objects and, where there are some, C files. Raises ToolchainError where it fails."""
        _run([*self.linker, *map(str, arguments)], None)

    def archive(self, library: Path, objects: Sequence[Path]) -> None:
        """A static library with neither time stamps nor owners in it."""
        library.unlink(missing_ok=True)
        _run([*self.archiver, "rcsD", str(library), *map(str, objects)], None)

    def version(self) -> str:
        """What it calls itself: the first line of --version."""
        return next(iter(self.run("--version").splitlines()), "unknown")

    def flash_bytes(self, file: Path) -> int:
        """Bytes of code, constants and initialized data in an object or program (`text` + `data` of the size tool)."""
        text, data = _run([*self.size, str(file)], None).splitlines()[1].split()[:2]
        return int(text) + int(data)

    def sections(self, file: Path) -> list[tuple[str, str, int]]:
        """(member, section, bytes) of everything in an object or archive. Raises ToolchainError without a size tool."""
        if not self.size:
            raise ToolchainError(f"{self.command[0]} names no size tool: sections cannot be measured; use gcc or clang")
        found: list[tuple[str, str, int]] = []
        member = ""
        for line in _run([*self.size, "-A", str(file)], None).splitlines():
            words = line.split()
            if line.endswith(":"):
                member = Path(words[0]).name
            elif len(words) == 3 and words[1].isdigit():
                found.append((member, words[0], int(words[1])))
        return found


def find_compiler(target: Target, cc: str | None) -> Compiler:
    """The compiler for `target`: `cc`, else $TINYOPT_CC, else the target's own names on PATH, else the ziglang package.

    Raises ToolchainError that names all of these.
    """
    toolchain = target.toolchain
    chosen = cc or os.environ.get("TINYOPT_CC")
    if chosen:
        return _chosen(chosen, target)
    for name in toolchain.compilers:
        if path := shutil.which(name):
            return _gnu_like((path, *toolchain.flags))
    if toolchain.zig_target and importlib.util.find_spec("ziglang"):
        zig = (sys.executable, "-m", "ziglang")
        if toolchain.zig_target == "native":
            return Compiler((*zig, "cc"), (*zig, "cc"), (*zig, "ar"), ())
        triple, *flags = shlex.split(toolchain.zig_target)
        command = (*zig, "cc", "-target", triple, *flags)
        static = ("-target", triple.replace("gnu", "musl"), "-static")  # it has no static library of glibc
        return Compiler(command, command, (*zig, "ar"), (), static)
    raise ToolchainError(
        f"no C compiler for {target.name}: looked for --cc, $TINYOPT_CC, {', '.join(toolchain.compilers)} on PATH "
        f"and the Python package ziglang; install {toolchain.packages}"
    )


def _chosen(cc: str, target: Target) -> Compiler:
    """The compiler that the user named."""
    try:
        words = tuple(shlex.split(cc))
    except ValueError as error:
        raise UsageError(f"--cc {cc} cannot be split into words: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise ToolchainError(f"compiler '{cc}' is not on PATH; give another with --cc")
    is_clang = Path(words[0]).name.startswith("clang")
    if is_clang and not any(word.lstrip("-").startswith("target") for word in words):
        return _clang(words, target.toolchain, target.name)
    return _gnu_like((*words, *target.toolchain.flags))


def _clang(words: tuple[str, ...], toolchain: Toolchain, target_name: str) -> Compiler:
    """Clang compiles for every machine, but brings neither a C library nor, for most, a linker: gcc's are used."""
    gcc = toolchain.compilers[0]
    triple, is_cross, _ = gcc.partition("-gcc")
    if not is_cross:
        return _gnu_like((*words, *toolchain.flags))
    path = shutil.which(gcc)
    if path is None:
        raise ToolchainError(
            f"{words[0]} needs the C library and linker of {gcc} for {target_name}; install {toolchain.packages}"
        )
    linker = (path, *toolchain.flags)
    library = Path(_run([*linker, "-print-file-name=libc.a"], None).strip()).resolve()
    headers = [parent / "include" for parent in library.parents if (parent / "include" / "string.h").is_file()]
    if not headers:
        raise ToolchainError(f"{gcc} has no headers of a C library beside {library}; install {toolchain.packages}")
    tools = _gnu_like(linker)
    command = (*words, f"--target={triple}", "-isystem", str(headers[0]), *toolchain.flags)
    return Compiler(command, linker, tools.archiver, tools.size)


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
    return Compiler(command, command, tool("ar") or ("ar",), tool("size"))


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
