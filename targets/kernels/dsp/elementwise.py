"""QAdd, QMul and QLookup: loops over elements, from the first to the last.

    y = clamp((a * Ma + b * Mb + c) >> shift),  c = 2^(shift - 1) - za * Ma - zb * Mb + (zy << shift)

The output's zero point goes into c where the sum still fits 32 bits with it, which is checked here; else it is added
after the shift. Loops over whole blocks are in assembly (see `elementwise_micro_kernels`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Overlap, Refusal, ScalarArgument
from tinyopt.targets.kernels.dsp.broadcasting import Operands, Rows
from tinyopt.targets.kernels.dsp.elementwise_micro_kernels import BLOCK, LOOKUP, add_block, multiply_block
from tinyopt.targets.kernels.dsp.intrinsics import shift_and_saturate
from tinyopt.targets.kernels.dsp.product import ANY_SIZE, clamp_saturated, saturate
from tinyopt.targets.kernels.intrinsic import NAKED, Intrinsic
from tinyopt.targets.kernels.requantize import (
    INT8_HIGH,
    INT8_LOW,
    SMMLAR,
    SMMLAR_INTRINSICS,
    SSAT8,
    Requantization,
    zero_point_of,
)
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc, call, cast, constant

LARGEST_SHIFT = 22  # multipliers below 2^21 have this one or less
_MULTIPLIER_LIMIT = 1 << 23  # of the micro-kernel


@dataclass(frozen=True)
class AddSpec:
    """zero_point_is_folded: the output's is part of the offset; then `to` has none, so that more nodes are alike."""

    to: Requantization
    zero_point_is_folded: bool

    @property
    def is_clamped(self) -> bool:
        """Whether the saturation to int8 is not enough."""
        return (self.to.low, self.to.high) != (INT8_LOW, INT8_HIGH)

    @property
    def intrinsics(self) -> tuple[Intrinsic, ...]:
        if not self.zero_point_is_folded:
            return (SSAT8,)
        return (NAKED, add_block(self.to.shift, self.is_clamped), shift_and_saturate(self.to.shift))


def plan_add(node: Node) -> Kernel | Refusal:
    """QAdd of equal shapes, or of a tensor and the end of its shape."""
    rows = Rows.of(node)
    if isinstance(rows, Refusal):
        return rows
    to = Requantization.of(node)
    if to.shift > 31:
        return Refusal("its shift is 32")
    multipliers = node.int("multiplier_a"), node.int("multiplier_b")
    zero_points = (zero_point_of(node, node.input(index)) for index in range(2))
    offset = (1 << (to.shift - 1)) - sum(m * z for m, z in zip(multipliers, zero_points, strict=True))
    folded = _fits(multipliers, offset + (to.zero_point << to.shift))
    if folded:
        offset += to.zero_point << to.shift
        to = replace(to, zero_point=0)
    elif not _fits(multipliers, offset):
        return Refusal("its sum does not fit 32 bits")
    while folded and to.shift < LARGEST_SHIFT and _fits((2 * multipliers[0], 2 * multipliers[1]), 2 * offset):
        multipliers, offset = (2 * multipliers[0], 2 * multipliers[1]), 2 * offset  # so that more nodes share a shift
        to = replace(to, shift=to.shift + 1)
    spec = AddSpec(to, folded)
    numbers = (multipliers[rows.whole], multipliers[1 - rows.whole], offset)
    return Kernel(add, spec, "add_ssat", rows.arguments(*numbers), spec.intrinsics, rows.overlaps)


def _fits(multipliers: tuple[int, int], offset: int) -> bool:
    """Whether the multipliers are small enough, and every partial sum of offset and products of int8 fits an int32."""
    if max(abs(multiplier) for multiplier in multipliers) >= _MULTIPLIER_LIMIT:
        return False
    room = sum(abs(multiplier) * -INT8_LOW for multiplier in multipliers)
    return offset - room >= -(1 << 31) and offset + room < 1 << 31


def add(spec: AddSpec) -> PrimFunc:
    """y = clamp((a * multiplier_a + b * multiplier_b + offset) >> shift)."""
    kernel = KernelBuilder("add")
    with kernel.function():
        operands = Operands.declare(kernel)
        multiplier_a, multiplier_b, offset = (operands.number(place) for place in range(3))
        limits = _limits(spec.to) if spec.is_clamped else ()

        def block(a: Expr, b: Expr, y: Expr, blocks: Expr) -> None:
            micro = add_block(spec.to.shift, spec.is_clamped)
            kernel.run(micro, a, b, y, blocks, multiplier_a, multiplier_b, offset, *limits)

        def level(a: Expr, b: Expr) -> Expr:
            return _level(spec, offset + a * multiplier_a + b * multiplier_b)

        operands.for_rows(kernel, block if spec.zero_point_is_folded else None, level)
    return kernel.finish()


def _limits(to: Requantization) -> tuple[Expr, Expr]:
    """Low and high in each byte of a word."""
    low, high = (int.from_bytes(bytes([level & 0xFF] * 4), "little", signed=True) for level in (to.low, to.high))
    return constant(low, "int32"), constant(high, "int32")


def _level(spec: AddSpec, total: Expr) -> Expr:
    if not spec.zero_point_is_folded:
        return saturate((total >> spec.to.shift) + spec.to.zero_point, spec.to)
    return clamp_saturated(call(shift_and_saturate(spec.to.shift), total), spec.to)


@dataclass(frozen=True)
class MulSpec:
    """The shift is 32."""

    to: Requantization

    @property
    def is_clamped(self) -> bool:
        """Whether the saturation to int8 is not enough."""
        return (self.to.low, self.to.high) != (INT8_LOW, INT8_HIGH)


def plan_mul(node: Node) -> Kernel | Refusal:
    """QMul of equal shapes, or of a tensor and the end of its shape."""
    rows = Rows.of(node)
    if isinstance(rows, Refusal):
        return rows
    to = Requantization.of(node)
    if to.shift != 32:
        return Refusal("its shift is not 32")
    spec = MulSpec(replace(to, zero_point=0))
    zero_points = [zero_point_of(node, node.input(index)) for index in (rows.whole, 1 - rows.whole)]
    arguments = rows.arguments(*(-zero_point for zero_point in zero_points), node.int("multiplier"), to.zero_point)
    intrinsics = (NAKED, multiply_block(spec.is_clamped), *SMMLAR_INTRINSICS)
    return Kernel(multiply, spec, "mul_smmlar", arguments, intrinsics, rows.overlaps)


def multiply(spec: MulSpec) -> PrimFunc:
    """y = clamp(round((a - za) * (b - zb) * multiplier / 2^32) + zy)."""
    kernel = KernelBuilder("mul")
    with kernel.function():
        operands = Operands.declare(kernel)
        minus_a, minus_b, multiplier, zero_point = (operands.number(place) for place in range(4))
        limits = _limits(spec.to) if spec.is_clamped else ()

        def block(a: Expr, b: Expr, y: Expr, blocks: Expr) -> None:
            micro = multiply_block(spec.is_clamped)
            kernel.run(micro, a, b, y, blocks, minus_a, minus_b, multiplier, zero_point, *limits)

        def level(a: Expr, b: Expr) -> Expr:
            return saturate(call(SMMLAR, (a + minus_a) * (b + minus_b), multiplier, zero_point), spec.to)

        operands.for_rows(kernel, block, level)
    return kernel.finish()


@dataclass(frozen=True)
class LookupSpec:
    """Nothing of it need be known when it is compiled."""


def plan_lookup(node: Node) -> Kernel | Refusal:
    """QLookup."""
    return Kernel(
        template=lookup,
        spec=LookupSpec(),
        name="lookup_words",
        arguments=(InputArgument(0), InputArgument(1), OutputArgument(0), ScalarArgument(node.output.type.elements)),
        intrinsics=(NAKED, LOOKUP),
        overlaps=(Overlap.forward(0),),
    )


def lookup(_spec: LookupSpec) -> PrimFunc:
    """y = table[x + 128]."""
    kernel = KernelBuilder("lookup")
    with kernel.function():
        x, table, y = (kernel.buffer(name, "int8", ANY_SIZE) for name in ("x", "table", "y"))
        elements = kernel.scalar("elements")
        blocks = kernel.let(elements >> 3)
        kernel.run(LOOKUP, x.address(), table.address(128), y.address(), blocks)
        done = kernel.let(blocks * BLOCK)
        with kernel.loop(elements - done, start=done) as place:
            y[place] = table[cast(x[place], "int32") + 128]
    return kernel.finish()
