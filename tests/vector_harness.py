"""Runs many kernels of an LLVM target in one program, here or on an emulated Arm, and compares them with the reference.

Each kernel is compiled to an object file. One C program reads all buffers from a file, runs the kernels one after the
other, each between the markers of the instruction counter, and writes the buffers back. Canaries lie between buffers.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyopt.ir import DTYPES, Array, Node
from tinyopt.lowering.kernel_cache import compile_kernels
from tinyopt.lowering.request import request_for
from tinyopt.ops import OPERATORS
from tinyopt.targets.kernel import (
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    ScalarArgument,
    ScratchArgument,
)

ALIGNMENT = 16
GAP_BYTES = 64
GARBAGE = 0xA5

MAIN = """\
#include <stdio.h>
#include <stdlib.h>
#include <stdint.h>
#if defined(__aarch64__)
#define BEGIN __asm volatile("hint #0x60" ::: "memory")
#define END __asm volatile("hint #0x61" ::: "memory")
#else
#define BEGIN
#define END
#endif
{declarations}
int main(int argc, char **argv) {{
  unsigned char *m = aligned_alloc(64, {size});
  FILE *f = fopen(argv[1], "rb");
  if (argc < 3 || !f || fread(m, 1, {size}, f) != {size}) return 1;
  fclose(f);
{calls}
  f = fopen(argv[2], "wb");
  if (!f || fwrite(m, 1, {size}, f) != {size}) return 2;
  return fclose(f);
}}
"""


@dataclass(frozen=True)
class Machine:
    """Where the programs are built and run."""

    target: Mapping[str, Any]
    compiler: str
    runner: tuple[str, ...]

    def require(self) -> None:
        """Skip the test where a tool is missing."""
        for tool in (self.compiler, *self.runner[:1]):
            if shutil.which(tool) is None:
                pytest.skip(f"{tool} is not installed")


HOST = Machine({"kind": "llvm"}, "gcc", ())
AARCH64 = Machine(
    {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76", "mattr": ("+dotprod",)},
    "aarch64-linux-gnu-gcc",
    ("qemu-aarch64", "-cpu", "max,sve=off,pauth-impdef=on"),
)


@dataclass(frozen=True, eq=False)
class Case:
    """A node, a kernel for it, and its input arrays (None where absent; constants included)."""

    node: Node
    kernel: Kernel
    arrays: tuple[Array | None, ...]


class _Image:
    """All buffers of the program in one block of memory."""

    def __init__(self) -> None:
        self._parts: list[bytes] = [bytes([GARBAGE]) * GAP_BYTES]
        self.size = GAP_BYTES

    def add(self, content: bytes) -> int:
        start = self.size
        padding = -len(content) % ALIGNMENT + GAP_BYTES
        self._parts.append(content + bytes([GARBAGE]) * padding)
        self.size += len(content) + padding
        return start

    def bytes(self) -> bytes:
        return b"".join(self._parts)


def run_cases(cases: Sequence[Case], machine: Machine, plugin: Path | None = None) -> list[int]:
    """Check every case; with the counting plugin, returns the instructions that each took."""
    machine.require()
    requests = [request_for(case.kernel, machine.target) for case in cases]
    cache = Path(tempfile.gettempdir()) / "tinyopt-kernel-tests"
    objects = compile_kernels(requests, "object", cache, lambda _done, _total: None)
    image = _Image()
    calls: list[str] = []
    outputs: list[list[int]] = []
    written = np.zeros(0, bool)
    spans: list[tuple[int, int]] = []
    for case, request in zip(cases, requests, strict=True):
        places, passed = _place(case, image, spans)
        outputs.append(places)
        calls.append(f"  BEGIN; {request.symbol}({', '.join(passed)}); END;")
    before = image.bytes()
    with tempfile.TemporaryDirectory() as folder:
        after, counts = _build_and_run(Path(folder), machine, objects, requests, cases, calls, before, plugin)
    written = np.zeros(len(before), bool)
    for start, end in spans:
        written[start:end] = True
    changed = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
    for case, places in zip(cases, outputs, strict=True):
        _compare(case, places, after)
    assert not (changed & ~written).any(), "a kernel wrote outside of its outputs and scratch memory"
    return counts


def _place(case: Case, image: _Image, spans: list[tuple[int, int]]) -> tuple[list[int], list[str]]:
    """Lay out the buffers of one case: the places of its outputs, and the C text of its arguments."""
    outputs = [image.add(bytes([GARBAGE]) * value.type.bytes) for value in case.node.outputs]
    spans.extend((start, start + v.type.bytes) for start, v in zip(outputs, case.node.outputs, strict=True))
    passed: list[str] = []
    for argument in case.kernel.arguments:
        match argument:
            case ScalarArgument(value):
                passed.append(str(value))
                continue
            case OutputArgument(index):
                start = outputs[index]
            case InputArgument(index):
                array = case.arrays[index]
                assert array is not None
                start = image.add(np.ascontiguousarray(array).tobytes())
            case ConstantArgument(_, array):
                start = image.add(np.ascontiguousarray(array).tobytes())
            case ScratchArgument(size, _):
                start = image.add(bytes([GARBAGE]) * size)
                spans.append((start, start + size))
        passed.append(f"m + {start}")
    return outputs, passed


def _build_and_run(
    folder: Path,
    machine: Machine,
    objects: Mapping[str, bytes],
    requests: Sequence[Any],
    cases: Sequence[Case],
    calls: Sequence[str],
    before: bytes,
    plugin: Path | None,
) -> tuple[bytes, list[int]]:
    declarations: dict[str, str] = {}
    for case, request in zip(cases, requests, strict=True):
        (folder / f"{request.key}.o").write_bytes(objects[request.key])
        kinds = ["int32_t" if isinstance(a, ScalarArgument) else "void *" for a in case.kernel.arguments]
        declarations[request.symbol] = f"void {request.symbol}({', '.join(kinds)});"
    main = MAIN.format(declarations="\n".join(declarations.values()), size=len(before), calls="\n".join(calls))
    (folder / "main.c").write_text(main)
    (folder / "before").write_bytes(before)
    program, after, counts = folder / "program", folder / "after", folder / "counts"
    files = sorted({str(folder / f"{request.key}.o") for request in requests})
    static = ["-static"] if machine.runner else ["-no-pie"]
    _run([machine.compiler, "-O1", *static, str(folder / "main.c"), *files, "-lm", "-o", str(program)])
    counting = ["-plugin", f"{plugin},out={counts}"] if plugin is not None else []
    _run([*machine.runner, *(counting if machine.runner else []), str(program), str(folder / "before"), str(after)])
    regions = counts.read_text().splitlines() if counting and machine.runner else []
    return after.read_bytes(), [int(line.split()[3]) for line in regions if line.startswith("region")]


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr}"


def _compare(case: Case, places: Sequence[int], after: bytes) -> None:
    wanted = OPERATORS[case.node.op].evaluate(case.node, case.arrays)
    for want, value, start in zip(wanted, case.node.outputs, places, strict=True):
        got = np.frombuffer(after[start : start + value.type.bytes], DTYPES[value.dtype]).reshape(value.shape)
        what = f"{case.kernel.name} {case.kernel.spec}"
        if want.dtype.kind == "f":
            scale = float(np.abs(want).max(initial=1.0))
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * scale, err_msg=what)
        else:
            np.testing.assert_array_equal(got, want, err_msg=what)
