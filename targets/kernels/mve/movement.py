"""Concat, Slice and constant Pad of bytes on Helium, where all they do is copy rows of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import prod

import numpy as np

from tinyopt.ir import Node
from tinyopt.targets.kernel import ConstantArgument, InputArgument, Kernel, OutputArgument, Refusal
from tinyopt.targets.kernels.intrinsic import NAKED
from tinyopt.targets.kernels.mve.limits import ANY_SIZE
from tinyopt.targets.kernels.mve.memory import COPY_ROWS, FILL
from tinyopt.targets.kernels.scalar.loops import Walk, row_major
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc


@dataclass(frozen=True)
class MoveSpec:
    """One copy of each input. is_filled: the output is filled before."""

    inputs: int
    is_filled: bool


@dataclass(frozen=True)
class _Copy:
    """`rows` runs of `run` bytes: from which byte to which, and how far on the next row lies."""

    to: int
    source: int
    rows: int
    run: int
    to_pitch: int
    source_pitch: int


NUMBERS = len(_Copy.__dataclass_fields__)


def plan_concat(node: Node) -> Kernel | Refusal:
    """Concat of int8."""
    if node.output.dtype != "int8":
        return Refusal("its elements are not int8")
    axis = node.int("axis")
    rows, pitch = prod(node.output.shape[:axis]), prod(node.output.shape[axis:])
    runs = [prod(value.shape[axis:]) for value in node.present_inputs]
    return _kernel(node, [_Copy(sum(runs[:n]), 0, rows, run, pitch, run) for n, run in enumerate(runs)])


def plan_slice(node: Node) -> Kernel | Refusal:
    """Slice of int8 that takes neighbouring elements along the last axis."""
    if node.output.dtype != "int8":
        return Refusal("its elements are not int8")
    strides = row_major(node.input(0).shape)
    steps = [stride * step for stride, step in zip(strides, node.ints("steps"), strict=True)]
    start = _dot(node.ints("starts"), strides)
    return _walk_kernel(node, Walk.collapsed(node.output.shape, steps, row_major(node.output.shape)), 0, start)


def plan_pad(node: Node) -> Kernel | Refusal:
    """Pad of int8 with one value."""
    x = node.input(0)
    if x.dtype != "int8" or node.str("mode") != "constant":
        return Refusal("its elements are not int8, or it does not fill in one value")
    strides = row_major(node.output.shape)
    start = _dot(node.ints("pads")[: x.type.rank], strides)
    return _walk_kernel(node, Walk.collapsed(x.shape, row_major(x.shape), strides), start, 0)


def _dot(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _walk_kernel(node: Node, walk: Walk, to: int, source: int) -> Kernel | Refusal:
    *outer, run = walk.sizes
    *source_pitches, source_step = walk.strides[0]
    *to_pitches, to_step = walk.strides[1]
    if len(outer) > 1 or (run > 1 and (source_step, to_step) != (1, 1)):
        return Refusal("it is not a copy of rows")
    rows, to_pitch, source_pitch = (outer[0], to_pitches[0], source_pitches[0]) if outer else (1, 0, 0)
    return _kernel(node, [_Copy(to, source, rows, run, to_pitch, source_pitch)])


def _kernel(node: Node, copies: list[_Copy]) -> Kernel:
    spec = MoveSpec(len(node.present_inputs), node.op == "Pad")
    fill = (round(node.float("value")), node.output.type.elements) if spec.is_filled else ()
    numbers = [*(number for one in copies for number in astuple(one)), *fill]
    return Kernel(
        template=move,
        spec=spec,
        name=f"{node.op.lower()}_mve",
        arguments=(
            *(InputArgument(n) for n in range(spec.inputs)),
            ConstantArgument("parameters", np.array(numbers, np.int32)),
            OutputArgument(0),
        ),
        intrinsics=(NAKED, COPY_ROWS, *((FILL,) if spec.is_filled else ())),
    )


def move(spec: MoveSpec) -> PrimFunc:
    """For each input a copy of rows."""
    kernel = KernelBuilder("move_mve")
    with kernel.function():
        sources = [kernel.buffer(f"x{n}", "int8", ANY_SIZE) for n in range(spec.inputs)]
        parameters = kernel.buffer("parameters", "int32", ANY_SIZE)
        y = kernel.buffer("y", "int8", ANY_SIZE)
        if spec.is_filled:
            value, count = (parameters[spec.inputs * NUMBERS + place] for place in range(2))
            kernel.run(FILL, y.address(), value, count)
        for n, x in enumerate(sources):
            to, source, *shape = (parameters[n * NUMBERS + place] for place in range(NUMBERS))
            kernel.run(COPY_ROWS, y.address(to), x.address(source), *shape)
    return kernel.finish()
