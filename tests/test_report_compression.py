"""What the report says of pruning: layers, groups and the outputs after each pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.graph_builder import GraphBuilder
from tests.report_pages import HOSTILE, embedded_data
from tinyopt.ir import Graph, Node
from tinyopt.pass_manager import PassRecord, Unpruned
from tinyopt.passes.channel_groups import find_channel_groups, keep_channels
from tinyopt.pipeline import Drift, PipelineStep
from tinyopt.report.compression import compression_section
from tinyopt.report.compression_table import compression_tables
from tinyopt.report.html.build import build_page
from tinyopt.report.html.pictures import picture_of
from tinyopt.samples import random_samples
from tinyopt.targets.costs import DSP_COSTS

KEPT = [0, 2, 3, 7]


def network(name: str = "first") -> Graph:
    """Two convolutions and a depthwise one between them; eight channels, then three."""
    build = GraphBuilder()
    x = build.input("x", (1, 4, 4, 4))
    x = build("Conv", x, build.random((8, 4, 1, 1)), build.random((8,)))
    x = build("Conv", x, build.random((8, 1, 3, 3)), build.random((8,)), group=8, pads=(1, 1, 1, 1))
    x = build("Conv", x, build.random((3, 8, 1, 1)), build.random((3,)))
    graph = build.graph_of(x)
    for node, text in zip(graph.nodes, (name, "depthwise", "last"), strict=True):
        node.name, node.origins = text, (text,)
    return graph


def step(name: str, graph: Graph, unpruned: Unpruned | None, is_changed: bool = True) -> PipelineStep:
    record = PassRecord(name, {}, is_changed, 0.0, (), graph.copy())
    return PipelineStep(record, Drift(0.0, np.inf) if is_changed else None, unpruned)


def pruned_steps(graph: Graph) -> list[PipelineStep]:
    """Half of the eight channels go; then `refit-weights` gives the outputs back as they were."""
    unpruned = Unpruned(graph.copy(), {name: np.array(KEPT) for name in (graph.nodes[0].name, "depthwise")})
    group = next(group for group in find_channel_groups(graph) if group.size == 8)
    keep_channels(graph, {group: KEPT})
    refitted = unpruned.graph.copy()
    return [
        step("eliminate-dead-channels", unpruned.graph, None, is_changed=False),
        step("prune-channels", graph, unpruned),
        step("refit-weights", refitted, unpruned),
        step("distill", refitted, unpruned, is_changed=False),
    ]


def section_of(graph: Graph, instructions: Callable[[Node], float] = lambda _: 1.0) -> dict[str, Any]:
    samples = random_samples(graph.inputs, 40, 0)
    section = compression_section(pruned_steps(graph), samples, instructions, lambda *_: None)
    assert section is not None
    return section


def test_every_layer_says_what_it_had_and_what_it_keeps() -> None:
    section = section_of(network())
    first, depthwise, last = section["layers"]
    assert first["channels"] == depthwise["channels"] == {"before": 8, "after": 4}
    assert first["kept"] == KEPT
    assert last["channels"] == {"before": 3, "after": 3}
    assert last["kept"] == [0, 1, 2]
    assert first["macs"] == {"before": 16 * 8 * 4, "after": 16 * 4 * 4}
    assert last["parameters"] == {"before": 3 * 8 + 3, "after": 3 * 4 + 3}
    assert section["macs"]["after"] == sum(layer["macs"]["after"] for layer in section["layers"])


def test_groups_are_counted_in_units_and_name_what_hangs_together() -> None:
    section = section_of(network())
    first, last = section["groups"]
    assert (first["layers"], first["channels"]) == (["first", "depthwise"], {"before": 8, "after": 4})
    assert (last["layers"], last["channels"]) == (["last"], {"before": 3, "after": 3})
    assert last["blocked"]
    assert [layer["groups"] for layer in section["layers"]] == [[0], [0], [1]]


def test_the_ladder_shows_each_pass_that_changed_something_beside_the_outputs_before_pruning() -> None:
    section = section_of(network())
    pruned, refitted = section["ladder"]
    assert section["samples"] == 32
    assert (pruned["pass"], refitted["pass"]) == ("prune-channels", "refit-weights")
    assert pruned["snr_db"] < 20
    assert pruned["differing"] > 0
    assert (refitted["snr_db"], refitted["differing"]) == (np.inf, 0)


def test_instructions_are_those_of_the_costs_that_pruning_was_judged_by() -> None:
    def instructions(node: Node) -> float:
        return 10.0 * node.output.shape[1]

    section = section_of(network(), instructions)
    assert section["layers"][0]["instructions"] == {"before": 80, "after": 40}
    assert section["instructions"] == {"before": 190, "after": 110}


def test_a_layer_that_is_gone_is_all_zero_afterwards() -> None:
    graph = network()
    unpruned = Unpruned(graph.copy(), {})
    graph.nodes = [node for node in graph.nodes if node.name != "depthwise"]
    graph.nodes[1].inputs[0] = graph.nodes[0].output
    section = compression_section([step("prune-channels", graph, unpruned)], [], lambda _: 1.0, lambda *_: None)
    assert section is not None
    gone = section["layers"][1]
    assert (gone["channels"], gone["kept"], gone["macs"]["after"]) == ({"before": 8, "after": 0}, [], 0)
    assert section["ladder"] == []


def test_nothing_is_said_where_nothing_was_pruned() -> None:
    graph = network()
    steps = [step("prune-channels", graph, None, is_changed=False)]
    assert compression_section(steps, [], lambda _: 1.0, lambda *_: None) is None


def test_the_tables_show_channels_and_answers() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        for part in compression_tables(section_of(network())):
            console.print(part)
    text = capture.get()
    assert "4 of 8" in text
    assert "-50.0 %" in text
    assert any(line.split()[:2] == ["refit-weights", "exact"] for line in text.splitlines())


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_data_on_the_page(name: str) -> None:
    graph = network(name)
    section = section_of(graph)
    report = {"model": {"file": "m"}, "passes": [], "compression": section}
    page = build_page(report, picture_of(graph, DSP_COSTS), [])
    assert page.count("<script") == 2
    assert embedded_data(page)["report"]["compression"]["layers"][0]["name"] == name
