"""On each family of Cortex-M, clustered weights are decoded where that costs no more than the user permits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cortex_m_cases import CaseMaker
from digits import MODEL, options_for

from tinyopt.api import compile_model
from tinyopt.ir import Node
from tinyopt.lowering.decoding import too_slow
from tinyopt.lowering.lower import choose_kernel
from tinyopt.targets import target_named
from tinyopt.targets.kernel import Kernel, Refusal

FAMILIES = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m55")


def _chosen(target: str, *nodes: Node) -> list[tuple[Kernel, tuple[str, ...]]]:
    """The kernel of each node of a model, and why those before it were not taken."""
    machine = target_named(target)
    choices = {node: choice for node in nodes if (choice := choose_kernel(node, machine)) is not None}
    refused = too_slow({node: kernel for node, (kernel, _) in choices.items()}, machine.costs)
    found = [choose_kernel(node, machine, refused.get(node)) for node in nodes]
    return [choice for choice in found if choice is not None]


def _limit(node: Node, cost_limit: float) -> Node:
    weight = node.input(1)
    assert weight.clusters is not None
    weight.clusters = replace(weight.clusters, cost_limit=cost_limit)
    return node


def _planned(target: str, node: Node, cost_limit: float) -> tuple[Kernel, tuple[str, ...]]:
    """Of a model of this node alone."""
    (found,) = _chosen(target, _limit(node, cost_limit))
    return found


def _never_refused(_: Node) -> Kernel | Refusal:
    """For nodes whose own planners are asked later."""
    return Kernel(_never_refused, None, "none", ())


def _nodes() -> dict[str, Node]:
    make = CaseMaker(1)
    return {
        "pointwise": make.conv(_never_refused, (25, 5, 64), 64, clusters=16).node,
        "depthwise": make.conv(_never_refused, (9, 9, 16), 16, (3, 3), depthwise=True, clusters=16).node,
        "dense": make.dense(_never_refused, (1, 128), 64, clusters=16).node,
    }


@pytest.mark.parametrize("target", FAMILIES)
@pytest.mark.parametrize("kind", ["pointwise", "depthwise", "dense"])
def test_the_limit_decides_between_packed_and_int8_weights_and_the_refusal_says_so(target: str, kind: str) -> None:
    node = _nodes()[kind]
    kernel, _ = _planned(target, node, 30.0)
    decoding = kernel.decoding
    assert decoding is not None
    assert decoding.bytes < decoding.int8_bytes
    factor = decoding.instructions / decoding.int8_instructions
    assert 1 < factor < 30
    plain, reasons = _planned(target, node, factor - 0.01)
    assert plain.decoding is None
    assert f"{factor:.2f} times the instructions of int8 weights" in reasons[0]
    again, _ = _planned(target, node, factor + 0.01)
    assert again.name == kernel.name


def test_a_layer_may_cost_more_than_the_limit_while_the_model_stays_within() -> None:
    make = CaseMaker(2)
    small = make.dense(_never_refused, (1, 64), 16, clusters=32).node
    large = make.conv(_never_refused, (25, 5, 64), 64, clusters=32).node
    (alone, _), (beside, _) = _planned("cortex-m4", small, 1.25), _chosen("cortex-m4", small, _limit(large, 1.25))[0]
    assert alone.decoding is None
    assert beside.decoding is not None
    assert beside.decoding.instructions > 1.25 * beside.decoding.int8_instructions


def test_what_saves_most_for_its_instructions_comes_first() -> None:
    make = CaseMaker(2)
    layers = [make.conv(_never_refused, (9, 9, depth), 64, clusters=32).node for depth in (8, 16, 64)]
    found = [kernel.decoding for kernel, _ in _chosen("cortex-m4", *(_limit(node, 1.21) for node in layers))]
    assert found[0] is None
    assert found[2] is not None


@pytest.mark.parametrize("target", ["cortex-m0plus", "cortex-m55"])
def test_a_high_limit_makes_the_weights_in_flash_smaller(target: str, tmp_path: Path) -> None:
    options = replace(options_for(target), cluster=16, cluster_cost=30.0)
    layers = compile_model(MODEL, tmp_path / "out", options).report["layers"]
    decoded = [layer for layer in layers if layer["clusters"] and layer["clusters"]["is_decoded"]]
    assert "QConv" in {layer["op"] for layer in decoded}
    assert all(layer["clusters"]["bytes"] < layer["clusters"]["int8_bytes"] for layer in decoded)
