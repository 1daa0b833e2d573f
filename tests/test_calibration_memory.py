"""The memory of a compilation does not grow with the number of its calibration samples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.digits import DATA, MODEL

OPTIMIZER = r"""
import re, sys
from pathlib import Path
from tinyopt.api import load_calibration, no_progress, optimize
from tinyopt.onnx_import import import_model
from tinyopt.options import CompileOptions
from tinyopt.targets import target_named
options = CompileOptions(target="cortex-m4", calibration=sys.argv[2])
graph = import_model(Path(sys.argv[1]), {}).graph
optimize(graph, target_named("cortex-m4"), options, load_calibration(graph, options, no_progress).samples)
# not getrusage: its peak counts the process that forked this one
print(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
"""


def peak_kilobytes(samples: Path) -> int:
    """The peak memory of a process that runs all passes on these samples."""
    arguments = [sys.executable, "-c", OPTIMIZER, str(MODEL), f"{samples}:x"]
    return int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_ten_times_the_calibration_samples_take_no_more_memory(tmp_path: Path) -> None:
    real = np.load(DATA)["calib"]
    random = np.random.default_rng(0)
    peaks: list[int] = []
    for count in (600, 6000):  # from 512 on, statistics are of an evenly spaced part
        samples = real[np.arange(count) % len(real)] + random.normal(0, 0.01, (count, *real.shape[1:]))
        np.savez(tmp_path / f"{count}.npz", x=samples.astype(np.float32))
        peaks.append(peak_kilobytes(tmp_path / f"{count}.npz"))
    assert peaks[1] < 1.1 * peaks[0]
