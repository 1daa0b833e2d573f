"""What it costs to compile large models: processor time, time on the clock, and memory, of the command itself.

    python -m tools.compile_cost                              chains of 1,000 and 10,000 layers, and 100 MB of weights
    python -m tools.compile_cost chain-1000 --target arm      one of them, for another target
    python -m tools.compile_cost dense-100 --dtype float32    not quantized; the base is the same with few weights
    python -m tools.compile_cost chain-400 --keep FOLDER      keep the model and what was written there

    chain-N     N convolutions of 4 to 8 channels, 3x3 on 8x8, of which every fourth is followed by a ReLU
    equal-N     the same, all of one shape: 8 channels
    conv-N      eight convolutions of about N MB of float weights in all, on 2x2
    dense-N     four fully connected layers of about N MB of float weights in all

int8 models are calibrated with `--calib random`. Nothing is cached between runs. The times are those of the command
and of all processes that it started. Memory is that of the process that takes most, then that of all of them together.
Exit code 1: a limit is exceeded.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_MODELS = ("chain-1000", "chain-10000", "conv-100", "dense-100")
MEGABYTE = 10**6
MEBIBYTE = 2**20
POLL_SECONDS = 0.1
GAIN = 0.9  # of a layer: below 1, so that the signal of 10,000 layers stays finite, and biases keep it from vanishing
SMALL_WEIGHTS = {"conv": "conv-1", "dense": "dense-1"}  # what models with many weights are compared with

SECONDS_OF_1000_LAYERS = 15.0
SECONDS_OF_10000_LAYERS = 120.0
MEBIBYTES_OF_1000_LAYERS = 400.0
SECONDS_OF_100_MB = 8.0  # more than the same model with few weights
FIXED_MEBIBYTES = 300.0
BYTES_PER_WEIGHT_BYTE = 4.0


@dataclass(frozen=True)
class Cost:
    """Of one compilation: processor seconds (user and system), seconds on the clock, mebibytes.

    memory: of the process that took most. together: of all processes at one time, pages of files counted once.
    """

    processor: float
    clock: float
    memory: float
    together: float


def main() -> int:
    """Compile each model, print what it took and what it may take."""
    options = _arguments()
    console = Console(soft_wrap=True)
    is_within = True
    with tempfile.TemporaryDirectory(prefix="tinyopt-cost-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.models:
            family, _, size = name.partition("-")
            cost, weight_bytes = measure(name, folder, options.target, options.dtype)
            over = None
            if family in SMALL_WEIGHTS:
                base, _ = measure(SMALL_WEIGHTS[family], folder, options.target, options.dtype)
                over = cost.processor - base.processor
            limits = exceeded(family, int(size), cost, over, weight_bytes)
            is_within = is_within and not limits
            extra = "" if over is None else f", {over:.1f} s over {SMALL_WEIGHTS[family]}"
            console.print(
                f"{name} {options.target} {options.dtype}: {cost.processor:.1f} s of processor time{extra}, "
                f"{cost.clock:.1f} s on the clock, {cost.memory:.0f} MiB (together {cost.together:.0f})"
                + "".join(f"; exceeds {limit}" for limit in limits),
                highlight=False,
            )
    return 0 if is_within else 1


def exceeded(family: str, size: int, cost: Cost, over: float | None, weight_bytes: int) -> list[str]:
    """The limits that `cost` exceeds, in words. over: seconds more than with few weights."""
    memory = FIXED_MEBIBYTES + BYTES_PER_WEIGHT_BYTE * weight_bytes / MEBIBYTE
    seconds = None
    if family in ("chain", "equal"):
        seconds = {1_000: SECONDS_OF_1000_LAYERS, 10_000: SECONDS_OF_10000_LAYERS}.get(size)
        memory = MEBIBYTES_OF_1000_LAYERS if size <= 1_000 else math.inf
    found = [f"{seconds:.0f} s"] if seconds is not None and cost.processor > seconds else []
    if over is not None and over > SECONDS_OF_100_MB * size / 100:
        found.append(f"{SECONDS_OF_100_MB * size / 100:.0f} s over the base")
    if cost.memory > memory:
        found.append(f"{memory:.0f} MiB")
    return found


def measure(name: str, folder: Path, target: str, dtype: str) -> tuple[Cost, int]:
    """Make the model `name` in `folder`, compile it there, and give the cost and the bytes of its weights."""
    model = folder / f"{name}.onnx"
    proto = model_named(name)
    weight_bytes = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    onnx.save(proto, model)
    del proto
    kind = ["--calib", "random"] if dtype == "int8" else ["--no-quantize", "--dtype", dtype]
    command = [sys.executable, "-m", "tinyopt.cli", "compile", str(model), "--target", target, *kind]
    with tempfile.TemporaryDirectory(prefix="tinyopt-cost-cache-") as cache:
        cost = run(*command, "--cache-dir", cache, "-o", str(folder / f"{name}-{target}-{dtype}"), "-q")
    return cost, weight_bytes


def run(*command: str) -> Cost:
    """Run a command to its end. Raises CalledProcessError where it fails."""
    before, started = os.times(), time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        most = together = 0.0
        while process.poll() is None:
            sizes = _memory_of_tree(process.pid)
            most, together = max(most, sizes[0]), max(together, sizes[1])
            time.sleep(POLL_SECONDS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(processor, time.monotonic() - started, most, together)


def _memory_of_tree(root: int) -> tuple[float, float]:
    """Mebibytes of the largest among a process and all below it, and of all of them."""
    pending, largest, private, shared = [root], 0, 0, 0
    while pending:
        process = Path(f"/proc/{pending.pop()}")
        try:
            resident, of_files = map(int, (process / "statm").read_text().split()[1:3])
            for task in (process / "task").iterdir():
                pending += map(int, (task / "children").read_text().split())
        except (OSError, ValueError):
            continue  # it has just ended
        largest = max(largest, resident)
        private, shared = private + resident - of_files, max(shared, of_files)
    page = resource.getpagesize() / MEBIBYTE
    return largest * page, (private + shared) * page


# The models


def model_named(name: str) -> onnx.ModelProto:
    """Such as `chain-1000`; the module's text lists them. Equal names give equal models."""
    family, _, size = name.partition("-")
    return {"chain": _chain, "equal": _equal_chain, "conv": _wide_convolutions, "dense": _dense}[family](int(size))


class _Layers:
    """A model that grows by one layer after the other."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._generator = np.random.default_rng(0)
        self._input = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, shape)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._value = "input"

    def add(self, op: str, weights: tuple[int, ...] = (), **attributes: Any) -> None:
        """A node that reads the one before, with weights (outputs first) and biases that keep the signal's size."""
        number = len(self._nodes)
        inputs = [self._value]
        if weights:
            spread = GAIN * (weights[0] / int(np.prod(weights))) ** 0.5
            self._constant(f"w{number}", weights, spread)
            self._constant(f"b{number}", weights[:1], 0.1)
            inputs += [f"w{number}", f"b{number}"]
        self._value = f"t{number}"
        self._nodes.append(helper.make_node(op, inputs, [self._value], f"layer{number}", **attributes))

    def model(self) -> onnx.ModelProto:
        output = helper.make_tensor_value_info(self._value, onnx.TensorProto.FLOAT, None)
        graph = helper.make_graph(self._nodes, "large", [self._input], [output], self._weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)

    def _constant(self, name: str, shape: tuple[int, ...], spread: float) -> None:
        array = self._generator.standard_normal(shape, np.float32) * np.float32(spread)
        self._weights.append(numpy_helper.from_array(array, name))


def _chain(layers: int) -> onnx.ModelProto:
    found, channels = _Layers((1, 8, 8, 8)), 8
    for number in range(layers):
        following = (4, 6, 8, 5, 8, 7)[number % 6]
        found.add("Conv", (following, channels, 3, 3), pads=[1, 1, 1, 1])
        channels = following
        if number % 4 == 3:
            found.add("Relu")
    return found.model()


def _equal_chain(layers: int) -> onnx.ModelProto:
    found = _Layers((1, 8, 8, 8))
    for _ in range(layers):
        found.add("Conv", (8, 8, 3, 3), pads=[1, 1, 1, 1])
    return found.model()


def _wide_convolutions(megabytes: int) -> onnx.ModelProto:
    channels = 8 * round((megabytes * MEGABYTE / 4 / 8 / 9) ** 0.5 / 8)
    found = _Layers((1, channels, 2, 2))
    for _ in range(8):
        found.add("Conv", (channels, channels, 3, 3), pads=[1, 1, 1, 1])
        found.add("Relu")
    return found.model()


def _dense(megabytes: int) -> onnx.ModelProto:
    features = 8 * round((megabytes * MEGABYTE / 4 / 4) ** 0.5 / 8)
    found = _Layers((1, features))
    for _ in range(4):
        found.add("Gemm", (features, features), transB=1)
        found.add("Relu")
    return found.model()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What it costs to compile large models.")
    parser.add_argument("models", nargs="*", default=DEFAULT_MODELS, metavar="MODEL", help="such as chain-1000")
    parser.add_argument("--target", default="cortex-m4")
    parser.add_argument("--dtype", choices=("int8", "float32", "float16"), default="int8")
    parser.add_argument("--keep", type=Path, help="folder for the models and what they were compiled to")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
