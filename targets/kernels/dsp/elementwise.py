"""QAdd of two tensors of one shape: two MLA and one SSAT with its shift for each element.

    y = clamp(((a * Ma + b * Mb + c) >> shift)),  c = 2^(shift - 1) - za * Ma - zb * Mb + (zy << shift)

The output's zero point goes into c where the sum still fits 32 bits with it, which is checked here; else it is added
after the shift.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Overlap, Refusal, ScalarArgument
from tinyopt.targets.kernels.dsp.intrinsics import shift_and_saturate
from tinyopt.targets.kernels.dsp.product import ANY_SIZE, clamp_saturated, saturate
from tinyopt.targets.kernels.intrinsic import Intrinsic
from tinyopt.targets.kernels.requantize import INT8_LOW, SSAT8, Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc, call, cast

UNROLLED = 4


@dataclass(frozen=True)
class AddSpec:
    """zero_point_is_folded: the output's is part of the offset."""

    to: Requantization
    zero_point_is_folded: bool

    @property
    def intrinsics(self) -> tuple[Intrinsic, ...]:
        return (shift_and_saturate(self.to.shift),) if self.zero_point_is_folded else (SSAT8,)


def plan_add(node: Node) -> Kernel | Refusal:
    """QAdd of equal shapes."""
    a, b = node.input(0), node.input(1)
    if a.shape != b.shape:
        return Refusal("one of its inputs is broadcast")
    to = Requantization.of(node)
    if to.shift > 31:
        return Refusal("its shift is 32")
    multipliers = node.int("multiplier_a"), node.int("multiplier_b")
    zero_points = zero_point_of(node, a), zero_point_of(node, b)
    offset = (1 << (to.shift - 1)) - sum(m * z for m, z in zip(multipliers, zero_points, strict=True))
    folded = _fits(multipliers, offset + (to.zero_point << to.shift))
    if folded:
        offset += to.zero_point << to.shift
    elif not _fits(multipliers, offset):
        return Refusal("its sum does not fit 32 bits")
    spec = AddSpec(to, folded)
    numbers = (a.type.elements, *multipliers, offset)
    return Kernel(
        template=add,
        spec=spec,
        name="add_ssat",
        arguments=(
            InputArgument(0),
            InputArgument(1),
            OutputArgument(0),
            *(ScalarArgument(number) for number in numbers),
        ),
        intrinsics=spec.intrinsics,
        overlaps=(Overlap.in_place(0),),
    )


def _fits(multipliers: tuple[int, int], offset: int) -> bool:
    """Whether every partial sum of the offset and the products of int8 fits an int32."""
    room = sum(abs(multiplier) * -INT8_LOW for multiplier in multipliers)
    return offset - room >= -(1 << 31) and offset + room < 1 << 31


def add(spec: AddSpec) -> PrimFunc:
    """y = clamp((a * multiplier_a + b * multiplier_b + offset) >> shift), unrolled; parameters as in `plan_add`."""
    kernel = KernelBuilder("add")
    with kernel.function():
        a, b, y = (kernel.buffer(name, "int8", ANY_SIZE) for name in ("a", "b", "y"))
        names = ("elements", "multiplier_a", "multiplier_b", "offset")
        elements, multiplier_a, multiplier_b, offset = (kernel.scalar(name) for name in names)

        def store(place: Expr) -> None:
            total = offset + cast(a[place], "int32") * multiplier_a + cast(b[place], "int32") * multiplier_b
            y[place] = cast(_level(spec, total), "int8")

        quads = kernel.let(elements >> 2)
        with kernel.loop(quads) as quad:
            for place in range(UNROLLED):
                store(quad * UNROLLED + place)
        with kernel.loop(elements & (UNROLLED - 1)) as rest:
            store(quads * UNROLLED + rest)
    return kernel.finish()


def _level(spec: AddSpec, total: Expr) -> Expr:
    if not spec.zero_point_is_folded:
        return saturate((total >> spec.to.shift) + spec.to.zero_point, spec.to)
    return clamp_saturated(call(shift_and_saturate(spec.to.shift), total), spec.to)
