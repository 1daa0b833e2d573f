"""What the user asks of a compilation, as one frozen record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

MOST_THREADS = 64

EmitShape: TypeAlias = Literal["cmake", "zephyr", "esp-idf", "arduino", "platformio", "cmsis-pack"]


@dataclass(frozen=True)
class MemoryRegion:
    """Memory that the model may use: its name in C, in small letters, and its size."""

    name: str
    bytes: int


@dataclass(frozen=True)
class CompileOptions:
    """The options of `tinyopt compile`, with its defaults.

    calibration: `file.npz:array` and other specs, or several `input=spec`; see tinyopt.samples;
    `file.npz:array,labels` names the class of each sample, too.
    evaluation: `file.npz:inputs,labels` and other labelled samples.
    calibration_mean, calibration_scale: real = (raw - mean) * scale, for both; one number, or one for each channel.
    calibration_samples: the first so many of a file, so many evenly spaced ones of a folder; None for all.
    prune: the share of the instructions of one run to remove by pruning, 0 to 1. prune_to: what to prune down to
    instead: "macs=2M", "cycles=", "flash=" or "ram=64K". prune_layers: shares of channels to remove from layers,
    such as "conv1*=0.5". keep: patterns of layers that are not pruned. importance: what ranks channels.
    recover: what is done about what pruning lost: "none", "normalization", "refit", "distill"; each does what the one
    before does. recover_parameters: what distillation may change: "all", "bias-scale", "last".
    cluster: values per layer's weights, 0 for none, "auto" for as few as max_flash needs. cluster_layers: values for
    some layers, such as "fc*=64". max_flash: bytes of code and constants that the library may take; None for no limit.
    max_ram: bytes of the arena; None for no limit. max_cycles: instructions of one inference, counted under QEMU where
    that is there, else estimated; None for no limit.
    cluster_cost: how many times the instructions of int8 weights the model may take to look clustered ones up.
    weight_bits: 8, or 4 for weights in -7..7, two to a byte where kernels can look them up.
    ranges: where the range of an activation ends: "auto", or a method of tinyopt.passes.quantization.ranges.
    max_drop: how many points of top-1 the compiled model may be worse than the given one; None for no limit.
    dtype: what float models compute in; float16 for a model that is not quantized, on CPUs that have it.
    boundary: element type at inputs and outputs; None leaves it to the target. name: prefix of C names and files.
    patches: whether the first layers run in bands of rows: "off", "auto" where it saves a quarter, or how many bands.
    threads: how many share the large layers, on targets with an operating system.
    memory: the regions of memory to use, the fastest first; none: one arena, as large as it must be.
    emit: for which frameworks and package managers the output also holds a folder.
    settings: options of passes as text, {"pass": {"option": "value"}}. cache_dir: None for no cache.
    """

    target: str = "arm"
    name: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    calibration: str | tuple[str, ...] | None = None
    calibration_mean: float | tuple[float, ...] = 0.0
    calibration_scale: float | tuple[float, ...] = 1.0
    calibration_samples: int | None = None
    evaluation: str | None = None
    is_quantized: bool = True
    dtype: Literal["float32", "float16"] = "float32"
    prune: float = 0.0
    prune_to: str = ""
    prune_layers: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    importance: str = "obs"
    recover: Literal["none", "normalization", "refit", "distill"] = "refit"
    recover_parameters: Literal["all", "bias-scale", "last"] = "all"
    cluster: int | Literal["auto"] = 0
    cluster_layers: tuple[str, ...] = ()
    max_flash: int | None = None
    max_ram: int | None = None
    max_cycles: int | None = None
    cluster_cost: float = 1.25
    weight_bits: int = 8
    ranges: str = "auto"
    max_drop: float | None = None
    boundary: Literal["int8", "float"] | None = None
    patches: str = "off"
    threads: int = 1
    memory: tuple[MemoryRegion, ...] = ()
    disabled_passes: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    emit: tuple[EmitShape, ...] = ()
    cc: str | None = None
    cache_dir: Path | None = None
    seed: int = 0
