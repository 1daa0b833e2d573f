"""How long each value must stay in memory, and what a graph's arena would be if it ran as it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import TypeAlias

from tinyopt.ir import Graph, Value
from tinyopt.lowering.program import ARENA_ALIGNMENT
from tinyopt.lowering.sections import Section
from tinyopt.lowering.views import Views
from tinyopt.memory_plan import BufferLifetime, Part, lower_bound
from tinyopt.ops import OPERATORS

Span: TypeAlias = tuple[int, int]  # the first byte and the end


def section_steps(sections: Sequence[Section], lead: int) -> list[tuple[int, int]]:
    """For each section its first step, and the last one until which its memory is kept as it is.

    lead: by how many multiply-accumulates a thread may be ahead of others before it waits for them to leave memory that
    it uses again; 0 where a section is over before the next one begins.
    """
    steps: list[tuple[int, int]] = []
    begins = list(accumulate(map(len, sections), initial=1))
    for number in range(len(sections)):
        last, ahead = number, 0
        while ahead < lead and last + 1 < len(sections):
            last += 1
            ahead += sum(OPERATORS[node.op].macs(node) for node in sections[last])
        steps.append((begins[number], begins[last + 1] - 1))
    return steps


def value_lifetimes(
    graph: Graph, sections: Sequence[Section], views: Views, lead: int = 0
) -> dict[Value, BufferLifetime]:
    """The life of every value that has memory of its own, in order of birth; of its parts, where they differ.

    Inputs live from step 0, the nodes of all sections are the steps from 1 on, outputs live until after the last. What
    a section reads or writes lives from its first step to its last, or longer: see `section_steps` for `lead`.
    """
    lives: dict[Value, _Life] = {}
    for value in graph.inputs:
        lives.setdefault(views.root(value), _Life()).written.append((views.span(value), 0))
    for section, (begin, end) in zip(sections, section_steps(sections, lead), strict=True):
        for output in (output for node in section for output in node.outputs):
            span = views.span(output)
            lives.setdefault(views.root(output), _Life()).written.extend([(span, begin), (span, end)])
        for value in (value for node in section for value in node.variable_inputs):
            if views.root(value) in lives:  # else it is a constant
                span = views.span(value)
                lives[views.root(value)].read.extend([(span, begin), (span, end)])
    end = sum(map(len, sections)) + 1
    for value in graph.outputs:
        if views.root(value) in lives:
            lives[views.root(value)].read.append((views.span(value), end))
    return {root: life.of(root) for root, life in lives.items()}


@dataclass(frozen=True, eq=False)
class _Life:
    """When which bytes of a value's memory are written and read."""

    written: list[tuple[Span, int]] = field(default_factory=list[tuple[Span, int]])
    read: list[tuple[Span, int]] = field(default_factory=list[tuple[Span, int]])

    def of(self, root: Value) -> BufferLifetime:
        uses = [*self.written, *self.read]
        cuts = sorted({place for span, _ in uses for place in span})
        parts: list[Part] = []
        for begin, end in pairwise(cuts):
            steps = [step for (first, last), step in uses if first <= begin and end <= last]
            if parts and steps and (parts[-1].first, parts[-1].last) == (min(steps), max(steps)):
                parts[-1] = replace(parts[-1], bytes=end - parts[-1].offset)
            elif steps:
                parts.append(Part(begin, end - begin, min(steps), max(steps)))
        first, last = min(step for _, step in uses), max(step for _, step in uses)
        return BufferLifetime(root.name, root.type.bytes, first, last, tuple(parts) if len(parts) > 1 else ())


def estimate_arena(graph: Graph) -> int:
    """The most activation bytes alive at a time if the nodes ran one by one, in their present order.

    What is computed from constants alone counts as a constant. Kernels' scratch and outputs that take over their
    input's memory are not known before kernels are chosen; the plan of the lowered program has them.
    """
    fixed = _computed_from_constants(graph)
    views = Views.of(graph)
    steps = [(node,) for node in graph.nodes if node not in views.nodes and node.outputs[0] not in fixed]
    lives = value_lifetimes(graph, steps, views)
    return lower_bound([life for value, life in lives.items() if value not in fixed], ARENA_ALIGNMENT)


def _computed_from_constants(graph: Graph) -> set[Value]:
    fixed: set[Value] = set()
    for node in graph.nodes:
        if all(value.is_constant or value in fixed for value in node.present_inputs):
            fixed.update(node.outputs)
    return fixed
