"""The options of `tinyopt.compile` with their types: those of `tinyopt compile`, with underscores for its dashes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from tinyopt.options import EmitShape

Numbers = float | Sequence[float] | str
"""One number, one for each channel, or a text such as "1/255"."""


class Options(TypedDict, total=False):
    """What each does is in `tinyopt compile --help`. Sizes and counts are numbers, or texts as "64K" and "1.5M"."""

    name: str
    shape: Mapping[str, Sequence[int]]
    calib_mean: Numbers
    calib_scale: Numbers
    calib_samples: int
    quantize: bool
    dtype: Literal["float32", "float16"]
    ranges: Literal["auto", "minmax", "moving-average", "percentile", "entropy", "mse"]
    weights: Literal["int8", "int4"]
    prune: float
    prune_to: str
    prune_layer: Mapping[str, float]
    keep: Sequence[str]
    importance: Literal["obs", "fisher", "bn-scale", "l2", "l1"]
    recover: Literal["none", "normalization", "refit", "distill"]
    recover_params: Literal["all", "bias-scale", "last"]
    cluster: int | Literal["auto"]
    cluster_layer: Mapping[str, int]
    cluster_cost: float
    max_flash: int | str
    max_ram: int | str
    max_cycles: int | str
    max_drop: float
    io: Literal["int8", "float"]
    mem: Mapping[str, int | str]
    patches: int | Literal["auto", "off"]
    threads: int
    disable_pass: Sequence[str]
    set: Mapping[str, object]
    emit: Sequence[EmitShape]
    seed: int
    cc: str
    cache_dir: str | Path
    no_cache: bool
