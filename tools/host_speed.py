"""Time compiled models against onnxruntime on this machine's CPU, one thread each, in turn; print the table.

    python -m tools.host_speed --models DIR                     all models, int8 and float32
    python -m tools.host_speed --models DIR --model kws01       one model
    python -m tools.host_speed --models DIR --out FOLDER        keep the compiled libraries there, and use those it has
    python -m tools.host_speed --models DIR --write             also write docs/host-speed.md

The int8 contender is the float model quantized by onnxruntime's own quantizer in the types that it recommends for
x86-64 (uint8 activations, int8 weights per channel, QDQ), on random samples, run with its integer kernels. Both are
called from Python with an array, which includes the cost of the call.

The two run in turn, each a few times for at least a fraction of a millisecond, and the median of the rounds' ratios is
what counts: other load on the machine meets both alike. Time is the processor time of the calling thread, in which both
do all their work, so that waiting for a processor that others use does not count. Exit code 1: a ratio is above 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console

import tinyopt
from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.options import CompileOptions
from tinyopt.targets.host import host_level

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "host-speed.md"
MODELS = ("kws01", "vww01", "ic01", "ad01", "mobilenetv2")
DTYPES = ("int8", "float32")
ROUND_SECONDS = 0.0003  # of one contender in one round, at least
CALIBRATION_SAMPLES = 4
HEADER = ("model", "type", "tinyopt, us", "onnxruntime, us", "ratio", "quartiles")

Sample = NDArray[np.float32]


@dataclass(frozen=True)
class Timing:
    """One row of the table: seconds of one inference, round by round."""

    model: str
    dtype: str
    ours: NDArray[np.float64]
    theirs: NDArray[np.float64]

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Below 1 where tinyopt is quicker."""
        return self.ours / self.theirs

    @property
    def cells(self) -> tuple[str, ...]:
        ours, theirs = (f"{1e6 * np.median(seconds):,.1f}" for seconds in (self.ours, self.theirs))
        low, middle, high = (f"{quartile:.3f}" for quartile in np.percentile(self.ratios, (25, 50, 75)))
        return (self.model, self.dtype, ours, theirs, middle, f"{low} to {high}")


def main() -> int:
    """Measure, print, write the page."""
    options = _arguments()
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        timings = [
            time_model(options.models / f"{model}.onnx", dtype, folder, options.rounds)
            for model in options.model or MODELS
            for dtype in options.dtype or DTYPES
        ]
    for line in _table(timings):
        console.print(line, markup=False, soft_wrap=True)
    if options.write:
        PAGE.write_text(page(timings, options.rounds))
    return int(any(np.median(timing.ratios) > 1 for timing in timings))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


def time_model(model: Path, dtype: str, folder: Path, rounds: int) -> Timing:
    """Compile `model` unless `folder` has it, and time it against onnxruntime in turn."""
    out = folder / f"{model.stem}-{dtype}"
    if not out.is_dir():
        options = CompileOptions(
            target="host", calibration="random", is_quantized=dtype == "int8", cache_dir=default_cache_dir()
        )
        compile_model(model, out, options)
    session = _session(model if dtype == "float32" else _quantized(model, folder))
    name, sample = session.get_inputs()[0].name, _random_sample(session)
    library = tinyopt.load(out)
    contenders = (lambda: library(sample), lambda: session.run(None, {name: sample}))
    ours, theirs = _in_turn(contenders, rounds)
    return Timing(model.stem, dtype, ours, theirs)


def _in_turn(contenders: tuple[Callable[[], object], ...], rounds: int) -> list[NDArray[np.float64]]:
    """Seconds of one call of each contender, round by round; who begins alternates."""
    repeats = [max(1, round(ROUND_SECONDS / min(_seconds(run, 2) for _ in range(5)))) for run in contenders]
    result = [np.empty(rounds) for _ in contenders]
    for number in range(rounds):
        for index in range(len(contenders))[:: -1 if number % 2 else 1]:
            result[index][number] = _seconds(contenders[index], repeats[index])
    return result


def _seconds(run: Callable[[], object], repeats: int) -> float:
    """Processor time of one call."""
    begin = time.thread_time()
    for _ in range(repeats):
        run()
    return (time.thread_time() - begin) / repeats


def _session(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _random_sample(session: onnxruntime.InferenceSession, seed: int = 0) -> Sample:
    shape = [size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape]
    return np.random.default_rng(seed).random(shape, np.float32)


class _RandomSamples(CalibrationDataReader):  # type: ignore[misc]
    """Calibration data for onnxruntime's quantizer."""

    def __init__(self, model: Path) -> None:
        session = _session(model)
        name = session.get_inputs()[0].name
        self._feeds: Iterator[dict[str, Sample]] = iter(
            [{name: _random_sample(session, seed)} for seed in range(CALIBRATION_SAMPLES)]
        )

    def get_next(self) -> dict[str, Sample] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The next sample; None after the last."""
        return next(self._feeds, None)


def _quantized(model: Path, folder: Path) -> Path:
    """The model quantized by onnxruntime, made unless `folder` has it."""
    folder.mkdir(parents=True, exist_ok=True)
    quantized, prepared = folder / f"{model.stem}-qdq.onnx", folder / f"{model.stem}-prepared.onnx"
    if not quantized.is_file():
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(quantized),
            _RandomSamples(prepared),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return quantized


def _table(timings: list[Timing]) -> list[str]:
    """Markdown."""
    rows = [HEADER, tuple("---" for _ in HEADER), *(timing.cells for timing in timings)]
    return [f"| {' | '.join(row)} |" for row in rows]


def page(timings: list[Timing], rounds: int) -> str:
    """docs/host-speed.md."""
    text = f"""\
# `--target host` and onnxruntime

Written by `python -m tools.host_speed --models DIR --write`. One thread each, on one machine of the level
`{host_level().name}`, in turn; {rounds} rounds, medians of processor time.
onnxruntime {onnxruntime.__version__} runs the float model, or the one that its own quantizer makes of it
(uint8 activations, int8 weights per channel). The machine was shared: the times are rough, the ratio of each round's
two times is what counts. Below 1 tinyopt is quicker.

"""
    return text + "\n".join(_table(timings)) + "\n"


if __name__ == "__main__":
    sys.exit(main())
