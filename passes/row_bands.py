"""A run of spatial operators, computed in bands of rows: which rows each operator needs, and the nodes that do it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

from tinyopt.ir import DTYPES, Attribute, Graph, Node, TensorType, Value
from tinyopt.ops import OPERATORS

ROWS = 1  # the axis of rows in NHWC
ALIGNMENT = 16  # bands that begin at multiples of so many bytes need not be moved: the memory plan's alignment

_WEIGHTED = {"QConv": 4, "Conv": 3}  # windowed operators with weights, and which input is the residual
_WINDOWED = frozenset({*_WEIGHTED, "QAveragePool", "MaxPool"})

Rows: TypeAlias = tuple[int, int]  # the first and the one behind the last


@dataclass(frozen=True, eq=False)
class Segment:
    """Nodes `first` to `last` of a graph: they read one image and give one; `nodes` are all in between."""

    nodes: tuple[Node, ...]
    image: Value
    result: Value


def leading_segments(graph: Graph) -> Iterator[Segment]:
    """All runs of spatial operators that begin with the graph's first one; none where rows are sliced before it."""
    start = next((i for i, node in enumerate(graph.nodes) if _is_spatial(node)), len(graph.nodes))
    if any(node.op == "Slice" for node in graph.nodes[:start]):
        return
    inside: list[Node] = []
    made: set[Value] = set()
    images: set[Value] = set()
    for node in graph.nodes[start:]:
        images |= set(node.variable_inputs) - made
        if not _is_spatial(node) or len(images) > 1:
            return
        inside.append(node)
        made.add(node.output)
        seen_outside = {v for other in graph.nodes if other not in inside for v in other.variable_inputs}
        if made & (seen_outside | set(graph.outputs)) == {node.output}:
            (image,) = images
            yield Segment(tuple(inside), image, node.output)


def why_not_spatial(node: Node) -> str | None:
    """Why a node cannot be computed row by row, None where it can."""
    if not node.variable_inputs:
        return "it reads constants alone"
    if node.op not in _WINDOWED and not OPERATORS[node.op].is_elementwise:
        return f"{node.op} is not computed row by row"
    if any(value.type.rank != 4 or value.shape[0] != 1 for value in [*node.variable_inputs, *node.outputs]):
        return "it is no operator on one image"
    if node.op in _WINDOWED:
        return None if node.attributes.get("layout", "NHWC") == "NHWC" else "its layout is not NHWC"
    if any(value.shape[:3] != node.output.shape[:3] for value in node.variable_inputs):
        return "an input is spread over the rows"
    return None


def _is_spatial(node: Node) -> bool:
    return why_not_spatial(node) is None


def aligned_rows(image: Value) -> int:
    """Rows at multiples of so many begin at aligned bytes."""
    _, _, columns, channels = image.shape
    return ALIGNMENT // math.gcd(ALIGNMENT, columns * channels * DTYPES[image.dtype].itemsize)


def band_borders(result: Value, bands: int) -> list[int]:
    """The rows at which bands begin, and the end: about equally many each, where the result's bytes are aligned."""
    rows, unit = result.shape[ROWS], aligned_rows(result)
    borders = {round(rows * band / bands / unit) * unit for band in range(1, bands)}
    return [0, *sorted(border for border in borders if 0 < border < rows), rows]


def compute_bands(segment: Segment, borders: Sequence[int], mark: str) -> list[tuple[list[Node], Value]] | None:
    """For each band the nodes that compute it and what they make; None where a band would see nothing but padding.

    mark: what the names of new nodes and values have in them, and no other name has.
    """
    bands: list[tuple[list[Node], Value]] = []
    for number, rows in enumerate(pairwise(borders)):
        needed = _needed_rows(segment, rows)
        if needed is None:
            return None
        band = _Band(segment, needed, f"{mark}{number}")
        band.build()
        bands.append((band.nodes, band.made[segment.result]))
    return bands


def split_into_bands(segment: Segment, borders: Sequence[int], mark: str) -> list[Node] | None:
    """The nodes that take the segment's place, one band after the other; otherwise as `compute_bands`."""
    bands = compute_bands(segment, borders, mark)
    if bands is None:
        return None
    last = segment.nodes[-1]
    joint = Node(
        "Concat", f"{last.name}_{mark}s", [made for _, made in bands], [segment.result], {"axis": ROWS}, last.origins
    )
    return [*(node for nodes, _ in bands for node in nodes), joint]


def unused_mark(graph: Graph, mark: str) -> str:
    """`mark`, or one like it that no name in the graph has in it."""
    names = [*(node.name for node in graph.nodes), *(value.name for value in graph.values())]
    while any(f"_{mark}" in name for name in names):
        mark += "x"
    return mark


def _needed_rows(segment: Segment, rows: Rows) -> dict[Value, Rows] | None:
    """For each value of the segment the rows that the result's rows are computed from."""
    needed: dict[Value, Rows] = {segment.result: rows}
    for node in reversed(segment.nodes):
        for index, value in enumerate(node.inputs):
            if value is None or value.is_constant:
                continue
            first, end = rows_read(node, index, needed[node.output])
            if first >= end:
                return None
            known = needed.get(value, (first, end))
            needed[value] = min(first, known[0]), max(end, known[1])
    return needed


def rows_read(node: Node, index: int, rows: Rows) -> Rows:
    """Rows of input `index` that `rows` of the output are computed from, inside the image."""
    if node.op not in _WINDOWED or index == _WEIGHTED.get(node.op):
        return rows
    first, end = _window(node, rows)
    return max(first, 0), min(end, node.input(0).shape[ROWS])


def _window(node: Node, rows: Rows) -> Rows:
    """Rows that the windows of `rows` cover, padding included: it lies above row 0 and below the last one."""
    kernel = node.input(1).shape[ROWS] if node.op in _WEIGHTED else node.ints("kernel")[0]
    stride, top = node.ints("strides")[0], node.ints("pads")[0]
    reach = (kernel - 1) * node.ints("dilations")[0] + 1
    return rows[0] * stride - top, (rows[1] - 1) * stride - top + reach


class _Band:
    """The nodes that compute some rows of a segment's result. needed: the rows of each value of the segment."""

    def __init__(self, segment: Segment, needed: dict[Value, Rows], suffix: str) -> None:
        self._segment = segment
        self._needed = needed
        self._suffix = suffix
        self.nodes: list[Node] = []
        self.made: dict[Value, Value] = {}
        self._slices: dict[tuple[Value, Rows], Value] = {}

    def build(self) -> None:
        for node in self._segment.nodes:
            if node.output in self._needed:
                self._add(node, self._needed[node.output])

    def _add(self, node: Node, rows: Rows) -> None:
        inputs = [self._input(node, index, rows) for index in range(len(node.inputs))]
        output = self._value(node.output, rows, self._suffix)
        name = f"{node.name}_{self._suffix}"
        self.nodes.append(Node(node.op, name, inputs, [output], _attributes(node, rows), node.origins))
        self.made[node.output] = output

    def _input(self, node: Node, index: int, rows: Rows) -> Value | None:
        value = node.inputs[index]
        if value is None or (node.op in _WEIGHTED and value.is_constant):
            return value
        if value.is_constant:
            return self._constant(node, value, rows)
        return self._rows_of(value, rows_read(node, index, rows))

    def _constant(self, node: Node, value: Value, rows: Rows) -> Value:
        """A constant operand's rows: a multiplier for each output pixel, or an operand that is spread to the output."""
        data = value.data
        if node.op == "QAveragePool" and data.size > 1:
            data = data.reshape(node.output.shape[1:3])[rows[0] : rows[1]].reshape(-1)
        axis = value.type.rank - 3
        if node.op not in _WINDOWED and node.op != "QLookup" and axis >= 0 and value.shape[axis] != 1:
            data = data.take(range(*rows), axis)
        if data is value.data:
            return value
        return Value.of(f"{value.name}_{node.name}_{self._suffix}", data, value.quantization)

    def _rows_of(self, value: Value, rows: Rows) -> Value:
        """Rows of a value: what the band has of it, or a slice."""
        source, begin = (self.made[value], self._needed[value][0]) if value in self.made else (value, 0)
        if rows == (begin, begin + source.shape[ROWS]):
            return source
        if (value, rows) not in self._slices:
            suffix = f"rows{rows[0]}to{rows[1]}_{self._suffix}"
            part = self._value(value, rows, suffix)
            starts = tuple(rows[0] - begin if axis == ROWS else 0 for axis in range(4))
            attributes: dict[str, Attribute] = {"starts": starts, "steps": (1, 1, 1, 1), "sizes": part.shape}
            self.nodes.append(Node("Slice", f"{value.name}_{suffix}", [source], [part], attributes, ()))
            self._slices[value, rows] = part
        return self._slices[value, rows]

    def _value(self, value: Value, rows: Rows, suffix: str) -> Value:
        shape = (1, rows[1] - rows[0], *value.shape[2:])
        return replace(value, name=f"{value.name}_{suffix}", type=TensorType(value.dtype, shape))


def _attributes(node: Node, rows: Rows) -> dict[str, Attribute]:
    """Padding is only where the band touches the image's border."""
    attributes = dict(node.attributes)
    if node.op in _WINDOWED:
        first, end = _window(node, rows)
        _, left, _, right = node.ints("pads")
        attributes["pads"] = (max(-first, 0), left, max(end - node.input(0).shape[ROWS], 0), right)
    return attributes
