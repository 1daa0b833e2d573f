"""From the final graph to a program: a kernel for each node, its arguments, and everything's place in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinyopt.errors import UnsupportedOperatorError
from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.lowering.kernel_cache import compile_kernels
from tinyopt.lowering.lifetimes import VIEWS, value_lifetimes, views
from tinyopt.lowering.program import (
    ARENA_ALIGNMENT,
    ArenaBuffer,
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
from tinyopt.memory_plan import BufferLifetime, MemoryPlan, plan_memory
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


@dataclass
class _Storage:
    """Which buffers there are, how long each lives, and who shares whose memory."""

    lifetimes: dict[object, BufferLifetime] = field(default_factory=dict[object, BufferLifetime])
    shared: dict[Value, Value] = field(default_factory=dict[Value, Value])

    def root(self, value: Value) -> Value:
        while value in self.shared:
            value = self.shared[value]
        return value


def lower(graph: Graph, target: Target, cache_dir: Path | None, on_progress: Callable[[int, int], None]) -> Program:
    """Choose and compile a kernel for every node of `graph`, and plan the arena.

    on_progress: called with (kernels compiled, kernels in all).
    Raises UnsupportedOperatorError that lists every node without a kernel on `target`.
    """
    storage = _Storage(shared=views(graph))
    graph.nodes = schedule(graph, storage.root)
    steps = _choose_kernels(graph, target)
    _share_in_place(graph, steps, storage)
    _measure_lifetimes(graph, steps, storage)
    keys = list(storage.lifetimes)
    plan = plan_memory(list(storage.lifetimes.values()), ARENA_ALIGNMENT)
    slots = _slots(keys, plan, storage)
    constants = _Constants()
    requests = [request_for(step.kernel, target.tvm) for step in steps]
    calls = tuple(
        _call(index, step, request, storage, slots, constants)
        for index, (step, request) in enumerate(zip(steps, requests, strict=True))
    )
    places = {value: _place(value, storage, slots, constants) for value in [*graph.inputs, *graph.outputs]}
    functions = compile_kernels(requests, target.code, target.tvm, cache_dir, on_progress)
    return Program(
        graph,
        target,
        calls,
        tuple(constants.all),
        places,
        functions,
        plan.arena_bytes,
        plan.lower_bound_bytes,
        _buffers(plan, storage),
    )


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


def _share_in_place(graph: Graph, steps: Sequence[_Step], storage: _Storage) -> None:
    """Let an output take over its input's memory where the kernel permits it and nobody needs the input any more."""
    last_reader = {storage.root(v): step for step in steps for v in step.node.variable_inputs}
    pinned = {storage.root(value) for value in graph.outputs}
    for step in steps:
        index = next((o.input for o in step.kernel.overlaps if (o.first or 0) <= 0 <= (o.last or 0)), None)
        if index is None:
            continue
        source = step.node.input(index)
        root = storage.root(source)
        others = [storage.root(v) for i, v in enumerate(step.node.inputs) if v is not None and i != index]
        fits = step.node.outputs[0].type.bytes <= source.type.bytes
        if source.is_constant or root in pinned or last_reader[root] is not step or root in others or not fits:
            continue
        output = step.node.outputs[0]
        storage.shared[output] = source
        if output in last_reader:  # the memory now lives until the output's last reader has run
            last_reader[root] = last_reader.pop(output)
        if output in pinned:
            pinned.add(root)


def _measure_lifetimes(graph: Graph, steps: Sequence[_Step], storage: _Storage) -> None:
    """Call k is step k + 1; scratch lives while its kernel runs."""
    for position, step in enumerate(steps, start=1):
        for number, argument in enumerate(step.kernel.arguments):
            if isinstance(argument, ScratchArgument):
                name = f"scratch of {step.node.name}"
                storage.lifetimes[step.node, number] = BufferLifetime(name, argument.bytes, position, position)
    for value, life in value_lifetimes(graph, [step.node for step in steps], storage.root).items():
        storage.lifetimes[value] = life


def _buffers(plan: MemoryPlan, storage: _Storage) -> tuple[ArenaBuffer, ...]:
    return tuple(
        ArenaBuffer(life.name, offset, life.bytes, life.first, life.last)
        for life, offset in zip(storage.lifetimes.values(), plan.offsets, strict=True)
    )


def _slots(keys: Sequence[object], plan: MemoryPlan, storage: _Storage) -> dict[object, ArenaSlot]:
    return {
        key: ArenaSlot(offset, storage.lifetimes[key].bytes) for key, offset in zip(keys, plan.offsets, strict=True)
    }


class _Constants:
    """The constants of the program, equal arrays once."""

    def __init__(self) -> None:
        self.all: list[FlashConstant] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], FlashConstant] = {}

    def add(self, role: str, array: Array) -> FlashConstant:
        identity = (array.dtype.str, array.shape, array.tobytes())
        if identity not in self._known:
            self._known[identity] = FlashConstant(len(self.all), role, array)
            self.all.append(self._known[identity])
        return self._known[identity]


def _place(
    value: Value, storage: _Storage, slots: dict[object, ArenaSlot], constants: _Constants
) -> ArenaSlot | FlashConstant:
    root = storage.root(value)
    if root.is_constant:
        return constants.add("constant", root.data)
    return ArenaSlot(slots[root].offset, value.type.bytes)


def _call(
    index: int,
    step: _Step,
    request: KernelRequest,
    storage: _Storage,
    slots: dict[object, ArenaSlot],
    constants: _Constants,
) -> KernelCall:
    node = step.node
    arguments: list[CallArgument] = []
    for number, argument in enumerate(step.kernel.arguments):
        match argument:
            case InputArgument(position):
                arguments.append(Location(_place(node.input(position), storage, slots, constants), False))
            case OutputArgument(position):
                arguments.append(Location(_place(node.outputs[position], storage, slots, constants), True))
            case ConstantArgument(role, array):
                arguments.append(Location(constants.add(role, array), False))
            case ScratchArgument():
                arguments.append(Location(slots[node, number], True))
            case ScalarArgument(value):
                arguments.append(Scalar(value))
    outputs = tuple(ArenaSlot(slots[storage.root(v)].offset, v.type.bytes) for v in node.outputs)
    return KernelCall(index, node, step.kernel, request.key, request.symbol, tuple(arguments), outputs, step.refusals)
