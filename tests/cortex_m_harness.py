"""Runs many kernels for Cortex-M in one program on an emulated board, and compares every byte with the references."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tinyopt.ir import Array, Node
from tinyopt.lowering.program import ARENA_ALIGNMENT
from tinyopt.ops import OPERATORS
from tinyopt.targets.kernel import (
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    ScalarArgument,
    ScratchArgument,
)
from tinyopt.targets.kernels.intrinsic import Intrinsic

EMULATION = Path(__file__).resolve().parents[1] / "tinyopt" / "emulation"
EMULATOR = "qemu-system-arm"
FLAGS = ("-std=gnu99", "-O2", "-fno-schedule-insns", "-Wall", "-Wextra", "-Werror")
CANARY = 32


@dataclass(frozen=True)
class Machine:
    """An emulated core: the compiler's options, clang's name for it, QEMU's board, and its linker script."""

    flags: tuple[str, ...]
    triple: str
    machine: str
    board: str


M0PLUS = Machine(("-mcpu=cortex-m0plus", "-mthumb", "-mfloat-abi=soft"), "thumbv6m-none-eabi", "mps2-an385", "mps2")
M3 = Machine(("-mcpu=cortex-m3", "-mthumb", "-mfloat-abi=soft"), "thumbv7m-none-eabi", "mps2-an385", "mps2")
M4 = Machine(
    ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "thumbv7em-none-eabihf",
    "mps2-an386",
    "mps2",
)
M55 = Machine(("-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard"), "thumbv8.1m.main-none-eabihf", "mps3-an547", "mps3")
GCC, CLANG = "arm-none-eabi-gcc", "clang-19"

MAIN = f"""
#define CANARY {CANARY}
#define GARBAGE 0xA5
#if defined(__clang__)
#define APART __attribute__((noinline))
#else
#define APART __attribute__((noipa))
#endif
static int8_t memory[1 << 20] __attribute__((aligned(16)));
static unsigned used;
/* `bytes` bytes of garbage between canaries */
static void *claim(unsigned bytes) {{
  int8_t *start = memory + used + CANARY;
  memset(start - CANARY, GARBAGE, bytes + 2 * CANARY + 16);
  used += (bytes + 2 * CANARY + 15) & ~15u;
  return start;
}}
static int intact(const void *start, unsigned bytes) {{
  const uint8_t *p = (const uint8_t *)start;
  for (unsigned i = 0; i < CANARY; ++i)
    if (p[bytes + i] != GARBAGE || p[-1 - (int)i] != GARBAGE) return 0;
  return 1;
}}
static int compare(unsigned number, const int8_t *got, const int8_t *wanted, unsigned bytes) {{
  for (unsigned i = 0; i < bytes; ++i)
    if (got[i] != wanted[i]) {{
      printf("case %u: byte %u is %d, not %d\\n", number, i, got[i], wanted[i]);
      return 0;
    }}
  return 1;
}}
"""


@dataclass(frozen=True, eq=False)
class Case:
    """A node, the kernel for it, and what flows in (None for an absent input, constants included)."""

    node: Node
    kernel: Kernel
    arrays: tuple[Array | None, ...]


def require_tools(compiler: str = GCC) -> None:
    for tool in (GCC, compiler, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def run_cases(
    cases: Sequence[Case],
    folder: Path,
    plugin: Path | None = None,
    flags: Sequence[str] = FLAGS,
    machine: Machine = M4,
    compiler: str = GCC,
) -> str:
    """What the program printed, which is nothing where all is right. `plugin` counts the instructions of each case."""
    (folder / "cases.c").write_text(program_text(cases))
    return _run(folder, flags, machine, compiler, plugin)


def _run(
    folder: Path, flags: Sequence[str], machine: Machine = M4, compiler: str = GCC, plugin: Path | None = None
) -> str:
    """What the program made of cases.c printed before it was done."""
    program = build(folder / "cases.c", folder, flags, machine, compiler)
    counting = () if plugin is None else ("-plugin", f"{plugin},out={folder / 'counts.txt'},model=m4")
    command = (EMULATOR, "-M", machine.machine, "-nographic", "-semihosting", "-kernel", str(program), *counting)
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.stdout.endswith("done\n"), result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout.removesuffix("done\n")


def run_intrinsics(intrinsics: Sequence[Intrinsic], folder: Path, machine: Machine = M4, compiler: str = GCC) -> str:
    """Calls intrinsics of int32 with random words and prints where one is not what its meaning says."""
    random = np.random.default_rng(3)
    headers = dict.fromkeys(["stdio.h", *(header for intrinsic in intrinsics for header in intrinsic.headers)])
    checks: list[str] = []
    for intrinsic in intrinsics:
        count = intrinsic.c_text.split("{")[0].count("int32_t ") - 1
        for _ in range(20):
            words = [int(word) for word in random.integers(-(2**31), 2**31, count)]
            wanted = (intrinsic.meaning(*words) + 2**31) % 2**32 - 2**31
            call = f"{intrinsic.name}({', '.join(f'(int32_t){word & 0xFFFFFFFF}u' for word in words)})"
            checks.append(f'  if ({call} != (int32_t){wanted & 0xFFFFFFFF}u) puts("{call}");\n')
    includes = "".join(f"#include <{header}>\n" for header in headers)
    texts = "".join(intrinsic.c_text for intrinsic in intrinsics)
    main = f'int main(void) {{\n{"".join(checks)}  puts("done");\n  return 0;\n}}\n'
    (folder / "cases.c").write_text(includes + texts + main)
    return _run(folder, FLAGS, machine, compiler)


def build(source: Path, folder: Path, flags: Sequence[str], machine: Machine = M4, compiler: str = GCC) -> Path:
    """Compile with `compiler`; gcc links, with newlib and the start-up code of the board."""
    program = folder / "cases.elf"
    compiled = folder / "cases.o"
    command = [compiler, *machine.flags]
    if compiler != GCC:
        known_to_gcc_only = ("-fno-schedule-insns",)
        flags = [flag for flag in flags if flag not in known_to_gcc_only]
        library = Path(_printed((GCC, *machine.flags, "-print-file-name=libc.a"))).resolve()
        headers = next(parent / "include" for parent in library.parents if (parent / "include").is_dir())
        command += [f"--target={machine.triple}", "-isystem", str(headers), "-Wno-unused-command-line-argument"]
    _printed((*command, *flags, "-c", str(source), "-o", str(compiled)))
    start = (str(EMULATION / "startup.c"), "-L", str(EMULATION), "-T", str(EMULATION / f"{machine.board}.ld"))
    link = ("--specs=rdimon.specs", "-nostartfiles", "-o", str(program))
    _printed((GCC, *machine.flags, "-O2", str(compiled), *start, *link))
    return program


def _printed(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout.strip()


def program_text(cases: Sequence[Case]) -> str:
    """One C file: the intrinsics, each function once, each case's data, and a main that runs them all."""
    from tinyopt.lowering.compiler import lower_to_c

    intrinsics: dict[str, Intrinsic] = {i.name: i for case in cases for i in case.kernel.intrinsics}
    headers = ["stdint.h", "stdbool.h", "string.h", "math.h", *(h for i in intrinsics.values() for h in i.headers)]
    includes = [f"#include <{header}>\n" for header in dict.fromkeys(["stdio.h", *headers])]
    parts = [i.c_text.replace("static inline", "__attribute__((unused)) static inline") for i in intrinsics.values()]
    functions: dict[tuple[object, object, bool], str] = {}
    calls: list[str] = []
    for number, case in enumerate(cases):
        kernel = case.kernel
        key = kernel.template, kernel.spec, kernel.may_alias
        if key not in functions:
            functions[key] = f"kernel_{len(functions)}"
            written = [isinstance(argument, OutputArgument | ScratchArgument) for argument in kernel.arguments]
            text = lower_to_c(kernel.template(kernel.spec), functions[key], written, kernel.may_alias)
            parts.append(text.replace("static void", "APART static void", 1))
        calls.append(f"  run_{number}();\n")
        parts.append(case_text(number, case, functions[key], parts))
    return "".join([*includes, MAIN, *parts, "int main(void) {\n", *calls, '  puts("done");\n  return 0;\n}\n'])


def case_text(number: int, case: Case, function: str, parts: list[str]) -> str:
    """The function that runs one case, apart and in place."""
    wanted = OPERATORS[case.node.op].evaluate(case.node, case.arrays)[0]
    parts.append(_array(f"wanted_{number}", wanted))
    places = [None, *shared_places(case.kernel)]
    lines = [_run_text(number, case, function, parts, wanted.nbytes, place) for place in places]
    return f"static void run_{number}(void) {{\n{''.join(lines)}}}\n"


def shared_places(kernel: Kernel) -> list[tuple[int, int]]:
    """The nearest places at which the output may share an input's memory: (input, bytes the output begins later)."""
    step = ARENA_ALIGNMENT
    found: list[tuple[int, int]] = []
    for overlap in kernel.overlaps:
        first = None if overlap.first is None else -(-overlap.first // step) * step
        last = None if overlap.last is None else overlap.last // step * step
        if first is None or last is None or first <= last:
            found += [(overlap.input, place) for place in dict.fromkeys((first, last)) if place is not None]
    return found


def _run_text(
    number: int, case: Case, function: str, parts: list[str], bytes: int, shared: tuple[int, int] | None
) -> str:
    room, begin, input_begin = bytes, 0, 0
    if shared is not None:
        content = case.arrays[shared[0]]
        assert content is not None
        begin, input_begin = max(shared[1], 0), max(-shared[1], 0)
        room = max(begin + bytes, input_begin + content.nbytes)
    lines = ["  {\n    used = 0;\n", f"    int8_t *memory_of_y = (int8_t *)claim({room});\n"]
    lines.append(f"    int8_t *y = memory_of_y + {begin};\n")
    checks = [f"intact(memory_of_y, {room})"]
    passed: list[str] = []
    for place, argument in enumerate(case.kernel.arguments):
        name = f"data_{number}_{place}"
        if isinstance(argument, ScalarArgument):
            passed.append(str(argument.value))
        elif isinstance(argument, OutputArgument):
            passed.append("(void *)y")
        elif isinstance(argument, ScratchArgument):
            lines.append(f"    void *s{place} = claim({argument.bytes});\n")
            checks.append(f"intact(s{place}, {argument.bytes})")
            passed.append(f"s{place}")
        else:
            assert isinstance(argument, ConstantArgument | InputArgument)
            array = argument.array if isinstance(argument, ConstantArgument) else case.arrays[argument.index]
            assert array is not None
            text = _array(name, array)
            if text not in parts:
                parts.append(text)
            if shared is not None and isinstance(argument, InputArgument) and argument.index == shared[0]:
                lines.append(f"    memcpy(memory_of_y + {input_begin}, {name}, sizeof {name});\n")
                passed.append(f"(void *)(memory_of_y + {input_begin})")
            else:
                passed.append(f"(const void *){name}")
    marks = (
        ('__asm volatile("mov r9, r9\\n\\tmov r9, r9");', '__asm volatile("mov r10, r10");')
        if shared is None
        else ("", "")
    )
    lines.append(f"    {marks[0]}\n    {function}({', '.join(passed)});\n    {marks[1]}\n")
    how = "" if shared is None else f" with the output {shared[1]} bytes after input {shared[0]}"
    lines.append(f'    if (!({" && ".join(checks)})) puts("case {number}{how}: it wrote outside");\n')
    lines.append(
        f'    if (!compare({number}, y, (const int8_t *)wanted_{number}, {bytes})) puts("  so it is{how}");\n  }}\n'
    )
    return "".join(lines)


def _array(name: str, array: Array) -> str:
    kind = f"{array.dtype.name}_t"
    numbers = ",".join(str(value) for value in np.asarray(array).reshape(-1).tolist())
    numbers = re.sub(r"-2147483648", "(-2147483647 - 1)", numbers)
    return f"static const {kind} {name}[{max(array.size, 1)}] __attribute__((aligned(16))) = {{{numbers}}};\n"
