"""The order in which nodes run: one that keeps few bytes alive at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tinyopt.ir import Graph, Node, Value


def schedule(graph: Graph, root: Callable[[Value], Value]) -> list[Node]:
    """A running order of the graph's nodes with a low peak of live activation bytes.

    root: maps a value to the one whose memory it shares (views). The better of the present order and a greedy list
    schedule that always runs the ready node which frees the most (ties: the present order).
    """
    greedy = _greedy(graph, root)
    return min((graph.nodes, greedy), key=lambda order: _peak(order, graph, root))


def _greedy(graph: Graph, root: Callable[[Value], Value]) -> list[Node]:
    waiting = list(graph.nodes)
    available = {id(value) for value in graph.inputs}
    remaining = _reader_counts(waiting, graph, root)
    order: list[Node] = []
    while waiting:
        ready = [n for n in waiting if all(id(value) in available for value in n.variable_inputs)]
        chosen = min(ready, key=lambda node: _growth(node, remaining, root))
        for value in {root(v) for v in chosen.variable_inputs}:
            remaining[value] -= 1
        available.update(id(output) for output in chosen.outputs)
        order.append(chosen)
        waiting.remove(chosen)
    return order


def _reader_counts(nodes: Sequence[Node], graph: Graph, root: Callable[[Value], Value]) -> dict[Value, int]:
    counts: dict[Value, int] = {}
    for node in nodes:
        for value in {root(v) for v in node.variable_inputs}:
            counts[value] = counts.get(value, 0) + 1
    for output in graph.outputs:
        counts[root(output)] = counts.get(root(output), 0) + 1  # never freed
    return counts


def _growth(node: Node, remaining: dict[Value, int], root: Callable[[Value], Value]) -> int:
    """Bytes that running `node` now adds to what is alive, less what it frees."""
    added = sum(output.type.bytes for output in node.outputs if root(output) is output)
    freed = sum(value.type.bytes for value in {root(v) for v in node.variable_inputs} if remaining[value] == 1)
    return added - freed


def _peak(order: Sequence[Node], graph: Graph, root: Callable[[Value], Value]) -> int:
    remaining = _reader_counts(order, graph, root)
    alive = sum(value.type.bytes for value in graph.inputs)
    peak = alive
    for node in order:
        alive += sum(output.type.bytes for output in node.outputs if root(output) is output)
        peak = max(peak, alive)
        for value in {root(v) for v in node.variable_inputs}:
            remaining[value] -= 1
            if not remaining[value]:
                alive -= value.type.bytes
    return peak
