"""At which distances an output may not overlap an input, from what its kernel says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel


def forbidden_distances(node: Node, kernel: Kernel, index: int) -> list[tuple[int, int]]:
    """From the begin of input `index` to that of the first output: open intervals where too much is overwritten."""
    low, high = -node.outputs[0].type.bytes, node.input(index).type.bytes
    permitted = (
        (low if overlap.first is None else overlap.first, high if overlap.last is None else overlap.last)
        for overlap in kernel.overlaps
        if overlap.input == index
    )
    return list(_between(low, high, permitted))


def _between(low: int, high: int, permitted: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What is left of the open interval from `low` to `high` beside the closed ones that are permitted."""
    for first, last in sorted(permitted):
        if first <= last:
            if low < first:
                yield low, min(first, high)
            low = max(low, last)
    if low < high:
        yield low, high
