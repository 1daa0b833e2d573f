"""Programs around a compiled model: a main file from a template, the model's library, and the board's start-up code."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from tinyopt.emulation import FOLDER as EMULATION_FOLDER
from tinyopt.execution.built_model import BuiltModel
from tinyopt.toolchain import Compiler


def render(template: str, built: BuiltModel, values: Mapping[str, Any]) -> str:
    common = {"p": built.prefix, "U": built.prefix.upper(), "regions": built.regions, "variants": built.variants}
    return _environment().get_template(template).render(common | dict(values))


@functools.cache  # it keeps the compiled templates
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tinyopt.execution"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )


def compile_model_code(built: BuiltModel, compiler: Compiler, flags: Sequence[str], folder: Path) -> list[Path]:
    """What a user compiles of the model beside its weights: `<model>.c`; nothing where it came as a library."""
    if built.target.code == "object":
        return []
    return [_compile(built, compiler, built.folder.resolve() / f"{built.prefix}.c", flags, folder)]


def compile_weights(built: BuiltModel, compiler: Compiler, flags: Sequence[str], folder: Path) -> Path:
    """The model's constants; where the model came as a library, all of it."""
    if built.target.code == "object":
        return built.folder.resolve() / f"lib{built.prefix}.a"
    return _compile(built, compiler, built.folder.resolve() / f"{built.prefix}_weights.c", flags, folder)


def link_program(
    built: BuiltModel, compiler: Compiler, main: Path, objects: Sequence[Path], flags: Sequence[str]
) -> Path:
    """Compile `main` with the same flags and link it with `objects`, as the target's board wants it."""
    program = main.with_suffix(".elf")
    compiled = _compile(built, compiler, main, flags, main.parent)
    compiler.link(*flags, compiled, *objects, *_link_arguments(built, compiler), "-lm", "-o", program)
    return program


def _compile(built: BuiltModel, compiler: Compiler, source: Path, flags: Sequence[str], folder: Path) -> Path:
    compiled = folder / f"{source.stem}.o"
    language = ("-std=gnu99", "-ffp-contract=off")
    compiler.run(*language, *flags, f"-I{built.folder.resolve()}", "-c", source, "-o", compiled)
    return compiled


def _link_arguments(built: BuiltModel, compiler: Compiler) -> list[str]:
    emulator = built.target.emulator
    if emulator.kind == "qemu-system":
        script = EMULATION_FOLDER / f"{emulator.board}.ld"
        start = EMULATION_FOLDER / "startup.c"
        return [str(start), "-T", str(script), f"-L{EMULATION_FOLDER}", "--specs=rdimon.specs", "-nostartfiles"]
    threads = ["-lpthread"] if built.target.code == "object" else []
    return [*compiler.static, *threads] if emulator.kind == "qemu-user" else threads
