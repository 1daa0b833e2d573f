"""What one inference costs, of the library as users compile it: instructions, stack, and its bytes by kind."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyopt.errors import ToolchainError
from tinyopt.execution.built_model import BuiltModel
from tinyopt.execution.linking import compile_model_code, compile_weights, link_program, render
from tinyopt.execution.runner import (
    boundary_values,
    check_is_emulated,
    execute,
    plugin_library,
    read_counts,
    read_records,
    read_total,
    write_inputs,
)
from tinyopt.ir import Array
from tinyopt.toolchain import Compiler, CompilerChoice, find_compiler

_RAM_SECTIONS = (".data", ".bss", ".tdata", ".tbss")
_FLASH_TABLES = (".rodata", ".ARM.ex", ".eh_frame", ".data.rel.ro")


@dataclass(frozen=True)
class LibraryBytes:
    """What linking the library adds to a program, by kind. The C library's functions are not in it.

    code: machine code with its literals (.text). tables: constants that are not weights (.rodata of the code, and what
    compilers add for unwinding). weights: weights, biases and other constants of the model. static_ram: .data and .bss.
    """

    code: int
    tables: int
    weights: int
    static_ram: int


@dataclass(frozen=True)
class Measurement:
    """One inference for each sample, counted from the call of <model>_run to its return.

    stack_bytes: from the caller's stack pointer down to the deepest byte that was written. outputs: by sample, by name.
    """

    compiler: str
    optimization: str
    instructions: tuple[int, ...]
    stack_bytes: int
    library: LibraryBytes
    outputs: tuple[dict[str, Array], ...]


def measure(
    built: BuiltModel, samples: Sequence[Mapping[str, Array]], choice: CompilerChoice, cache_dir: Path
) -> Measurement:
    """Run `samples` under QEMU, each once.

    Raises UsageError where the target is not emulated, ToolchainError where an emulator or compiler is missing.
    """
    check_is_emulated(built)
    compiler, flags = find_compiler(built.target, choice.cc), (f"-{choice.optimization}",)
    with tempfile.TemporaryDirectory(prefix="tinyopt-measure-") as text_folder:
        folder = Path(text_folder)
        code = compile_model_code(built, compiler, flags, folder)
        weights = compile_weights(built, compiler, flags, folder)
        main = folder / "measure.c"
        main.write_text(render("measure.c.j2", built, boundary_values(built, len(samples))))
        program = link_program(built, compiler, main, [*code, weights], flags)
        write_inputs(built, samples, folder)
        execute(built, program, folder, plugin_library(cache_dir))
        counts = read_counts(folder / "counts.txt")
        stack = [int(line) for line in (folder / "stack.txt").read_text().split()]
        if not len(counts) == len(stack) == len(samples):
            raise ToolchainError(f"{len(counts)} inferences were counted instead of {len(samples)}")
        records = read_records(folder / "output.bin", [value.type for value in built.graph.outputs], len(samples))
        names = [value.name for value in built.graph.outputs]
        return Measurement(
            compiler.version(),
            choice.optimization,
            tuple(instructions for instructions, _ in counts),
            max(stack),
            _library_bytes(built, compiler, [*code, weights]),
            tuple(dict(zip(names, record, strict=True)) for record in records),
        )


def _library_bytes(built: BuiltModel, compiler: Compiler, files: Sequence[Path]) -> LibraryBytes:
    kinds = {"code": 0, "tables": 0, "weights": 0, "static_ram": 0}
    for file in files:
        for member, section, size in compiler.sections(file):
            if section.startswith(".text"):
                kinds["code"] += size
            elif section.startswith(_FLASH_TABLES):
                kinds["weights" if member == f"{built.prefix}_weights.o" else "tables"] += size
            elif section.startswith(_RAM_SECTIONS):
                kinds["static_ram"] += size
    return LibraryBytes(**kinds)


def firmware_bytes(built: BuiltModel, choice: CompilerChoice) -> int:
    """Bytes of flash of the smallest linked program that runs the model: code, constants, start-up and C library.

    Raises ToolchainError where a compiler is missing or fails.
    """
    compiler = find_compiler(built.target, choice.cc)
    with tempfile.TemporaryDirectory(prefix="tinyopt-firmware-") as text_folder:
        return compiler.flash_bytes(_smallest_program(built, compiler, choice.optimization, Path(text_folder)))


def instructions_from_start(built: BuiltModel, choice: CompilerChoice, cache_dir: Path) -> int:
    """Instructions of a whole process that runs the model once, from its first to its last, C library and all.

    Raises UsageError where the target is not emulated, ToolchainError where an emulator or compiler is missing.
    """
    check_is_emulated(built)
    compiler = find_compiler(built.target, choice.cc)
    with tempfile.TemporaryDirectory(prefix="tinyopt-start-") as text_folder:
        folder = Path(text_folder)
        program = _smallest_program(built, compiler, choice.optimization, folder)
        execute(built, program, folder, plugin_library(cache_dir))
        return read_total(folder / "counts.txt")


def _smallest_program(built: BuiltModel, compiler: Compiler, optimization: str, folder: Path) -> Path:
    flags = (f"-{optimization}", "-ffunction-sections", "-fdata-sections")
    objects = [*compile_model_code(built, compiler, flags, folder), compile_weights(built, compiler, flags, folder)]
    main = folder / "firmware.c"
    main.write_text(render("firmware.c.j2", built, {}))
    return link_program(built, compiler, main, objects, (*flags, "-Wl,--gc-sections"))
