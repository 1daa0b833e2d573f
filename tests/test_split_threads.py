"""Threads that share layers: the same bytes for any number of them, however they interleave."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tinyopt
from tests.digits import MODEL, options_for
from tests.graph_builder import GraphBuilder, context_for, messages, outputs_of, random_inputs
from tests.onnx_models import model_of, node
from tests.quantized_graphs import Q
from tests.test_split_rows import qconv
from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Value
from tinyopt.loader import Model
from tinyopt.options import CompileOptions
from tinyopt.pass_manager import run_pass
from tinyopt.passes.split_threads import SplitThreads
from tinyopt.samples import RANDOM
from tinyopt.targets import target_named
from tinyopt.verify import verify


def network() -> Graph:
    """Two blocks with a sum, wide enough for threads, and layers that are too small for them."""
    build = GraphBuilder()
    x = build.input("image", (1, 34, 32, 8), "int8", Q(0.1, 3))
    x = qconv(build, x, 32, stride=1)
    wide = qconv(build, qconv(build, x, 64, kernel=1), 64, depthwise=True)
    x = qconv(build, wide, 32, kernel=1, residual=x)
    small = qconv(build, x, 8, kernel=1, stride=2)
    return build.graph_of(small, qconv(build, x, 24, stride=2))


def split(graph: Graph, threads: int) -> Graph:
    result = graph.copy()
    assert run_pass(SplitThreads(threads), result, context_for()).is_changed
    verify(result, after="split")
    return result


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_shared_layers_give_the_same_bytes(threads: int) -> None:
    whole = network()
    inputs = random_inputs(whole)
    for expected, got in zip(outputs_of(whole, inputs), outputs_of(split(whole, threads), inputs), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_dense_layer_is_cut_by_outputs() -> None:
    build = GraphBuilder()
    x = build.input("x", (1, 640))
    whole = build.graph_of(build("Dense", x, build.random((200, 640)), build.random((200,)), None))
    parts = split(whole, 2)
    assert [node.output.shape for node in parts.nodes] == [(1, 128), (1, 72), (1, 200)]
    inputs = random_inputs(whole)
    np.testing.assert_allclose(outputs_of(parts, inputs)[0], outputs_of(whole, inputs)[0], rtol=1e-5)


def test_a_small_layer_before_a_dense_one_is_computed_by_each_thread_but_not_if_others_read_it() -> None:
    def body(build: GraphBuilder, is_read: bool) -> list[Value]:
        x = build.input("x", (1, 7, 7, 640))
        mean = build("AveragePool", x, kernel=(7, 7), layout="NHWC", strides=(1, 1), pads=(0, 0, 0, 0))
        flat = build("Reshape", mean, shape=(1, 640))
        dense = build("Dense", flat, build.random((200, 640)), build.random((200,)), None)
        return [dense, build("Relu", flat)] if is_read else [dense]

    for is_read, count in ((False, 2), (True, 1)):
        build = GraphBuilder()
        whole = build.graph_of(*body(build, is_read))
        parts = split(whole, 2)
        assert [node.op for node in parts.nodes].count("AveragePool") == count
        inputs = random_inputs(whole)
        np.testing.assert_allclose(outputs_of(parts, inputs)[0], outputs_of(whole, inputs)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_float", [True, False])
def test_channels_of_zeros_align_rows_and_change_nothing(is_float: bool) -> None:
    """From a convolution through a depthwise one to those that mix them; what an odd sum reads stays as it is."""
    build = GraphBuilder()
    shape = (1, 30, 15, 32)
    x = build.input("image", shape) if is_float else build.input("image", shape, "int8", Q(0.1, 3))
    convolve = float_conv if is_float else qconv
    wide = convolve(build, convolve(build, x, 143, kernel=1), 143, depthwise=True)
    odd = convolve(build, wide, 143, kernel=1)
    whole = build.graph_of(convolve(build, odd, 32, kernel=1), convolve(build, wide, 143, kernel=1, residual=odd))
    parts = split(whole, 2)
    channels = {
        node.name.partition("_part")[0]: node.output.shape[3] for node in parts.nodes if node.op in ("Conv", "QConv")
    }
    assert list(channels.values()) == [144, 144, 143, 32, 143]
    inputs = random_inputs(whole)
    for expected, got in zip(outputs_of(whole, inputs), outputs_of(parts, inputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 if is_float else 0)


def float_conv(
    build: GraphBuilder,
    x: Value,
    channels: int,
    kernel: int = 3,
    depthwise: bool = False,
    residual: Value | None = None,
) -> Value:
    group = x.shape[3] if depthwise else 1
    window: dict[str, Any] = {"strides": (1, 1), "dilations": (1, 1), "group": group, "pads": (kernel // 2,) * 4}
    weights = build.random((channels, kernel, kernel, x.shape[3] // group))
    return build("Conv", x, weights, build.random((channels,)), residual, layout="NHWC", **window)


def test_only_layers_worth_it_are_split_and_the_others_say_why() -> None:
    build = GraphBuilder()
    x = build.input("image", (1, 1, 600, 32), "int8", Q(0.1, 3))
    graph = build.graph_of(qconv(build, qconv(build, x, 32, kernel=1), 4, kernel=1))
    context = context_for()
    assert not run_pass(SplitThreads(2), graph, context).is_changed
    (reason,) = messages(context.remarks, "declined")
    assert "one thread computes it: it has too few rows" in reason


def test_a_layer_whose_rounding_depends_on_where_its_rows_begin_stays_whole() -> None:
    build = GraphBuilder()
    x = build.input("image", (1, 32, 32, 16))
    window: dict[str, Any] = {"strides": (1, 1), "dilations": (1, 1), "group": 1, "layout": "NHWC"}
    tiled = build("Conv", x, build.random((32, 3, 3, 16)), None, None, pads=(1, 1, 1, 1), **window)
    graph = build.graph_of(build("Conv", tiled, build.random((32, 1, 1, 32)), None, None, pads=(0, 0, 0, 0), **window))
    context = replace(context_for(), facts=target_named("arm").facts)
    assert run_pass(SplitThreads(2), graph, context).is_changed
    (reason,) = messages(context.remarks, "declined")
    assert "computed in tiles" in reason
    assert [node.op for node in graph.nodes].count("Conv") == 3


def compiled(tmp_path: Path, threads: int, is_quantized: bool) -> Model:
    options = CompileOptions(
        target="host",
        calibration=RANDOM if is_quantized else None,
        is_quantized=is_quantized,
        threads=threads,
        cache_dir=default_cache_dir(),
    )
    return tinyopt.load(compile_model(tmp_path / "model.onnx", tmp_path / f"out{threads}", options).folder)


@pytest.mark.parametrize("is_quantized", [True, False])
def test_any_number_of_threads_gives_the_same_bytes_to_callers_at_the_same_time(
    tmp_path: Path, is_quantized: bool
) -> None:
    generator = np.random.default_rng(5)
    layers = [("x", "a", 16, 3), ("a", "b", 32, 16), ("b", "y", 24, 32)]
    weights = {f"w{to}": generator.normal(0, 0.1, (o, i, 3, 3)).astype(np.float32) for _, to, o, i in layers}
    nodes = [node("Conv", f"{a} w{b}", b, pads=[1, 1, 1, 1], kernel_shape=[3, 3]) for a, b, _, _ in layers]
    onnx.save(model_of(nodes, {"x": (1, 3, 34, 32)}, weights), tmp_path / "model.onnx")
    alone, *shared = (compiled(tmp_path, threads, is_quantized) for threads in (1, 2, 3))
    inputs = [generator.normal(size=(1, 3, 34, 32)).astype(np.float32) for _ in range(20)]
    expected = [np.asarray(alone(x)) for x in inputs]
    for model in shared:
        with ThreadPoolExecutor(4) as callers:
            for got, wanted in zip(callers.map(model, inputs * 5), expected * 5, strict=True):
                np.testing.assert_array_equal(got, wanted)


def test_machines_without_threads_say_so(tmp_path: Path) -> None:
    options = replace(options_for("cortex-m4"), threads=2)
    with pytest.raises(UsageError, match="not for cortex-m4"):
        compile_model(MODEL, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()
