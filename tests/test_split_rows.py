"""Bands of rows: the same bytes, less memory, and refusals that say why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.arena_machine import run_in_arena
from tests.digits import MODEL, SAMPLES, compiled_digits, options_for
from tests.graph_builder import GraphBuilder, context_for, messages, ops_of, outputs_of, random_inputs
from tests.integer_cases import average_pool
from tests.quantized_graphs import Q
from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import UsageError
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.runner import run_built_model
from tinyopt.execution.validate import validate
from tinyopt.ir import Graph, Value
from tinyopt.lowering import lower as lowering
from tinyopt.ops import OPERATORS
from tinyopt.pass_manager import PassContext, run_pass
from tinyopt.passes.row_bands import band_borders, leading_segments, split_into_bands
from tinyopt.passes.split_rows import SplitRows
from tinyopt.samples import load_samples
from tinyopt.targets import target_named
from tinyopt.toolchain import DEFAULT_COMPILER
from tinyopt.verify import verify

WIDTH = 16  # columns: rows of any number of channels are aligned


def qconv(
    build: GraphBuilder,
    x: Value,
    channels: int,
    kernel: int = 3,
    stride: int = 1,
    depthwise: bool = False,
    residual: Value | None = None,
) -> Value:
    pad = kernel // 2
    group = x.shape[3] if depthwise else 1
    shape = (channels, kernel, kernel, x.shape[3] // group)
    constants = [
        build.random_int8(shape, Q(0.01, 0)),
        build.constant(np.arange(channels, dtype=np.int32) * 50),
        build.constant(np.full(channels, 1 << 21, np.int32)),
    ]
    weight = 0 if residual is None else 1 << 30
    rounding: dict[str, Any] = {"shift": 32, "low": -128, "high": 127, "residual_multiplier": weight}
    window: dict[str, Any] = {"strides": (stride, stride), "pads": (pad,) * 4, "dilations": (1, 1), "group": group}
    return build("QConv", x, *constants, residual, quantization=Q(0.1, 3), **window, **rounding)


def inverted_residuals(rows: int = 32) -> Graph:
    """The begin of a MobileNetV2: the image, a convolution, wide layers inside blocks, a sum around one of them."""
    build = GraphBuilder()
    x = build.input("image", (1, rows, 2 * WIDTH, 3), "int8", Q(0.1, 3))
    x = qconv(build, x, 8, stride=2)
    x = qconv(build, qconv(build, x, 8, depthwise=True), 8, kernel=1)
    wide = qconv(build, qconv(build, x, 48, kernel=1), 48, depthwise=True)
    x = qconv(build, wide, 8, kernel=1, residual=x)
    wide = qconv(build, qconv(build, x, 48, kernel=1), 48, stride=2, depthwise=True)
    x = qconv(build, wide, 16, kernel=1)
    table = build.constant(np.arange(-128, 128)[::-1].astype(np.int8))
    x = build("QLookup", x, table, quantization=Q(0.1, 3))
    return build.graph_of(build("MaxPool", x, layout="NHWC", strides=(2, 2)))


def context_of(target: str) -> PassContext:
    context = context_for()
    context.arena_bytes = lambda graph: lowering.planned_arena_bytes(graph, target_named(target))
    return context


def assert_same_bytes(before: Graph, after: Graph) -> None:
    inputs = random_inputs(before)
    for expected, got in zip(outputs_of(before, inputs), outputs_of(after, inputs), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_what_reads_constants_alone_is_no_layer_of_an_image() -> None:
    build = GraphBuilder()
    graph = build.graph_of(build("Identity", build.constant(np.ones((1, 1, 1, 1), np.float32))))
    assert not list(leading_segments(graph))


@pytest.mark.parametrize("bands", [2, 3, 5, 16])
def test_every_run_of_layers_in_any_number_of_bands_gives_the_same_bytes(bands: int) -> None:
    whole = inverted_residuals()
    segments = list(leading_segments(whole))
    assert len(segments) == 9  # not between the sum's branches
    for segment in segments:
        nodes = split_into_bands(segment, band_borders(segment.result, bands), "band")
        assert nodes is not None
        rest = [node for node in whole.nodes if node not in segment.nodes]
        split = Graph(whole.name, whole.inputs, whole.outputs, [*nodes, *rest])
        verify(split, after="split")
        assert_same_bytes(whole, split)


def test_a_pool_whose_divisors_differ_by_row_takes_each_band_its_own() -> None:
    whole = average_pool([4, 4, 6, 6, 4, 4])
    (segment,) = leading_segments(whole)
    nodes = split_into_bands(segment, [0, 1, 2, 3], "band")
    assert nodes is not None
    assert_same_bytes(whole, Graph(whole.name, whole.inputs, whole.outputs, nodes))


def test_automatic_bands_take_a_fraction_of_the_memory_and_every_byte_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "compile_kernels", lambda requests, *_: {request.key: b"" for request in requests})
    whole = inverted_residuals()
    split, target = whole.copy(), target_named("c")
    context = context_of("c")
    record = run_pass(SplitRows("auto"), split, context)
    assert record.is_changed
    assert_same_bytes(whole, split)
    programs = [lowering.lower(graph, target, None, lambda _done, _total: None) for graph in (whole, split)]
    inputs = random_inputs(split)
    np.testing.assert_array_equal(run_in_arena(programs[1], inputs)[0], outputs_of(whole, inputs)[0])
    assert programs[1].arena_bytes < 0.6 * programs[0].arena_bytes
    assert not {"Slice", "Concat"} & {call.node.op for call in programs[1].calls}  # nothing is moved
    (said,) = messages(context.remarks, "did")
    macs = sum(OPERATORS[node.op].macs(node) for node in split.nodes)
    more = macs - sum(OPERATORS[node.op].macs(node) for node in whole.nodes)
    assert f"for {more:,} MACs more" in said
    assert not SplitRows("auto").run(split, context_of("c"))


def test_bands_that_would_not_save_a_quarter_are_declined_unless_they_are_asked_for() -> None:
    build = GraphBuilder()
    x = build.input("image", (1, 8, WIDTH, 64), "int8", Q(0.1, 3))
    graph = build.graph_of(qconv(build, x, 8, kernel=1))
    context = context_of("c")
    assert not SplitRows("auto").run(graph, context)
    assert "not a quarter less" in messages(context.remarks, "declined")[0]
    assert SplitRows("2").run(graph, context_of("c"))
    assert ops_of(graph) == ["Slice", "QConv", "Slice", "QConv", "Concat"]


def test_a_graph_that_does_not_begin_with_images_is_declined_with_the_reason() -> None:
    build = GraphBuilder()
    graph = build.graph_of(build("Dense", build.input("x", (1, 8)), build.random((4, 8))))
    context = context_of("c")
    assert not SplitRows("auto").run(graph, context)
    assert messages(context.remarks, "declined") == ["no first layers to split: Dense is not computed row by row"]


def test_what_is_no_number_of_bands_is_refused() -> None:
    for bands in ("1", "-3", "many"):
        with pytest.raises(UsageError, match=f"not '{bands}'"):
            SplitRows(bands).run(inverted_residuals(), context_of("c"))


def test_a_model_in_bands_compiles_and_gives_the_bytes_that_it_gives_as_a_whole(tmp_path: Path) -> None:
    options = replace(options_for("c"), patches="2")
    compiled = compile_model(MODEL, tmp_path / "out", options)
    whole = load_built_model(compiled_digits("c"))
    assert {call.node.op for call in compiled.program.calls} >= {"QConv"}
    assert any(step.record.pass_name == "split-rows" and step.record.is_changed for step in compiled.steps)
    samples = load_samples(SAMPLES, whole.graph.inputs, limit=3)
    both = [
        run_built_model(built, samples, "run", DEFAULT_COMPILER, default_cache_dir()).outputs
        for built in (whole, load_built_model(tmp_path / "out"))
    ]
    for expected, got in zip(*both, strict=True):
        for name, array in expected.items():
            np.testing.assert_array_equal(got[name], array)
    found = validate(load_built_model(tmp_path / "out"), samples, DEFAULT_COMPILER, default_cache_dir())
    assert found.first_difference is None
