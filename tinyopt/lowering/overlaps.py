"""At which distances an output's memory may overlap an input's, from what its kernel says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tinyopt.ir import Node, Value
from tinyopt.lowering.lifetimes import Views
from tinyopt.targets.kernel import Kernel


def forbidden_distances(
    node: Node, kernel: Kernel, later: Value, earlier: Value, views: Views
) -> Iterator[tuple[int, int]]:
    """Distances at which some output in `later` would overwrite some input in `earlier` too early: open intervals.

    A distance is from the begin of the memory `earlier` to the begin of the memory `later`.
    """
    for number, output in enumerate(node.outputs):
        for index, value in enumerate(node.inputs):
            if value is None or views.root(value) is not earlier or views.root(output) is not later:
                continue
            low, high = -output.type.bytes, value.type.bytes
            permitted = (
                (low if overlap.first is None else overlap.first, high if overlap.last is None else overlap.last)
                for overlap in kernel.overlaps
                if overlap.input == index and number == 0
            )
            yield from _between(low, high, permitted)


def _between(low: int, high: int, permitted: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What is left of the open interval from `low` to `high` beside the closed ones that are permitted."""
    for first, last in sorted(permitted):
        if first <= last:
            if low < first:
                yield low, min(first, high)
            low = max(low, last)
    if low < high:
        yield low, high
