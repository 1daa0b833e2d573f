"""`tinyopt analyze`: figures that can be worked out by hand, and what it says of models that cannot be compiled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.digits import MODEL, compiled_digits
from tests.onnx_models import model_of, node
from tinyopt.report.analysis import analyze
from tinyopt.targets import target_named

WEIGHTS = {"w": np.ones((8, 3, 3, 3), np.float32), "b": np.ones(8, np.float32)}
CONV = node("Conv", "x w b", "c", name="conv", pads=[1, 1, 1, 1])


def analysis_of(model: onnx.ModelProto, folder: Path, target: str = "cortex-m4") -> dict[str, Any]:
    onnx.save(model, folder / "tiny.onnx")
    return analyze(folder / "tiny.onnx", target_named(target), {})


def test_the_figures_of_a_small_model(tmp_path: Path) -> None:
    found = analysis_of(model_of([CONV, node("Relu", "c", name="relu")], {"x": ("N", 3, 4, 4)}, WEIGHTS), tmp_path)
    assert found["operators"] == {"Conv": 1, "Relu": 1}
    assert (found["macs"], found["parameters"]) == (16 * 8 * 27, 8 * 27 + 8)
    assert found["weight_bytes"] == {"float": 4 * 224, "int8": 8 * 27 + 8 * 8}
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": [1, 3, 4, 4]}]
    assert found["unsupported"] == []
    assert [layer["op"] for layer in found["layers"] if layer["macs"]] == ["Conv"]  # the Relu is its clamp


def test_memory_is_what_is_alive_at_the_widest_place(tmp_path: Path) -> None:
    chain = [node("Sigmoid", "x", "a"), node("Concat", "a a", "b", axis=1), node("ReduceMax", "b", axes=[1, 2, 3])]
    found = analysis_of(model_of(chain, {"x": (1, 4, 8, 8)}, opset=13), tmp_path)
    assert found["arena_bytes"] == {"float": 3 * 4 * 256, "int8": 3 * 256}


def test_all_that_is_not_supported_is_listed_and_the_rest_is_analyzed(tmp_path: Path) -> None:
    nodes = [
        CONV,
        node("Det", "c", "d", name="det"),
        node("Conv", "c w2", "e", name="next"),
        node("RandomNormalLike", "e", name="ac"),
    ]
    constants = {**WEIGHTS, "w2": np.ones((4, 8, 1, 1), np.float32)}
    found = analysis_of(model_of(nodes, {"x": (1, 3, 4, 4)}, constants, outputs="y d"), tmp_path)
    assert [text.partition(":")[0] for text in found["unsupported"]] == [
        "Det (node 'det')",
        "RandomNormalLike (node 'ac')",
    ]
    assert found["macs"] == 16 * 8 * 27 + 16 * 4 * 8
    assert found["arena_bytes"]["int8"] is not None
    assert {layer["name"]: layer["macs"] for layer in found["layers"]}["next"] == 512


@pytest.mark.parametrize(
    ("operator", "shapes", "macs"),
    [
        (node("Gemm", "a b", "m", transB=1), ((3, 5), (7, 5)), 3 * 7 * 5),
        (node("Gemm", "a b", "m", transA=1), ((5, 3), (5, 7)), 3 * 7 * 5),
        (node("MatMul", "a b", "m"), ((2, 3, 5), (2, 5, 7)), 2 * 3 * 5 * 7),
        (node("ConvTranspose", "a b", "m", strides=[2, 2]), ((1, 4, 5, 5), (4, 6, 2, 2)), 25 * 4 * 6 * 4),
    ],
    ids=["Gemm transB", "Gemm transA", "MatMul", "ConvTranspose"],
)
def test_macs_beside_unsupported_nodes(
    operator: onnx.NodeProto, shapes: tuple[tuple[int, ...], tuple[int, ...]], macs: int, tmp_path: Path
) -> None:
    model = model_of([operator, node("RandomNormalLike", "m")], {"a": shapes[0]}, {"b": np.ones(shapes[1], np.float32)})
    assert analysis_of(model, tmp_path)["macs"] == macs


def test_the_estimates_are_near_what_compiling_gives() -> None:
    found = analyze(MODEL, target_named("c"), {})
    after = json.loads((compiled_digits("c") / "report.json").read_text())["after"]
    assert found["weight_bytes"]["int8"] == pytest.approx(after["flash_constant_bytes"], rel=0.05)
    assert after["arena_bytes"] * 0.6 <= found["arena_bytes"]["int8"] <= after["arena_bytes"] * 2


def test_a_quantized_model_has_no_estimate_for_float(models_dir: Path) -> None:
    found = analyze(models_dir / "kws01_int8_qdq.onnx", target_named("cortex-m4"), {})
    assert found["arena_bytes"]["float"] is None
    assert found["arena_bytes"]["int8"] <= 16000


def test_the_command_exits_with_3_and_writes_no_file(tmp_path: Path) -> None:
    onnx.save(model_of([node("RandomNormalLike", "x", name="=evil\x1b[31m")], {"x": (1, 3)}), tmp_path / "tiny.onnx")
    command = [sys.executable, "-m", "tinyopt.cli", "analyze", "tiny.onnx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "Not supported: 1" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == "error: 1 node(s) of tiny.onnx are not supported\n"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.onnx"]
