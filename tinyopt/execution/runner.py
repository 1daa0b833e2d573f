"""Build a small program around a compiled model, and run it: here, under qemu-user or on an emulated board."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np

from tinyopt.emulation import FOLDER as EMULATION_FOLDER
from tinyopt.errors import InvalidModelError, ToolchainError
from tinyopt.execution.built_model import BuiltModel
from tinyopt.ir import DTYPES, Array, TensorType, Value
from tinyopt.toolchain import Compiler, find_compiler, find_emulator, host_compiler

RUN_TIMEOUT_SECONDS = 1800
Mode = Literal["run", "trace", "profile"]


@dataclass(frozen=True)
class RunResult:
    """outputs: for each sample the arrays by output name. traces: for each sample the first output of every layer.

    counts: for each layer (instructions, modelled cycles), where the run was a profile.
    """

    outputs: tuple[dict[str, Array], ...]
    traces: tuple[tuple[Array, ...], ...]
    counts: tuple[tuple[int, int], ...]


def run_built_model(
    built: BuiltModel, samples: Sequence[Mapping[str, Array]], mode: Mode, cc: str | None, cache_dir: Path
) -> RunResult:
    """Run the compiled library on `samples`, in order, in one process.

    cache_dir: where the compiled QEMU plugin is kept.
    Raises ToolchainError where a compiler or emulator is missing or the program fails.
    """
    with tempfile.TemporaryDirectory(prefix="tinyopt-run-") as text_folder:
        folder = Path(text_folder)
        program = _build(built, len(samples), mode, find_compiler(built.target, cc), folder)
        _write_inputs(built, samples, folder)
        _execute(built, program, folder, _plugin(cache_dir) if mode == "profile" else None)
        outputs = _read_records(folder / "output.bin", [value.type for value in built.graph.outputs], len(samples))
        traces: list[tuple[Array, ...]] = []
        if mode == "trace":
            types = [TensorType(layer["dtype"], tuple(layer["shape"])) for layer in built.layers]
            traces = [tuple(record) for record in _read_records(folder / "trace.bin", types, len(samples))]
        names = [value.name for value in built.graph.outputs]
        return RunResult(
            tuple(dict(zip(names, record, strict=True)) for record in outputs),
            tuple(traces),
            _read_counts(folder / "counts.txt") if mode == "profile" else (),
        )


def firmware_bytes(built: BuiltModel, cc: str | None) -> int:
    """Bytes of flash of the smallest linked program that runs the model: code, constants, start-up and C library.

    Raises ToolchainError where a compiler is missing or fails.
    """
    compiler = find_compiler(built.target, cc)
    with tempfile.TemporaryDirectory(prefix="tinyopt-firmware-") as text_folder:
        folder = Path(text_folder)
        (folder / "firmware.c").write_text(_render("firmware.c.j2", built, {}))
        is_source = built.target.code == "c"
        sources = [folder / "firmware.c", *([built.folder.resolve() / f"{built.prefix}.c"] if is_source else [])]
        flags = ("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections")
        return compiler.flash_bytes(_link(built, compiler, sources, flags, folder / "firmware.elf"))


def _build(built: BuiltModel, samples: int, mode: Mode, compiler: Compiler, folder: Path) -> Path:
    """Compile the runner, which contains the model's C file, with the model's weights or library."""
    values: dict[str, Any] = {
        "mode": mode,
        "samples": samples,
        "slots": [
            {"layer": layer["index"], "offset": layer["offset"], "bytes": layer["bytes"]} for layer in built.layers
        ],
        "input_bytes": [value.type.bytes for value in built.graph.inputs],
        "output_bytes": [value.type.bytes for value in built.graph.outputs],
    }
    (folder / "runner.c").write_text(_render("runner.c.j2", built, values))
    return _link(built, compiler, [folder / "runner.c"], (), folder / "runner.elf")


def _render(template: str, built: BuiltModel, values: Mapping[str, Any]) -> str:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("tinyopt.execution"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    return templates.get_template(template).render({"p": built.prefix, "U": built.prefix.upper()} | dict(values))


def _link(built: BuiltModel, compiler: Compiler, sources: Sequence[Path], flags: Sequence[str], program: Path) -> Path:
    """Compile `sources` with the model's weights (or library) into `program`, as the target's board wants it."""
    folder = built.folder.resolve()
    weights = f"{built.prefix}_weights.c" if built.target.code == "c" else f"lib{built.prefix}.a"
    compiler.run(
        *("-std=gnu99", "-O3", "-ffp-contract=off", *flags, f"-I{folder}"),
        *[*sources, folder / weights],
        *_link_arguments(built),
        *("-lm", "-o", program),
    )
    return program


def _link_arguments(built: BuiltModel) -> list[str]:
    emulator = built.target.emulator
    if emulator.kind == "qemu-system":
        script = EMULATION_FOLDER / f"{emulator.board}.ld"
        start = EMULATION_FOLDER / "startup.c"
        return [str(start), "-T", str(script), f"-L{EMULATION_FOLDER}", "--specs=rdimon.specs", "-nostartfiles"]
    return ["-static"] if emulator.kind == "qemu-user" else []


def _write_inputs(built: BuiltModel, samples: Sequence[Mapping[str, Array]], folder: Path) -> None:
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


def _execute(built: BuiltModel, program: Path, folder: Path, plugin: Path | None) -> None:
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


def _read_records(path: Path, types: Sequence[TensorType], count: int) -> list[list[Array]]:
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


def _read_counts(path: Path) -> tuple[tuple[int, int], ...]:
    """The plugin's lines `region K insns N cycles C`."""
    words = [line.split() for line in path.read_text().splitlines() if line.startswith("region")]
    return tuple((int(word[3]), int(word[5])) for word in words)


def _plugin(cache_dir: Path) -> Path:
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
