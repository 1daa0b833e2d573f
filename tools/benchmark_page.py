"""docs/cortex-m.md: the committed figures as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tinyopt.toolchain import CompilerChoice
from tools.benchmark_field import LAYER_CORES, Layer, field_totals, residual_instructions_per_element
from tools.benchmark_figures import BUILDS, CORES, GCC, MODELS, Figures
from tools.benchmark_goals import misses

_HEAD = """# Cortex-M: what models cost

Written by `python -m tools.benchmark`; do not edit. With `--check` it measures all of this anew and compares.

**What is measured.** Models of MLPerf Tiny (`vww01` as tinyopt compiles it, without its dead channels, and with them)
and `examples/digits.onnx`, quantized to int8 on their calibration data, batch 1. Nothing ran on silicon: *instructions*
are those that one inference executes under QEMU, exact and repeatable, from the call of `<model>_run` to its return, on
the first test sample. *Code* is `.text` of `<model>.c` as compiled, literals included; *tables* are its other constants
(`.rodata`, and what compilers add for unwinding); *weights* are the constants of `<model>_weights.c`; functions of the
C library are in none of them. The *arena* holds inputs, outputs, activations and scratch. Beside it the library has no
RAM but the *stack*: down to the deepest byte written below the caller's stack pointer. For every line of these tables
every layer of the first sample and the outputs for three were compared with the numpy reference, byte by byte.

**Compilers**: {compilers}.

**TFLite Micro** 90b983c2 with CMSIS-NN 99f736a6, arm-none-eabi-gcc 12.2 -O3, was measured on the same work: one
`Invoke()`; arena as planned and persistent tensors; code is `.text`, the interpreter's included; the model is the
flatbuffer in flash.
"""


def page(versions: Mapping[str, str], figures: Sequence[Figures], layers: Sequence[Layer]) -> str:
    """The whole page."""
    default = [line for line in figures if _is_built(line, BUILDS[0])]
    compilers = "; ".join(versions.values())
    parts = [
        _HEAD.format(compilers=compilers),
        _verdict(figures, layers),
        "## Instructions per inference\n\ngcc -O3, millions.\n\n" + _instructions(default),
        "## Beside TFLite Micro\n\n" + _field(default),
        "## Memory\n\nBytes, gcc -O3.\n\n" + _memory(default),
        "## Compilers and levels\n\nMillions of instructions, bytes of code, bytes of stack.\n\n" + _builds(figures),
        "## Layer by layer, beside CMSIS-NN\n\n" + _residuals(layers) + _layers(layers),
    ]
    return "\n".join(parts)


def _is_built(line: Figures, choice: CompilerChoice) -> bool:
    return (line.compiler, line.optimization) == (choice.cc, choice.optimization)


def _verdict(figures: Sequence[Figures], layers: Sequence[Layer]) -> str:
    wrong = sum(line.different_bytes for line in figures)
    varying = [line for line in figures if line.is_input_dependent]
    varying_cores = ", ".join(core for core in CORES if any(line.core == core for line in varying)) or "no core"
    slower = [layer for layer in layers if layer.is_slower]
    lines = [
        f"**Bytes that differ from the reference**: {wrong}, in {len(figures)} combinations of model, core and build.",
        f"**Most stack**: {max(line.stack_bytes for line in figures):,} bytes.",
        f"**Static RAM beside the arena**: {max(line.static_ram_bytes for line in figures)} bytes.",
        f"**Layers slower than CMSIS-NN's**: {len(slower)} of {len(layers)}.",
        f"**Lines whose instructions depend on the input**: {len(varying)} of {len(figures)} ({varying_cores}).",
    ]
    missed = [f"- {miss}" for miss in misses(figures, layers)]
    goals = ["", "**Goals missed:**", "", *missed] if missed else ["", "**Goals missed**: none."]
    return "\n\n".join(lines) + "\n" + "\n".join(goals) + "\n"


def _instructions(default: Sequence[Figures]) -> str:
    by_place = {(line.model, line.core): line for line in default}
    rows = [[model.name, *(_millions(by_place[model.name, core].instructions) for core in CORES)] for model in MODELS]
    return _table(["model", *CORES], rows)


def _field(default: Sequence[Figures]) -> str:
    """Ours / theirs, and the ratio."""
    rows: list[list[str]] = []
    by_place = {(line.model, line.core): line for line in default}
    for model in MODELS:
        if not model.field:
            continue
        theirs = field_totals()[model.field]
        row = [model.name]
        for core in ("cortex-m4", "cortex-m7", "cortex-m55"):
            ours = by_place[model.name, core].instructions
            row.append(f"{_millions(ours)} / {_millions(theirs[core])} = {ours / theirs[core]:.2f}")
        line = by_place[model.name, "cortex-m4"]
        for value, key in (
            (line.arena_bytes, "arena_bytes"),
            (line.code_bytes + line.table_bytes, "code_bytes"),
            (line.weight_bytes, "model_bytes"),
        ):
            row.append(f"{value:,} / {theirs[key]:,} = {value / theirs[key]:.2f}")
        rows.append(row)
    titles = ["model", "M4, M insns", "M7, M insns", "M55, M insns", "arena (M4)", "code and tables (M4)", "weights"]
    return "Ours / theirs = ratio.\n\n" + _table(titles, rows)


def _memory(default: Sequence[Figures]) -> str:
    titles = ["model", "core", "code", "tables", "weights", "arena", "no plan is below", "stack"]
    rows = [
        [
            line.model,
            line.core,
            f"{line.code_bytes:,}",
            f"{line.table_bytes:,}",
            f"{line.weight_bytes:,}",
            f"{line.arena_bytes:,}",
            f"{line.arena_lower_bound_bytes:,}",
            f"{line.stack_bytes:,}",
        ]
        for line in default
    ]
    return _table(titles, rows)


def _builds(figures: Sequence[Figures]) -> str:
    by_place = {(line.model, line.core, line.compiler, line.optimization): line for line in figures}
    titles = ["model", "core", *(f"{'gcc' if b.cc == GCC else b.cc} -{b.optimization}" for b in BUILDS)]
    rows: list[list[str]] = []
    for model in MODELS:
        for core in CORES:
            lines = [by_place[model.name, core, b.cc or "", b.optimization] for b in BUILDS]
            cells = [f"{_millions(x.instructions)}, {x.code_bytes:,}, {x.stack_bytes}" for x in lines]
            rows.append([model.name, core, *cells])
    return _table(titles, rows)


def _residuals(layers: Sequence[Layer]) -> str:
    found: list[str] = []
    for core in LAYER_CORES:
        cost = residual_instructions_per_element([layer for layer in layers if layer.core == core])
        if cost is not None:
            found.append(f"{cost:.2f} on {core}")
    return f"A fused residual costs, in instructions per element: {', '.join(found)}.\n\n" if found else ""


def _layers(layers: Sequence[Layer]) -> str:
    """Every layer, the slow ones marked."""
    titles = ["model", "core", "#", "kernel", "instructions", "CMSIS-NN", "ratio", "replaces"]
    rows = [
        [
            layer.model,
            layer.core,
            str(layer.index),
            layer.kernel,
            f"{layer.instructions:,}",
            "" if layer.cmsis_nn is None else f"{layer.cmsis_nn:,}",
            "" if layer.cmsis_nn is None else f"{layer.instructions / layer.cmsis_nn:.2f}",
            f"{layer.replaces} **slower**" if layer.is_slower else layer.replaces,
        ]
        for layer in layers
    ]
    return _table(titles, rows)


def _millions(instructions: int) -> str:
    return f"{instructions / 1e6:.3f}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["--"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
