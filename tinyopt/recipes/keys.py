"""What options are called in recipes and locks: as on the command line, without the dashes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tinyopt.options import CompileOptions
from tinyopt.samples import with_path

NameOf = Callable[[Path], str]


def option_values(options: CompileOptions, name_of: NameOf) -> dict[str, Any]:
    """Every option that results depend on, by its key, as TOML has it; those without a value are left out.

    name_of: what a file is called in the result.
    """
    calibration = (options.calibration,) if isinstance(options.calibration, str) else options.calibration
    values: dict[str, Any] = {
        "target": options.target,
        "name": options.name,
        "shape": [f"{name}={_joined(shape)}" for name, shape in sorted(options.shapes.items())],
        "calib": [with_path(text, name_of) for text in calibration or ()],
        "calib-mean": _numbers(options.calibration_mean),
        "calib-scale": _numbers(options.calibration_scale),
        "calib-samples": options.calibration_samples,
        "eval": None if options.evaluation is None else with_path(options.evaluation, name_of),
        "quantize": options.is_quantized,
        "dtype": options.dtype,
        "ranges": options.ranges,
        "weights": f"int{options.weight_bits}",
        "prune": options.prune,
        "prune-to": options.prune_to,
        "prune-layer": list(options.prune_layers),
        "keep": list(options.keep),
        "importance": options.importance,
        "recover": options.recover,
        "recover-params": options.recover_parameters,
        "cluster": options.cluster,
        "cluster-layer": list(options.cluster_layers),
        "cluster-cost": options.cluster_cost,
        "max-flash": options.max_flash,
        "max-ram": options.max_ram,
        "max-cycles": options.max_cycles,
        "max-drop": options.max_drop,
        "io": options.boundary,
        "mem": ",".join(f"{region.name}={region.bytes}" for region in options.memory) or None,
        "patches": options.patches,
        "threads": options.threads,
        "disable-pass": list(options.disabled_passes),
        "set": _settings(options.settings),
        "emit": list(options.emit) or None,
        "cc": None if options.cc is None else _without_folder(options.cc),
        "seed": options.seed,
    }
    return {key: value for key, value in values.items() if value is not None}


def _numbers(numbers: float | tuple[float, ...]) -> float | list[float]:
    return list(numbers) if isinstance(numbers, tuple) else numbers


def _joined(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def _settings(settings: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [f"{step}.{key}={value}" for step, values in settings.items() for key, value in values.items()]


def _without_folder(command: str) -> str:
    program, *arguments = shlex.split(command)
    return shlex.join([Path(program).name, *arguments])
