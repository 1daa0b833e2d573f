"""Time models compiled for this machine with one thread and with several, in turn; print the table.

    python -m tools.thread_speed --models DIR                       mobilenetv2, int8 and float32, two threads
    python -m tools.thread_speed --models DIR --model vww01 --threads 4
    python -m tools.thread_speed --models DIR --out FOLDER          keep the compiled libraries, and use those it has

The two run in turn, once each, and the median of the rounds' ratios is what counts. Time is that of the clock on the
wall, and other load on the machine takes more from several threads than from one: let it do nothing else.
A voluntary context switch is a thread that goes to sleep: at the end of a run, or where it waits for another.
Exit code 1: some output differs by a byte, or a median ratio is below --least.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import tinyopt
from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.loader import Model
from tinyopt.options import CompileOptions

DTYPES = ("int8", "float32")
HEADER = (
    "model",
    "type",
    "one thread, us",
    "several, us",
    "ratio",
    "quartiles",
    "of the best",
    "switches",
    "arena, bytes",
)


@dataclass(frozen=True)
class Timing:
    """One row of the table. seconds: of one run, round by round, for one thread and for several.

    switches: voluntary context switches of all threads in a run of several. arenas: bytes, for one and for several.
    """

    model: str
    dtype: str
    seconds: tuple[NDArray[np.float64], NDArray[np.float64]]
    switches: float
    arenas: tuple[int, int]
    is_equal: bool

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Above 1 where several threads are quicker."""
        return self.seconds[0] / self.seconds[1]

    @property
    def cells(self) -> tuple[str, ...]:
        one, several = (f"{1e6 * np.median(seconds):,.0f}" for seconds in self.seconds)
        low, middle, high = (f"{quartile:.2f}" for quartile in np.percentile(self.ratios, (25, 50, 75)))
        best = f"{self.seconds[0].min() / self.seconds[1].min():.2f}"
        arenas = " / ".join(f"{size:,}" for size in self.arenas)
        bounds = f"{low} to {high}"
        return (self.model, self.dtype, one, several, middle, bounds, best, f"{self.switches:.1f}", arenas)


def main() -> int:
    """Measure and print."""
    options = _arguments()
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        timings = [
            time_model(options.models / f"{model}.onnx", dtype, options.threads, folder, options.rounds)
            for model in options.model or ["mobilenetv2"]
            for dtype in options.dtype or DTYPES
        ]
    for row in [HEADER, tuple("---" for _ in HEADER), *(timing.cells for timing in timings)]:
        console.print(f"| {' | '.join(row)} |", markup=False, soft_wrap=True)
    for timing in timings:
        if not timing.is_equal:
            console.print(f"{timing.model} {timing.dtype}: outputs differ")
    return int(any(not timing.is_equal or np.median(timing.ratios) < options.least for timing in timings))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--model", action="append")
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--least", type=float, default=0)
    return parser.parse_args()


def time_model(model: Path, dtype: str, threads: int, folder: Path, rounds: int) -> Timing:
    """Compile `model` for one and for `threads` threads unless `folder` has it, and time the two in turn."""
    one, several = (tinyopt.load(_compiled(model, dtype, count, folder)) for count in (1, threads))
    sample = np.random.default_rng(0).random(one.inputs[0].shape, np.float32)
    is_equal = True
    for _ in range(5):
        is_equal = is_equal and np.array_equal(np.asarray(one(sample)), np.asarray(several(sample)))
    seconds = np.empty(rounds), np.empty(rounds)
    switches = 0
    for number in range(rounds):
        seconds[0][number] = _seconds(one, sample)
        before = _voluntary_switches()
        seconds[1][number] = _seconds(several, sample)
        switches += _voluntary_switches() - before
    arenas = (one.arena_bytes, several.arena_bytes)
    return Timing(model.stem, dtype, seconds, switches / rounds, arenas, is_equal)


def _compiled(model: Path, dtype: str, threads: int, folder: Path) -> Path:
    out = folder / f"{model.stem}-{dtype}-{threads}"
    if not out.is_dir():
        is_quantized = dtype == "int8"
        options = CompileOptions(
            target="host",
            calibration="random" if is_quantized else None,
            is_quantized=is_quantized,
            threads=threads,
            cache_dir=default_cache_dir(),
        )
        compile_model(model, out, options)
    return out


def _seconds(model: Model, sample: NDArray[np.float32]) -> float:
    begin = time.perf_counter()
    model(sample)
    return time.perf_counter() - begin


def _voluntary_switches() -> int:
    """Of all threads of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


if __name__ == "__main__":
    sys.exit(main())
