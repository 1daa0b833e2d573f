"""Expand a model's functions, after it is known how large the model becomes.

Thirty functions that call the next one twice are a file of a few kilobytes and a billion nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import onnx
import onnx.inliner

from tinyopt.errors import InvalidModelError
from tinyopt.onnx_import.limits import DEEPEST_NESTING, MOST_EXPANDED_BYTES, MOST_NODES

_Key: TypeAlias = tuple[str, str, str]  # domain, name, overload


@dataclass(frozen=True)
class _Size:
    """What a function becomes. depth: of calls, 1 where it calls no other."""

    nodes: int
    bytes: int
    depth: int


def expand_functions(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model without functions: each call is replaced by the nodes of the function.

    Raises InvalidModelError for functions that call themselves, and for models that would become too large.
    """
    if not model.functions:
        return model
    functions = {_key(function): function for function in model.functions}
    if len(functions) != len(model.functions):
        raise InvalidModelError(f"model '{name}' has two functions of one name")
    for function in model.functions:
        _check_opsets(function, name)
    sizes = _Sizes(functions, name)
    whole = sizes.total(model.graph.node)
    if whole.nodes > MOST_NODES or whole.bytes > MOST_EXPANDED_BYTES + model.ByteSize():
        raise InvalidModelError(
            f"model '{name}' grows to {_about(whole.nodes)} nodes and {_about(whole.bytes)} bytes when its functions "
            f"are expanded; tinyopt takes up to {MOST_NODES:,} nodes and {MOST_EXPANDED_BYTES:,} bytes more than before"
        )
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # the inliner is C++ and raises whatever it likes
        reason = " ".join(str(error).split())[:200]
        raise InvalidModelError(f"the functions of model '{name}' cannot be expanded: {reason}") from error


def _check_opsets(function: onnx.FunctionProto, name: str) -> None:
    """Without a version nobody can say what the function's operators are."""
    stated = {_domain(entry.domain) for entry in function.opset_import}
    for node in function.node:
        if _domain(node.domain) not in stated:
            raise InvalidModelError(
                f"model '{name}': its function '{function.name}' states no opset for its operator {node.op_type} "
                f"'{node.name}'"
            )


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


class _Sizes:
    """The sizes of functions, each computed once."""

    def __init__(self, functions: dict[_Key, onnx.FunctionProto], name: str) -> None:
        self._functions, self._name = functions, name
        self._known: dict[_Key, _Size] = {}

    def total(self, nodes: Iterable[onnx.NodeProto]) -> _Size:
        """The size of a list of nodes."""
        listed = list(all_nodes(nodes))
        calls = [key for node in listed if (key := _key_of_call(node)) in self._functions]
        for key in calls:
            self._settle(key)
        sizes = [self._known[key] for key in calls]
        return _Size(
            len(listed) - len(calls) + sum(size.nodes for size in sizes),
            sum(node.ByteSize() for node in listed) + sum(size.bytes for size in sizes),
            1 + max((size.depth for size in sizes), default=0),
        )

    def _settle(self, first: _Key) -> None:
        """Compute what `first` calls before itself: with a list instead of recursion."""
        waiting = [first]
        while waiting:
            key = waiting[-1]
            if key in self._known:
                waiting.pop()
                continue
            nodes = list(all_nodes(self._functions[key].node))
            called = {call for node in nodes if (call := _key_of_call(node)) in self._functions}
            unknown = sorted(called - self._known.keys())
            if not unknown:
                self._known[key] = self.total(nodes)
                waiting.pop()
                continue
            if any(call in waiting for call in unknown):
                raise InvalidModelError(f"model '{self._name}': its function '{unknown[0][1]}' calls itself")
            if len(waiting) >= DEEPEST_NESTING:
                raise InvalidModelError(
                    f"model '{self._name}': function '{key[1]}' is called more than {DEEPEST_NESTING} levels deep"
                )
            waiting.append(unknown[0])


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, and those of the subgraphs in their attributes, however deep."""
    waiting: list[Iterable[onnx.NodeProto]] = [nodes]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in node.attribute:
                waiting += [graph.node for graph in attribute.graphs]
                if attribute.HasField("g"):
                    waiting.append(attribute.g.node)


def _key(function: onnx.FunctionProto) -> _Key:
    return function.domain, function.name, function.overload


def _key_of_call(node: onnx.NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def _about(number: int) -> str:
    return f"{number:,}" if number < 10**15 else f"more than {10**15:,}"
