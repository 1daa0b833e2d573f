"""From the final graph to a program: a kernel for each node, its arguments, and everything's place in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tinyopt.errors import UnsupportedOperatorError
from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.lowering.arena import Arena, plan_arena
from tinyopt.lowering.kernel_cache import compile_kernels
from tinyopt.lowering.lifetimes import VIEWS, Views
from tinyopt.lowering.program import (
    ArenaSlot,
    CallArgument,
    FlashConstant,
    KernelCall,
    Location,
    Program,
    Scalar,
)
from tinyopt.lowering.request import KernelRequest, request_for
from tinyopt.lowering.schedule import schedule
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
) -> Program:
    """Choose and compile a kernel for every node of `graph`, and plan the arena or the regions of `memory`.

    on_progress: called with (kernels compiled, kernels in all).
    Raises UnsupportedOperatorError that lists every node without a kernel on `target`, and BudgetError where `memory`
    is given and too small.
    """
    views = Views.of(graph)
    steps = _choose_kernels(graph, target)
    arena = _run_in_best_order(graph, steps, views, memory)
    places = _Places(arena, views)
    requests = [request_for(step.kernel, target.tvm) for step in steps]
    calls = tuple(
        _call(index, step, request, places) for index, (step, request) in enumerate(zip(steps, requests, strict=True))
    )
    boundary = {value: places.of(value) for value in [*graph.inputs, *graph.outputs]}
    functions = compile_kernels(requests, target.code, target.tvm, cache_dir, on_progress)
    return Program(
        graph,
        target,
        calls,
        tuple(places.constants),
        boundary,
        functions,
        arena.bytes,
        arena.lower_bound_bytes,
        arena.buffers,
        arena.regions,
    )


def _run_in_best_order(graph: Graph, steps: list[_Step], views: Views, memory: Sequence[MemoryRegion]) -> Arena:
    """Put nodes and steps into the running order with the smallest arena; returns that arena, or the regions' plan."""
    by_node = {step.node: step for step in steps}
    kernels = {step.node: step.kernel for step in steps}
    arenas: list[tuple[list[Node], Arena]] = []
    for order in (graph.nodes, schedule(graph, views, kernels)):
        if all(order != tried for tried, _ in arenas):
            arenas.append((order, plan_arena(graph, [(n, kernels[n]) for n in order if n in kernels], views)))
    graph.nodes, arena = min(arenas, key=lambda tried: tried[1].bytes)  # the present order where both are as good
    steps[:] = [by_node[node] for node in graph.nodes if node in by_node]
    return plan_arena(graph, [(step.node, step.kernel) for step in steps], views, memory) if memory else arena


def choose_kernel(node: Node, target: Target) -> tuple[Kernel, tuple[str, ...]] | None:
    """The first of the target's kernels that takes `node`, with the reasons of those that did not, or None."""
    refusals: list[str] = []
    for planner in target.kernels.get(node.op, ()):
        chosen = planner(node)
        if isinstance(chosen, Kernel):
            return chosen, tuple(refusals)
        refusals.append(chosen.reason)
    return None


def _choose_kernels(graph: Graph, target: Target) -> list[_Step]:
    steps: list[_Step] = []
    homeless: list[str] = []
    for node in graph.nodes:
        if node.op in VIEWS:
            continue
        choice = choose_kernel(node, target)
        if choice is None:
            homeless.append(f"{node.op} '{node.name}'{_why_homeless(node, target)}")
        else:
            steps.append(_Step(node, *choice))
    if homeless:
        raise UnsupportedOperatorError(f"no kernel for {target.name}: {'; '.join(homeless)}")
    return steps


def _why_homeless(node: Node, target: Target) -> str:
    reasons = [r.reason for planner in target.kernels.get(node.op, ()) if isinstance(r := planner(node), Refusal)]
    return f" ({'; '.join(reasons)})" if reasons else ""


class _Places:
    """Where every value, constant and scratch lies; equal constants lie in flash once."""

    def __init__(self, arena: Arena, views: Views) -> None:
        self._arena = arena
        self._views = views
        self._known: dict[tuple[str, tuple[int, ...], bytes], FlashConstant] = {}

    @property
    def constants(self) -> Iterable[FlashConstant]:
        return self._known.values()

    def of_constant(self, role: str, array: Array) -> FlashConstant:
        identity = (array.dtype.str, array.shape, array.tobytes())
        return self._known.setdefault(identity, FlashConstant(len(self._known), role, array))

    def of_scratch(self, node: Node, argument: int) -> ArenaSlot:
        return self._arena.slots[node, argument]

    def of(self, value: Value) -> ArenaSlot | FlashConstant:
        root = self._views.root(value)
        return self.of_constant("constant", root.data) if root.is_constant else self.in_arena(value)

    def in_arena(self, value: Value) -> ArenaSlot:
        return replace(self._arena.slots[self._views.root(value)], bytes=value.type.bytes)


def _call(index: int, step: _Step, request: KernelRequest, places: _Places) -> KernelCall:
    node = step.node
    arguments: list[CallArgument] = []
    for number, argument in enumerate(step.kernel.arguments):
        match argument:
            case InputArgument(position):
                arguments.append(Location(places.of(node.input(position)), False))
            case OutputArgument(position):
                arguments.append(Location(places.of(node.outputs[position]), True))
            case ConstantArgument(role, array):
                arguments.append(Location(places.of_constant(role, array), False))
            case ScratchArgument():
                arguments.append(Location(places.of_scratch(node, number), True))
            case ScalarArgument(value):
                arguments.append(Scalar(value))
    outputs = tuple(places.in_arena(value) for value in node.outputs)
    return KernelCall(index, node, step.kernel, request.key, request.symbol, tuple(arguments), outputs, step.refusals)
