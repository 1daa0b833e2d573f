"""Measure models on Cortex-M cores under QEMU, with several compilers; write or check the committed table.

    python -m tools.benchmark --models DIR --data DIR             writes docs/cortex-m.md and its figures
    python -m tools.benchmark --models DIR --data DIR --check     measures anew and names every figure that differs
    python -m tools.benchmark ... --model kws01 --core cortex-m4  prints these only, and what misses its goal
    python -m tools.benchmark ... --model kws01 --update          and writes them into the committed table

The folders default to $TINYOPT_MODELS and $TINYOPT_DATA.
Exit code 1: with --check a figure differs, else one misses its goal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tinyopt.targets import target_named
from tinyopt.toolchain import CompilerChoice, find_compiler, find_emulator
from tools.benchmark_field import Layer
from tools.benchmark_figures import BUILDS, CORES, MODELS, Figures, Folders, Model, measure_model
from tools.benchmark_goals import misses
from tools.benchmark_page import page

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = ROOT / "tests" / "golden" / "cortex_m_figures.json"
PAGE = ROOT / "docs" / "cortex-m.md"


def main() -> int:
    """Measure, then print, check or write."""
    arguments = _arguments()
    models = [model for model in MODELS if model.name in (arguments.model or [model.name])]
    cores = [core for core in CORES if core in (arguments.core or [core])]
    builds = [b for b in BUILDS if f"{b.cc} -{b.optimization}" in (arguments.build or [f"{b.cc} -{b.optimization}"])]
    is_whole = (len(models), len(cores), len(builds)) == (len(MODELS), len(CORES), len(BUILDS))
    started = time.monotonic()
    figures, layers = _measure(models, cores, builds, Folders(arguments.models, arguments.data), arguments.jobs)
    _print(figures, layers)
    print(f"{len(figures)} combinations in {time.monotonic() - started:.0f} s", file=sys.stderr)
    if arguments.check:
        return _check(figures, layers)
    if is_whole:
        write(compiler_versions(), figures, layers)
    elif arguments.update:
        update(figures, layers)
    else:
        print("not the whole table: nothing is written", file=sys.stderr)
    return int(bool(misses(figures, layers)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("models", "data"):
        folder = os.environ.get(f"TINYOPT_{name.upper()}")
        parser.add_argument(f"--{name}", type=Path, default=folder, required=folder is None)
    parser.add_argument("--model", action="append", help=f"only these: {'; '.join(model.name for model in MODELS)}")
    parser.add_argument("--core", action="append", help="only these", choices=CORES)
    parser.add_argument("--build", action="append", help="only these, such as 'clang-19 -O2'")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--update", action="store_true", help="write a part of the table, too")
    parser.add_argument("--check", action="store_true", help="compare with the committed table instead of writing it")
    return parser.parse_args()


def _measure(
    models: Sequence[Model], cores: Sequence[str], builds: Sequence[CompilerChoice], folders: Folders, jobs: int
) -> tuple[list[Figures], list[Layer]]:
    """Everything, in the order of the table, whichever process is done first."""
    figures: list[Figures] = []
    layers: list[Layer] = []
    with ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(measure_model, model, core, builds, folders) for model in models for core in cores]
        for future in waiting:
            lines, compared = future.result()
            figures += lines
            layers += compared
            print(f"{lines[0].model} on {lines[0].core}: {lines[0].instructions:,}", file=sys.stderr, flush=True)
    return figures, layers


def compiler_versions() -> dict[str, str]:
    """What the figures depend on, beside this repository."""
    core = target_named(CORES[0])
    versions = {choice.cc or "": find_compiler(core, choice.cc).version() for choice in BUILDS}
    emulator = subprocess.run([find_emulator(core), "--version"], capture_output=True, text=True, check=True).stdout
    return versions | {"qemu": emulator.splitlines()[0]}


def write(versions: Mapping[str, str], figures: Sequence[Figures], layers: Sequence[Layer]) -> None:
    """One line for each figure and layer, so that a change reads well as a diff."""
    parts = {"figures": [asdict(line) for line in figures], "layers": [asdict(layer) for layer in layers]}
    texts = [f' "versions": {json.dumps(versions)}']
    for name, entries in parts.items():
        texts.append(f' "{name}": [\n' + ",\n".join(f"  {json.dumps(entry)}" for entry in entries) + "\n ]")
    COMMITTED.write_text("{\n" + ",\n".join(texts) + "\n}\n", encoding="utf-8")
    PAGE.write_text(page(versions, figures, layers), encoding="utf-8")


def update(figures: Sequence[Figures], layers: Sequence[Layer]) -> None:
    """Put what was measured into the place of what is committed; lines and layers of what was not measured stay."""
    versions, old_figures, old_layers = committed()
    if versions != compiler_versions():
        raise SystemExit("the committed figures are by other versions of the compilers: measure the whole table")
    new_figures = {_place(line): line for line in figures}
    measured = {(layer.model, layer.core) for layer in layers}
    kept = [layer for layer in old_layers if (layer.model, layer.core) not in measured]
    names = [model.name for model in MODELS]
    write(
        versions,
        [new_figures.get(_place(line), line) for line in old_figures],
        sorted([*kept, *layers], key=lambda layer: (names.index(layer.model), CORES.index(layer.core), layer.index)),
    )


def committed() -> tuple[dict[str, str], list[Figures], list[Layer]]:
    """What `write` wrote."""
    content = json.loads(COMMITTED.read_text(encoding="utf-8"))
    return (
        content["versions"],
        [Figures(**entry) for entry in content["figures"]],
        [Layer(**entry) for entry in content["layers"]],
    )


def differences(found: Sequence[Figures | Layer], wanted: Sequence[Figures | Layer]) -> list[str]:
    """A line for each entry of `found` that is not among `wanted`, with the one that is in its place."""
    lines: list[str] = []
    known = {_place(entry): entry for entry in wanted}
    for entry in found:
        other = known.get(_place(entry))
        if other is None:
            lines.append(f"{_name(entry)} is not in the committed table")
            continue
        old, new = asdict(other), asdict(entry)
        changes = [f"{name} {old[name]} -> {new[name]}" for name in new if old[name] != new[name]]
        if changes:
            lines.append(f"{_name(entry)}: {', '.join(changes)}")
    return lines


def _name(entry: Figures | Layer) -> str:
    return " ".join(str(word) for word in _place(entry))


def _place(entry: Figures | Layer) -> tuple[str | int, ...]:
    if isinstance(entry, Layer):
        return entry.model, entry.core, "layer", entry.index
    return entry.model, entry.core, entry.compiler, entry.optimization


def _check(figures: Sequence[Figures], layers: Sequence[Layer]) -> int:
    versions, wanted_figures, wanted_layers = committed()
    for name, version in compiler_versions().items():
        if versions[name] != version:
            print(f"note: the committed figures were measured with {versions[name]}, these with {version}")
    lines = [*differences(figures, wanted_figures), *differences(layers, wanted_layers)]
    print("\n".join(lines) or "all figures are as committed")
    return int(bool(lines))


def _print(figures: Sequence[Figures], layers: Sequence[Layer]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("model", "core", "compiler"):
        table.add_column(title)
    for title in ("instructions", "code", "tables", "weights", "arena", "bound", "stack", "wrong bytes"):
        table.add_column(title, justify="right", no_wrap=True)
    for line in figures:
        sizes = (line.code_bytes, line.table_bytes, line.weight_bytes, line.arena_bytes, line.arena_lower_bound_bytes)
        numbers = (line.instructions, *sizes, line.stack_bytes, line.different_bytes)
        build = f"{line.compiler} -{line.optimization}"
        table.add_row(line.model, line.core, build, *(f"{number:,}" for number in numbers))
    Console(width=150, markup=False).print(table)
    slower = sum(layer.is_slower for layer in layers)
    print(f"layers slower than CMSIS-NN's: {slower} of {len(layers)}")
    for miss in misses(figures, layers):
        print(f"missed: {miss}")


if __name__ == "__main__":
    sys.exit(main())
