"""How the assembly tiles get from accumulators to int8 levels in int16 lanes.

Eight accumulators become the lanes of q0: the first four the even ones, the second four the odd ones. Where a tile
holds no pixels in vectors (see micro_kernels.py), q4 has the lanes' places in memory, q5 the zero point, and q6 and q7
the limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyopt.targets.kernels.mve.tile import DENSE_CHANNELS, PAIR_CHANNELS, Finish

FIRST, SECOND = ("r0", "r2", "r4", "r6"), ("r8", "r10", "r12", "lr")  # accumulators


@dataclass(frozen=True)
class Lanes:
    """Where the results of a tile are.

    channels: of a group. predicate: sets VPR to the lanes of those that are left. second: how the multipliers of the
    second accumulators get into q3.
    """

    channels: int
    predicate: str
    second: tuple[str, ...]


PAIR = Lanes(PAIR_CHANNELS, "vctp.32 r9", ())
DENSE = Lanes(DENSE_CHANNELS, "vctp.16 r9", ("vldrw.32 q3, [r1], #16",))

_NARROW = ("vqmovnb.s32 q0, q0", "vqmovnt.s32 q0, q1")
_LIMIT = ("vmax.s16 q0, q0, q6", "vmin.s16 q0, q0, q7")
_SATURATE = ("vqmovnb.s16 q0, q0",)  # the lanes' lower bytes are what is stored


def ending(finish: Finish, lanes: Lanes) -> list[str]:
    """For tiles that hold no pixels in vectors."""
    saturate = () if finish.is_int16 else _SATURATE  # to int16 it is done
    limit = _LIMIT if finish.is_clamped else saturate
    if finish.ending == "short_residual":
        return [*_with_short_residual(lanes), *limit]
    rescaled = {"high": _high, "shift": _shifted, "residual": _with_residual}[finish.ending](finish, lanes)
    return [*rescaled, "vqadd.s16 q0, q0, q5", *limit]


def ending_of_held() -> list[str]:
    """For tiles that hold pixels in q4 to q7: shift 32, the zero point in r7, no limits but those of int8."""
    return [
        *_moved("q0", FIRST),
        *_moved("q1", SECOND),
        "vldrw.32 q2, [r1], #16",
        "vrmulh.s32 q0, q0, q2",
        "vrmulh.s32 q1, q1, q2",
        *_NARROW,
        "vqadd.s16 q0, q0, r7",
        *_SATURATE,
    ]


def _moved(vector: str, registers: Sequence[str]) -> list[str]:
    a, b, c, d = registers
    return [f"vmov {vector}[2], {vector}[0], {a}, {c}", f"vmov {vector}[3], {vector}[1], {b}, {d}"]


def _high(_: Finish, lanes: Lanes) -> list[str]:
    """(accumulator * multiplier + 2^31) >> 32."""
    return [
        *_moved("q0", FIRST),
        *_moved("q1", SECOND),
        "vldrw.32 q3, [r1], #16",
        "vrmulh.s32 q0, q0, q3",
        *lanes.second,
        "vrmulh.s32 q1, q1, q3",
        *_NARROW,
    ]


def _shifted(_: Finish, lanes: Lanes) -> list[str]:
    """(accumulator * multiplier + 2^(shift - 1)) >> shift: the upper half shifted up, the lower one down."""

    def rescaled(vector: str) -> list[str]:
        return [
            f"vmul.i32 q2, {vector}, q3",
            f"vmulh.s32 {vector}, {vector}, q3",
            f"vqshl.s32 {vector}, r0",
            "vrshl.u32 q2, r2",
            f"vqadd.s32 {vector}, {vector}, q2",
        ]

    load = ["ldr r0, [sp, #12]", "ldrd r0, r2, [r0]", "vldrw.32 q3, [r1], #16"]
    moved = [*_moved("q0", FIRST), *_moved("q1", SECOND)]
    return [*moved, *load, *rescaled("q0"), *lanes.second, *rescaled("q1"), *_NARROW]


def _with_residual(finish: Finish, lanes: Lanes) -> list[str]:
    """(accumulator * multiplier + ((residual - zero point) << shift) * residual multiplier + 2^31) >> 32."""
    shift = finish.residual_shift
    bottom, top = (
        (f"vshllb.s16 q5, q2, #{shift}", f"vshllt.s16 q2, q2, #{shift}")
        if shift
        else ("vmovlb.s16 q5, q2", "vmovlt.s16 q2, q2")
    )
    return [
        "ldrd r3, r7, [sp, #12]",  # levels, residual - y
        "add r7, r7, r11",
        lanes.predicate,
        "vpst",
        "vldrbt.s16 q2, [r7, q4]",
        "vldmia r3, {d10-d13}",  # the residual's zero point and multiplier
        "vsub.i16 q2, q2, q5",
        "vldrw.32 q3, [r1], #16",
        *_moved("q0", FIRST),
        bottom,
        *_two_products("q0", "q1", "q5", "q7"),
        "vqmovnb.s32 q0, q0",
        *lanes.second,
        *_moved("q1", SECOND),
        top,
        *_two_products("q1", "q5", "q2", "q7"),
        "vqmovnt.s32 q0, q1",
        "vldmdb r3!, {d10-d15}" if finish.is_clamped else "vldrw.32 q5, [r3, #-48]",
    ]


def _with_short_residual(lanes: Lanes) -> list[str]:
    """The upper half of (accumulator * multiplier >> 16) + residual * residual multiplier + what is added to all.

    VQDMLASH: (accumulator << shift) * (multiplier << 15 - shift) >> 31, to which it adds the scalar.
    """
    return [
        "ldrd r3, r7, [sp, #12]",  # levels, residual - y
        "add r7, r7, r11",
        lanes.predicate,
        "vpst",
        "vldrbt.s16 q2, [r7, q4]",
        *_moved("q1", FIRST),
        *_moved("q0", SECOND),
        "ldm r3, {r0, r2, r4}",  # the residual's multiplier, what is added, the accumulators' shift
        "vldrw.32 q3, [r1], #16",
        "vshl.s32 q1, r4",
        "vqdmlash.s32 q1, q3, r2",
        "vmovlb.s16 q5, q2",
        "vmla.s32 q1, q5, r0",
        *lanes.second,
        "vshl.s32 q0, r4",
        "vqdmlash.s32 q0, q3, r2",
        "vmovlt.s16 q2, q2",
        "vmla.s32 q0, q2, r0",
        "vsri.32 q0, q1, #16",
    ]


def _two_products(accumulator: str, low: str, residual: str, residual_low: str) -> list[str]:
    """accumulator = (accumulator * q3 + residual * q6 + 2^31) >> 32.

    The lower halves are added at half their size; rounded to units of 2^31 they carry 0, 1 or 2.
    """
    return [
        f"vmul.i32 {low}, {accumulator}, q3",
        f"vmulh.s32 {accumulator}, {accumulator}, q3",
        f"vmul.i32 {residual_low}, {residual}, q6",
        f"vmulh.s32 {residual}, {residual}, q6",
        f"vhadd.u32 {low}, {low}, {residual_low}",
        f"vrshr.u32 {low}, {low}, #31",
        f"vadd.i32 {accumulator}, {accumulator}, {residual}",
        f"vadd.i32 {accumulator}, {accumulator}, {low}",
    ]
