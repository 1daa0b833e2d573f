"""Which single channels of which dimensions stand or fall together.

Every index of every dimension is a number of its own; the links unite them, and what is united is a unit. Where a
Reshape flattens several dimensions into one, only the one that some layer's weights share can hold channels: it is
found before, from whole dimensions.

    y = Concat(a, b), z = y + c: index 3 of c is united with index 3 of y, and so with index 3 of a; index 9 with b's
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Graph
from tinyopt.passes.channel_links import Dimension, Flattening, Link, Links, Places, Product, label_of


@dataclass(frozen=True, eq=False)
class Units:
    """Units that lie in the same dimensions, equally often: places[dimension] is [units, multiplicity], rows ascending.

    blocked: why none of them may leave, or None.
    """

    places: Mapping[Dimension, Places]
    blocked: str | None


def find_units(graph: Graph, links: Links, weighted: Sequence[Dimension], wanted: Sequence[Dimension]) -> list[Units]:
    """The units that have places in the `wanted` dimensions, alike ones together.

    weighted: the dimensions of weights along which channels lie.
    """
    dimensions = [(value, axis) for value in graph.values() for axis in range(value.type.rank)]
    chosen = _resolve_flattenings(dimensions, links, weighted)
    numbering = _Numbering.of(dimensions)
    roots = _unite(numbering, [*links.links, *(product.link() for product in chosen)])
    relevant = np.zeros(numbering.count, np.bool_)
    for dimension in wanted:
        relevant[roots[numbering.all_of(dimension)]] = True
    reasons = _reasons(numbering, links, roots)
    alike: dict[tuple[bytes, str | None], list[Places]] = {}
    for root, numbers in _members(roots, relevant):
        signature = numbering.dimension_of[numbers].tobytes()
        alike.setdefault((signature, reasons.get(root)), []).append(numbers)
    return [numbering.units(np.stack(rows), reason) for (_, reason), rows in alike.items()]


@dataclass(frozen=True, eq=False)
class _Numbering:
    """Consecutive numbers for all indices of all dimensions, in the order of `dimensions`."""

    dimensions: Sequence[Dimension]
    first: Mapping[Dimension, int]
    dimension_of: NDArray[np.int32]
    count: int

    @classmethod
    def of(cls, dimensions: Sequence[Dimension]) -> _Numbering:
        sizes = [value.shape[axis] for value, axis in dimensions]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
        first = dict(zip(dimensions, starts, strict=False))
        return cls(dimensions, first, np.repeat(np.arange(len(sizes), dtype=np.int32), sizes), starts[-1])

    def all_of(self, dimension: Dimension) -> Places:
        return self.first[dimension] + np.arange(dimension[0].shape[dimension[1]])

    def units(self, numbers: Places, blocked: str | None) -> Units:
        """Units from their numbers, [units, places in all dimensions], each row ascending."""
        columns = self.dimension_of[numbers[0]]
        cuts = np.flatnonzero(np.diff(columns)) + 1
        places: dict[Dimension, Places] = {}
        for part in np.split(np.arange(len(columns)), cuts):
            dimension = self.dimensions[int(columns[part[0]])]
            places[dimension] = numbers[:, part] - self.first[dimension]
        return Units(places, blocked)


def _unite(numbering: _Numbering, links: Sequence[Link]) -> Places:
    """For each number the smallest one that it is united with, over all links."""
    parents = np.arange(numbering.count)
    if not links:
        return parents
    left = np.concatenate([numbering.first[link.dimension] + link.places for link in links])
    right = np.concatenate([numbering.first[link.other] + link.other_places for link in links])
    while len(left):
        np.minimum.at(parents, np.maximum(left, right), np.minimum(left, right))
        while np.any(parents != (above := parents[parents])):
            parents = above
        left, right = parents[left], parents[right]
        is_apart = left != right
        left, right = left[is_apart], right[is_apart]
    return parents


def _members(roots: Places, relevant: NDArray[np.bool_]) -> Iterator[tuple[int, Places]]:
    """The numbers of each relevant root, ascending."""
    numbers = np.flatnonzero(relevant[roots])
    numbers = numbers[np.argsort(roots[numbers], kind="stable")]
    cuts = np.flatnonzero(np.diff(roots[numbers])) + 1
    for part in np.split(numbers, cuts) if len(numbers) else ():
        yield int(roots[part[0]]), part


def _reasons(numbering: _Numbering, links: Links, roots: Places) -> dict[int, str]:
    """Why the units of some roots must stay: the reason of their first number that must."""
    block_of = np.full(numbering.count, -1)
    for position, block in enumerate(links.blocks):
        numbers = numbering.all_of(block.dimension)
        numbers = numbers if block.places is None else numbers[block.places]
        block_of[numbers[block_of[numbers] < 0]] = position
    blocked = np.flatnonzero(block_of >= 0)
    found, positions = np.unique(roots[blocked], return_index=True)
    return {
        int(root): links.blocks[block_of[blocked[position]]].reason
        for root, position in zip(found, positions, strict=True)
    }


class _Parts:
    """Connected dimensions, and which parts hold channels of some layer's weights."""

    def __init__(self, dimensions: Iterable[Dimension], links: Links, weighted: Sequence[Dimension]) -> None:
        self._union: nx.utils.UnionFind[Dimension] = nx.utils.UnionFind(dimensions)
        for link in links.links:
            self._union.union(link.dimension, link.other)
        self._weighted = {self._union[dimension] for dimension in weighted}

    def is_weighted(self, dimension: Dimension) -> bool:
        return self._union[dimension] in self._weighted

    def join(self, product: Product) -> None:
        is_weighted = self.is_weighted(product.wide) or self.is_weighted(product.narrow)
        self._union.union(product.wide, product.narrow)
        if is_weighted:
            self._weighted.add(self._union[product.narrow])


def _resolve_flattenings(dimensions: Sequence[Dimension], links: Links, weighted: Sequence[Dimension]) -> list[Product]:
    """How the channels lie in each flattening; all other dimensions of it are blocked."""
    parts = _Parts(dimensions, links, weighted)
    chosen: dict[int, Product] = {}
    is_stuck = False
    while True:
        count = len(chosen)
        for position, flattening in enumerate(links.flattenings):
            product = _choice(flattening, parts, is_stuck) if position not in chosen else None
            if product is not None:
                chosen[position] = product
                parts.join(product)
        if len(chosen) == count and is_stuck:
            break
        is_stuck = len(chosen) == count
    for position, flattening in enumerate(links.flattenings):
        _block_others(flattening, chosen.get(position), links)
    return list(chosen.values())


def _choice(flattening: Flattening, parts: _Parts, is_stuck: bool) -> Product | None:
    """The one candidate that holds channels; where none is known to, and all else is settled, the largest."""
    holding = [product for product in flattening.candidates if parts.is_weighted(product.narrow)]
    if is_stuck and not holding and parts.is_weighted(flattening.wide):  # a shuffle: cut out of each part alike
        return max(flattening.candidates, key=lambda product: product.channels)
    return holding[0] if len(holding) == 1 else None


def _block_others(flattening: Flattening, chosen: Product | None, links: Links) -> None:
    where = f"Reshape '{label_of(flattening.node)}' flattens it"
    if chosen is None:
        where = f"{where}, and which axis holds the channels is not clear"
        links.block(flattening.wide, where)
    for product in flattening.candidates:
        if product is not chosen:
            links.block(product.narrow, where)
