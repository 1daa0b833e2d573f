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
from tinyopt.lowering.request import KernelRequest, request_for
from tinyopt.ops import OPERATORS
from tinyopt.targets.kernel import (
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    ScalarArgument,
    ScratchArgument,
)

BATCH = 100  # kernels that are compiled at a time
ALIGNMENT = 16
FLOAT16_ROUNDING = 2.0**-11  # half the distance from 1 to the next number
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
CPUS = {  # QEMU's
    "max": ("qemu-aarch64", "-cpu", "max,sve=off,pauth-impdef=on"),
    "cortex-a72": ("qemu-aarch64", "-cpu", "cortex-a72"),
    "cortex-a53": ("qemu-aarch64", "-cpu", "cortex-a53"),
}
_AARCH64_TARGET = {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}
AARCH64 = Machine(
    {**_AARCH64_TARGET, "mcpu": "cortex-a76", "mattr": ("+dotprod",)}, "aarch64-linux-gnu-gcc", CPUS["max"]
)
ANY_AARCH64 = Machine({**_AARCH64_TARGET, "mcpu": "cortex-a53"}, "aarch64-linux-gnu-gcc", CPUS["cortex-a53"])


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


@dataclass(frozen=True)
class Program:
    """All cases in one executable. before: its memory as it starts. outputs: places in it, for each case.

    written: (start, end) of what kernels may write. wanted: the reference's outputs, for each case.
    """

    file: Path
    cases: Sequence[Case]
    before: bytes
    outputs: Sequence[Sequence[int]]
    written: Sequence[tuple[int, int]]
    wanted: Sequence[Sequence[Array]]

    def run(self, runner: Sequence[str], plugin: Path | None = None) -> tuple[bytes, list[int]]:
        """(the memory at the end, with the counting plugin the instructions that each case took)."""
        start, end, counts = (self.file.with_name(name) for name in ("before", "after", "counts"))
        start.write_bytes(self.before)
        counting = ["-plugin", f"{plugin},out={counts}"] if plugin is not None and runner else []
        _run([*runner, *counting, str(self.file), str(start), str(end)])
        regions = counts.read_text().splitlines() if counting else []
        return end.read_bytes(), [int(line.split()[3]) for line in regions if line.startswith("region")]

    def check(self, after: bytes) -> float:
        """The largest error of a float output, as a share of the case's largest output. Fails where a case differs."""
        found = [_difference(*each, after) for each in zip(self.cases, self.outputs, self.wanted, strict=True)]
        differences = sorted((text for _, text in found if text), key=len)
        assert not differences, f"{len(differences)} of {len(found)} cases differ:\n" + "\n".join(differences[:5])
        may_change = np.zeros(len(after), bool)
        for start, end in self.written:
            may_change[start:end] = True
        changed = np.frombuffer(self.before, np.uint8) != np.frombuffer(after, np.uint8)
        assert not (changed & ~may_change).any(), "a kernel wrote outside of its outputs and scratch memory"
        return max(error for error, _ in found)


def run_cases(cases: Sequence[Case], machine: Machine, plugin: Path | None = None) -> list[int]:
    """Check every case; with the counting plugin, returns the instructions that each took."""
    machine.require()
    with tempfile.TemporaryDirectory() as folder:
        program = build(cases, machine, Path(folder))
        after, counts = program.run(machine.runner, plugin)
    program.check(after)
    return counts


def run_with_each(cases: Sequence[Case], machine: Machine, runners: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Build once, check every case under each runner: `Program.check`'s error, by the runner's name."""
    machine.require()
    with tempfile.TemporaryDirectory() as folder:
        program = build(cases, machine, Path(folder))
        return {name: program.check(program.run(runner)[0]) for name, runner in runners.items()}


def build(cases: Sequence[Case], machine: Machine, folder: Path) -> Program:
    """Compile the kernels of the cases, from the cache where they are there, and the program that runs them."""
    requests = [request_for(case.kernel, machine.target) for case in cases]
    objects = _compiled(requests)
    image = _Image()
    calls: list[str] = []
    outputs: list[list[int]] = []
    spans: list[tuple[int, int]] = []
    for case, request in zip(cases, requests, strict=True):
        places, passed = _place(case, image, spans)
        outputs.append(places)
        calls.append(f"  BEGIN; {request.symbol}({', '.join(passed)}); END;")
    before = image.bytes()
    file = _link(folder, machine, objects, requests, cases, calls, len(before))
    wanted = [OPERATORS[case.node.op].evaluate(case.node, case.arrays) for case in cases]
    return Program(file, cases, before, outputs, spans, wanted)


def _compiled(requests: Sequence[KernelRequest]) -> dict[str, bytes]:
    """Object code by the requests' keys; in batches, each of which is kept though a later one fails."""
    cache = Path(tempfile.gettempdir()) / "tinyopt-kernel-tests"
    objects: dict[str, bytes] = {}
    for start in range(0, len(requests), BATCH):
        objects |= compile_kernels(requests[start : start + BATCH], "object", cache, lambda _done, _total: None)
    return objects


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


def _link(
    folder: Path,
    machine: Machine,
    objects: Mapping[str, bytes],
    requests: Sequence[KernelRequest],
    cases: Sequence[Case],
    calls: Sequence[str],
    size: int,
) -> Path:
    """The executable of these calls, which works on `size` bytes of memory."""
    declarations: dict[str, str] = {}
    for case, request in zip(cases, requests, strict=True):
        (folder / f"{request.key}.o").write_bytes(objects[request.key])
        kinds = ["int32_t" if isinstance(a, ScalarArgument) else "void *" for a in case.kernel.arguments]
        declarations[request.symbol] = f"void {request.symbol}({', '.join(kinds)});"
    main = MAIN.format(declarations="\n".join(declarations.values()), size=size, calls="\n".join(calls))
    (folder / "main.c").write_text(main)
    files = sorted({str(folder / f"{request.key}.o") for request in requests})
    static = ["-static"] if machine.runner else ["-no-pie"]
    program = folder / "program"
    _run([machine.compiler, "-O1", *static, str(folder / "main.c"), *files, "-lm", "-o", str(program)])
    return program


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr}"


def _difference(case: Case, places: Sequence[int], wanted: Sequence[Array], after: bytes) -> tuple[float, str]:
    """(the largest error of a float output, as a share of the largest output; what differs, "" where nothing does)."""
    largest = 0.0
    for want, value, start in zip(wanted, case.node.outputs, places, strict=True):
        got = np.frombuffer(after[start : start + value.type.bytes], DTYPES[value.dtype]).reshape(value.shape)
        what = f"{case.kernel.name} {case.kernel.spec}"
        try:
            if "float16" in (value.dtype, case.node.input(0).dtype):
                finite = np.isfinite(want)
                scale = float(np.abs(want[finite].astype(np.float32)).max(initial=0.0))
                exact, wide = want.astype(np.float64), got.astype(np.float64)
                largest = max(largest, float(np.abs(wide[finite] - exact[finite]).max(initial=0.0)) / max(scale, 1.0))
                np.testing.assert_allclose(wide, exact, rtol=0, atol=_float16_share(case) * scale, err_msg=what)
            elif want.dtype.kind == "f":
                finite = np.isfinite(want)  # a MaxPool whose window lies outside of the image is -inf
                scale = float(np.abs(want[finite]).max(initial=1.0))
                largest = max(largest, float(np.abs(got[finite] - want[finite]).max(initial=0.0)) / scale)
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * scale, err_msg=what)
            else:
                np.testing.assert_array_equal(got, want, err_msg=what)
        except AssertionError as error:
            return largest, str(error)
    return largest, ""


def _float16_share(case: Case) -> float:
    """How far a float16 element may be from the reference, as a share of the largest: K roundings add up as sqrt(K).

    Winograd's transforms add four elements before the products and four sums behind them, each rounded: twice that.
    """
    node = case.node
    if node.op == "Cast":
        return 0.0
    terms = OPERATORS[node.op].macs(node) / node.output.type.elements if node.op in ("Conv", "Dense") else 0
    factor = 2 if case.kernel.name == "conv_winograd" else 1
    return FLOAT16_ROUNDING * factor * (2 + float(np.sqrt(terms)))
