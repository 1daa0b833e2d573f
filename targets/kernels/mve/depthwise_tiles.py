"""Micro-kernels of the depthwise convolution: four output pixels of one channel at a time, the window in the lanes.

A gather reads 16 cells of one channel, and VMLADAV multiplies them with 16 weights, zero where a cell lies outside the
window, and adds up: one instruction for all taps of a window of up to 16 cells.

- `square_tiles`: stride 1. 4 x 4 cells hold the windows of 2 x 2 output pixels, which take four vectors of weights.
- `row_tiles`: any other stride. Each of four neighbouring output pixels has cells of its own; the weights are the same.

The cells lie as `PAIR_ROWS` makes them: halfwords of two rows, so that a gather takes eight offsets. Weights are packed
without gaps behind a zero; *patterns* say for each lane which of these bytes it wants.
"""

from __future__ import annotations

from dataclasses import dataclass
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

_PARAMETERS = (
    "const void *places",
    "const void *setting",
    "const int8_t *taps",
    "const int32_t *factors",
    "int8_t *target",
    "int32_t tiles",
    "int32_t channels",
    "int32_t zero_point",
    "int32_t tap_bytes",
    "int32_t left_shift",
)

# r0 places, r1 setting, r2 taps, r3 factors, r9 zero point, r11 channels still to do; [sp, #104] tiles
_BEGIN = """
    push {r4-r11, lr}
    vpush {d8-d15}
    ldr r4, [sp, #100]  @ target
    ldrd r11, r9, [sp, #108]  @ channels, zero point
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
    vadd.i32 q3, q3, r7
"""

_SATURATED = """
    vadd.i32 q3, q3, r9
    vqmovnb.s32 q3, q3
    vqmovnb.s16 q3, q3
"""

# the multiplier's register is needed, and filled again from the stack
_CLAMPED = """
    vadd.i32 q3, q3, r9
    vldrw.s32 q1, [r1, #96]
    vmax.s32 q3, q3, q1
    vldrw.s32 q1, [r1, #112]
    vmin.s32 q3, q3, q1
    ldr r4, [r3, #-4]
    vdup.32 q1, r4
"""

_END_CHANNEL = """
    ldr r4, [sp, #116]  @ bytes of taps
    add r2, r2, r4
    mov r4, #1
    vadd.i32 q2, q2, r4
    subs r11, #1
    bne 1b
"""

_MULTIPLY_SHIFTED = """
    ldr r4, [sp, #120]  @ left shift
    vshl.s32 q3, r4
    vrmulh.s32 q3, q3, q1
"""


@dataclass(frozen=True)
class Ending:
    """What follows a sum. is_shifted: the shift is below 32. is_clamped: to less than the int8 range."""

    is_shifted: bool
    is_clamped: bool

    @property
    def name(self) -> str:
        return f"{'_shifted' if self.is_shifted else ''}{'_clamped' if self.is_clamped else ''}"

    @property
    def assembly(self) -> str:
        multiply = _MULTIPLY_SHIFTED if self.is_shifted else "vrmulh.s32 q3, q3, q1\n"
        return multiply + (_CLAMPED if self.is_clamped else _SATURATED)


def _gathered(cells: Array, offsets: Array) -> Array:
    """Two bytes from each of eight offsets."""
    return np.stack([cells[offsets], cells[offsets + 1]], axis=-1).reshape(-1).astype(np.int64)


def _requantized(ending: Ending, acc: int, factor: int, zero_point: int, shift: int, setting: Array) -> int:
    level = (((acc << (shift if ending.is_shifted else 0)) * factor + (1 << 31)) >> 32) + zero_point
    low, high = (int(setting[at : at + 4].view(np.int32)[0]) for at in (96, 112)) if ending.is_clamped else (-128, 127)
    return min(max(level, low), high)


def _compute_tiles(ending: Ending, is_square: bool, *arguments: Any) -> None:
    """places: for each tile the cells as an array, and where its output begins."""
    places, setting, taps, factors, target, tiles, channels, zero_point, tap_bytes, left_shift = arguments
    gathers = [setting[16 * n : 16 * n + 16].view(np.uint16).astype(np.int64) for n in range(1 if is_square else 4)]
    scatter = setting[16 * len(gathers) :][:16].view(np.int32)
    patterns = setting[16 * len(gathers) + 16 : 96].reshape(-1, 16)
    for channel in range(channels):
        weights = taps[channel * tap_bytes + patterns.astype(np.int64)].astype(np.int64)
        bias, factor = (int(value) for value in factors[2 * channel : 2 * channel + 2])
        for cells, output in places[:tiles]:
            for n in range(4):
                x = _gathered(cells, gathers[n % len(gathers)] + 2 * channel)
                acc = int(x @ weights[n % len(weights)]) + bias
                level = _requantized(ending, acc, factor, zero_point, left_shift, setting)
                target[output + int(scatter[n]) + channel] = level


def square_tiles(ending: Ending) -> Intrinsic:
    """setting: gather offsets (8 uint16), scatter offsets (4 int32), four patterns (16 uint8), low, high (4 int32)."""
    patterns = "".join(f"vldrb.u8 q3, [r1, #{32 + 16 * n}]\nvldrb.u8 q{4 + n}, [r2, q3]\n" for n in range(4))
    return micro_kernel(
        f"tinyopt_mve_square_tiles{ending.name}",
        _PARAMETERS,
        f"""{_BEGIN}
        vldrh.u16 q0, [r1]
        vldrw.u32 q2, [r1, #16]
        vadd.i32 q2, q2, r4
        1:
        {patterns}
        {_BEGIN_CHANNEL}
        2:
        ldrd r4, r5, [r12], #8
        vldrh.u16 q3, [r4, q0]
        vmladav.s8 r4, q3, q4
        vmladav.s8 r6, q3, q5
        vmladav.s8 r8, q3, q6
        vmladav.s8 r10, q3, q7
        {_SUMS}
        {ending.assembly}
        vstrb.32 q3, [r5, q2]
        le lr, 2b
        mov r4, #2
        vadd.i16 q0, q0, r4
        {_END_CHANNEL}
        {_END}
        """,
        lambda *arguments: _compute_tiles(ending, True, *arguments),
    )


def row_tiles(ending: Ending) -> Intrinsic:
    """setting: four times gather offsets (8 uint16), scatter offsets (4 int32), a pattern (16 uint8), low, high."""
    gathers = {0: 0, 5: 16, 6: 32, 7: 48}  # registers, and where their offsets lie
    load = "".join(f"vldrh.u16 q{register}, [r1, #{at}]\n" for register, at in gathers.items())
    move = "".join(f"vadd.i16 q{register}, q{register}, r4\n" for register in gathers)
    return micro_kernel(
        f"tinyopt_mve_row_tiles{ending.name}",
        _PARAMETERS,
        f"""{_BEGIN}
        {load}
        vldrw.u32 q2, [r1, #64]
        vadd.i32 q2, q2, r4
        1:
        vldrb.u8 q3, [r1, #80]
        vldrb.u8 q4, [r2, q3]
        {_BEGIN_CHANNEL}
        2:
        ldrd r10, r5, [r12], #8
        vldrh.u16 q3, [r10, q0]
        vmladav.s8 r4, q3, q4
        vldrh.u16 q3, [r10, q5]
        vmladav.s8 r6, q3, q4
        vldrh.u16 q3, [r10, q6]
        vmladav.s8 r8, q3, q4
        vldrh.u16 q3, [r10, q7]
        vmladav.s8 r10, q3, q4
        {_SUMS}
        {ending.assembly}
        vstrb.32 q3, [r5, q2]
        le lr, 2b
        mov r4, #2
        {move}
        {_END_CHANNEL}
        {_END}
        """,
        lambda *arguments: _compute_tiles(ending, False, *arguments),
    )
