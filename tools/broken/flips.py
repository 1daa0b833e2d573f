"""Random bit flips of five models: each flipped model is imported and, where that works, planned for Cortex-M4.

Batches run in forked processes with limits; a batch that dies or takes too long is run again flip by flip, so that
the flip to blame is known. What may happen: the model is taken, or refused with a TinyoptError. Anything else is a
defect.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, external_data_helper, helper, numpy_helper

from tools.broken.case import MODEL, floats, ints, model_of, network, node

_BATCH = 50
_SECONDS_PER_FLIP = 10
_SECONDS_PER_BATCH = 60
_MEMORY_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Flip:
    """One bit of one model."""

    model: str
    byte: int
    bit: int


def flip_all(count: int, seed: int) -> int:
    """Flip `count` bits in all; 1 where any of them crashed, hung, or raised what it must not."""
    models = whole_models()
    randomness = random.Random(seed)
    names = sorted(models)
    flips = [
        Flip(name, randomness.randrange(len(models[name][MODEL])), randomness.randrange(8))
        for name in (names[i % len(names)] for i in range(count))
    ]
    outcomes: Counter[str] = Counter()
    defects: list[str] = []
    started = time.monotonic()
    _preload()
    for begin in range(0, count, _BATCH):
        batch = flips[begin : begin + _BATCH]
        for flip, outcome in zip(batch, _try_batch(batch, models), strict=True):
            kind = outcome.partition(": ")[0]
            outcomes[kind] += 1
            if kind not in ("taken", "refused"):
                defects.append(f"{flip}: {outcome}")
                print(f"\r{defects[-1]}", flush=True)
        if sys.stderr.isatty():
            rate = (begin + len(batch)) / (time.monotonic() - started)
            bar = "#" * (40 * (begin + len(batch)) // count)
            print(f"\r{bar:40} {begin + len(batch)}/{count} {rate:.0f}/s", end="", file=sys.stderr, flush=True)
    told = ", ".join(f"{number} {kind}" for kind, number in sorted(outcomes.items()))
    print(f"\r{count} flips of {len(models)} models: {told} ({time.monotonic() - started:.0f} s)")
    return 1 if defects else 0


def whole_models() -> dict[str, dict[str, bytes]]:
    """Five models, each with its files: a network, int8, weights beside it, functions, odd ones."""
    digits = Path(__file__).resolve().parents[2] / "examples" / "digits.onnx"
    return {
        "digits": {MODEL: digits.read_bytes()},
        "quantized": {MODEL: _quantized().SerializeToString()},
        "external": _external(),
        "functions": {MODEL: _functions().SerializeToString()},
        "odd": {MODEL: _odd().SerializeToString()},
    }


def _quantized() -> ModelProto:
    weights = np.random.default_rng(5).integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    constants = {
        "s": np.float32(0.02),
        "z": np.int8(3),
        "w": weights,
        "t": np.full(4, 0.01, np.float32),
        "k": np.zeros(4, np.int8),
        "b": np.arange(4, dtype=np.int32),
        "u": np.float32(0.05),
    }
    nodes = [
        node("QuantizeLinear", "x s z", "q", name="quantize"),
        node("DequantizeLinear", "q s z", "d", name="dequantize"),
        node("DequantizeLinear", "w t k", "e", name="weights", axis=0),
        node("Conv", "d e", "c", name="conv", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r", name="relu"),
        node("QuantizeLinear", "r u z", "p", name="again"),
        node("DequantizeLinear", "p u z", "y", name="out"),
    ]
    return model_of(nodes, {"x": (1, 3, 8, 8)}, constants)


def _external() -> dict[str, bytes]:
    model = network()
    files: dict[str, bytes] = {}
    for tensor in model.graph.initializer:
        files[f"{tensor.name}.bin"] = bytes(tensor.raw_data)
        external_data_helper.set_external_data(tensor, f"{tensor.name}.bin", 0, len(tensor.raw_data))
        tensor.ClearField("raw_data")
    return {MODEL: model.SerializeToString(), **files}


def _functions() -> ModelProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    inner = helper.make_function(
        "f",
        "Scaled",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(floats(1, 2, 3, 4))),
            helper.make_node("Mul", ["a", "c"], ["b"]),
        ],
        opsets,
    )
    calls = [helper.make_node("Scaled", ["a"], ["m"], domain="f"), helper.make_node("Scaled", ["m"], ["b"], domain="f")]
    outer = helper.make_function("f", "Twice", ["a"], ["b"], calls, opsets)
    model = model_of([node("Twice", "x", "h", domain="f"), node("Relu", "h")], {"x": (1, 4)})
    model.functions.extend([outer, inner])
    return model


def _odd() -> ModelProto:
    nodes = [
        node("Pad", "x p", "a"),
        node("Resize", "a - r", "b", mode="nearest"),
        node("Slice", "b s e ax st", "c"),
        node("Transpose", "c", "d", perm=[0, 2, 3, 1]),
        node("Split", "d", "f g", axis=1),
        node("Concat", "f g", "h", axis=3),
        node("Shape", "h", "sh"),
        node("Gather", "sh zero", "n", axis=0),
        node("Unsqueeze", "n zeros", "n1"),
        node("Concat", "n1 minus", "target", name="target", axis=0),
        node("Reshape", "h target", "i"),
        node("ConstantOfShape", "n1", "fill"),
        node("Add", "i fill", "j"),
        node("Softmax", "j", "y", axis=-1),
    ]
    constants = {
        "p": ints(0, 0, 1, 1, 0, 0, 1, 1),
        "r": floats(1, 1, 2, 2),
        "s": ints(0, 0),
        "e": ints(8, 6),
        "ax": ints(2, 3),
        "st": ints(1, 2),
        "zero": np.int64(0),
        "zeros": ints(0),
        "minus": ints(-1),
    }
    return model_of(nodes, {"x": (1, 2, 4, 4)}, constants)


def _preload() -> None:
    import tinyopt.api
    from tinyopt.targets import all_targets

    assert tinyopt.api, all_targets()


def _try_batch(batch: Sequence[Flip], models: dict[str, dict[str, bytes]]) -> list[str]:
    """An outcome for each flip; the batch is divided where its process did not end well."""
    lines = _in_a_child(batch, models, _SECONDS_PER_BATCH if len(batch) > 1 else _SECONDS_PER_FLIP)
    if len(lines) == len(batch):
        return lines
    if len(batch) == 1:
        return [lines[0] if lines else "crashed or hung"]
    return [outcome for flip in batch for outcome in _try_batch([flip], models)]


def _in_a_child(batch: Sequence[Flip], models: dict[str, dict[str, bytes]], seconds: int) -> list[str]:
    """What a forked process says of the flips: a line for each that it came to."""
    with tempfile.TemporaryDirectory(prefix="tinyopt-flips-") as name:
        folder, told = Path(name), Path(name) / "told"
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
            signal.alarm(6 * seconds)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            with open(told, "w", encoding="utf-8") as file:
                for flip in batch:
                    print(_outcome(flip, models[flip.model], folder), file=file, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        return told.read_text(encoding="utf-8").splitlines() if told.exists() else []


def _outcome(flip: Flip, files: dict[str, bytes], folder: Path) -> str:
    from tinyopt.api import optimize
    from tinyopt.errors import InvalidModelError, UsageError
    from tinyopt.lowering.lower import choose_kernel
    from tinyopt.lowering.views import VIEWS
    from tinyopt.onnx_import import import_model
    from tinyopt.options import CompileOptions
    from tinyopt.targets import target_named

    for name, content in files.items():
        (folder / name).write_bytes(content)
    flipped = bytearray(files[MODEL])
    flipped[flip.byte] ^= 1 << flip.bit
    (folder / MODEL).write_bytes(bytes(flipped))
    try:
        graph = import_model(folder / MODEL, {}).graph
        target = target_named("cortex-m4")
        optimize(graph, target, CompileOptions(target="cortex-m4", cache_dir=None), ())
        for each in graph.nodes:
            if each.op not in VIEWS:
                choose_kernel(each, target)
    except (InvalidModelError, UsageError) as error:
        if isinstance(error.__cause__, MemoryError):
            return "out of memory"
        return "refused: " + " ".join(str(error).split())[:200]
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({where.filename}:{where.lineno})"
    return "taken"
