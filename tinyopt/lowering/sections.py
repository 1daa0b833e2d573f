"""Which steps of a program may run at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from tinyopt.errors import UsageError
from tinyopt.ir import Node, Value
from tinyopt.lowering.views import Views
from tinyopt.ops import OPERATORS
from tinyopt.options import MemoryRegion
from tinyopt.targets.target import Target

Section: TypeAlias = tuple[Node, ...]  # nodes that do not depend on each other, in running order

_WORTHWHILE_MACS = 50_000  # of a step: less is not worth another thread's while


def check_threads(target: Target, threads: int, memory: Sequence[MemoryRegion]) -> None:
    """Raises UsageError where several threads cannot share the work."""
    if threads > 1 and target.code == "c":
        raise UsageError(f"--threads is for CPUs with an operating system, such as arm and host, not for {target.name}")
    if threads > 1 and memory:
        raise UsageError("--threads and --mem exclude each other: threads share one arena")


def sections_of(steps: Iterable[Node], views: Views, threads: int) -> list[Section]:
    """The steps, those next to each other together that several threads may run at the same time.

    A step that is over soon stays alone, but for parts of one result; and so do all for one thread.
    """
    wholes = {value: node for node in views.concats for value in node.inputs}
    sections: list[list[Node]] = []
    for node in steps:
        if threads > 1 and sections and _may_join(sections[-1], node, views, wholes):
            sections[-1].append(node)
        else:
            sections.append([node])
    return [tuple(section) for section in sections]


def _may_join(section: Sequence[Node], node: Node, views: Views, wholes: Mapping[Value | None, Node]) -> bool:
    whole = _whole(node, wholes)
    is_part = whole is not None and all(_whole(each, wholes) is whole for each in section)
    if not is_part and any(OPERATORS[each.op].macs(each) < _WORTHWHILE_MACS for each in (*section, node)):
        return False
    written = [value for each in section for value in each.outputs]
    return not any(_meet(read, value, views) for read in node.variable_inputs for value in written)


def _whole(node: Node, wholes: Mapping[Value | None, Node]) -> Node | None:
    """The outermost of the nodes that join the node's result with others."""
    whole = wholes.get(node.outputs[0])
    while whole is not None and whole.output in wholes:
        whole = wholes[whole.output]
    return whole


def _meet(a: Value, b: Value, views: Views) -> bool:
    """Whether two values have bytes in common, as far as that is known before the memory is planned."""
    if views.root(a) is not views.root(b):
        return False
    (a_begin, a_end), (b_begin, b_end) = views.span(a), views.span(b)
    return a_begin < b_end and b_begin < a_end
