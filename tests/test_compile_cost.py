"""What compiling costs grows with the model, and not faster."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import numpy as np
import onnx
import pytest

from tests.onnx_models import model_of, node
from tinyopt.api import compile_model
from tinyopt.artifact.literals import array_literal, literal_parts
from tinyopt.options import CompileOptions

LAYERS = 16


def _chain(layers: int, path: Path) -> Path:
    """Convolutions without padding, each followed by a Relu, of weights that all share."""
    nodes = [
        made
        for i in range(layers)
        for made in (node("Conv", f"x{i} weights bias", f"y{i}"), node("Relu", f"y{i}", f"x{i + 1}"))
    ]
    constants = {"weights": np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1), "bias": np.ones(4, np.float32)}
    onnx.save(model_of(nodes, {"x0": (1, 4, 2, 2)}, constants, f"x{layers}"), path)
    return path


def _calls_to_compile(layers: int, folder: Path) -> int:
    """How often Python functions are called, and generators resumed, to compile a chain of so many layers."""
    model = _chain(layers, folder / f"chain{layers}.onnx")
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        compile_model(model, folder / f"out{layers}", CompileOptions(target="c", cache_dir=folder / "cache"))
    finally:
        sys.setprofile(before)
    return calls


def test_each_layer_more_costs_as_many_calls_as_the_one_before(tmp_path: Path) -> None:
    _calls_to_compile(1, tmp_path)  # what is done once in a process, and the kernel
    few, more, most = (_calls_to_compile(factor * LAYERS, tmp_path) for factor in (1, 2, 4))
    assert most - more == pytest.approx(2 * (more - few), rel=0.2)


def test_floats_in_hexadecimal_are_the_same_floats() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 5_000, np.uint32)
    special = np.array([0.0, -0.0, 1.0, -3.0, 1e-45, 3.4e38], np.float32)
    floats = np.concatenate([special, bits.view(np.float32)[bits >> 23 & 0xFF != 0xFF]])
    text = "".join(literal_parts(floats, is_hexadecimal=True))
    items = text.strip("{}").replace("\n", "").split(",")
    assert text.startswith("{ 0x0.000000p-126f,-0x0.000000p-126f, 0x1.000000p+000f,-0x1.800000p+001f,")
    read = np.array([float.fromhex(item.removesuffix("f")) for item in items], np.float32)
    assert read.tobytes() == floats.tobytes()


def test_a_literal_of_many_parts_is_one_list() -> None:
    integers = np.arange(50_021).astype(np.int8)
    items = array_literal(integers).strip("{}").replace("\n", "").split(",")
    np.testing.assert_array_equal(np.array(items, np.int8), integers)
    assert array_literal(integers[:21]) == "{" + ",".join(map(str, range(20))) + ",\n20}"
