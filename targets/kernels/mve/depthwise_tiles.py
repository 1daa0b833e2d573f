"""Micro-kernels of the depthwise convolution: four output pixels of one channel at a time, the window in the lanes.

A gather reads 16 cells of one channel, and VMLADAV multiplies them with 16 weights, zero where a cell lies outside the
window, and adds up: one instruction for all taps of a window of up to 16 cells.

- square: one gather holds the windows of all four outputs (3 x 3 with stride 1: 4 x 4 cells for 2 x 2 outputs),
  which take four vectors of weights.
- row: each of four neighbouring outputs has cells of its own (3 x 3 with stride 2); the weights are the same.
- chunks: larger windows. The cells of all four outputs are taken by sixteens, and the sums wait in memory.

The cells lie as `PAIR_ROWS` makes them: halfwords of two rows, so that a gather takes eight offsets. Weights are packed
without gaps behind a zero; *patterns* say for each lane which of these bytes it wants.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel

PLACE = Intrinsic(
    name="tinyopt_place_tile",
    result="void",
    headers=("stdint.h",),
    c_text="""\
static inline void tinyopt_place_tile(void *place, const void *cells, int32_t output) {
  ((int32_t *)place)[0] = (int32_t)(uintptr_t)cells;
  ((int32_t *)place)[1] = output;
}
""",
    meaning=lambda places, cells, output: places.append((cells, output)),
)

KINDS = ("square", "row", "chunks")

_PARAMETERS = (
    "const void *places",
    "const void *setting",
    "const int8_t *taps",
    "const int32_t *factors",
    "int8_t *target",
    "int32_t tiles",
    "int32_t channels",
    "const int32_t *numbers",
)

# numbers: zero point, bytes of a channel's taps, left shift, kind (its place in KINDS)
# r0 places, r1 setting, r2 taps, r3 factors, r9 zero point, r11 channels still to do; [sp, #104] tiles
_BEGIN = """
    push {r4-r11, lr}
    vpush {d8-d15}
    ldr r4, [sp, #100]  @ target
    ldrd r11, r9, [sp, #108]  @ channels, numbers
    ldr r12, [r9, #12]  @ kind
    ldr r9, [r9]
"""

_END = """
    vpop {d8-d15}
    pop {r4-r11, pc}
"""

# r7 bias, q1 multiplier, lr tiles, r12 places
_BEGIN_CHANNEL = """
    ldrd r7, r4, [r3], #8
    vdup.32 q1, r4
    ldr lr, [sp, #104]
    mov r12, r0
    dls lr, lr
"""

_SUMS = """
    vmov q3[2], q3[0], r4, r8
    vmov q3[3], q3[1], r6, r10
"""

_PRODUCTS = f"""
    vmladav.s8 r4, q3, q4
    vmladav.s8 r6, q3, q5
    vmladav.s8 r8, q3, q6
    vmladav.s8 r10, q3, q7
    {_SUMS}
"""

_NARROW = """
    vadd.i32 q3, q3, r9
    vqmovnb.s16 q3, q3
"""

_WIDE = """
    vadd.i32 q3, q3, r9
    vqmovnb.s32 q3, q3
    vqmovnb.s16 q3, q3
"""

# the multiplier's register is needed, and filled again
_CLAMPED = """
    vadd.i32 q3, q3, r9
    vldrw.u32 q1, [r1, #{low}]
    vmax.s32 q3, q3, q1
    vldrw.u32 q1, [r1, #{high}]
    vmin.s32 q3, q3, q1
    ldr r4, [r3, #-4]
    vdup.32 q1, r4
"""

_END_CHANNEL = """
    ldr r4, [sp, #112]
    ldr r4, [r4, #4]  @ bytes of taps
    add r2, r2, r4
    mov r4, #1
    vadd.i32 q2, q2, r4
    subs r11, #1
    bne 1b
"""

_MULTIPLY_SHIFTED = """
    ldr r4, [sp, #112]
    ldr r4, [r4, #8]  @ left shift
    vshl.s32 q3, r4
    vrmulh.s32 q3, q3, q1
"""


@dataclass(frozen=True)
class Ending:
    """What follows a sum.

    is_shifted: the shift is below 32. is_clamped: to less than the int8 range. is_wide: levels may exceed int16.
    """

    is_shifted: bool
    is_clamped: bool
    is_wide: bool

    @property
    def name(self) -> str:
        return "".join(f"_{name}" for name in ("shifted", "clamped", "wide") if getattr(self, f"is_{name}"))

    def assembly(self, clamp: int) -> str:
        """clamp: where the vectors of low and high lie in the setting."""
        multiply = _MULTIPLY_SHIFTED if self.is_shifted else "vrmulh.s32 q3, q3, q1\n"
        if self.is_clamped:
            return multiply + _CLAMPED.format(low=clamp, high=clamp + 16)
        return multiply + (_WIDE if self.is_wide else _NARROW)


def _requantized(ending: Ending, acc: int, factor: int, zero_point: int, shift: int, limits: Array) -> int:
    level = (((acc << (shift if ending.is_shifted else 0)) * factor + (1 << 31)) >> 32) + zero_point
    low, high = (int(limits[0]), int(limits[4])) if ending.is_clamped else (-128, 127)
    return min(max(level, low), high)


@dataclass(frozen=True)
class _Setting:
    """What the bytes of a setting say. gathers, patterns: for each chunk and output; fewer where they are the same."""

    gathers: Array
    patterns: Array
    scatter: Array
    limits: Array

    @classmethod
    def of(cls, kind: str, data: Array, chunks: int) -> _Setting:
        if kind == "square":
            gathers, scatter, patterns, limits = data[:16], data[16:32], data[32:96], data[96:]
        elif kind == "row":
            gathers, scatter, patterns, limits = data[:64], data[64:80], data[80:96], data[96:]
        else:
            parts = data[48 : 48 + 80 * chunks].reshape(chunks, 80)
            limits, scatter, gathers, patterns = data[:32], data[32:48], parts[:, :16], parts[:, 16:]
        offsets = np.ascontiguousarray(gathers).view(np.uint16).reshape(chunks, -1, 8)
        return cls(offsets, patterns.reshape(chunks, -1, 16), scatter.view(np.int32), limits.view(np.int32))

    def sum(self, output: int, cells: Array, taps: Array) -> int:
        total = 0
        for gathers, patterns in zip(self.gathers, self.patterns, strict=True):
            offsets = gathers[output % len(gathers)].astype(np.int64)
            x = np.stack([cells[offsets], cells[offsets + 1]], axis=-1).reshape(-1)
            total += int(x.astype(np.int64) @ taps[patterns[output % len(patterns)].astype(np.int64)].astype(np.int64))
        return total


def _compute_tiles(ending: Ending, *arguments: Any) -> None:
    """places: for each tile the cells as an array, and where its output begins."""
    places, data, taps, factors, target, tiles, channels, numbers, *more = arguments
    zero_point, tap_bytes, left_shift, kind = (int(number) for number in numbers[:4])
    setting = _Setting.of(KINDS[kind], data, more[1] if more else 1)
    for channel in range(channels):
        bias, factor = (int(value) for value in factors[2 * channel : 2 * channel + 2])
        for (cells, output), n in product(places[:tiles], range(4)):
            acc = setting.sum(n, cells[2 * channel :], taps[channel * tap_bytes :]) + bias
            level = _requantized(ending, acc, factor, zero_point, left_shift, setting.limits)
            target[output + int(setting.scatter[n]) + channel] = level


def gather_tiles(ending: Ending) -> Intrinsic:
    """Windows whose cells one gather holds, in one of two ways.

    Square: all four outputs share the gather. setting: gather offsets (8 uint16), scatter offsets (4 int32), four
    patterns (16 uint8), low, high (4 int32). Row: each output has its own; four times gather offsets, scatter offsets,
    one pattern, low, high.
    """
    return micro_kernel(
        f"tinyopt_mve_gather_tiles{ending.name}",
        _PARAMETERS,
        f"""{_BEGIN}
        cmp r12, #0
        bne 9f
        {_square(ending)}
        {_END}
        9:
        {_row(ending)}
        {_END}
        """,
        lambda *arguments: _compute_tiles(ending, *arguments),
    )


def _square(ending: Ending) -> str:
    patterns = "".join(f"vldrb.u8 q3, [r1, #{32 + 16 * n}]\nvldrb.u8 q{4 + n}, [r2, q3]\n" for n in range(4))
    return f"""
        vldrh.u16 q0, [r1]
        vldrw.u32 q2, [r1, #16]
        vadd.i32 q2, q2, r4
        1:
        {patterns}
        {_BEGIN_CHANNEL}
        2:
        ldrd r4, r5, [r12], #8
        vldrh.u16 q3, [r4, q0]
        {_PRODUCTS}
        vadd.i32 q3, q3, r7
        {ending.assembly(96)}
        vstrb.32 q3, [r5, q2]
        le lr, 2b
        mov r4, #2
        vadd.i16 q0, q0, r4
        {_END_CHANNEL}
    """


def _row(ending: Ending) -> str:
    gathers = {0: 0, 5: 16, 6: 32, 7: 48}  # registers, and where their offsets lie
    load = "".join(f"vldrh.u16 q{register}, [r1, #{at}]\n" for register, at in gathers.items())
    move = "".join(f"vadd.i16 q{register}, q{register}, r4\n" for register in gathers)
    products = "".join(
        f"vldrh.u16 q3, [r10, q{register}]\nvmladav.s8 r{sum_}, q3, q4\n"
        for register, sum_ in zip(gathers, (4, 6, 8, 10), strict=True)
    )
    return f"""
        {load}
        vldrw.u32 q2, [r1, #64]
        vadd.i32 q2, q2, r4
        1:
        vldrb.u8 q3, [r1, #80]
        vldrb.u8 q4, [r2, q3]
        {_BEGIN_CHANNEL}
        2:
        ldrd r10, r5, [r12], #8
        {products}
        {_SUMS}
        vadd.i32 q3, q3, r7
        {ending.assembly(96)}
        vstrb.32 q3, [r5, q2]
        le lr, 2b
        mov r4, #2
        {move}
        {_END_CHANNEL}
    """


def chunk_tiles(ending: Ending) -> Intrinsic:
    """setting: low, high (4 int32), scatter offsets (4 int32), then for each chunk gather offsets and four patterns."""
    patterns = "".join(f"vldrb.u8 q3, [r5, #{16 + 16 * n}]\nvldrb.u8 q{4 + n}, [r2, q3]\n" for n in range(4))
    for_each_tile = """
        ldr r7, [sp, #116]  @ sums
        ldr lr, [sp, #104]
        mov r12, r0
        dls lr, lr
    """
    return micro_kernel(
        f"tinyopt_mve_chunk_tiles{ending.name}",
        (*_PARAMETERS, "void *sums", "int32_t chunks"),
        f"""{_BEGIN}
        vldrw.u32 q2, [r1, #32]
        vadd.i32 q2, q2, r4
        1:
        ldr r4, [r3]  @ bias
        vdup.32 q3, r4
        {for_each_tile}
        2:
        vstrw.32 q3, [r7], #16
        le lr, 2b
        add r5, r1, #48
        ldr r9, [sp, #120]  @ chunks
        3:
        vldrh.u16 q0, [r5]
        ldr r4, [sp, #108]
        sub r4, r4, r11
        lsl r4, r4, #1  @ offset of the channel's halfwords
        vadd.i16 q0, q0, r4
        {patterns}
        {for_each_tile}
        4:
        ldr r4, [r12], #8
        vldrh.u16 q3, [r4, q0]
        {_PRODUCTS}
        vldrw.u32 q1, [r7]
        vadd.i32 q3, q3, q1
        vstrw.32 q3, [r7], #16
        le lr, 4b
        add r5, r5, #80
        subs r9, #1
        bne 3b
        ldr r4, [r3, #4]
        vdup.32 q1, r4
        add r3, r3, #8
        ldr r9, [sp, #112]
        ldr r9, [r9]  @ zero point
        {for_each_tile}
        5:
        ldrd r4, r5, [r12], #8
        vldrw.u32 q3, [r7], #16
        {ending.assembly(0)}
        vstrb.32 q3, [r5, q2]
        le lr, 5b
        {_END_CHANNEL}
        {_END}
        """,
        lambda *arguments: _compute_tiles(ending, *arguments),
    )
