"""From the final graph to a program: a kernel for each node, its arguments, and everything's place in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TypeAlias

from tinyopt.array_digest import digest_array
from tinyopt.errors import UnsupportedOperatorError
from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.lowering.arena import Arena, ArenaProblem, plan_arena, plan_regions
from tinyopt.lowering.decoding import too_slow
from tinyopt.lowering.kernel_cache import compile_kernels
from tinyopt.lowering.program import (
    ARENA_ALIGNMENT,
    ArenaSlot,
    CallArgument,
    FlashConstant,
    KernelCall,
    Location,
    Program,
    Scalar,
    Variant,
)
from tinyopt.lowering.request import KernelRequest
from tinyopt.lowering.schedule import schedule
from tinyopt.lowering.specialization import specialized
from tinyopt.lowering.thread_plan import owners_of, turns_of
from tinyopt.lowering.variants import memory_needs, shared_requests, without_repetitions
from tinyopt.lowering.views import VIEWS, Views
from tinyopt.memory_search import plan_memory
from tinyopt.options import MemoryRegion
from tinyopt.targets.kernel import (
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Refusal,
    ScalarArgument,
    ScratchArgument,
)
from tinyopt.targets.target import Target

_Choices: TypeAlias = dict[Node, tuple[Kernel, tuple[str, ...]]]  # with the reasons of those that refused

WORTH_MOVING = 0.95  # of the arena: for so much the inputs of a Concat are moved rather than joined where they are
QUICK_ORDERS, QUICK_STATES = 400, 1_000  # for a plan among many that are compared


@dataclass(frozen=True, eq=False)
class _Step:
    """A node with the kernel chosen for it."""

    node: Node
    kernel: Kernel
    refusals: tuple[str, ...]


def lower(
    graph: Graph,
    target: Target,
    cache_dir: Path | None,
    on_progress: Callable[[int, int], None],
    memory: Sequence[MemoryRegion] = (),
    threads: int = 1,
) -> Program:
    """Choose and compile a kernel for every node of `graph`, and plan the arena or the regions of `memory`.

    on_progress: called with (kernels compiled, kernels in all). threads: how many run the library; nodes that do not
    depend on each other may then run at the same time, where they stand next to each other.
    Raises UnsupportedOperatorError that lists every node without a kernel on `target`, and BudgetError where `memory`
    is given and too small.
    """
    program, requests = plan(graph, target, memory, threads)
    return replace(program, functions=compile_kernels(requests, target.code, cache_dir, on_progress))


def plan(
    graph: Graph, target: Target, memory: Sequence[MemoryRegion] = (), threads: int = 1
) -> tuple[Program, tuple[KernelRequest, ...]]:
    """What `lower` gives but for compiled functions, and what to compile. Raises as it does."""
    machines = target.variants or (target,)
    choices = [_choose_kernels(graph, machine) for machine in machines]
    arena, problem = _best_arena(graph, _memory_needs(choices), memory, threads)
    if threads > 1 and all(len(section) == 1 for section in problem.sections):  # there is nothing to share
        threads = 1
        arena, problem = _best_arena(graph, _memory_needs(choices), memory, threads)
    views = problem.views
    places = _Places(arena, views)
    choices = _specialized(choices)
    steps = [[_Step(n, *chosen[n]) for n in graph.nodes if n not in views.nodes] for chosen in choices]
    requests = shared_requests(machines, [[step.kernel for step in its_steps] for its_steps in steps])
    variants = without_repetitions(
        [
            _variant(machine, _calls(its_steps, its_requests, places), problem, threads)
            for machine, its_steps, its_requests in zip(machines, steps, requests, strict=True)
        ]
    )
    boundary = {value: places.of(value) for value in [*graph.inputs, *graph.outputs]}
    program = Program(
        graph,
        target,
        variants,
        tuple(places.constants),
        boundary,
        {},
        arena.bytes,
        arena.lower_bound_bytes,
        arena.buffers,
        arena.regions,
        threads,
        tuple(map(len, problem.sections)),
    )
    used = {call.key for call in program.all_calls}
    return program, tuple(request for its_requests in requests for request in its_requests if request.key in used)


def _variant(machine: Target, calls: tuple[KernelCall, ...], problem: ArenaProblem, threads: int) -> Variant:
    owners = owners_of(problem.sections, problem.views, threads)
    turns = turns_of(calls, owners, threads) if threads > 1 else ()
    return Variant(machine.name, machine.feature, calls, turns)


def _best_arena(
    graph: Graph, kernels: Mapping[Node, Kernel], memory: Sequence[MemoryRegion], threads: int
) -> tuple[Arena, ArenaProblem]:
    """Put the nodes into the running order with the smallest arena; returns that arena, or the regions' plan."""
    joined = Views.of(graph)
    best = _best_plan(graph, kernels, joined, threads)
    if joined.concats and best.arena.bytes > best.arena.lower_bound_bytes:
        # parts that wait in their places for the others may leave gaps that are too small for anything else
        moved = _best_plan(graph, kernels, Views.of(graph, kept_apart=joined.concats), threads)
        best = moved if moved.arena.bytes < WORTH_MOVING * best.arena.bytes else best
    graph.nodes = best.order
    return plan_regions(best.problem, memory) if memory else best.arena, best.problem


@dataclass(frozen=True, eq=False)
class _Plan:
    """A running order and its arena."""

    order: list[Node]
    problem: ArenaProblem
    arena: Arena


def _best_plan(graph: Graph, kernels: Mapping[Node, Kernel], views: Views, threads: int) -> _Plan:
    """The smaller arena of the present order and the best one that was found; the present one where they are equal.

    For several threads the order stays, for what may run at the same time stands together in it.
    """
    needed = {node: kernel for node, kernel in kernels.items() if node not in views.nodes}
    plans: list[_Plan] = []
    for order in (graph.nodes, schedule(graph, views, needed) if threads == 1 else graph.nodes):
        if all(order != plan.order for plan in plans):
            problem = ArenaProblem.of(replace(graph, nodes=order), needed, views, threads)
            plans.append(_Plan(order, problem, plan_arena(problem)))
    return min(plans, key=lambda plan: plan.arena.bytes)


def planned_arena_bytes(graph: Graph, target: Target) -> int:
    """About the arena of `graph`: its order and its plan are searched, but not for long.

    Raises UnsupportedOperatorError as `lower` does.
    """
    kernels = _memory_needs([_choose_kernels(graph, machine) for machine in target.variants or (target,)])
    views = Views.of(graph)
    needed = {node: kernel for node, kernel in kernels.items() if node not in views.nodes}
    problems = (
        ArenaProblem.of(replace(graph, nodes=order), needed, views)
        for order in (graph.nodes, schedule(graph, views, needed, QUICK_STATES))
    )
    return min(plan_memory(p.buffers, ARENA_ALIGNMENT, p.meetings, QUICK_ORDERS).arena_bytes for p in problems)


def choose_kernel(
    node: Node, target: Target, reason_not_to_decode: str | None = None
) -> tuple[Kernel, tuple[str, ...]] | None:
    """The first of the target's kernels that takes `node`, with the reasons of those that did not, or None.

    reason_not_to_decode: why kernels that look clustered weights up are left out, where they are.
    """
    refusals: list[str] = []
    for planner in target.kernels.get(node.op, ()):
        chosen = planner(node)
        if isinstance(chosen, Refusal):
            refusals.append(chosen.reason)
        elif chosen.decoding is not None and reason_not_to_decode is not None:
            refusals.append(reason_not_to_decode)
        else:
            return chosen, tuple(refusals)
    return None


def _memory_needs(choices: Sequence[_Choices]) -> dict[Node, Kernel]:
    return {node: memory_needs([chosen[node][0] for chosen in choices]) for node in choices[0]}


def _choose_kernels(graph: Graph, target: Target) -> _Choices:
    choices: _Choices = {}
    homeless: list[str] = []
    for node in graph.nodes:
        if node.op in VIEWS:
            continue
        choice = choose_kernel(node, target)
        if choice is None:
            homeless.append(f"{node.op} '{node.name}'{_why_homeless(node, target)}")
        else:
            choices[node] = choice
    if homeless:
        raise UnsupportedOperatorError(f"no kernel for {target.name}: {'; '.join(homeless)}")
    for node, reason in too_slow({node: kernel for node, (kernel, _) in choices.items()}, target.costs).items():
        choices[node] = choose_kernel(node, target, reason) or choices[node]
    return choices


def _specialized(choices: Sequence[_Choices]) -> list[_Choices]:
    kernels = iter(specialized([kernel for chosen in choices for kernel, _ in chosen.values()]))
    return [{node: (next(kernels), refusals) for node, (_, refusals) in chosen.items()} for chosen in choices]


def _why_homeless(node: Node, target: Target) -> str:
    reasons = [r.reason for planner in target.kernels.get(node.op, ()) if isinstance(r := planner(node), Refusal)]
    return f" ({'; '.join(reasons)})" if reasons else ""


class _Places:
    """Where every value, constant and scratch lies; equal constants lie in flash once."""

    def __init__(self, arena: Arena, views: Views) -> None:
        self._arena = arena
        self._views = views
        self._known: dict[bytes, FlashConstant] = {}

    @property
    def constants(self) -> Iterable[FlashConstant]:
        return self._known.values()

    def of_constant(self, role: str, array: Array) -> FlashConstant:
        return self._known.setdefault(digest_array(array), FlashConstant(len(self._known), role, array))

    def of_scratch(self, node: Node, number: int, size: int) -> ArenaSlot:
        """The place of `size` bytes: a kernel's scratch of that number among its scratch arguments."""
        return replace(self._arena.slots[node, number], bytes=size)

    def of(self, value: Value) -> ArenaSlot | FlashConstant:
        root = self._views.root(value)
        return self.of_constant("constant", root.data) if root.is_constant else self.in_arena(value)

    def in_arena(self, value: Value) -> ArenaSlot:
        slot = self._arena.slots[self._views.root(value)]
        return ArenaSlot(slot.offset + self._views.offset(value), value.type.bytes, slot.region)


def _calls(steps: Sequence[_Step], requests: Sequence[KernelRequest], places: _Places) -> tuple[KernelCall, ...]:
    pairs = zip(steps, requests, strict=True)
    return tuple(_call(index, step, request, places) for index, (step, request) in enumerate(pairs))


def _call(index: int, step: _Step, request: KernelRequest, places: _Places) -> KernelCall:
    node = step.node
    arguments: list[CallArgument] = []
    scratch = count()
    for argument in step.kernel.arguments:
        match argument:
            case InputArgument(position):
                arguments.append(Location(places.of(node.input(position)), False))
            case OutputArgument(position):
                arguments.append(Location(places.of(node.outputs[position]), True))
            case ConstantArgument(role, array):
                arguments.append(Location(places.of_constant(role, array), False))
            case ScratchArgument(size):
                arguments.append(Location(places.of_scratch(node, next(scratch), size), True))
            case ScalarArgument(value):
                arguments.append(Scalar(value))
    outputs = tuple(places.in_arena(value) for value in node.outputs)
    return KernelCall(index, node, step.kernel, request.key, request.symbol, tuple(arguments), outputs, step.refusals)
