"""Pruning: which channels go, how many, and what refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_builder import GraphBuilder, apply, context_for, messages
from prepared_models import prepared

from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Quantization
from tinyopt.ops.facts import graph_macs
from tinyopt.passes.prune_channels import PruneChannels
from tinyopt.verify import verify


def _two_layers(outputs: int = 8) -> Graph:
    """Rows 0, 2, 4, ... of the first layer are ten times as large as the others."""
    build = GraphBuilder()
    rows = np.where(np.arange(outputs) % 2 == 0, 10, 1)[:, None] * np.ones((1, 6), np.float32)
    first = build(
        "Relu", build("Dense", build.input("x", (1, 6)), build.constant(rows.astype(np.float32)), name="first")
    )
    return build.graph_of(build("Dense", first, build.constant(np.ones((4, outputs), np.float32)), name="head"))


def test_the_channels_with_the_smallest_weights_go_and_counts_are_whole_lanes() -> None:
    graph = _two_layers()
    remarks = apply(PruneChannels(ratio=0.3), graph)
    weights = graph.nodes[0].input(1)
    assert weights.shape == (4, 6)
    assert np.all(weights.data == 10)
    assert graph.nodes[-1].input(1).shape == (4, 4)
    assert messages(remarks, "did") == ["first: 4 of 8 channels stay, 29.5% of the importance goes"]
    assert messages(remarks, "note") == ["80 -> 40 multiply-accumulates: 50.0% removed of 30.0% asked for"]


def test_without_a_ratio_nothing_is_pruned_and_the_remark_says_how_to() -> None:
    remarks = apply(PruneChannels(), _two_layers())
    assert [remark.kind for remark in remarks] == ["declined"]
    assert "ratio=0.2" in remarks[0].message


def test_no_layer_loses_more_than_three_quarters_and_the_shortfall_is_reported() -> None:
    graph = _two_layers(32)
    remarks = apply(PruneChannels(ratio=0.9), graph)
    assert graph.nodes[0].output.shape == (1, 8)
    assert "75.0% removed of 90.0% asked for" in messages(remarks, "declined")[-1]


def test_layers_named_in_keep_stay() -> None:
    remarks = apply(PruneChannels(ratio=0.3, keep=("fir*",)), _two_layers())
    assert "first: not pruned: 'first' is named in keep" in messages(remarks, "declined")
    assert not messages(remarks, "did")


def test_a_quantized_model_is_refused() -> None:
    build = GraphBuilder()
    x = build("DequantizeLinear", build.input("x", (1, 6), "int8", Quantization.per_tensor(0.5, 0)))
    first = build("Dense", x, build.random((8, 6)))
    levels = build("QuantizeLinear", first, quantization=Quantization.per_tensor(0.5, 0))
    graph = build.graph_of(build("Dense", build("DequantizeLinear", levels), build.random((4, 8))))
    remarks = apply(PruneChannels(ratio=0.5), graph)
    assert "quantized already" in messages(remarks, "declined")[0]


def test_a_ratio_of_one_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="share of multiply-accumulates"):
        PruneChannels(ratio=1).run(_two_layers(), context_for())


@pytest.mark.parametrize("model", ["kws01", "kws01_hybrid", "ic01", "vww01"])
def test_the_reference_models_reach_the_ratio(model: str, models_dir: Path) -> None:
    graph = prepared(models_dir / f"{model}.onnx")
    before = graph_macs(graph)
    apply(PruneChannels(ratio=0.2), graph)
    verify(graph, after="prune-channels")
    assert 0.2 <= 1 - graph_macs(graph) / before <= 0.3
