"""Tools of the graph passes: local rewriting rules that run until none of them applies.

A rule looks at one node. Where its pattern is there, it changes the graph through the `Rewriter`, which keeps the
answers to "who makes this value" and "who reads it" true, and returns True. Where it could have applied and must
not, it declines with the reason and returns False. Only the refusals of the last sweep, which changed nothing,
become remarks.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Graph, Node, Quantization, TensorType, Value, merged_origins
from tinyopt.pass_manager import PassContext

Rule = Callable[["Rewriter", Node], bool]

_RANK_STEP = 2**40  # between neighbours: room for the nodes that come to stand between them


class Rewriter:
    """A graph under change: who makes and who reads each value, and the remarks on the changes.

    A change costs no more in a large graph than in a small one.
    """

    def __init__(self, graph: Graph, context: PassContext) -> None:
        self.graph = graph
        self.context = context
        self._producers: dict[Value, Node] = {}
        self._consumers: dict[Value, list[Node]] = {}
        self._ranks: dict[Node, int] = {}  # ascending in running order
        self._names: set[str] = set()  # taken, or taken once
        self._suffixes: dict[str, int] = {}  # the last one that was given to each stem
        self._removed: list[Node] = []
        self._added: list[Node] = []
        self._declined: dict[tuple[str, tuple[str, ...]], list[Node]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look at the graph again, after it was changed past the rewriter."""
        self._producers = self.graph.producers()
        self._consumers = self.graph.consumers()
        self._ranks = {node: rank * _RANK_STEP for rank, node in enumerate(self.graph.nodes, start=1)}
        self._names = self.graph.names()
        self._suffixes = {}

    def producer(self, value: Value) -> Node | None:
        """The node that makes `value`; None for graph inputs and constants."""
        return self._producers.get(value)

    def readers(self, value: Value) -> list[Node]:
        """The nodes that read `value`, each once."""
        return self._consumers.get(value, [])

    def has_one_reader(self, value: Value) -> bool:
        """Whether exactly one node, and nobody outside the graph, reads `value`."""
        return len(self.readers(value)) == 1 and not self.graph.is_output(value)

    def owned_producer(self, value: Value, *ops: str) -> Node | None:
        """The node that makes `value`, if it is one of `ops` and `value` has one reader."""
        node = self.producer(value)
        return node if node is not None and node.op in ops and self.has_one_reader(value) else None

    def rank(self, value: Value) -> int:
        """Grows with the place in running order at which `value` is made; -1 for graph inputs and constants."""
        maker = self.producer(value)
        return -1 if maker is None else self._ranks[maker]

    def unique_name(self, stem: str) -> str:
        """`stem`, or `stem_2`, `stem_3`, ... where a node or value has that name, or this has given it before."""
        name, suffix = stem, self._suffixes.get(stem, 1)
        while name in self._names:
            suffix += 1
            name = f"{stem}_{suffix}"
        self._names.add(name)
        self._suffixes[stem] = suffix
        return name

    def new_value(self, stem: str, value_type: TensorType, quantization: Quantization | None = None) -> Value:
        """A value of a name that is still free."""
        return Value(self.unique_name(stem), value_type, quantization=quantization)

    def new_constant(self, stem: str, array: Array, quantization: Quantization | None = None) -> Value:
        return Value.of(self.unique_name(stem), np.ascontiguousarray(array), quantization)

    def replace(self, old: Sequence[Node], new: Sequence[Node], message: str, operands: Sequence[Node] = ()) -> None:
        """Put `new` where the last of `old` stands, and take `old` away.

        Every value of `old` that is still read must be made by `new`. Origins of `old` are added to each of `new`.
        old: a node may be named twice, as where another reads it twice.
        operands: nodes that must stand before `new` and are not its equals: DequantizeLinear of its constants.
        """
        old = list(dict.fromkeys(old))
        origins = merged_origins(*sorted(old, key=self._ranks.__getitem__))
        for node in new:
            node.origins = tuple(dict.fromkeys((*origins, *node.origins)))
        self.context.did(message, old, new)
        rank = max(self._ranks[node] for node in old)
        for node in old:
            self.remove(node)
        self._insert([*operands, *new], rank)

    def substitute(self, old: Node, new: Sequence[Node]) -> None:
        """Put `new` where `old` stands, without a remark; others may make already what `new` makes."""
        rank = self._ranks[old]
        self.remove(old)
        self._insert(new, rank)

    def insert(self, position: Node, nodes: Sequence[Node]) -> None:
        """Put `nodes` just before the node `position`."""
        self._insert(nodes, self._ranks[position])

    def append(self, node: Node) -> None:
        """Put a node behind all others."""
        last = self._ranks[self.graph.nodes[-1]] if self.graph.nodes else 0
        self.graph.nodes.append(node)
        self._enter(node, last + _RANK_STEP)

    def remove(self, node: Node) -> None:
        """Take a node out whose outputs nobody reads, or others will make."""
        del self.graph.nodes[self._index(self._ranks[node])]
        del self._ranks[node]
        self._removed.append(node)
        self._forget_inputs(node)
        for output in node.outputs:
            if self._producers.get(output) is node:
                del self._producers[output]

    def take_changes(self) -> tuple[list[Node], list[Node]]:
        """The nodes that were removed, and those that were put in, since this was asked before."""
        changes = self._removed, self._added
        self._removed, self._added = [], []
        return changes

    def set_inputs(self, node: Node, inputs: Sequence[Value | None]) -> None:
        """Let a node read other values."""
        self._forget_inputs(node)
        node.inputs = list(inputs)
        self._enter_inputs(node)

    def can_bypass(self, node: Node, source: Value) -> bool:
        """Whether `source` may stand for the output of `node`: a graph output keeps its name, and is made by a node."""
        if not self.graph.is_output(node.output):
            return True
        return source in self._producers and not self.graph.is_output(source)

    def bypass(self, node: Node, source: Value, message: str) -> None:
        """Remove `node` and let its readers read `source`, a value of the same type and quantization."""
        assert source.type == node.output.type, (source, node.output)
        assert self.can_bypass(node, source), node.name
        self.context.did(message, [node], [])
        self.remove(node)
        heirs = self.readers(node.output)
        if self.graph.is_output(node.output):
            maker = self._producers.pop(source)
            maker.outputs = [node.output if value is source else value for value in maker.outputs]
            self._producers[node.output] = maker
            self.redirect(source, node.output)
            heirs = [maker]
        else:
            self.redirect(node.output, source)
        for heir in heirs:
            heir.origins = merged_origins(heir, node)

    def redirect(self, old: Value, new: Value) -> None:
        """Let every node that reads `old` read `new`."""
        moved = self._consumers.pop(old, [])
        for reader in moved:
            reader.inputs = [new if value is old else value for value in reader.inputs]
        readers = dict.fromkeys([*self.readers(new), *moved])
        self._consumers[new] = sorted(readers, key=self._ranks.__getitem__)

    def decline(self, message: str, *nodes: Node) -> bool:
        """Note a refusal, for the case that the node stays as it is; always False, so that a rule can return it."""
        self._declined[message, tuple(node.name for node in nodes)] = list(nodes)
        return False

    def forget_refusals(self) -> None:
        self._declined.clear()

    def report_refusals(self) -> None:
        """Make remarks of the refusals noted since they were last forgotten."""
        for (message, _names), nodes in self._declined.items():
            self.context.declined(message, nodes)

    def _index(self, rank: int) -> int:
        """Where in the graph's list the node of this rank stands, or would stand."""
        return bisect_left(self.graph.nodes, rank, key=self._ranks.__getitem__)

    def _insert(self, nodes: Sequence[Node], rank: int) -> None:
        """Put `nodes` before where a node of this rank stands, or stood."""
        index = self._index(rank)
        before = self._ranks[self.graph.nodes[index - 1]] if index else 0
        self.graph.nodes[index:index] = nodes
        if rank - before <= len(nodes):
            self._added += nodes
            self.refresh()  # there is no room: new ranks
            return
        for number, node in enumerate(nodes, start=1):
            self._enter(node, before + (rank - before) * number // (len(nodes) + 1))

    def _enter(self, node: Node, rank: int) -> None:
        """Know a node that is in the graph's list."""
        self._ranks[node] = rank
        self._added.append(node)
        self._producers.update(dict.fromkeys(node.outputs, node))
        self._enter_inputs(node)
        self._names.update([node.name, *(value.name for value in (*node.present_inputs, *node.outputs))])

    def _enter_inputs(self, node: Node) -> None:
        for value in dict.fromkeys(node.present_inputs):
            insort(self._consumers.setdefault(value, []), node, key=self._ranks.__getitem__)

    def _forget_inputs(self, node: Node) -> None:
        for value in dict.fromkeys(node.present_inputs):
            self._consumers[value] = [reader for reader in self.readers(value) if reader is not node]


def rewrite(graph: Graph, context: PassContext, rules: Sequence[Rule]) -> bool:
    """Apply `rules` to every node in running order until none applies; remove what nobody reads any more."""
    rewriter = Rewriter(graph, context)
    is_changed = False
    while True:
        rewriter.forget_refusals()
        swept = _sweep(rewriter, rules)
        swept |= remove_unread(rewriter)
        if not swept:
            rewriter.report_refusals()
            return is_changed
        is_changed = True


def _sweep(rewriter: Rewriter, rules: Sequence[Rule]) -> bool:
    is_changed = False
    for node in list(rewriter.graph.nodes):
        is_there = any(rewriter.producer(output) is node for output in node.outputs)
        is_changed |= is_there and any(rule(rewriter, node) for rule in rules)
    return is_changed


def remove_unread(rewriter: Rewriter) -> bool:
    """Remove the nodes that no output depends on, with a remark."""
    dropped = rewriter.graph.remove_unused()
    if not dropped:
        return False
    names = ", ".join(f"{node.op} '{node.name}'" for node in dropped)
    rewriter.context.did(f"removed what no output depends on: {names}", dropped, [])
    rewriter.refresh()
    return True


@dataclass(frozen=True)
class StoredConstant:
    """A constant as a node reads it: directly, or as integers behind a DequantizeLinear."""

    value: Value  # holds the array, and the quantization where there is one
    dequantize: Node | None

    @property
    def is_float(self) -> bool:
        return self.dequantize is None


def stored_constant(rewriter: Rewriter, value: Value) -> StoredConstant | None:
    """The constant that `value` is, or is the dequantized form of; None for an activation."""
    if value.is_constant:
        return StoredConstant(value, None)
    node = rewriter.producer(value)
    if node is None or node.op != "DequantizeLinear" or not node.input(0).is_constant:
        return None
    return StoredConstant(node.input(0), node)


@dataclass(frozen=True)
class Rearranged:
    """A constant in its new order, in the form in which it was stored before."""

    operand: Value  # what the node reads now
    constant: Value  # holds the array; the clusters are the caller's to carry on
    new_nodes: tuple[Node, ...]  # must be put before the node that reads `operand`


def with_array(
    rewriter: Rewriter, stored: StoredConstant, stem: str, array: Array, axis: Callable[[int], int]
) -> Rearranged:
    """Store `array` as `stored` was: a constant, or integers behind a DequantizeLinear.

    The DequantizeLinear stays the same where nobody else reads it. `axis` says where the axis of the quantization went.
    """
    constant = rewriter.new_constant(stem, array, rearranged_quantization(stored.value.quantization, axis))
    old = stored.dequantize
    if old is None:
        return Rearranged(constant, constant, ())
    if rewriter.has_one_reader(old.output):
        rewriter.set_inputs(old, [constant])
        old.output.type = TensorType("float32", constant.shape)
        return Rearranged(old.output, constant, ())
    output = rewriter.new_value(f"{stem}_float", TensorType("float32", constant.shape))
    name = rewriter.unique_name(f"{old.name}_rearranged")
    node = Node("DequantizeLinear", name, [constant], [output], dict(old.attributes), old.origins)
    return Rearranged(output, constant, (node,))


def rearranged_quantization(quantization: Quantization | None, axis: Callable[[int], int]) -> Quantization | None:
    """`quantization` after its axis moved."""
    if quantization is None or quantization.axis is None:
        return quantization
    return Quantization(quantization.scale, quantization.zero_point, axis(quantization.axis))


def is_unclamped(node: Node) -> bool:
    """Whether the node's fused clamp, if its operator has one, does nothing."""
    return (
        node.attributes.get("clamp_low", -math.inf) == -math.inf
        and node.attributes.get("clamp_high", math.inf) == math.inf
    )


def scalar_constant(value: Value) -> float | None:
    """The number that every element of a constant has; None where they differ or the value is no constant."""
    if value.constant is None or value.constant.size == 0:
        return None
    first = value.constant.flat[0]
    return float(first) if bool(np.all(value.constant == first)) else None


def names_of(nodes: Iterable[Node]) -> str:
    """`Conv 'a', Relu 'b'`: for messages."""
    return ", ".join(f"{node.op} '{node.name}'" for node in nodes)
