"""Channel groups hold on networks that nobody thought of: what no layer reads can leave, and no number moves."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from graph_builder import context_for, random_inputs
from random_graphs import random_graph

from tinyopt.ir import Array, Graph
from tinyopt.onnx_session import OnnxSession
from tinyopt.passes.channel_groups import ChannelGroup, find_channel_groups, keep_channels
from tinyopt.passes.channel_links import constant_source
from tinyopt.passes.eliminate_dead_channels import EliminateDeadChannels
from tinyopt.verify import verify

_SEEDS = range(200)
_BATCHES = [_SEEDS[start : start + 25] for start in _SEEDS[::25]]


def _run(graph: Graph) -> list[Array]:
    found = OnnxSession(graph).run(random_inputs(graph))
    return [found[value.name] for value in graph.outputs]


def _assert_same(expected: list[Array], got: list[Array], seed: int) -> None:
    for before, after in zip(expected, got, strict=True):
        magnitude = max(1e-3, float(np.max(np.abs(before))))
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * magnitude, err_msg=f"seed {seed}")


def _choose_kept(groups: list[ChannelGroup], seed: int) -> dict[ChannelGroup, list[int]]:
    """For each group that may lose units, some that stay, at least one."""
    random = np.random.default_rng(seed)
    kept: dict[ChannelGroup, list[int]] = {}
    for group in groups:
        if group.blocked is None and group.size > 1:
            count = int(random.integers(1, group.size))
            kept[group] = sorted(int(unit) for unit in random.choice(group.size, count, replace=False))
    return kept


def _clear_columns(graph: Graph, kept: dict[ChannelGroup, list[int]]) -> None:
    """Let no layer read what is to leave: its columns become zero."""
    producers = graph.producers()
    for group, units in kept.items():
        gone = np.setdiff1d(np.arange(group.size), units)
        for use in group.consumers:
            constant = constant_source(use.weights, producers)
            assert constant is not None
            assert use.input_axis is not None
            columns = np.moveaxis(constant.data.copy(), use.input_axis, 0)
            columns[group.member(constant, use.input_axis).indices(gone)] = 0
            constant.constant = np.ascontiguousarray(np.moveaxis(columns, 0, use.input_axis))


def _clear_rows(graph: Graph, kept: dict[ChannelGroup, list[int]]) -> None:
    """Let every producer give nothing but its bias for what is to leave."""
    producers = graph.producers()
    for group, units in kept.items():
        gone = np.setdiff1d(np.arange(group.size), units)
        for use in (*group.producers, *group.depthwise):
            constant = constant_source(use.weights, producers)
            assert constant is not None
            rows = np.moveaxis(constant.data.copy(), use.output_axis, 0)
            rows[group.member(constant, use.output_axis).indices(gone)] = 0
            constant.constant = np.ascontiguousarray(np.moveaxis(rows, 0, use.output_axis))


@pytest.mark.parametrize("seeds", _BATCHES, ids=lambda seeds: f"{seeds[0]}..{seeds[-1]}")
def test_what_no_layer_reads_leaves_and_no_output_moves(seeds: range) -> None:
    for seed in seeds:
        graph = random_graph(seed)
        kept = _choose_kept(find_channel_groups(graph), seed)
        _clear_columns(graph, kept)
        expected = _run(graph)
        sizes = {use.node.name: len(units) for group, units in kept.items() for use in group.producers[:1]}
        keep_channels(graph, kept)
        verify(graph, after=f"keep_channels with seed {seed}")
        _assert_same(expected, _run(graph), seed)
        assert sizes.keys() <= {node.name for node in graph.nodes}


def test_dead_channels_are_eliminated_from_any_network_without_moving_its_outputs() -> None:
    removed = 0
    for seed in _SEEDS[:40]:
        graph = random_graph(seed)
        clear = _clear_rows if seed % 2 else _clear_columns
        clear(graph, _choose_kept(find_channel_groups(graph), seed))
        expected, context = _run(graph), context_for()
        EliminateDeadChannels().run(graph, context)
        verify(graph, after=f"eliminate-dead-channels with seed {seed}")
        _assert_same(expected, _run(graph), seed)
        removed += sum(remark.kind == "did" for remark in context.remarks)
    assert removed > 40


def test_most_channels_are_free_and_every_refusal_has_a_reason() -> None:
    free, blocked, kinds = 0, 0, Counter[str]()
    for seed in _SEEDS:
        for group in find_channel_groups(random_graph(seed)):
            if group.blocked is None:
                free += group.size
            else:
                blocked += group.size
                kinds[group.blocked.split(" '")[0].split(" (")[0]] += 1
    assert free > blocked, kinds
    assert {"it reaches the graph's output", "it reaches the graph's input"} <= kinds.keys()
