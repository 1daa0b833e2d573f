"""Run a compiled model on samples: here, under qemu-user or on an emulated board."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tinyopt.emulation import FOLDER as EMULATION_FOLDER
from tinyopt.errors import InvalidModelError, ToolchainError, UsageError
from tinyopt.execution.built_model import BuiltModel
from tinyopt.execution.linking import compile_weights, link_program, render
from tinyopt.ir import DTYPES, Array, TensorType, Value
from tinyopt.toolchain import CompilerChoice, find_compiler, find_emulator, host_compiler

RUN_TIMEOUT_SECONDS = 1800
Mode = Literal["run", "trace", "profile"]


@dataclass(frozen=True)
class RunResult:
    """outputs: for each sample the arrays by output name. traces: for each sample the first output of every layer.

    counts: for each layer (instructions, modelled cycles), where the run was a profile.
    variant: the kernels that the library picked on this CPU; None where it has no others.
    """

    outputs: tuple[dict[str, Array], ...]
    traces: tuple[tuple[Array, ...], ...]
    counts: tuple[tuple[int, int], ...]
    variant: str | None


def run_built_model(
    built: BuiltModel, samples: Sequence[Mapping[str, Array]], mode: Mode, choice: CompilerChoice, cache_dir: Path
) -> RunResult:
    """Run the compiled library on `samples`, in order, in one process.

    cache_dir: where the compiled QEMU plugin is kept.
    Raises ToolchainError where a compiler or emulator is missing or the program fails.
    """
    with tempfile.TemporaryDirectory(prefix="tinyopt-run-") as text_folder:
        folder = Path(text_folder)
        program = _build(built, len(samples), mode, choice, folder)
        write_inputs(built, samples, folder)
        execute(built, program, folder, plugin_library(cache_dir) if mode == "profile" else None)
        outputs = read_records(folder / "output.bin", [value.type for value in built.graph.outputs], len(samples))
        traces: list[tuple[Array, ...]] = []
        if mode == "trace":
            types = [TensorType(layer["dtype"], tuple(layer["shape"])) for layer in built.layers]
            traces = [tuple(record) for record in read_records(folder / "trace.bin", types, len(samples))]
        names = [value.name for value in built.graph.outputs]
        return RunResult(
            tuple(dict(zip(names, record, strict=True)) for record in outputs),
            tuple(traces),
            read_counts(folder / "counts.txt") if mode == "profile" else (),
            _variant(built, folder / "variant.txt"),
        )


def _variant(built: BuiltModel, path: Path) -> str | None:
    if not built.variants:
        return None
    name = path.read_text()
    if name not in built.variants:
        raise ToolchainError(f"the library runs its kernels for '{name}', of which {built.folder} knows nothing")
    return name


def check_is_emulated(built: BuiltModel) -> None:
    """Raises UsageError where code for the target runs on this machine itself, so that nothing counts."""
    if built.target.emulator.kind == "native":
        raise UsageError(
            f"instructions are counted under QEMU: compile for arm or a Cortex-M, not for {built.target.name}"
        )


def _build(built: BuiltModel, samples: int, mode: Mode, choice: CompilerChoice, folder: Path) -> Path:
    """Compile the runner, which contains the model's C file, with the model's weights or library."""
    values: dict[str, Any] = {
        "mode": mode,
        "slots": [
            {"layer": layer["index"]} | {key: layer[key] for key in ("region", "offset", "bytes")}
            for layer in built.layers
        ],
    }
    main = folder / "runner.c"
    main.write_text(render("runner.c.j2", built, values | boundary_values(built, samples)))
    compiler, flags = find_compiler(built.target, choice.cc), (f"-{choice.optimization}",)
    return link_program(built, compiler, main, [compile_weights(built, compiler, flags, folder)], flags)


def boundary_values(built: BuiltModel, samples: int) -> dict[str, Any]:
    """What the templates must know to read and write all samples."""
    return {
        "samples": samples,
        "input_bytes": [value.type.bytes for value in built.graph.inputs],
        "output_bytes": [value.type.bytes for value in built.graph.outputs],
    }


def write_inputs(built: BuiltModel, samples: Sequence[Mapping[str, Array]], folder: Path) -> None:
    """Put all samples into `folder`/input.bin, as the programs read them."""
    with (folder / "input.bin").open("wb") as file:
        for sample in samples:
            for value in built.graph.inputs:
                file.write(_as_input(sample, value).tobytes())


def _as_input(sample: Mapping[str, Array], value: Value) -> Array:
    array = sample[value.name]
    if array.shape != value.shape or array.dtype != DTYPES[value.dtype]:
        raise InvalidModelError(
            f"input '{value.name}' takes {value.dtype}{list(value.shape)}, not {array.dtype}{list(array.shape)}"
        )
    return np.ascontiguousarray(array)


def execute(built: BuiltModel, program: Path, folder: Path, plugin: Path | None) -> None:
    """Run the program in `folder`; `plugin` counts into counts.txt there. Raises ToolchainError where it fails."""
    emulator = built.target.emulator
    command = [str(program)]
    if emulator.kind != "native":
        kernel = ["-kernel"] if emulator.kind == "qemu-system" else []
        plugins = ["-plugin", f"{plugin},out={folder / 'counts.txt'},model=m4"] if plugin else []
        command = [find_emulator(built.target), *emulator.arguments, *plugins, *kernel, str(program)]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=RUN_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"the model did not finish in {RUN_TIMEOUT_SECONDS} s on {built.target.name}") from None
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise ToolchainError(f"the model's program ended with code {done.returncode} on {built.target.name}: {words}")


def read_records(path: Path, types: Sequence[TensorType], count: int) -> list[list[Array]]:
    """`count` records, each one array of every type, as the runner wrote them."""
    data = path.read_bytes()
    expected = count * sum(kind.bytes for kind in types)
    if len(data) != expected:
        raise ToolchainError(f"the model's program wrote {len(data)} bytes to {path.name} instead of {expected}")
    records: list[list[Array]] = []
    position = 0
    for _ in range(count):
        record: list[Array] = []
        for kind in types:
            record.append(np.frombuffer(data, DTYPES[kind.dtype], kind.elements, position).reshape(kind.shape))
            position += kind.bytes
        records.append(record)
    return records


def read_counts(path: Path) -> tuple[tuple[int, int], ...]:
    """The plugin's lines `region K insns N cycles C`."""
    words = [line.split() for line in path.read_text().splitlines() if line.startswith("region")]
    return tuple((int(word[3]), int(word[5])) for word in words)


def read_total(path: Path) -> int:
    """Instructions in the plugin's last line, `total insns N cycles C`."""
    return int(path.read_text().splitlines()[-1].split()[2])


def plugin_library(cache_dir: Path) -> Path:
    """The instruction counter, compiled for this machine; kept by content."""
    source = EMULATION_FOLDER / "insn_count.c"
    library = cache_dir / "plugins" / f"insn_count-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder) / library.name
            host_compiler().run("-O2", "-shared", "-fPIC", source, "-o", built)
            os.replace(built, library)
    return library
