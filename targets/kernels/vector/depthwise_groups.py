"""Groups of output pixels that a depthwise convolution works on together, and which of their cells are padding.

A group is a rectangle of neighbouring pixels: a cell that several of their windows read is loaded once. Where the image
is read in place, groups of columns that reach over its left or right edge are written out with the padding left out,
and those in between share a loop; window rows above or below the image are skipped as the kernel runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from tinyopt.targets.kernels.vector.window import Window

Readers = tuple[tuple[int, int], ...]  # (output row or column of the group, tap of its window)


@dataclass(frozen=True)
class ColumnGroups:
    """`count` groups, the first being number `first` of the row; the cells `padding` of each lie outside the image."""

    first: int
    count: int
    padding: frozenset[int]


def shared_cells(outputs: int, stride: int, dilation: int, taps: int) -> tuple[tuple[int, Readers], ...]:
    """In one direction: the cells that neighbouring windows read, from the first one's on, and who reads each."""
    reach = (outputs - 1) * stride + (taps - 1) * dilation + 1
    cells = ((cell, tuple(_readers(cell, outputs, stride, dilation, taps))) for cell in range(reach))
    return tuple((cell, readers) for cell, readers in cells if readers)


def _readers(cell: int, outputs: int, stride: int, dilation: int, taps: int) -> Iterator[tuple[int, int]]:
    for output in range(outputs):
        tap, between = divmod(cell - output * stride, dilation)
        if not between and 0 <= tap < taps:
            yield output, tap


def column_groups(window: Window, pixels: int, is_padded: bool) -> tuple[ColumnGroups, ...]:
    """All groups of `pixels` columns of a row; the last may overlap the one before it.

    is_padded: the rows have padding around them, and no group needs care.
    """
    count = -(-window.out_width // pixels)
    if is_padded:
        return (ColumnGroups(0, count, frozenset()),)
    cells = [cell for cell, _ in shared_cells(pixels, window.strides[1], window.dilations[1], window.kernel[1])]

    def padding(number: int) -> frozenset[int]:
        first = min(number * pixels, window.out_width - pixels) * window.strides[1] - window.pads[1]
        return frozenset(cell for cell in cells if not 0 <= first + cell < window.width)

    runs = [(key, list(numbers)) for key, numbers in groupby(range(count), padding)]
    return tuple(ColumnGroups(numbers[0], len(numbers), key) for key, numbers in runs)


def reaches_over(window: Window, out_rows: int, cell: int) -> tuple[bool, bool]:
    """Whether row `cell` of a group of `out_rows` can lie (above, below) the image."""
    last = (window.out_height - out_rows) * window.strides[0] + cell - window.pads[0]
    return cell < window.pads[0], last >= window.height
