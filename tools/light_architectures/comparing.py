"""Compile an architecture for this machine with the command, run it, and hold what it gives against onnxruntime."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import TinyoptError
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.runner import run_built_model
from tinyopt.ir import Array
from tinyopt.onnx_session import OnnxSession
from tinyopt.toolchain import CompilerChoice
from tools.light_architectures.models import light_model, light_sample, without_a_channel

RELATIVE = 1e-3  # of each element
OF_LARGEST = 1e-5  # of the output's largest element
_THREADS = 1


@dataclass(frozen=True)
class Figures:
    """What was measured of one architecture.

    model_bytes: of the file. cpu_seconds, peak_bytes: of the command that compiles it; peak_bytes of its largest
    process. error: the largest difference as a share of what is tolerated; of_largest: as a share of the output's
    largest element. error_without_channel: `error` of the model that has a channel less, which must be above 1.
    """

    name: str
    model_bytes: int
    cpu_seconds: float
    peak_bytes: int
    error: float
    of_largest: float
    error_without_channel: float

    @property
    def is_right(self) -> bool:
        return self.error <= 1 < self.error_without_channel


def compare(name: str, cache: Path | None = None) -> Figures:
    """Compile, run and compare. cache: where kernels are kept, None for a new folder: then all are compiled.

    Raises TinyoptError where the command or the library fails.
    """
    model = light_model(name)
    sample = light_sample(model)
    wanted = OnnxSession(model, threads=_THREADS).run(sample)
    damaged = OnnxSession(without_a_channel(model), threads=_THREADS).run(sample)
    with tempfile.TemporaryDirectory(prefix="tinyopt-light-") as text_folder:
        folder = Path(text_folder)
        onnx.save(model, folder / f"{name}.onnx")
        model_bytes = (folder / f"{name}.onnx").stat().st_size
        del model
        cpu_seconds, peak_bytes = _compile(folder / f"{name}.onnx", folder / "out", cache or folder / "cache")
        built = load_built_model(folder / "out")
        runs = run_built_model(built, [sample], "run", CompilerChoice(), cache or default_cache_dir())
        given = runs.outputs[0]
    return Figures(
        name,
        model_bytes,
        cpu_seconds,
        peak_bytes,
        share_of_tolerance(given, wanted),
        max(float(np.abs(given[key] - wanted[key]).max() / np.abs(wanted[key]).max()) for key in wanted),
        share_of_tolerance(damaged, wanted),
    )


def share_of_tolerance(given: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """The largest difference of any element of any output as a share of what it may be; inf where one is no number."""
    shares = [_share(given[key].astype(np.float64), wanted[key].astype(np.float64)) for key in wanted]
    return float(np.nan_to_num(np.max(shares), nan=np.inf))


def _share(given: Array, wanted: Array) -> float:
    tolerated = RELATIVE * np.abs(wanted) + OF_LARGEST * np.abs(wanted).max()
    return float(np.max(np.abs(given - wanted) / tolerated))


def _compile(model: Path, output: Path, cache: Path) -> tuple[float, int]:
    """Seconds of CPU time, and the bytes of memory of the largest process."""
    command = ["compile", str(model), "--target", "host", "--no-quantize", "-o", str(output), "-q"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tinyopt.cli", *command, "--cache-dir", str(cache)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None, "it is a pipe"
    said = process.stderr.read().decode(errors="replace").strip()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise TinyoptError(f"{model.name}: exit code {process.returncode}: {said}")
    return usage.ru_utime + usage.ru_stime, _peak_bytes(usage)


def _peak_bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * 1024  # kilobytes on Linux
