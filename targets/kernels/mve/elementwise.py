"""Operators on elements of equal shape on Helium: QAdd, QMul, QLookup. They run from the first element to the last.

    QAdd  y = clamp((a * Ma + b * Mb + c + 2^(shift - 1)) >> shift),  c = (zy << shift) - za * Ma - zb * Mb

Shifts of 17 to 24, which is what scales of one size give, are done by two narrowings: 16 bits, which leaves what fits
int16 exactly, then the rest, which rounds and saturates. Any other shift, and a zero point that does not fit the sum,
takes the longer way. All numbers but that shift are run-time arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import (
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Overlap,
    Refusal,
    ScalarArgument,
)
from tinyopt.targets.kernels.intrinsic import NAKED, Intrinsic
from tinyopt.targets.kernels.mve.elementwise_loops import ADD, LOOK_UP, add_narrowing, multiply
from tinyopt.targets.kernels.mve.limits import ANY_SIZE
from tinyopt.targets.kernels.requantize import INT8_LOW, Requantization, zero_point_of
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc

LANES = 16
NARROWED = range(17, 25)  # shifts of two narrowings


@dataclass(frozen=True)
class AddSpec:
    """narrowed_shift: by how much the two narrowings shift; 0 where the shift is a run-time argument."""

    narrowed_shift: int

    @property
    def loop(self) -> Intrinsic:
        return add_narrowing(self.narrowed_shift) if self.narrowed_shift else ADD


@dataclass(frozen=True)
class MultiplySpec:
    """is_shifted: the shift is below 32."""

    is_shifted: bool

    @property
    def loop(self) -> Intrinsic:
        return multiply(self.is_shifted)


@dataclass(frozen=True)
class LookupSpec:
    """QLookup; everything is a run-time argument."""


def plan_add(node: Node) -> Kernel | Refusal:
    """QAdd of equal shapes."""
    if (refusal := _refusal(node)) is not None:
        return refusal
    to = Requantization.of(node)
    multipliers = node.int("multiplier_a"), node.int("multiplier_b")
    zero_points = zero_point_of(node, node.input(0)), zero_point_of(node, node.input(1))
    centre = -sum(m * z for m, z in zip(multipliers, zero_points, strict=True))
    offset = centre + (1 << (to.shift - 1))
    folded = centre + (to.zero_point << to.shift)
    elements = node.output.type.elements
    if to.shift in NARROWED and _fits(multipliers, folded):
        transposed = np.arange(LANES).reshape(4, 4).T.astype(np.uint8).reshape(-1)
        clamp = np.repeat(np.array([to.low, to.high], np.int8), LANES)
        numbers = [elements // LANES, elements % LANES, *multipliers, folded, 0, 0, 0]
        vectors = np.concatenate([clamp.view(np.int32), transposed.view(np.int32)])
        return _binary(node, "add_mve", AddSpec(to.shift), np.concatenate([np.array(numbers, np.int32), vectors]))
    if to.shift > 31 or not _fits(multipliers, offset):
        return Refusal("its sum does not fit 32 bits")
    numbers = [elements, -to.shift, *multipliers, offset, to.zero_point, to.low, to.high]
    return _binary(node, "add_mve", AddSpec(0), np.array(numbers, np.int32))


def _fits(multipliers: tuple[int, int], offset: int) -> bool:
    """Whether the sum of the offset and the products of int8 fits an int32."""
    room = sum(abs(multiplier) * -INT8_LOW for multiplier in multipliers)
    return offset - room >= -(1 << 31) and offset + room < 1 << 31


def plan_multiply(node: Node) -> Kernel | Refusal:
    """QMul of equal shapes."""
    if (refusal := _refusal(node)) is not None:
        return refusal
    to = Requantization.of(node)
    left_shift = 32 - to.shift
    if 255 * 255 << left_shift >= 1 << 31:
        return Refusal("its products are too large for their shift")
    zero_points = (-zero_point_of(node, node.input(0)), -zero_point_of(node, node.input(1)))
    numbers = [
        *zero_points,
        node.int("multiplier"),
        to.zero_point,
        to.low,
        to.high,
        node.output.type.elements,
        left_shift,
    ]
    return _binary(node, "multiply_mve", MultiplySpec(left_shift > 0), np.array(numbers, np.int32))


def _refusal(node: Node) -> Refusal | None:
    if node.input(0).shape != node.input(1).shape:
        return Refusal("one of its inputs is broadcast")
    return None


def _binary(node: Node, name: str, spec: AddSpec | MultiplySpec, parameters: Array) -> Kernel:
    inputs = [index for index in (0, 1) if not node.input(index).is_constant]
    return Kernel(
        template=binary,
        spec=spec,
        name=name,
        arguments=(InputArgument(0), InputArgument(1), OutputArgument(0), ConstantArgument("parameters", parameters)),
        intrinsics=(NAKED, spec.loop),
        overlaps=tuple(Overlap.forward(index) for index in inputs),
    )


def binary(spec: AddSpec | MultiplySpec) -> PrimFunc:
    """One loop over all elements of a and b."""
    kernel = KernelBuilder("binary_mve")
    with kernel.function():
        a, b, y = (kernel.buffer(name, "int8", ANY_SIZE) for name in ("a", "b", "y"))
        parameters = kernel.buffer("parameters", "int32", ANY_SIZE)
        kernel.run(spec.loop, a.address(), b.address(), y.address(), parameters.address())
    return kernel.finish()


def plan_lookup(node: Node) -> Kernel | Refusal:
    """QLookup: sixteen bytes gathered from the table at once."""
    table = np.roll(node.input(1).data, LANES * 8)  # its index becomes the byte's value without a sign
    return Kernel(
        template=look_up,
        spec=LookupSpec(),
        name="lookup_mve",
        arguments=(
            InputArgument(0),
            ConstantArgument("table", table),
            OutputArgument(0),
            ScalarArgument(node.output.type.elements),
        ),
        intrinsics=(NAKED, LOOK_UP),
        overlaps=(Overlap.forward(0),),
    )


def look_up(_spec: LookupSpec) -> PrimFunc:
    """One loop over all elements."""
    kernel = KernelBuilder("lookup_mve")
    with kernel.function():
        x, table, y = (kernel.buffer(name, "int8", ANY_SIZE) for name in ("x", "table", "y"))
        elements = kernel.scalar("elements")
        kernel.run(LOOK_UP, table.address(), x.address(), y.address(), elements)
    return kernel.finish()
