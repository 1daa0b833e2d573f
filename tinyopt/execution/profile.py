"""Exact instruction counts of every layer, under QEMU, and what the whole library costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyopt.errors import ToolchainError
from tinyopt.execution.built_model import BuiltModel
from tinyopt.execution.measure import measure
from tinyopt.execution.runner import check_is_emulated, run_built_model
from tinyopt.samples import Sample
from tinyopt.toolchain import CompilerChoice


@dataclass(frozen=True)
class LayerProfile:
    """One layer's share. `cycles` are those of a rough Cortex-M4 model: good to rank, no promise of time.

    origins: the ONNX nodes that it came from. refusals: why faster kernels did not take it, the fastest first.
    """

    index: int
    name: str
    op: str
    kernel: str
    macs: int
    instructions: int
    cycles: int
    origins: tuple[str, ...]
    refusals: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """One inference: what profile.json holds. The terms are those of `measure`.

    instructions: of the whole call, compiled without the layers' marks, so that it need not be the layers' sum.
    cpu: what was emulated. variant: the kernels, of `variants`, that the library picked on it; None where it has no
    others.
    """

    compiler: str
    optimization: str
    instructions: int
    stack_bytes: int
    code_bytes: int
    table_bytes: int
    weight_bytes: int
    static_ram_bytes: int
    cpu: str
    variant: str | None
    variants: tuple[str, ...]
    layers: tuple[LayerProfile, ...]


def profile(built: BuiltModel, sample: Sample, choice: CompilerChoice, cache_dir: Path) -> Profile:
    """What one inference on `sample` costs, as a whole and layer by layer.

    Raises UsageError where the target is not emulated, ToolchainError where an emulator or compiler is missing.
    """
    whole = measure(built, [sample], choice, cache_dir)
    library = whole.library
    variant, layers = _count_layers(built, sample, choice, cache_dir)
    return Profile(
        compiler=whole.compiler,
        optimization=whole.optimization,
        instructions=whole.instructions[0],
        stack_bytes=whole.stack_bytes,
        code_bytes=library.code,
        table_bytes=library.tables,
        weight_bytes=library.weights,
        static_ram_bytes=library.static_ram,
        cpu=" ".join(built.target.emulator.arguments[1:]),
        variant=variant,
        variants=tuple(built.variants),
        layers=tuple(layers),
    )


def profile_layers(built: BuiltModel, sample: Sample, choice: CompilerChoice, cache_dir: Path) -> list[LayerProfile]:
    """Instructions per layer for one inference on `sample`; raises as `profile` does."""
    return _count_layers(built, sample, choice, cache_dir)[1]


def _count_layers(
    built: BuiltModel, sample: Sample, choice: CompilerChoice, cache_dir: Path
) -> tuple[str | None, list[LayerProfile]]:
    """The variant that was run, and its layers."""
    check_is_emulated(built)
    run = run_built_model(built, [sample], "profile", choice, cache_dir)
    layers = built.layers_of(run.variant)
    if len(run.counts) != len(layers):
        raise ToolchainError(f"the instruction counter saw {len(run.counts)} layers of {len(layers)}")
    return run.variant, [_layer(layer, *count) for layer, count in zip(layers, run.counts, strict=True)]


def _layer(layer: Mapping[str, Any], instructions: int, cycles: int) -> LayerProfile:
    return LayerProfile(
        layer["index"],
        layer["name"],
        layer["op"],
        layer["kernel"],
        layer["macs"],
        instructions,
        cycles,
        tuple(layer["origins"]),
        tuple(layer["refusals"]),
    )
