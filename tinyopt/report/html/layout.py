"""The door to the layout library: places for the nodes of a layered drawing, wrapped into columns to fit the page.

The library (fast-sugiyama) orders the layers, keeps crossings few and leaves room for long edges. Networks are long
and thin, so the layers are then set in columns, as text is, cut where few edges cross.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from fast_sugiyama import from_edges

Point = tuple[float, float]

ROW = 38.0  # the height of a layer of nodes
LOW_ROW = 27.0  # of one of chips alone
COLUMN_GAP = 40.0  # between wrapped columns: room for the edges that lead from one to the next
PAGE_RATIO = 0.98  # width to height of one of the two panels that the drawing must fill
COLUMNS_MAX = 60


@dataclass(frozen=True)
class Layout:
    """Where each vertex is, and the bends of each edge between its ends. Columns: (left, right) of each."""

    places: Mapping[int, Point]
    bends: Mapping[tuple[int, int], tuple[Point, ...]]
    width: float
    height: float
    columns: tuple[tuple[float, float], ...]

    def column_of(self, x: float) -> int:
        return next((i for i, (_, right) in enumerate(self.columns) if x <= right), len(self.columns) - 1)


def lay_out(
    vertices: Sequence[int], edges: Iterable[tuple[int, int]], vertex_width: float, low_vertices: Set[int] = frozenset()
) -> Layout:
    """Place the vertices of a graph; `edges` may contain cycles. Equal input gives equal places.

    low_vertices: those that need less height.
    """
    layers, chains = _layers(vertices, sorted({edge for edge in edges if edge[0] != edge[1]}))
    layers = _straightened(layers)
    high = set(vertices) - low_vertices
    heights = [LOW_ROW if high.isdisjoint(layer) else ROW for layer in layers]
    cuts = _best_cuts(layers, heights, vertex_width)
    return _wrapped(layers, heights, chains, cuts, vertex_width)


def _layers(
    vertices: Sequence[int], edges: Sequence[tuple[int, int]]
) -> tuple[list[dict[int, float]], dict[tuple[int, int], list[int]]]:
    """The x of each vertex by layer, in units of a vertex, and for each edge the stand-ins that it passes through."""
    known = sorted({vertex for edge in edges for vertex in edge})
    number = {vertex: i for i, vertex in enumerate(known)}
    parts = from_edges([(number[a], number[b]) for a, b in edges], vertex_spacing=1.0) if edges else []
    layers: list[dict[int, float]] = []
    chains: dict[tuple[int, int], list[int]] = {}
    for part, (positions, _width, _height, pieces) in enumerate(parts):
        # the library numbers its stand-ins on from the largest vertex, in each connected part anew
        name = _Names(known, (part + 1) * 1_000_000)
        rows: defaultdict[float, dict[int, float]] = defaultdict(dict)
        left = min(x for _, (x, _) in positions)
        for vertex, (x, y) in sorted(positions):
            rows[-round(y, 3)][name(int(vertex))] = x - left
        layers += [rows[y] for y in sorted(rows)]
        chains |= _chains([(name(int(a)), name(int(b))) for a, b in pieces or []], set(known))
    layers += [{vertex: 0.0} for vertex in vertices if vertex not in number]
    return layers, chains


@dataclass(frozen=True)
class _Names:
    """The library's numbers as ours; stand-ins get numbers that nothing else has."""

    known: Sequence[int]
    offset: int

    def __call__(self, vertex: int) -> int:
        return self.known[vertex] if vertex < len(self.known) else vertex + self.offset


def _chains(pieces: Sequence[tuple[int, int]], vertices: Set[int]) -> dict[tuple[int, int], list[int]]:
    """The pieces of each long edge, joined: (source, target) to its stand-ins."""
    following = {a: b for a, b in pieces if a not in vertices}
    found: dict[tuple[int, int], list[int]] = {}
    for source, target in sorted(pieces):
        if source not in vertices or target in vertices:
            continue
        chain = [target]
        while (target := following[target]) not in vertices:
            chain.append(target)
        found[source, target] = chain
    return found


def _straightened(layers: list[dict[int, float]]) -> list[dict[int, float]]:
    """Layers of a single vertex go to the median of all such, so that a chain is one straight line."""
    alone = sorted(next(iter(layer.values())) for layer in layers if len(layer) == 1)
    if not alone:
        return layers
    middle = alone[len(alone) // 2]
    return [dict.fromkeys(layer, middle) if len(layer) == 1 else layer for layer in layers]


def _best_cuts(layers: Sequence[Mapping[int, float]], heights: Sequence[float], vertex_width: float) -> list[int]:
    """The numbers of the layers at which columns begin, for the drawing that fills the page best."""
    best: tuple[float, list[int]] = (-1.0, [0])
    for columns in range(1, min(COLUMNS_MAX, len(layers)) + 1):
        cuts = _cuts(layers, heights, columns)
        parts = list(itertools.pairwise([*cuts, len(layers)]))
        spans = [_extent(layers[a:b]) for a, b in parts]
        width = sum((right - left + 1) * vertex_width for left, right in spans) + COLUMN_GAP * (len(spans) - 1)
        scale = min(PAGE_RATIO * 1000 / width, 1000 / max(sum(heights[a:b]) for a, b in parts))
        if scale > best[0] * 1.02:  # a column more must be worth it
            best = (scale, cuts)
    return best[1]


def _cuts(layers: Sequence[Mapping[int, float]], heights: Sequence[float], columns: int) -> list[int]:
    """Cut into parts of about equal height, moved a little to where fewer edges cross."""
    tops = list(itertools.accumulate(heights, initial=0.0))
    slack = int(len(layers) / columns / 8)
    cuts = [0]
    for column in range(1, columns):
        ideal = bisect.bisect_left(tops, tops[-1] * column / columns)
        candidates = range(max(cuts[-1] + 1, ideal - slack), min(len(layers) - 1, ideal + slack) + 1)
        if candidates:  # every vertex and stand-in of a layer has an edge that the cut crosses
            cuts.append(min(candidates, key=lambda i: (len(layers[i - 1]) + len(layers[i]), abs(i - ideal))))
    return cuts


def _extent(layers: Sequence[Mapping[int, float]]) -> tuple[float, float]:
    xs = [x for layer in layers for x in layer.values()]
    return min(xs, default=0.0), max(xs, default=0.0)


def _wrapped(
    layers: Sequence[Mapping[int, float]],
    heights: Sequence[float],
    chains: Mapping[tuple[int, int], Sequence[int]],
    cuts: Sequence[int],
    vertex_width: float,
) -> Layout:
    places: dict[int, Point] = {}
    columns: list[tuple[float, float]] = []
    left, bottom = 0.0, 0.0
    for begin, end in itertools.pairwise([*cuts, len(layers)]):
        low, high = _extent(layers[begin:end])
        y = 0.0
        for layer, height in zip(layers[begin:end], heights[begin:end], strict=True):
            for vertex, x in layer.items():
                places[vertex] = (left + (x - low + 0.5) * vertex_width, y + height / 2)
            y += height
        right = left + (high - low + 1) * vertex_width
        columns.append((left, right))
        left, bottom = right + COLUMN_GAP, max(bottom, y)
    bends = {edge: tuple(places[v] for v in chain) for edge, chain in chains.items()}
    return Layout(places, bends, max(0, math.ceil(left - COLUMN_GAP)), bottom, tuple(columns))
