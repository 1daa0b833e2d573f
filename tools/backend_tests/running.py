"""Programs run from Python: all kernels in one shared library, called one after the other on an arena.

What the generated C file would do is done here, for a C compiler takes longer than everything else: the same kernels,
the same order, the same places in the same arena, the same constants. The arena begins full of garbage.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinyopt.errors import TinyoptError
from tinyopt.ir import DTYPES, Array, TensorType
from tinyopt.lowering.kernel_cache import compile_kernels
from tinyopt.lowering.program import ARENA_ALIGNMENT, ArenaSlot, Location
from tinyopt.lowering.request import KernelRequest
from tools.backend_tests.cases import BackendCase
from tools.backend_tests.preparing import Place, Prepared, Tensor

_GARBAGE = 0xA5


def compiled(requests: Sequence[KernelRequest], cache_dir: Path | None) -> tuple[dict[str, bytes], dict[str, str]]:
    """The object code by key, and the reason for each key that cannot be compiled."""
    unique = list({request.key: request for request in requests}.values())
    try:
        return compile_kernels(unique, "object", cache_dir, lambda done, count: None), {}
    except TinyoptError as error:
        if len(unique) == 1:
            return {}, {unique[0].key: str(error)}
    functions: dict[str, bytes] = {}
    failures: dict[str, str] = {}
    for half in (unique[: len(unique) // 2], unique[len(unique) // 2 :]):
        good, bad = compiled(half, cache_dir)
        functions |= good
        failures |= bad
    return functions, failures


def link(functions: dict[str, bytes], symbols: Sequence[str], library: Path) -> None:
    """A shared library of all functions."""
    with tempfile.TemporaryDirectory() as folder:
        paths: list[str] = []
        for key, code in functions.items():
            paths.append(f"{folder}/{key}.o")
            Path(paths[-1]).write_bytes(code)
        arguments = Path(folder) / "arguments"
        arguments.write_text("\n".join(["-shared", "-Wl,-S", "-Wl,-z,muldefs", *paths, "-lm", "-o", str(library)]))
        subprocess.run(["gcc", f"@{arguments}"], check=True)


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    kind: pass, bound (passed with inputs bound), folded (passed with all inputs bound), refused, wrong, crash or hang.
    """

    name: str
    kind: str
    reason: str = ""


class Runner:
    """Runs prepared cases with the kernels of one library, which is loaded on first use: in the child process."""

    def __init__(self, library: Path, cases: dict[str, BackendCase]) -> None:
        self._path, self._cases = library, cases
        self._library: Any = None

    def __call__(self, prepared: Prepared) -> Outcome:
        """Run the case's sets of data."""
        if self._library is None:
            self._library = ctypes.CDLL(str(self._path))
        case = self._cases[prepared.name]
        for number in range(len(case.data)):
            feeds = case.inputs(number)
            changed = [name for name in prepared.bound if not _is_same(feeds[name], case.inputs(0)[name])]
            if changed:
                return Outcome(case.name, "refused", f"input '{changed[0]}' must be constant and is not")
            given = self._run(prepared, {name: np.asarray(array) for name, array in feeds.items()})
            for index, (got, wanted) in enumerate(zip(given, case.outputs(number), strict=True)):
                if difference := difference_of(got, np.asarray(wanted), case.rtol, case.atol):
                    return Outcome(case.name, "wrong", f"output {index}: {difference}")
        is_folded = bool(prepared.bound) and not prepared.inputs
        return Outcome(case.name, "folded" if is_folded else "bound" if prepared.bound else "pass")

    def _run(self, prepared: Prepared, feeds: dict[str, Array]) -> list[Array]:
        arena = _Arena(prepared.arena_bytes)
        for tensor in prepared.inputs:
            array = feeds[tensor.name]
            if TensorType.of(array) != tensor.type:
                raise TypeError(f"input '{tensor.name}' became {tensor.type}, the test has {TensorType.of(array)}")
            if isinstance(tensor.place, ArenaSlot):
                arena.write(tensor.place.offset, array)
        for symbol, arguments in prepared.calls:
            self._library[symbol](
                *(
                    arena.pointer(argument.place) if isinstance(argument, Location) else ctypes.c_int32(argument.value)
                    for argument in arguments
                )
            )
        return [arena.read(tensor) for tensor in prepared.outputs]


class _Arena:
    def __init__(self, size: int) -> None:
        self._block = np.full(size + ARENA_ALIGNMENT, _GARBAGE, np.uint8)
        self._start = -self._block.ctypes.data % ARENA_ALIGNMENT
        self._kept: list[Array] = []  # constants that pointers were taken of

    def write(self, offset: int, array: Array) -> None:
        raw = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self._block[self._start + offset :][: raw.size] = raw

    def pointer(self, place: Place) -> ctypes.c_void_p:
        if isinstance(place, ArenaSlot):
            return ctypes.c_void_p(self._block.ctypes.data + self._start + place.offset)
        room = np.zeros(place.array.nbytes + ARENA_ALIGNMENT, np.uint8)
        start = -room.ctypes.data % ARENA_ALIGNMENT
        room[start : start + place.array.nbytes] = np.frombuffer(np.ascontiguousarray(place.array).tobytes(), np.uint8)
        self._kept.append(room)
        return ctypes.c_void_p(room.ctypes.data + start)

    def read(self, tensor: Tensor) -> Array:
        if not isinstance(tensor.place, ArenaSlot):
            return tensor.place.array
        raw = self._block[self._start + tensor.place.offset :][: tensor.type.bytes]
        return np.frombuffer(raw.tobytes(), DTYPES[tensor.type.dtype]).reshape(tensor.type.shape)


_ROUNDING = 2**-22


def difference_of(got: Array, wanted: Array, rtol: float, atol: float) -> str:
    """How an output differs from what the test wants; empty where it does not. Integers must be equal.

    Sums of float32 that cancel out are as exact as what is summed: to `_ROUNDING` of the largest number.
    """
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"{got.dtype}{list(got.shape)}, not {wanted.dtype}{list(wanted.shape)}"
    if wanted.dtype.kind not in "fc":
        return "" if np.array_equal(got, wanted) else f"{int(np.sum(got != wanted))} of {got.size} integers differ"
    magnitudes = np.abs(wanted[np.isfinite(wanted)].astype(np.float64))
    atol = max(atol, _ROUNDING * float(magnitudes.max(initial=0.0)))
    with np.errstate(all="ignore"):
        is_near = np.isclose(got.astype(np.float64), wanted.astype(np.float64), rtol, atol, equal_nan=True)
    if is_near.all():
        return ""
    return f"{int(np.sum(~is_near))} of {got.size} differ, such as {got[~is_near][0]} for {wanted[~is_near][0]}"


def _is_same(a: Any, b: Any) -> bool:
    return np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(np.asarray(a), np.asarray(b))
