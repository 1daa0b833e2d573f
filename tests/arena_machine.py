"""Runs a lowered program's memory plan in Python: every call reads its inputs from the arena and writes its outputs.

What the kernels compute comes from the numpy references: nothing is compiled, and what is tried is where things lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from tinyopt.ir import DTYPES, Array, TensorType, Value
from tinyopt.lowering.program import ArenaSlot, FlashConstant, KernelCall, Location, Program
from tinyopt.ops import OPERATORS
from tinyopt.targets.kernel import InputArgument, OutputArgument, ScratchArgument

Memory: TypeAlias = list[Array]  # a byte array for each region


def run_in_arena(program: Program, inputs: Mapping[str, Array], order: Sequence[int] | None = None) -> list[Array]:
    """The program's outputs, from an arena (or memory regions) that was full of garbage. order: of its calls."""
    sizes = [region.bytes for region in program.regions] or [program.arena_bytes]
    arena = [np.random.default_rng(7).integers(0, 256, size, dtype=np.uint8) for size in sizes]
    for value in program.graph.inputs:
        place = program.places[value]
        assert isinstance(place, ArenaSlot)
        _write(arena, place, inputs[value.name])
    for call in program.calls if order is None else [program.calls[index] for index in order]:
        _check_overlaps(call)
        _run(arena, call)
    return [_read(arena, program.places[value], value.type) for value in program.graph.outputs]


def _run(arena: Memory, call: KernelCall) -> None:
    node = call.node
    found: dict[Value, Array] = {value: value.data for value in node.present_inputs if value.is_constant}
    for argument, passed in zip(call.kernel.arguments, call.arguments, strict=True):
        if isinstance(argument, InputArgument):
            assert isinstance(passed, Location)
            value = node.input(argument.index)
            found[value] = _read(arena, passed.place, value.type)
    missing = [value.name for value in node.variable_inputs if value not in found]
    assert not missing, f"{call.kernel.name} is not given {missing}"
    results = OPERATORS[node.op].evaluate(node, [None if value is None else found[value] for value in node.inputs])
    for argument, passed in zip(call.kernel.arguments, call.arguments, strict=True):
        if isinstance(argument, ScratchArgument):
            assert isinstance(passed, Location)
            assert isinstance(passed.place, ArenaSlot)
            _write(arena, passed.place, np.full(passed.place.bytes, 0xA5, np.uint8))
    for slot, result in zip(call.outputs, results, strict=True):
        _write(arena, slot, result)


def _check_overlaps(call: KernelCall) -> None:
    """What a call writes overlaps nothing else that it is given, but an input at a distance that its kernel permits."""
    slots = [
        (argument, passed.place)
        for argument, passed in zip(call.kernel.arguments, call.arguments, strict=True)
        if isinstance(passed, Location) and isinstance(passed.place, ArenaSlot)
    ]
    for i, (argument, slot) in enumerate(slots):
        if isinstance(argument, InputArgument):
            continue
        for j, (other, its) in enumerate(slots):
            is_apart = slot.offset + slot.bytes <= its.offset or its.offset + its.bytes <= slot.offset
            is_apart = is_apart or slot.region != its.region
            if i != j and not is_apart:
                distance = slot.offset - its.offset
                where = f"{call.kernel.name}: {argument} begins {distance} bytes after {other}"
                assert argument == OutputArgument(0), where
                assert isinstance(other, InputArgument), where
                assert _is_permitted(call, other.index, distance), where


def _is_permitted(call: KernelCall, index: int, distance: int) -> bool:
    return any(
        (overlap.first is None or overlap.first <= distance) and (overlap.last is None or distance <= overlap.last)
        for overlap in call.kernel.overlaps
        if overlap.input == index
    )


def _write(arena: Memory, slot: ArenaSlot, array: Array) -> None:
    data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    assert len(data) == slot.bytes
    assert slot.offset + slot.bytes <= len(arena[slot.region])
    arena[slot.region][slot.offset : slot.offset + slot.bytes] = data


def _read(arena: Memory, place: ArenaSlot | FlashConstant, kind: TensorType) -> Array:
    if isinstance(place, FlashConstant):
        return place.array
    raw = arena[place.region][place.offset : place.offset + kind.bytes].tobytes()
    return np.frombuffer(raw, DTYPES[kind.dtype]).reshape(kind.shape)
