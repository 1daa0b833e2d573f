"""Random models compute what onnxruntime says: each pass alone, compiled, and quantized; and mistakes are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path

import onnx
import onnx.parser
import pytest
from rich.console import Console

from tinyopt.evaluate import evaluate_all
from tinyopt.ir import Array, Graph, Value
from tools.fuzz import fuzz
from tools.fuzzing import differential
from tools.fuzzing.differential import Setting
from tools.fuzzing.models import FURTHER_SEEDS, RandomModel, model_of_file, random_model


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=200)


def _said(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("first", [0, 50, 100, 150, FURTHER_SEEDS])
def test_no_pass_changes_what_random_models_compute(first: int, console: Console, tmp_path: Path) -> None:
    assert not list(fuzz(map(random_model, range(first, first + 50)), [], tmp_path, console)), _said(console)


def test_compiled_random_models_compute_what_onnxruntime_says(console: Console, tmp_path: Path) -> None:
    assert not list(fuzz(map(random_model, range(1000, 1020)), [Setting("host")], tmp_path, console)), _said(console)


def test_quantized_random_models_give_the_bytes_of_the_reference(console: Console, tmp_path: Path) -> None:
    settings = [Setting("host", is_quantized=True)]
    assert not list(fuzz(map(random_model, range(2000, 2012)), settings, tmp_path, console)), _said(console)


def test_a_mistake_is_found_and_shrunk_to_the_node_that_shows_it(
    monkeypatch: pytest.MonkeyPatch, console: Console, tmp_path: Path
) -> None:
    seed = next(seed for seed in range(100) if _is_large_and_has_relu(random_model(seed)))
    evaluate: Callable[[Graph, Mapping[str, Array]], dict[Value, Array]] = evaluate_all

    def evaluate_wrongly(graph: Graph, inputs: Mapping[str, Array]) -> dict[Value, Array]:
        has_relu = any(node.op == "Relu" for node in graph.nodes)
        return {value: array + array.dtype.type(has_relu) for value, array in evaluate(graph, inputs).items()}

    monkeypatch.setattr(differential, "evaluate_all", evaluate_wrongly)
    findings = list(fuzz([random_model(seed)], [], tmp_path, console, tmp_path / "kept"))
    assert [finding.kind for finding in findings] == ["wrong"]
    kept = onnx.load(tmp_path / "kept" / f"seed-{seed}.onnx")
    assert [node.op_type for node in kept.graph.node] == ["Relu"], _said(console)


def test_models_of_files_get_numbers_that_suit_their_inputs(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        picked (float[2, N] x, int32[2, N] by, bool[2, N] is_kept) => (float[2, N] y) {
            moved = Cast<to = 1>(by)
            sum = Add(x, moved)
            y = Where(is_kept, sum, x)
        }""")
    onnx.save(model, tmp_path / "model.onnx")
    found = model_of_file(tmp_path / "model.onnx")
    assert found is not None
    assert found.name == "model"
    assert {name: (array.dtype.name, array.shape) for name, array in found.inputs.items()} == {
        "x": ("float32", (2, 1)),
        "by": ("int32", (2, 1)),
        "is_kept": ("bool", (2, 1)),
    }


def test_models_with_infinities_on_the_way_are_left_out(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        steep (float[2, 3] x) => (int64[2] y) {
            nothing = Sub(x, x)
            ratio = Div(x, nothing)
            y = ArgMin<axis = 1, keepdims = 0>(ratio)
        }""")
    onnx.save(model, tmp_path / "model.onnx")
    assert model_of_file(tmp_path / "model.onnx") is None


def _is_large_and_has_relu(model: RandomModel | None) -> bool:
    operators = [] if model is None else [node.op_type for node in model.model.graph.node]
    return len(operators) > 4 and "Relu" in operators
