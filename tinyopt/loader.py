"""Run a compiled library from Python: `tinyopt.load("out")(x)`.

It needs NumPy and nothing else: where a library runs, TVM and onnxruntime need not be installed.
"""

from __future__ import annotations

import ctypes
import json
import platform
import re
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import InvalidModelError, TinyoptError, ToolchainError, UsageError

Array: TypeAlias = NDArray[Any]

_ALIGNMENT = 64  # of the arena: a whole cache line, more than any library asks for
_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64"}
_OTHER_NAMES = {"amd64": "x86_64", "arm64": "aarch64", "armv7l": "arm", "armv8l": "arm", "i686": "i386"}
_CPUINFO = Path("/proc/cpuinfo")
_CPUINFO_NAMES = {"dotprod": "asimddp", "i8mm": "i8mm"}  # what Linux calls these features there


@dataclass(frozen=True)
class Tensor:
    """An input or output. scale, zero_point: of quantized ones, real = (value - zero_point) * scale; None of others."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None

    def empty(self) -> Array:
        return np.empty(self.shape, self.dtype)

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class _Description:
    """What report.json says of a library. regions: bytes of each; `is_in_regions`: they are passed by a structure."""

    prefix: str
    target: str
    feature: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    regions: tuple[int, ...]
    is_in_regions: bool
    has_variants: bool


class Model:
    """A loaded library: call it with one array for each input, get one for each output.

    Calls from several threads may run at the same time. Each thread has an arena of its own, `arena_bytes`, allocated
    by its first call and kept until the thread ends; the library itself allocates nothing.
    """

    def __init__(self, library: ctypes.CDLL, description: _Description) -> None:
        self.inputs, self.outputs = description.inputs, description.outputs
        self.arena_bytes = sum(description.regions)
        self._description = description
        self._own = threading.local()
        prefix = description.prefix
        self._input, self._output = library[f"{prefix}_input"], library[f"{prefix}_output"]
        for function in (self._input, self._output):
            function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_uint), ctypes.c_void_p
        self._run = library[f"{prefix}_run"]
        self._run.argtypes, self._run.restype = (ctypes.c_void_p,), ctypes.c_int
        self._variant = library[f"{prefix}_variant"] if description.has_variants else None
        if self._variant is not None:
            self._variant.argtypes, self._variant.restype = (), ctypes.c_char_p

    @property
    def variant(self) -> str | None:
        """Which kernels the library picks on this CPU: "i8mm", "dotprod" or "neon"; None where it has no others."""
        return None if self._variant is None else self._variant().decode()

    def __call__(self, *arrays: Array, **named: Array) -> Array | tuple[Array, ...]:
        """Run the model once: inputs in the model's order, or by name. Returns the output, or a tuple of several.

        Raises UsageError where an input is missing, unknown, or not of the shape and dtype that `inputs` names: nothing
        is cast, for a silent cast of real numbers to a quantized model's int8 would be wrong.
        """
        if len(arrays) > len(self.inputs):
            raise UsageError(f"the model takes {len(self.inputs)} inputs, not {len(arrays)}: {self._takes()}")
        placed = {tensor.name: array for tensor, array in zip(self.inputs, arrays, strict=False)}
        if twice := placed.keys() & named.keys():
            raise UsageError(f"given twice, by place and by name: {', '.join(sorted(twice))}")
        outputs = tuple(self.run(placed | named).values())
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once, all by name: arrays of the shapes and dtypes of `inputs` in, those of `outputs` out.

        Raises as a call of the model does.
        """
        self._check_names(inputs)
        checked = [_checked(tensor, inputs[tensor.name]) for tensor in self.inputs]
        memory = self._memory()
        for index, array in enumerate(checked):
            ctypes.memmove(self._input(memory, index), array.ctypes.data, array.nbytes)
        if (status := self._run(memory)) != 0:
            raise TinyoptError(f"{self._description.prefix}_run returned {status}: see the header")
        results = {tensor.name: tensor.empty() for tensor in self.outputs}
        for index, array in enumerate(results.values()):
            ctypes.memmove(array.ctypes.data, self._output(memory, index), array.nbytes)
        return results

    def _check_names(self, inputs: Mapping[str, Array]) -> None:
        names = {tensor.name for tensor in self.inputs}
        if missing := names - inputs.keys():
            raise UsageError(f"no array for {', '.join(sorted(missing))}: {self._takes()}")
        if unknown := inputs.keys() - names:
            raise UsageError(f"the model has no input {', '.join(sorted(unknown))}: {self._takes()}")

    def _takes(self) -> str:
        return "it takes " + ", ".join(f"'{tensor.name}' {tensor}" for tensor in self.inputs)

    def _memory(self) -> Any:
        """The calling thread's arena, as the C functions take it."""
        if not hasattr(self._own, "memory"):
            regions = [np.empty(size + _ALIGNMENT, np.uint8) for size in self._description.regions]
            addresses = [-(-region.ctypes.data // _ALIGNMENT) * _ALIGNMENT for region in regions]
            pointers = (ctypes.c_void_p * len(addresses))(*addresses)
            self._own.regions, self._own.pointers = regions, pointers  # kept alive
            self._own.memory = ctypes.addressof(pointers) if self._description.is_in_regions else addresses[0]
        return self._own.memory


def load(folder: str | Path) -> Model:
    """Load the shared library in `folder`, what `tinyopt compile` wrote for this machine.

    Raises UsageError where `folder` is no such output or its library is for another machine, InvalidModelError where it
    is damaged, ToolchainError where the system refuses to load it.
    """
    folder = Path(folder)
    description = _read_description(folder)
    library = folder / f"lib{description.prefix}.so"
    if not library.is_file():
        raise UsageError(
            f"{folder} has no {library.name} to load: {description.target} gets C sources; compile for host"
        )
    _check_machine(folder, library, description)
    # glibc takes a path that it has loaded before for the same library: after a second compilation it is not
    with tempfile.TemporaryDirectory(prefix="tinyopt-load-") as unique:
        link = Path(unique) / library.name
        link.symlink_to(library.resolve())
        try:
            return Model(ctypes.CDLL(str(link)), description)
        except (OSError, AttributeError) as error:
            raise ToolchainError(f"{library} cannot be loaded: {error}; compile again") from error


def _read_description(folder: Path) -> _Description:
    report = folder / "report.json"
    if not report.is_file():
        raise UsageError(f"{folder} is not an output folder of tinyopt compile: it has no report.json")
    try:
        content = json.loads(report.read_text(encoding="utf-8"))
        regions = tuple(int(region["bytes"]) for region in content["regions"])
        described = _Description(
            prefix=str(content["prefix"]),
            target=str(content["target"]["name"]),
            feature=str(content["target"]["feature"]),
            inputs=tuple(map(_tensor, content["inputs"])),
            outputs=tuple(map(_tensor, content["outputs"])),
            regions=regions or (int(content["after"]["arena_bytes"]),),
            is_in_regions=bool(regions),
            has_variants=bool(content["variants"]),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise InvalidModelError(f"{report} is not a report of tinyopt compile: {error!r}; compile again") from error
    if not re.fullmatch(r"[a-z][a-z0-9_]*", described.prefix):
        raise InvalidModelError(f"{report} is damaged: '{described.prefix}' is no C identifier; compile again")
    return described


def _tensor(entry: Mapping[str, Any]) -> Tensor:
    return Tensor(
        str(entry["name"]), np.dtype(entry["dtype"]), tuple(entry["shape"]), entry["scale"], entry["zero_point"]
    )


def _check_machine(folder: Path, library: Path, description: _Description) -> None:
    """Raises UsageError where this machine cannot run `library`: by its ELF header, and by what the CPU lacks."""
    header = library.read_bytes()[:20]
    if header[:4] != b"\x7fELF" or len(header) < 20:
        raise InvalidModelError(f"{library} is no shared library; compile again")
    theirs = _ELF_MACHINES.get(int.from_bytes(header[18:20], "little"), "another machine")
    name = platform.machine().lower()
    ours = _OTHER_NAMES.get(name, name)
    help_text = "compile for host, or run it emulated: tinyopt run"
    if theirs != ours:
        raise UsageError(f"{folder} is for {description.target} ({theirs}), this machine is {ours}: {help_text}")
    needed = _CPUINFO_NAMES.get(description.feature)
    if needed and _CPUINFO.is_file() and needed not in _cpu_features():
        raise UsageError(f"{folder} is for {description.target}, this CPU has no {description.feature}: {help_text}")


def _cpu_features() -> set[str]:
    lines = _CPUINFO.read_text().splitlines()
    return {word for line in lines if line.startswith("Features") for word in line.partition(":")[2].split()}


def _checked(tensor: Tensor, array: Array) -> Array:
    if array.shape != tensor.shape or array.dtype != tensor.dtype:
        raise UsageError(f"input '{tensor.name}' takes {tensor}, not {array.dtype}{list(array.shape)}")
    return np.ascontiguousarray(array)
