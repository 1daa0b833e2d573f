"""report.html: the page's data, and the page around it. One file that needs no other and asks for none."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from tinyopt.errors import InvalidModelError
from tinyopt.ir import Graph
from tinyopt.lowering.program import Program
from tinyopt.pass_manager import Remark
from tinyopt.pipeline import PipelineStep
from tinyopt.report.build import to_compact_json, to_json
from tinyopt.report.html.pictures import MOST_DRAWN_NODES, GraphPicture, NodePicture, Pictures, drawn_origins
from tinyopt.report.html.views import Replacement, view_of
from tinyopt.whole_files import whole_file

SCRIPTS = (
    "dom.js",
    "model.js",
    "strip.js",
    "graph.js",
    "canvas.js",
    "marks.js",
    "weights.js",
    "card.js",
    "layers.js",
    "memory.js",
    "quantization.js",
    "compression.js",
    "page.js",
)
STYLES = ("page.css", "graph.css")
_DATA_BEGIN = '<script type="application/json" id="data">'
_DATA_END = "</script>"


@dataclass(frozen=True, eq=False)
class Stage:
    """A graph after one step, and which of its nodes took the place of which; None: the graph is as it was before."""

    picture: GraphPicture | None
    replacements: Sequence[Replacement] = ()


def compiled_page(report: Mapping[str, Any], original: Graph, steps: Sequence[PipelineStep], program: Program) -> str:
    """The page of one compilation: the graph as it came, after each pass, and as it was lowered."""
    pictures = Pictures(program.target.costs, drawn_origins(original))
    first = pictures.of(original)
    stages = [
        Stage(pictures.of(step.record.graph) if step.record.is_changed else None, replacements_of(step.record.remarks))
        for step in steps
    ]
    stages.append(Stage(pictures.of(program.graph)))
    return build_page(report, first, stages)


def drawing_notes(original: Graph) -> list[str]:
    """What the page does not draw."""
    if drawn_origins(original) is None:
        return []
    return [f"report.html draws the first {MOST_DRAWN_NODES:,} of {len(original.nodes):,} nodes"]


def replacements_of(remarks: Sequence[Remark]) -> list[Replacement]:
    """Those of a pass's remarks that say what was replaced by what."""
    return [Replacement(r.before, r.after, r.message) for r in remarks if r.kind == "did" and (r.before or r.after)]


def build_page(report: Mapping[str, Any], first: GraphPicture, stages: Sequence[Stage]) -> str:
    """The page for any sequence of graphs.

    report: what report.json holds. Of it the page needs `model.file` and `passes`, one entry for each of `stages`
    (a last stage beyond them is the compiled program); all else may be missing, and is then not shown.
    """
    return render(page_data(report, first, stages))


def page_data(report: Mapping[str, Any], first: GraphPicture, stages: Sequence[Stage]) -> dict[str, Any]:
    """What the page's scripts read: see docs/report-schema.md."""
    nodes = _Nodes()
    views: list[dict[str, Any]] = [view_of(first, first, (), nodes.numbers(first))]
    chosen: list[int | None] = [0]
    present = first
    for stage in stages:
        if stage.picture is None:
            chosen.append(None)
            continue
        numbers = nodes.numbers(present) | nodes.numbers(stage.picture)
        chosen.append(len(views))
        views.append(view_of(present, stage.picture, stage.replacements, numbers))
        present = stage.picture
    return {"report": dict(report), "profile": None, "nodes": nodes.all, "views": views, "stage_views": chosen}


class _Nodes:
    """The facts of all nodes, equal ones once: most nodes are the same from pass to pass."""

    def __init__(self) -> None:
        self.all: list[Mapping[str, Any]] = []
        self._numbers: dict[NodePicture, int] = {}
        self._known: dict[str, int] = {}

    def numbers(self, picture: GraphPicture) -> dict[int, int]:
        """The number of each node picture, by its id()."""
        return {id(node): self._number(node) for node in picture.nodes}

    def _number(self, node: NodePicture) -> int:
        if node not in self._numbers:
            text = json.dumps(node.facts, sort_keys=True)
            if text not in self._known:
                self._known[text] = len(self.all)
                self.all.append(node.facts)
            self._numbers[node] = self._known[text]
        return self._numbers[node]


def render(data: Mapping[str, Any]) -> str:
    """The page. Names from the model are in the JSON block alone, where nothing of them can end it."""
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            styles=[_source(name) for name in STYLES], scripts=[_source(name) for name in SCRIPTS], data=_embedded(data)
        )
    )


@functools.cache  # it keeps the compiled template
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tinyopt.report.html", "."), undefined=jinja2.StrictUndefined, autoescape=True
    )


def read_page(file: Path) -> dict[str, Any]:
    """The data of a page that was written before. Raises InvalidModelError where there is none in `file`."""
    _, begin, rest = file.read_text(encoding="utf-8").partition(_DATA_BEGIN)
    text, end, _ = rest.partition(_DATA_END)
    if not begin or not end:
        raise InvalidModelError(f"{file} is not a page of tinyopt: it holds no data; compile again")
    data: dict[str, Any] = json.loads(text)
    return data


def refresh_page(folder: Path, profile: Mapping[str, Any]) -> None:
    """Put the figures of `tinyopt profile` into `folder`: profile.json, and report.html where there is one."""
    with whole_file(folder / "profile.json") as work:
        work.write_text(to_json(profile), encoding="utf-8")
    page = folder / "report.html"
    if page.is_file():
        with whole_file(page) as work:
            work.write_text(render(read_page(page) | {"profile": dict(profile)}), encoding="utf-8")


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that is also harmless HTML: no tag, comment or entity can begin in it."""
    text = to_compact_json(data)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _source(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
