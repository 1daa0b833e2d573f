"""Pages for the tests of report.html: a compiled sample model, a large graph, hostile names."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.graph_builder import GraphBuilder
from tinyopt.ir import Graph
from tinyopt.pass_manager import Pass, PassContext, Remark, run_pass
from tinyopt.passes.fuse_operators import FuseOperators
from tinyopt.passes.nhwc_layout import NhwcLayout
from tinyopt.report.html.build import Stage, build_page, replacements_of
from tinyopt.report.html.pictures import picture_of
from tinyopt.targets.costs import DSP_COSTS
from tinyopt.targets.target import TargetFacts

FACTS = TargetFacts("test", channel_multiple=1, is_integer_preferred=True)
HOSTILE = ("</script><script>alert(1)</script>", "quote\" and '", "two\nlines", "rocket 🚀", "\u202eright left", "&lt;")


def embedded_data(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert match is not None
    data: dict[str, Any] = json.loads(match[1])
    return data


def chain(length: int, names: tuple[str, ...] = ()) -> Graph:
    """Conv and Relu in turn, every fifth pair with a shortcut around it."""
    build = GraphBuilder()
    x = shortcut = build.input("x", (1, 4, 8, 8))
    for number in range(length // 2):
        x = build("Relu", build("Conv", x, build.random((4, 4, 1, 1))))
        if number % 5 == 4:
            x = build("Add", x, shortcut)
            shortcut = x
    graph = build.graph_of(x)
    for node, name in zip(graph.nodes, names, strict=False):
        node.name, node.origins = name, (name,)
    return graph


def page_of(graph: Graph, steps: tuple[Pass, ...] = (NhwcLayout(), FuseOperators())) -> str:
    """The page of some passes over `graph`, without a compilation."""
    first = picture_of(graph, DSP_COSTS)
    context = PassContext(FACTS)
    stages: list[Stage] = []
    passes: list[dict[str, Any]] = []
    for step in steps:
        record = run_pass(step, graph, context)
        picture = picture_of(record.graph, DSP_COSTS) if record.is_changed else None
        stages.append(Stage(picture, replacements_of(record.remarks)))
        passes.append(_described(step.name, record.is_changed, record.remarks))
    return build_page({"model": {"file": graph.name, "notes": []}, "passes": passes}, first, stages)


def _described(name: str, is_changed: bool, remarks: tuple[Remark, ...]) -> dict[str, Any]:
    return {
        "name": name,
        "options": {},
        "is_changed": is_changed,
        "remarks": [vars(remark) for remark in remarks],
        "nodes": {"removed": 0, "added": 0, "changed": 0, "fused": 0},
        "drift": None,
        "after": {},
    }
