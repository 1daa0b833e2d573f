"""Before and after one pass in one drawing: which node became which, and where each stands in both panels."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyopt.report.html.layout import COLUMN_GAP, ROW, Layout, Point, lay_out
from tinyopt.report.html.pictures import GraphPicture, NodePicture

NODE_WIDTH = 176.0  # with page.css and graph.js
NODE_GAP = 14.0
SATELLITE_WIDTH = 40.0  # a DequantizeLinear of weights stands as a chip beside the layer that reads it


@dataclass(frozen=True)
class Replacement:
    """Nodes that a pass took away, and those that it put in their place, by key; with its words."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    message: str


@dataclass
class _Cell:
    """A place in both panels: the same node before and after, or one that is on one side only."""

    key: str
    before: NodePicture | None = None
    after: NodePicture | None = None
    terminal: str = ""  # the text of a graph input or output
    sources: tuple[int, ...] = ()  # the cells whose place the node took, where it is not just the same node
    is_merged: bool = False  # it became part of another node
    host: int | None = None  # the cell that it stands beside
    point: Point = (0.0, 0.0)


@dataclass
class _Union:
    """All cells of both graphs, and the edges of each graph between them."""

    cells: list[_Cell] = field(default_factory=list[_Cell])
    numbers: dict[str, int] = field(default_factory=dict[str, int])
    edges: dict[str, list[tuple[int, int]]] = field(default_factory=dict[str, list[tuple[int, int]]])

    def cell(self, key: str) -> _Cell:
        if key not in self.numbers:
            self.numbers[key] = len(self.cells)
            self.cells.append(_Cell(key))
        return self.cells[self.numbers[key]]


def view_of(
    before: GraphPicture, after: GraphPicture, replacements: Sequence[Replacement], node_id: Mapping[int, int]
) -> dict[str, Any]:
    """The drawing of both graphs as JSON. node_id: the page's number for the id() of each node picture.

    Nodes that survive stand at the same place in both panels.
    """
    union = _union(before, after)
    _trace(union, before, after, replacements)
    layout = _place(union)
    return {
        "width": round(layout.width),
        "height": round(layout.height),
        "cells": [_cell(cell, node_id) for cell in union.cells],
        "edges": {side: _routes(union, side, layout) for side in ("before", "after")},
    }


def status(cell: _Cell, side: str) -> str:
    """What happened to the node of a cell, as one of the two panels shows it."""
    if cell.terminal:
        return "terminal"
    if side == "before":
        return "merged" if cell.is_merged else _plain_status(cell, "removed")
    return "fused" if len(cell.sources) > 1 else _plain_status(cell, "added")


def _plain_status(cell: _Cell, alone: str) -> str:
    if cell.before is None or cell.after is None:
        return alone
    return "same" if cell.before.content == cell.after.content else "changed"


def _union(before: GraphPicture, after: GraphPicture) -> _Union:
    union = _Union()
    for picture in (before, after):
        for name, text in picture.inputs.items():
            union.cell(f"input {name}").terminal = f"{name}\n{text}"
    for node in before.nodes:
        union.cell(f"node {node.key}").before = node
    for node in after.nodes:
        union.cell(f"node {node.key}").after = node
    for picture in (before, after):
        for name, text in picture.outputs.items():
            union.cell(f"output {name}").terminal = f"{name}\n{text}"
    union.edges = {"before": _edges(union, before), "after": _edges(union, after)}
    return union


def _edges(union: _Union, picture: GraphPicture) -> list[tuple[int, int]]:
    numbers = union.numbers
    makers = {name: numbers[f"input {name}"] for name in picture.inputs}
    makers |= {name: numbers[f"node {node.key}"] for node in picture.nodes for name in node.gives}
    found = [
        (makers[name], numbers[f"node {node.key}"]) for node in picture.nodes for name in node.reads if name in makers
    ]
    found += [(makers[name], numbers[f"output {name}"]) for name in picture.outputs if name in makers]
    return list(dict.fromkeys(found))


def _trace(union: _Union, before: GraphPicture, after: GraphPicture, replacements: Sequence[Replacement]) -> None:
    """Follow the replacements, which may build on one another, from the nodes after back to those before."""
    sources: dict[str, dict[str, None]] = {key: {key: None} for key in before.by_key}
    for step in replacements:
        old = {k: None for key in step.before for k in sources.get(key, {})}
        is_in_place = set(step.before) == set(step.after)
        for key in step.after:
            if not (is_in_place or (key in step.before and len(step.after) > 1)):
                sources[key] = old
    for key in after.by_key:
        cell = union.cell(f"node {key}")
        # what still stands by itself was only looked at, not taken in
        taken = [k for k in sources.get(key, {}) if k in before.by_key and (k == key or k not in after.by_key)]
        if taken and taken != [key]:
            cell.sources = tuple(union.numbers[f"node {k}"] for k in taken)
            for number in cell.sources:
                union.cells[number].is_merged = len(taken) > 1 or union.cells[number].is_merged


def _place(union: _Union) -> Layout:
    _find_hosts(union)
    satellites: dict[int, list[int]] = {}
    for number, cell in enumerate(union.cells):
        if cell.host is not None:
            satellites.setdefault(cell.host, []).append(number)
    beside = max((len(group) for group in satellites.values()), default=0) * SATELLITE_WIDTH
    free = [number for number, cell in enumerate(union.cells) if cell.host is None]
    edges = _layout_edges(union)
    low = {number for number in free if (node := _node_of(union.cells[number])) and node.is_small}
    layout = lay_out(free, edges, NODE_WIDTH + NODE_GAP + beside, low)
    for number in free:
        x, y = layout.places[number]
        union.cells[number].point = (x + beside / 2, y)
    for host, group in satellites.items():
        x, y = union.cells[host].point
        for position, number in enumerate(group):
            left = x - NODE_WIDTH / 2 - SATELLITE_WIDTH * (len(group) - position) + SATELLITE_WIDTH / 2 - 4
            union.cells[number].point = (left, y)
    bends = {edge: tuple((x + beside / 2, y) for x, y in points) for edge, points in layout.bends.items()}
    return Layout(layout.places, bends, layout.width, layout.height, layout.columns)


def _find_hosts(union: _Union) -> None:
    """A chip that reads constants alone stands beside its only reader."""
    readers: dict[int, set[int]] = {}
    for source, target in (edge for edges in union.edges.values() for edge in edges):
        readers.setdefault(source, set()).add(target)
    for number, cell in enumerate(union.cells):
        node = _node_of(cell)
        if node is not None and node.is_small and not node.reads and len(readers.get(number, ())) == 1:
            cell.host = next(iter(readers[number]))


def _node_of(cell: _Cell) -> NodePicture | None:
    return cell.before or cell.after


def _layout_edges(union: _Union) -> list[tuple[int, int]]:
    """The edges of the larger graph; of the other one only those that no path says already.

    An edge past a node that is gone would need room of its own beside it, and bend the drawing for nothing.
    """

    def is_free(edge: tuple[int, int]) -> bool:
        return all(union.cells[number].host is None for number in edge)

    larger, smaller = sorted(union.edges.values(), key=len, reverse=True)
    edges = [edge for edge in larger if is_free(edge)]
    following: dict[int, list[int]] = {}
    for source, target in edges:
        following.setdefault(source, []).append(target)
    for source, target in smaller:
        if is_free((source, target)) and _path(following, source, target, None) is None:
            edges.append((source, target))
            following.setdefault(source, []).append(target)
    return edges


def _path(
    following: Mapping[int, Iterable[int]], source: int, target: int, through: Sequence[bool] | None
) -> list[int] | None:
    """A shortest path, through the cells that `through` allows; None where there is none."""
    came_from = {source: source}
    waiting = deque([source])
    while waiting:
        here = waiting.popleft()
        for there in following.get(here, ()):
            if there in came_from or (through is not None and there != target and not through[there]):
                continue
            came_from[there] = here
            if there == target:
                path = [target]
                while path[-1] != source:
                    path.append(came_from[path[-1]])
                return path[::-1]
            waiting.append(there)
    return None


def _routes(union: _Union, side: str, layout: Layout) -> list[list[float]]:
    """For each edge of one graph: its two cells, then the points of its line, x and y in turn."""
    is_absent = [not cell.terminal and getattr(cell, side) is None for cell in union.cells]
    following: dict[int, list[int]] = {}
    for edges in union.edges.values():
        for source, target in edges:
            following.setdefault(source, []).append(target)
    own = set(union.edges[side])
    routes: list[list[float]] = []
    for source, target in union.edges[side]:
        path = [source, target]
        if (source, target) not in layout.bends and own:
            path = _path(following, source, target, is_absent) or path
        line = _around(union, side, path, layout) or _line(union, path, layout)
        routes.append([source, target, *(round(c) for point in line for c in point)])
    return routes


def _around(union: _Union, side: str, path: Sequence[int], layout: Layout) -> list[Point] | None:
    """The way past nodes that a straight line would run behind, on their left; None where it meets none."""
    (x1, y1), (x2, y2) = (union.cells[number].point for number in (path[0], path[-1]))
    column = layout.column_of(x1)
    if len(path) > 2 or (path[0], path[-1]) in layout.bends or y2 - y1 <= 1.5 * ROW or layout.column_of(x2) != column:
        return None
    there = [c.point for c in union.cells if (c.terminal or getattr(c, side)) and y1 < c.point[1] < y2]
    inside = [x for x, _ in there if layout.column_of(x) == column]
    met = [x for x in inside if min(x1, x2) - NODE_WIDTH / 2 < x < max(x1, x2) + NODE_WIDTH / 2]
    if not met:
        return None
    left = min(met) - NODE_WIDTH / 2 - 10
    return [(x1, y1), (left, y1 + ROW), (left, y2 - ROW), (x2, y2)]


def _line(union: _Union, path: Sequence[int], layout: Layout) -> list[Point]:
    points = [union.cells[path[0]].point]
    for source, target in itertools.pairwise(path):
        points += [*layout.bends.get((source, target), ()), union.cells[target].point]
    line = [points[0]]
    for previous, point in itertools.pairwise(points):
        begin, end = layout.column_of(previous[0]), layout.column_of(point[0])
        if begin != end:  # along the gutter to the top of the next column
            gutter = layout.columns[max(begin, end)][0] - COLUMN_GAP / 2
            line += [(previous[0], previous[1] + ROW / 2), (gutter, previous[1] + ROW / 2)]
            line += [(gutter, point[1] - ROW / 2), (point[0], point[1] - ROW / 2)]
        line.append(point)
    return line


def _cell(cell: _Cell, node_id: Mapping[int, int]) -> dict[str, Any]:
    shown: dict[str, Any] = {"x": round(cell.point[0]), "y": round(cell.point[1])}
    if cell.terminal:
        return shown | {"terminal": cell.terminal}
    if cell.host is not None:
        shown["is_satellite"] = True
    for side in ("before", "after"):
        node: NodePicture | None = getattr(cell, side)
        if node is not None:
            shown[side] = [node_id[id(node)], status(cell, side)]
    if cell.sources:
        shown["sources"] = list(cell.sources)
    kept = kept_channels(cell.before, cell.after)
    return shown if kept is None else shown | {"kept": kept}


def kept_channels(before: NodePicture | None, after: NodePicture | None) -> list[int] | int | None:
    """Which output channels of `before` are in `after`, or how many where that cannot be seen; None where all are."""
    if before is None or after is None or before.channels is None or after.channels is None:
        return None
    old, new = before.channels, after.channels
    if len(new) >= len(old):
        return None
    if old.shape[1] != new.shape[1]:
        return len(new)
    kept: list[int] = []
    for row in new:
        start = kept[-1] + 1 if kept else 0
        found = next((i for i in range(start, len(old)) if np.array_equal(old[i], row)), None)
        if found is None:
            return len(new)
        kept.append(found)
    return kept
