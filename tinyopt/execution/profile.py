"""Exact instruction counts of every layer, under QEMU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyopt.errors import ToolchainError, UsageError
from tinyopt.execution.built_model import BuiltModel
from tinyopt.execution.runner import run_built_model
from tinyopt.samples import Sample


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


def profile(built: BuiltModel, sample: Sample, cc: str | None, cache_dir: Path) -> list[LayerProfile]:
    """Instructions per layer for one inference on `sample`.

    Raises UsageError where the target is not emulated, ToolchainError where an emulator or compiler is missing.
    """
    if built.target.emulator.kind == "native":
        raise UsageError(
            f"instructions are counted under QEMU: compile for arm or a Cortex-M, not for {built.target.name}"
        )
    counts = run_built_model(built, [sample], "profile", cc, cache_dir).counts
    if len(counts) != len(built.layers):
        raise ToolchainError(f"the instruction counter saw {len(counts)} layers of {len(built.layers)}")
    return [_layer(layer, *count) for layer, count in zip(built.layers, counts, strict=True)]


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
