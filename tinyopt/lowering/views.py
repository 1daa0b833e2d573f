"""Which values lie inside the memory of others, so that nothing has to be computed or moved for them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tinyopt.ir import DTYPES, Graph, Node, Value
from tinyopt.lowering.program import ARENA_ALIGNMENT

VIEWS = frozenset({"Reshape", "Identity"})  # the output is the input's memory under another shape: never a kernel


@dataclass(frozen=True, eq=False)
class Views:
    """inside: for values that lie in another's memory that other, and how many bytes after its begin.

    nodes: the nodes that nobody has to run, because all of their outputs (or inputs) lie where they should.
    concats: those of them that join their inputs.
    """

    inside: Mapping[Value, tuple[Value, int]]
    nodes: Collection[Node]
    concats: tuple[Node, ...]

    @classmethod
    def of(cls, graph: Graph, kept_apart: Collection[Node] = ()) -> Views:
        """The views of a graph: Reshape and Identity; Slice and Split of adjacent bytes; Concat of adjacent inputs.

        kept_apart: Concat nodes whose inputs are to have memory of their own.
        """
        found = _Finder(graph)
        for node in graph.nodes:
            if node not in kept_apart:
                found.add(node)
        return cls(found.inside, found.nodes, tuple(node for node in found.nodes if node.op == "Concat"))

    def root(self, value: Value) -> Value:
        """The value whose memory `value` lies in."""
        return _resolve(self.inside, value)[0]

    def offset(self, value: Value) -> int:
        """How many bytes after the begin of its root's memory `value` begins."""
        return _resolve(self.inside, value)[1]

    def span(self, value: Value) -> tuple[int, int]:
        """The first byte and the end of `value` in its root's memory."""
        offset = self.offset(value)
        return offset, offset + value.type.bytes


def _resolve(inside: Mapping[Value, tuple[Value, int]], value: Value) -> tuple[Value, int]:
    offset = 0
    while value in inside:
        value, more = inside[value]
        offset += more
    return value, offset


class _Finder:
    """The views found so far, nodes taken in running order."""

    def __init__(self, graph: Graph) -> None:
        self.inside: dict[Value, tuple[Value, int]] = {}
        self.nodes: dict[Node, None] = {}
        self._inputs = frozenset(graph.inputs)

    def add(self, node: Node) -> None:
        places = dict(self._places(node))
        if places:
            self.inside |= places
            self.nodes[node] = None

    def _places(self, node: Node) -> Iterator[tuple[Value, tuple[Value, int]]]:
        if node.op in VIEWS:
            yield node.output, (node.input(0), 0)
        elif node.op in ("Slice", "Split"):
            parts = list(_parts(node))
            is_in_arena = not _resolve(self.inside, node.input(0))[0].is_constant
            if is_in_arena and all(offset is not None and offset % ARENA_ALIGNMENT == 0 for _, offset in parts):
                yield from ((value, (node.input(0), offset)) for value, offset in parts if offset is not None)
        elif node.op == "Concat" and self._can_be_joined(node):
            offset = 0
            for value in node.present_inputs:
                yield _resolve(self.inside, value)[0], (node.output, offset)
                offset += value.type.bytes

    def _can_be_joined(self, node: Node) -> bool:
        """Whether every input is the whole of some memory that can be moved into the output, at an aligned place."""
        if any(size != 1 for size in node.output.shape[: node.int("axis")]):
            return False
        roots = [_resolve(self.inside, value)[0] for value in node.present_inputs]
        sizes = [value.type.bytes for value in node.present_inputs]
        return (
            len(set(roots)) == len(roots)
            and all(root.type.bytes == size for root, size in zip(roots, sizes, strict=True))
            and not any(root.is_constant or root in self._inputs for root in roots)
            and all(size % ARENA_ALIGNMENT == 0 for size in sizes[:-1])
        )


def _parts(node: Node) -> Iterator[tuple[Value, int | None]]:
    """The outputs of a Slice or Split, and where in the input each begins; None where its bytes are not adjacent."""
    rank = node.input(0).type.rank
    if node.op == "Slice":
        is_dense = all(step == 1 for step in node.ints("steps"))
        yield node.output, _first_byte(node, node.ints("starts"), node.output.shape) if is_dense else None
        return
    start = 0
    for output in node.outputs:
        starts = [start if axis == node.int("axis") else 0 for axis in range(rank)]
        yield output, _first_byte(node, starts, output.shape)
        start += output.shape[node.int("axis")]


def _first_byte(node: Node, starts: Sequence[int], sizes: Sequence[int]) -> int | None:
    """Where a box of the input begins, None where its bytes are not adjacent: inside it only whole axes follow."""
    is_inside, place = False, 0
    for start, size, full in zip(starts, sizes, node.input(0).shape, strict=True):
        if is_inside and size != full:
            return None
        is_inside = is_inside or size != 1
        place = place * full + start
    return place * DTYPES[node.input(0).dtype].itemsize
