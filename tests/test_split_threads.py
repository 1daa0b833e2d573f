"""Threads that share layers: the same bytes for any number of them, however they interleave."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tinyopt
from tests.arena_machine import run_in_arena
from tests.digits import MODEL, options_for
from tests.graph_builder import GraphBuilder, context_for, messages, outputs_of, random_inputs
from tests.onnx_models import model_of, node
from tests.quantized_graphs import Q
from tests.test_split_rows import qconv
from tinyopt.api import compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.errors import UsageError
from tinyopt.ir import Graph
from tinyopt.loader import Model
from tinyopt.lowering import lower as lowering
from tinyopt.lowering.program import ArenaSlot, KernelCall, Location
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


def places(call: KernelCall, is_written: bool = False) -> list[ArenaSlot]:
    """Where in the arena a call reads and writes, or only writes."""
    located = [argument for argument in call.arguments if isinstance(argument, Location)]
    found = [argument.place for argument in located if argument.is_written or not is_written]
    return [place for place in found if isinstance(place, ArenaSlot)]


def meet(a: ArenaSlot, b: ArenaSlot) -> bool:
    return a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes


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


def test_what_runs_at_the_same_time_leaves_the_others_memory_alone_in_any_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lowering, "compile_kernels", lambda requests, *_: {request.key: b"" for request in requests})
    whole = network()
    program = lowering.lower(split(whole, 3), target_named("host"), None, lambda _done, _total: None, threads=3)
    sizes = [len(section) for section in program.sections]
    assert sizes.count(3) >= 4
    assert not {"Slice", "Concat"} & {call.node.op for call in program.calls}  # nothing is moved
    for section in program.sections:
        for one, other in permutations([program.calls[index] for index in section], 2):
            for written in places(one, is_written=True):
                assert not any(meet(written, place) for place in places(other)), (one.node.name, other.node.name)
    inputs = random_inputs(whole)
    expected = outputs_of(whole, inputs)
    random = np.random.default_rng(3)
    for _ in range(4):
        shuffled = [index for section in program.sections for index in random.permutation(section)]
        for got, wanted in zip(run_in_arena(program, inputs, shuffled), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_only_layers_worth_it_are_split_and_the_others_say_why() -> None:
    build = GraphBuilder()
    x = build.input("image", (1, 1, 600, 32), "int8", Q(0.1, 3))
    graph = build.graph_of(qconv(build, qconv(build, x, 32, kernel=1), 8, kernel=1))
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
