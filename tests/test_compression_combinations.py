"""Pruning, clustering and quantization: each alone, each pair, all three, on the example network."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal

import numpy as np
import pytest

from tests.digits import CALIBRATION, DATA, MODEL, SAMPLES
from tinyopt.api import CompileResult, compile_model
from tinyopt.disk_cache import default_cache_dir
from tinyopt.execution.built_model import load_built_model
from tinyopt.execution.validate import validate
from tinyopt.options import CompileOptions
from tinyopt.samples import load_samples
from tinyopt.toolchain import DEFAULT_COMPILER

PRUNE, CLUSTER, QUANTIZE = "prune", "cluster", "quantize"
QUICK = {"distill": {"epochs": "3"}}
LARGEST_DROP: dict[tuple[str, ...], float] = {  # in points of top-1 on 450 samples, of which one is 0.22 points
    (QUANTIZE,): 0.3,
    (PRUNE,): 1.6,
    (CLUSTER,): 0.5,
    (PRUNE, QUANTIZE): 1.6,
    (CLUSTER, QUANTIZE): 0.7,
    (PRUNE, CLUSTER): 1.8,
    (PRUNE, CLUSTER, QUANTIZE): 1.8,
}


def options_of(methods: tuple[str, ...]) -> CompileOptions:
    return CompileOptions(
        target="host",
        calibration=CALIBRATION,
        calibration_samples=100,
        evaluation=f"{DATA}:x,y",
        is_quantized=QUANTIZE in methods,
        prune=0.2 if PRUNE in methods else 0.0,
        cluster=32 if CLUSTER in methods else 0,
        cache_dir=default_cache_dir(),
    )


@cache
def compiled(methods: tuple[str, ...]) -> CompileResult:
    folder = Path(mkdtemp(prefix="tinyopt-combinations-")) / "out"
    return compile_model(MODEL, folder, options_of(methods))


@pytest.fixture(scope="module", params=LARGEST_DROP, ids="-".join)
def methods(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return tuple(request.param)


def test_the_library_gives_what_the_numpy_reference_gives(methods: tuple[str, ...]) -> None:
    built = load_built_model(compiled(methods).folder)
    found = validate(built, load_samples(SAMPLES, built.graph.inputs, limit=20), DEFAULT_COMPILER, default_cache_dir())
    assert found.first_difference is None
    assert (found.float_layers == 0) == (QUANTIZE in methods)


def test_the_accuracy_stays_within_its_bound(methods: tuple[str, ...]) -> None:
    found = compiled(methods).report["evaluation"]
    assert 100 * (found["float_top1"] - found["compiled_top1"]) <= LARGEST_DROP[methods]


def test_each_method_leaves_its_mark_in_the_compiled_graph(methods: tuple[str, ...]) -> None:
    result = compiled(methods)
    before, after = result.report["before"], result.report["after"]
    assert (after["macs"] < 0.9 * before["macs"]) == (PRUNE in methods)
    assert ("compression" in result.report) == (PRUNE in methods)
    weights = [node.optional_input(1) for node in result.program.graph.nodes]
    assert any(value is not None and value.clusters is not None for value in weights) == (CLUSTER in methods)
    types = {value.dtype for node in result.program.graph.nodes for value in node.outputs}
    assert ("int8" in types) == (QUANTIZE in methods)


def test_weights_are_fewer_where_they_are_pruned_and_smaller_where_they_are_quantized() -> None:
    size = {methods: compiled(methods).report["after"]["weight_bytes"] for methods in LARGEST_DROP}
    assert size[PRUNE, QUANTIZE] < size[QUANTIZE,] < size[PRUNE,]
    assert size[PRUNE, CLUSTER, QUANTIZE] < size[CLUSTER, QUANTIZE] < size[QUANTIZE,]


def test_clustering_then_quantizing_does_not_round_twice() -> None:
    """The codebook's values are integers already; the same layer has as many values with and without int8."""
    clustered, quantized = compiled((CLUSTER,)), compiled((CLUSTER, QUANTIZE))
    counts = [
        [
            len(np.unique(value.clusters.codebook))
            for node in result.program.graph.nodes
            if (value := node.optional_input(1)) is not None and value.clusters is not None
        ]
        for result in (clustered, quantized)
    ]
    assert len(counts[0]) == len(counts[1])
    assert all(after <= before <= 32 for before, after in zip(*counts, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("recover", ["refit", "distill"])
def test_the_same_data_give_the_same_bytes_in_every_file(recover: Literal["refit", "distill"], tmp_path: Path) -> None:
    if recover == "distill":
        pytest.importorskip("torch", reason="distillation needs the extra tinyopt[distill]")
    options = replace(options_of((PRUNE, CLUSTER, QUANTIZE)), recover=recover, settings=QUICK)
    folders = [
        compile_model(
            MODEL, tmp_path / name, replace(options, cache_dir=with_kernels_alone(tmp_path / f"{name}-cache"))
        ).folder
        for name in ("first", "second")
    ]
    contents = [
        {file.relative_to(folder): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
        for folder in folders
    ]
    assert contents[0].keys() == contents[1].keys()
    assert [str(name) for name, content in contents[0].items() if contents[1][name] != content] == []


def with_kernels_alone(folder: Path) -> Path:
    """A cache that knows compiled kernels, which take longest, and nothing of what passes do."""
    folder.mkdir()
    kernels = default_cache_dir() / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    (folder / "kernels").symlink_to(kernels)
    return folder
