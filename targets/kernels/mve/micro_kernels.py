"""The inner tiles of convolutions and dense layers, in assembly: VMLADAVA adds sixteen products to a core register.

VMLADAVA accumulates into even registers, of which eight are free: r0, r2, r4, r6, r8, r10, r12 and lr. A tile of four
channels and two pixels loads six vectors for eight multiplications; one of eight channels and one pixel loads nine.
What belongs to a group of channels lies in one stream, in the order in which it is read:

    biases (int32) | weights, for each step of 16 places of the depth: 16 of each channel | multipliers (int32)

A *step* is 16 places of the depth. How the depth is walked over, and what `levels` and `walk` hold, stands in tile.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel
from tinyopt.targets.kernels.mve.tile import DENSE_CHANNELS, PAIR_CHANNELS, Tile, dense_meaning, pair_meaning

_FIRST, _SECOND = ("r0", "r2", "r4", "r6"), ("r8", "r10", "r12", "lr")  # accumulators


@dataclass(frozen=True)
class _Lanes:
    """Where the results of a tile are.

    channels: of a group. predicate: sets VPR to the lanes of those that are left. second: how the multipliers of the
    second accumulators get into q3.
    """

    channels: int
    predicate: str
    second: tuple[str, ...]


_PAIR = _Lanes(PAIR_CHANNELS, "vctp.32 r9", ())
_DENSE = _Lanes(DENSE_CHANNELS, "vctp.16 r9", ("vldrw.32 q3, [r1], #16",))

_PARAMETERS = (
    "const int32_t *stream",
    "const int32_t *levels",
    "const int8_t *x0",
    "const int8_t *x1",
    "int32_t walk",
    "int8_t *y",
    "const int8_t *residual",
    "int32_t count",
)


def pair_tile(tile: Tile) -> Intrinsic:
    """All output channels of two pixels, four at a time, and of the following pairs, `count` in all."""
    to_next_row = ("add r3, r3, r7", "add r5, r5, r7")
    row = _pair_steps(tile.steps)
    rows = [*row, *(line for _ in range(tile.rows - 1) for line in (*to_next_row, *row))]
    text = _text(tile, _PAIR, ("ldm r1, {r0, r2, r4, r6}", "ldm r1!, {r8, r10, r12, lr}"), rows)
    return micro_kernel(f"tinyopt_pair_{tile.name}", _PARAMETERS, text, pair_meaning(tile))


def dense_tile(tile: Tile) -> Intrinsic:
    """All output channels of one pixel (x0), eight at a time; in a group the even ones stand before the odd ones.

    `x1` is not used, and `count` is 1.
    """
    text = _text(tile, _DENSE, ("ldm r1!, {r0, r2, r4, r6, r8, r10, r12, lr}",), _dense_steps(tile.steps))
    return micro_kernel(f"tinyopt_dense_{tile.name}", _PARAMETERS, text, dense_meaning(tile))


_REPEAT = {
    "once": (),
    "blocks": ("subs r7, r7, #1", "bne 2b"),
    "unrolled": (),
    "rows": ("sxtah r3, r3, r7", "sxtah r5, r5, r7", "subs r7, r7, #65536", "bhs 2b"),
}


def _text(tile: Tile, lanes: _Lanes, biases: Sequence[str], steps: Sequence[str]) -> str:
    """From group to group of channels, then from pair to pair of pixels.

    r1 is in the stream, r9 the channels left, r11 in y; on the stack are x0, x1, walk, levels behind their vectors,
    residual - y, the stream's begin, and the arguments from the fifth on. Of the last group of channels only those
    that there are get stored.
    """
    lines = (
        "push {r4-r11, lr}",
        "vpush {d8-d15}",
        "vldmia r1!, {d8-d15}",
        "ldrd r4, r11, [sp, #100]",  # walk, y
        "ldr r6, [sp, #108]",  # residual
        "sub r6, r6, r11",
        "mov r5, r1",
        "mov r7, r0",
        "push {r2-r7}",
        "ldr r9, [r5, #16]",  # channels
        "mov r1, r0",
        "1: ldm sp, {r3, r5, r7}",
        *biases,
        "2:",
        *steps,
        *_REPEAT[tile.walk],
        *_ending(tile, lanes),
        f"subs r9, r9, #{lanes.channels}",
        "blt 3f",
        "vstrb.16 q0, [r11, q7]",
        f"add r11, r11, #{lanes.channels}",
        "bgt 1b",
        "b 4f",
        f"3: add r9, r9, #{lanes.channels}",
        lanes.predicate,
        "vpst",
        "vstrbt.16 q0, [r11, q7]",
        "4: ldr r0, [sp, #136]",  # count
        "subs r0, r0, #1",
        "beq 5f",
        "str r0, [sp, #136]",
        "ldr r7, [sp, #12]",
        "ldrd r9, r2, [r7, #16]",  # channels, from pair to pair in x
        "ldr r0, [r7, #24]",  # from here to the next pair in y
        "ldrd r3, r5, [sp]",
        "add r3, r3, r2",
        "add r5, r5, r2",
        "strd r3, r5, [sp]",
        "add r11, r11, r0",
        "ldr r1, [sp, #20]",
        "b 1b",
        "5: add sp, sp, #24",
        "vpop {d8-d15}",
        "pop {r4-r11, pc}",
    )
    return "\n".join(lines)


def _pair_steps(steps: int) -> list[str]:
    lines: list[str] = []
    for _ in range(steps):
        lines += ["vldrb.8 q0, [r3], #16", "vldrb.8 q1, [r5], #16"]
        for place, (first, second) in enumerate(zip(_FIRST, _SECOND, strict=True)):
            weights = f"q{2 + place % 2}"
            lines.append(f"vldrb.8 {weights}, [r1], #16")
            lines += [f"vmladava.s8 {first}, {weights}, q0", f"vmladava.s8 {second}, {weights}, q1"]
    return lines


def _dense_steps(steps: int) -> list[str]:
    lines: list[str] = []
    for _ in range(steps):
        lines.append("vldrb.8 q0, [r3], #16")
        for place, accumulator in enumerate((*_FIRST, *_SECOND)):
            weights = f"q{1 + place % 2}"
            lines += [f"vldrb.8 {weights}, [r1], #16", f"vmladava.s8 {accumulator}, {weights}, q0"]
    return lines


def _ending(tile: Tile, lanes: _Lanes) -> list[str]:
    """The accumulators to levels in the int16 lanes of q0: those of the first registers in the even ones."""
    rescaled = {"high": _high, "shift": _shifted, "residual": _with_residual}[tile.ending](lanes)
    return [*rescaled, "vqadd.s16 q0, q0, q4", "vmax.s16 q0, q0, q5", "vmin.s16 q0, q0, q6"]


_NARROW = ("vqmovnb.s32 q0, q0", "vqmovnt.s32 q0, q1")


def _moved(vector: str, registers: Sequence[str]) -> list[str]:
    a, b, c, d = registers
    return [f"vmov {vector}[2], {vector}[0], {a}, {c}", f"vmov {vector}[3], {vector}[1], {b}, {d}"]


def _high(lanes: _Lanes) -> list[str]:
    """(accumulator * multiplier + 2^31) >> 32."""
    return [
        *_moved("q0", _FIRST),
        *_moved("q1", _SECOND),
        "vldrw.32 q3, [r1], #16",
        "vrmulh.s32 q0, q0, q3",
        *lanes.second,
        "vrmulh.s32 q1, q1, q3",
        *_NARROW,
    ]


def _shifted(lanes: _Lanes) -> list[str]:
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
    moved = [*_moved("q0", _FIRST), *_moved("q1", _SECOND)]
    return [*moved, *load, *rescaled("q0"), *lanes.second, *rescaled("q1"), *_NARROW]


def _with_residual(lanes: _Lanes) -> list[str]:
    """(accumulator * multiplier + ((residual - zero point) << shift) * residual multiplier + 2^31) >> 32."""
    return [
        "ldr r3, [sp, #12]",
        "ldr r7, [sp, #16]",
        "add r7, r7, r11",
        lanes.predicate,
        "vpst",
        "vldrbt.s16 q2, [r7, q7]",
        "ldrd r5, r7, [r3]",
        "vsub.i16 q2, q2, r7",
        "ldr r7, [r3, #8]",
        "vshl.s16 q2, r7",
        "vdup.32 q1, r5",
        "vldrw.32 q3, [r1], #16",
        *_moved("q0", _FIRST),
        "vmovlb.s16 q5, q2",
        *_two_products("q0", "q4", "q5", "q6"),
        "vqmovnb.s32 q0, q0",
        *lanes.second,
        *_moved("q4", _SECOND),
        "vmovlt.s16 q2, q2",
        *_two_products("q4", "q5", "q2", "q6"),
        "vqmovnt.s32 q0, q4",
        "sub r3, r3, #64",
        "vldmia r3, {d8-d13}",
    ]


def _two_products(accumulator: str, low: str, residual: str, residual_low: str) -> list[str]:
    """accumulator = (accumulator * q3 + residual * r5 + 2^31) >> 32, r5 also being in all lanes of q1.

    The lower halves are added at half their size; rounded to units of 2^31 they carry 0, 1 or 2.
    """
    return [
        f"vmul.i32 {low}, {accumulator}, q3",
        f"vmulh.s32 {accumulator}, {accumulator}, q3",
        f"vmul.i32 {residual_low}, {residual}, r5",
        f"vmulh.s32 {residual}, {residual}, q1",
        f"vhadd.u32 {low}, {low}, {residual_low}",
        f"vrshr.u32 {low}, {low}, #31",
        f"vadd.i32 {accumulator}, {accumulator}, {residual}",
        f"vadd.i32 {accumulator}, {accumulator}, {low}",
    ]
