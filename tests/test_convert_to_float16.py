"""Float16 where the kernels take it, float32 around it, and the numbers near those of float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.digits import DATA, MODEL, SAMPLES
from tests.graph_builder import GraphBuilder, context_for, messages, outputs_of, random_inputs
from tinyopt.api import compile_model
from tinyopt.cli import main
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import UsageError
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.validate import validate
from tinyopt.ir import Clusters, Graph, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import Remark, run_pass
from tinyopt.passes.convert_to_float16 import ConvertToFloat16
from tinyopt.samples import load_samples
from tinyopt.text import print_graph
from tinyopt.toolchain import DEFAULT_COMPILER
from tinyopt.verify import verify

WINDOW: dict[str, Any] = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "layout": "NHWC"}
CLAMP: dict[str, Any] = {"clamp_low": -np.inf, "clamp_high": np.inf}


def convolution(build: GraphBuilder, x: Value, channels: int, group: int = 1, scale: float = 0.1) -> Value:
    weights = np.random.default_rng(1).normal(size=(channels, 3, 3, x.shape[3] // group)) * scale
    operands = [x, build.constant(weights.astype(np.float32)), build.random((channels,)), None]
    return build("Conv", *operands, **WINDOW, group=group, **CLAMP)


def network() -> Graph:
    """Layers, a pool and a sum that follow them, and a Sigmoid that stays; two outputs, one of which others read."""
    build = GraphBuilder()
    x = build.input("image", (1, 6, 6, 3))
    first = convolution(build, x, 8)
    second = build("Add", build("Relu", convolution(build, first, 8, group=8)), first, **CLAMP)
    halves: dict[str, Any] = WINDOW | {"strides": (2, 2), "pads": (0, 0, 0, 0), "kernel": (2, 2)}
    pooled = build("MaxPool", second, **halves)
    return build.graph_of(build("Sigmoid", pooled), second)


def convert(graph: Graph, samples: int = 0) -> list[Remark]:
    """Run the pass on a machine with float16."""
    fed = [random_inputs(graph, seed) for seed in range(samples)]
    context = context_for(fed)
    context.facts = replace(context.facts, has_float16=True)
    return list(run_pass(ConvertToFloat16(), graph, context).remarks)


def dtypes(graph: Graph) -> list[tuple[str, str]]:
    return [(node.op, node.outputs[0].dtype) for node in graph.nodes]


def test_layers_and_what_follows_them_are_float16_between_casts() -> None:
    graph = network()
    remarks = convert(graph)
    assert dtypes(graph) == [
        ("Cast", "float16"),
        ("Conv", "float16"),
        ("Conv", "float16"),
        ("Relu", "float16"),
        ("Add", "float16"),
        ("Cast", "float32"),
        ("MaxPool", "float16"),
        ("Cast", "float32"),
        ("Sigmoid", "float32"),
    ]
    assert [value.dtype for value in (*graph.inputs, *graph.outputs)] == ["float32"] * 3
    assert {value.dtype for value in graph.constants()} == {"float16"}
    assert any("5 operators compute in float16, between 3 Casts" in text for text in messages(remarks, "did"))
    assert any("no float16 kernel" in text for text in messages(remarks, "declined"))


def test_outputs_stay_within_one_percent_of_the_range_of_float32() -> None:
    graph = network()
    before, inputs = graph.copy(), random_inputs(graph)
    convert(graph)
    verify(graph, "the pass")
    wanted, written = (OnnxSession(each).run(inputs).values() for each in (before, graph))
    for old, new, exported in zip(wanted, outputs_of(graph, inputs), written, strict=True):
        bound = 1e-2 * float(np.abs(old).max())
        assert 0 < float(np.abs(new - old).max()) <= bound
        assert float(np.abs(exported - old).max()) <= bound  # as it is written to passes/


def test_running_it_twice_changes_nothing_more() -> None:
    graph = network()
    convert(graph)
    text = print_graph(graph)
    convert(graph)
    assert print_graph(graph) == text


REFUSALS = {
    "large weights": (lambda b: convolution(b, b.input("x", (1, 4, 4, 3)), 4, scale=1e5), "float16 65504"),
    "tiny weights": (lambda b: convolution(b, b.input("x", (1, 4, 4, 3)), 4, scale=1e-7), "lie below 6.1e-05"),
    "groups": (lambda b: convolution(b, b.input("x", (1, 4, 4, 6)), 4, group=2), "2 groups of 6 channels"),
    "few channels": (lambda b: convolution(b, b.input("x", (1, 4, 4, 3)), 3, group=3), "3 groups of 3 channels"),
    "two images": (lambda b: convolution(b, b.input("x", (2, 4, 4, 3)), 4), "not work on one NHWC image"),
}


@pytest.mark.parametrize("title", REFUSALS)
def test_what_float16_does_not_hold_stays_float32_with_the_reason(title: str) -> None:
    body, reason = REFUSALS[title]
    build = GraphBuilder()
    graph = build.graph_of(body(build))
    remarks = convert(graph)
    assert dtypes(graph) == [("Conv", "float32")]
    assert any(reason in text for text in messages(remarks, "declined")), remarks


def test_clustered_weights_stay_float32() -> None:
    build = GraphBuilder()
    graph = build.graph_of(convolution(build, build.input("x", (1, 4, 4, 3)), 4))
    weights = graph.nodes[0].input(1)
    weights.clusters = Clusters(np.zeros(weights.shape, np.uint8), np.zeros(1, np.int8), np.ones(4, np.float32))
    assert any("clustered" in text for text in messages(convert(graph), "declined"))
    assert dtypes(graph) == [("Conv", "float32")]


def test_activations_that_calibration_saw_beyond_its_range_stay_float32() -> None:
    build = GraphBuilder()
    large = convolution(build, build.input("x", (1, 4, 4, 3)), 4, scale=2e4)
    graph = build.graph_of(convolution(build, large, 4, scale=1e-4))
    unseen = graph.copy()
    assert any("in calibration" in text for text in messages(convert(graph, samples=2), "declined"))
    assert dtypes(graph) == [("Conv", "float32"), ("Conv", "float32")]
    assert any("nobody knows" in text for text in messages(convert(unseen), "note"))
    assert ("Conv", "float16") in dtypes(unseen)


def test_a_machine_without_float16_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no float16"):
        ConvertToFloat16().run(network(), context_for())


def refusal(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["compile", str(MODEL), "--dtype", "float16", *arguments])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


@pytest.mark.parametrize("target", ["arm", "cortex-a72", "raspberry-pi-4", "cortex-m4", "host", "arm32", "c"])
def test_other_targets_name_those_that_have_it(target: str) -> None:
    said = refusal("--target", target, "--no-quantize")
    assert f"'{target}'" in said
    assert "cortex-a55, cortex-a76" in said
    assert "raspberry-pi-5" in said


def test_quantization_and_float16_exclude_each_other() -> None:
    assert "--no-quantize" in refusal("--target", "cortex-a76", "--calib", f"{DATA}:calib")


@pytest.mark.qemu
@pytest.mark.slow
def test_digits_in_float16_have_half_the_weights_and_the_classes_of_float32(tmp_path: Path) -> None:
    options = CompileOptions(target="cortex-a76", is_quantized=False, cache_dir=default_cache_dir())
    wide = compile_model(MODEL, tmp_path / "float32", options)
    result = compile_model(MODEL, tmp_path / "float16", replace(options, dtype="float16", evaluation=f"{DATA}:x,y"))
    assert result.report["after"]["flash_constant_bytes"] <= 0.55 * wide.report["after"]["flash_constant_bytes"]
    assert result.report["evaluation"]["agreement"] == 1.0
    built = load_built_model(result.folder)
    found = validate(built, load_samples(SAMPLES, built.graph.inputs, limit=4), DEFAULT_COMPILER, default_cache_dir())
    assert found.first_difference is None
    assert "uint16_t" not in (result.folder / "digits.h").read_text()
