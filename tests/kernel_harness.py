"""Runs one kernel on this machine: TensorIR to C, gcc, ctypes. Canaries lie around everything that it may write."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests import sanitizers
from tests.cortex_m_harness import shared_places
from tinyopt.ir import DTYPES, Array, Node
from tinyopt.ops import OPERATORS
from tinyopt.targets.kernel import (
    Argument,
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    ScalarArgument,
    ScratchArgument,
)

FLAGS = ("-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fPIC", "-shared")
CANARY_BYTES = 64
GARBAGE = 0xA5


@dataclass
class _Memory:
    """An array that begins at `start` of a block. What the kernel may touch ends at `end`; canaries lie around that."""

    block: Array
    start: int
    first: int
    end: int

    @classmethod
    def of(cls, content: Array | None, size: int) -> _Memory:
        block = np.full(size + 2 * CANARY_BYTES + 16, GARBAGE, np.uint8)
        start = CANARY_BYTES + (-(block.ctypes.data + CANARY_BYTES)) % 16
        memory = cls(block, start, start, start + size)
        if content is not None:
            memory.fill(content)
        return memory

    def fill(self, content: Array) -> None:
        raw = np.frombuffer(np.ascontiguousarray(content).tobytes(), np.uint8)
        self.block[self.start : self.start + content.nbytes] = raw

    def begins_later(self, bytes: int) -> _Memory:
        return replace(self, start=self.start + bytes)

    @property
    def pointer(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.block.ctypes.data + self.start)

    @property
    def around(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """What the kernel may not touch, as (address, bytes)."""
        begin, size = self.block.ctypes.data, self.block.nbytes
        return (begin, self.first), (begin + self.end, size - self.end)

    def content(self, dtype: str, shape: tuple[int, ...]) -> Array:
        count = int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype].itemsize
        raw = self.block[self.start : self.start + count]
        return np.frombuffer(raw.tobytes(), DTYPES[dtype]).reshape(shape)

    def check(self, what: str) -> None:
        before, after = self.block[: self.first], self.block[self.end :]
        assert (before == GARBAGE).all(), f"the kernel wrote before {what}"
        assert (after == GARBAGE).all(), f"the kernel wrote behind {what}"


def kernel_c_text(kernel: Kernel, host_code: str | None = None) -> str:
    """The C file of one kernel: its intrinsics (or `host_code` in their place) and its function `kernel_under_test`."""
    from tinyopt.lowering.compiler import lower_to_c

    written = [isinstance(argument, OutputArgument | ScratchArgument) for argument in kernel.arguments]
    function = lower_to_c(kernel.template(kernel.spec), "kernel_under_test", written, kernel.may_alias)
    headers = ["stdint.h", "stdbool.h", "string.h", "math.h"]
    prelude = host_code
    if prelude is None:
        headers += [header for intrinsic in kernel.intrinsics for header in intrinsic.headers]
        prelude = "".join(intrinsic.c_text for intrinsic in kernel.intrinsics)
    includes = "".join(f"#include <{header}>\n" for header in dict.fromkeys(headers))
    return f"{includes}{prelude}{function}\n{_entry_point(kernel.arguments, function)}"


def _entry_point(arguments: Sequence[Argument], function: str) -> str:
    """A global function that calls the static one with void pointers, as the generated library would with casts."""
    start = function.index("(") + 1
    types = [text.strip() for text in function[start : function.index(")")].split(",")]
    kinds = ["int32_t" if isinstance(argument, ScalarArgument) else "void *" for argument in arguments]
    parameters = ", ".join(f"{kind} a{i}" for i, kind in enumerate(kinds))
    passed = ", ".join(f"a{i}" for i in range(len(types)))
    return f"void entry({parameters});\nvoid entry({parameters}) {{ kernel_under_test({passed}); }}\n"


@cache
def _compiled(text: str, given_compiler: tuple[str, ...]) -> Any:
    compiler = sanitizers.compiler(given_compiler)
    folder = Path(tempfile.gettempdir()) / "tinyopt-kernel-tests"
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256(f"{compiler}{text}".encode()).hexdigest()[:24]
    library = folder / f"{digest}.so"
    if not library.exists():
        source = folder / f"{digest}.c"
        source.write_text(text)
        building = folder / f"{digest}.{id(text)}.tmp"
        command = [*compiler, *FLAGS, str(source), "-o", str(building), "-lm"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{result.stderr}\n{text}"
        building.rename(library)
    return ctypes.CDLL(str(library))


def run_kernel_c(
    node: Node,
    kernel: Kernel,
    arrays: Sequence[Array | None],
    host_code: str | None = None,
    compiler: tuple[str, ...] = ("gcc",),
) -> list[Array]:
    """The kernel's outputs for `arrays`, one for each entry of node.inputs (None where absent), constants included.

    host_code: C text that stands in for the intrinsics where this machine does not have them.
    A kernel whose output may share an input's memory is run that way as well, and must give the same bytes.
    """
    return _outputs(_compiled(kernel_c_text(kernel, host_code), compiler), node, kernel, arrays)


def run_kernel_object(
    node: Node, kernel: Kernel, arrays: Sequence[Array | None], target: Mapping[str, Any] | None = None
) -> list[Array]:
    """`run_kernel_c` by way of TVM's LLVM code generator; `target` must be one that this machine runs."""
    from tinyopt.lowering.compiler import lower_to_object

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "kernel.o"
        function = kernel.template(kernel.spec)
        lower_to_object(function, "kernel_under_test", target or {"kind": "llvm"}, kernel.may_alias, made)
        source, library = Path(folder) / "entry.c", Path(folder) / "kernel.so"
        types = ", ".join("int32_t" if isinstance(a, ScalarArgument) else "void *" for a in kernel.arguments)
        declaration = f"void kernel_under_test({types});"
        source.write_text(f"#include <stdint.h>\n{declaration}\n{_entry_point(kernel.arguments, declaration)}")
        command = ["gcc", *FLAGS, str(source), str(made), "-o", str(library), "-lm"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return _outputs(ctypes.CDLL(str(library)), node, kernel, arrays)


def _outputs(library: Any, node: Node, kernel: Kernel, arrays: Sequence[Array | None]) -> list[Array]:
    apart = _run(library, node, kernel, arrays, None)
    for place in shared_places(kernel):
        together = _run(library, node, kernel, arrays, place)
        said = f"it gives something else with the output {place[1]} bytes after input {place[0]}"
        for one, other in zip(apart, together, strict=True):
            np.testing.assert_array_equal(one, other, said)
    return apart


def _run(
    library: Any, node: Node, kernel: Kernel, arrays: Sequence[Array | None], shared: tuple[int, int] | None
) -> list[Array]:
    outputs = [_Memory.of(None, value.type.bytes) for value in node.outputs]
    inputs = {
        index: _Memory.of(arrays[index], value.type.bytes)
        for index, value in enumerate(node.inputs)
        if value is not None and (shared is None or index != shared[0])
    }
    if shared is not None:
        outputs[0], inputs[shared[0]] = _sharing(arrays[shared[0]], node.outputs[0].type.bytes, shared[1])
    kept: list[_Memory] = []
    passed: list[Any] = []
    for argument in kernel.arguments:
        if isinstance(argument, ScalarArgument):
            passed.append(ctypes.c_int32(argument.value))
            continue
        memory = _memory_for(argument, node, inputs, outputs)
        kept.append(memory)
        passed.append(memory.pointer)
    before = [memory.block.copy() for memory in kept]
    with sanitizers.poisoned([region for memory in kept for region in memory.around]):
        library.entry(*passed)
    for argument, memory, old in zip(
        [a for a in kernel.arguments if not isinstance(a, ScalarArgument)], kept, before, strict=True
    ):
        memory.check(f"{argument}")
        if isinstance(argument, InputArgument | ConstantArgument) and all(memory.block is not o.block for o in outputs):
            np.testing.assert_array_equal(memory.block, old, f"the kernel wrote to {argument}")
    return [memory.content(value.dtype, value.shape) for memory, value in zip(outputs, node.outputs, strict=True)]


def _sharing(content: Array | None, bytes: int, distance: int) -> tuple[_Memory, _Memory]:
    """An output of `bytes` that begins `distance` bytes after the input that holds `content`: (output, input)."""
    assert content is not None
    begin, input_begin = max(distance, 0), max(-distance, 0)
    room = _Memory.of(None, max(begin + bytes, input_begin + content.nbytes))
    room.begins_later(input_begin).fill(content)
    return room.begins_later(begin), room.begins_later(input_begin)


def _memory_for(argument: Argument, node: Node, inputs: Mapping[int, _Memory], outputs: Sequence[_Memory]) -> _Memory:
    if isinstance(argument, OutputArgument):
        return outputs[argument.index]
    if isinstance(argument, ScratchArgument):
        return _Memory.of(None, argument.bytes)
    if isinstance(argument, ConstantArgument):
        return _Memory.of(argument.array, argument.array.nbytes)
    assert isinstance(argument, InputArgument)
    assert argument.index in inputs, f"{node.op} has no input {argument.index}, but its kernel takes it"
    return inputs[argument.index]


def check_kernel(
    node: Node,
    kernel: Kernel,
    arrays: Sequence[Array | None],
    host_code: str | None = None,
    compiler: tuple[str, ...] = ("gcc",),
) -> None:
    """The kernel gives what the operator's reference gives: every bit for integers, 1e-5 relative for floats."""
    check_outputs(node, arrays, run_kernel_c(node, kernel, arrays, host_code, compiler))


def check_outputs(node: Node, arrays: Sequence[Array | None], given: Sequence[Array]) -> None:
    """`given` is what the operator's reference gives."""
    wanted = OPERATORS[node.op].evaluate(node, arrays)
    for want, got in zip(wanted, given, strict=True):
        assert want.shape == got.shape
        assert want.dtype == got.dtype
        if want.dtype.kind == "f":
            scale = float(np.abs(want[np.isfinite(want)]).max(initial=1e-3))
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * min(scale, 1.0))
        else:
            np.testing.assert_array_equal(got, want)
