"""Micro-kernels that pool one window: all its cells for 8 channels (sums) or 16 (maxima), then the next channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.intrinsic import micro_kernel

_PARAMETERS = (
    "const int8_t *x",
    "int8_t *y",
    "int32_t rows",
    "int32_t columns",
    "int32_t channels",
    "int32_t row_bytes",
)


def _window(x: Array, rows: int, columns: int, channels: int, row_bytes: int) -> Array:
    """[rows * columns, channels]"""
    return np.stack(
        [x[begin : begin + channels] for row in range(rows) for begin in _pixels(row * row_bytes, columns, channels)]
    )


def _pixels(start: int, columns: int, channels: int) -> range:
    return range(start, start + columns * channels, channels)


def _largest(x: Array, y: Array, rows: int, columns: int, channels: int, row_bytes: int) -> None:
    y[:channels] = _window(x, rows, columns, channels, row_bytes).max(axis=0)


LARGEST = micro_kernel(
    "tinyopt_mve_largest",
    _PARAMETERS,
    """
    push {r4-r9, lr}
    ldrd r4, r5, [sp, #28]  @ channels, bytes of a row
    mov r6, r4  @ channels still to do
    1:
    vctp.8 r6
    mvn r12, #127
    vdup.8 q0, r12
    mov r7, r0
    mov r8, r2
    2:
    mov r9, r7
    dls lr, r3
    3:
    vpst
    vldrbt.u8 q1, [r9]
    add r9, r9, r4
    vmax.s8 q0, q0, q1
    le lr, 3b
    add r7, r7, r5
    subs r8, r8, #1
    bne 2b
    vpst
    vstrbt.8 q0, [r1]
    add r0, r0, #16
    add r1, r1, #16
    subs r6, r6, #16
    bgt 1b
    pop {r4-r9, pc}
    """,
    _largest,
)


def _average(x: Array, y: Array, rows: int, columns: int, channels: int, row_bytes: int, *numbers: Any) -> None:
    multiplier, offset, setting = numbers
    zero_point, left_shift, low, high = (int(number) for number in setting[:4])
    sums = _window(x, rows, columns, channels, row_bytes).astype(np.int64).sum(axis=0) + offset
    y[:channels] = np.clip((((sums << left_shift) * multiplier + (1 << 31)) >> 32) + zero_point, low, high)


# Sums of a row of up to 255 cells fit int16. setting: zero point, left shift, low, high
AVERAGE = micro_kernel(
    "tinyopt_mve_average",
    (*_PARAMETERS, "int32_t multiplier", "int32_t offset", "const int32_t *setting"),
    """
    push {r4-r11, lr}
    vpush {d8-d15}
    ldrd r4, r5, [sp, #100]  @ channels, bytes of a row
    ldrd r8, r10, [sp, #108]  @ multiplier, offset
    ldr r11, [sp, #116]  @ setting
    ldrd r6, r7, [r11, #8]
    vdup.16 q5, r6  @ low
    vdup.16 q6, r7  @ high
    vdup.32 q4, r8
    mov r6, r4  @ channels still to do
    1:
    vctp.16 r6
    vdup.32 q2, r10
    vdup.32 q3, r10
    mov r9, r0
    mov r8, r2
    2:
    vmov.i32 q0, #0
    mov r7, r9
    dls lr, r3
    3:
    vpst
    vldrbt.s16 q1, [r7]
    add r7, r7, r4
    vadd.i16 q0, q0, q1
    le lr, 3b
    vmovlb.s16 q1, q0
    vadd.i32 q2, q2, q1
    vmovlt.s16 q1, q0
    vadd.i32 q3, q3, q1
    add r9, r9, r5
    subs r8, r8, #1
    bne 2b
    ldrd r7, r12, [r11]  @ zero point, left shift
    vshl.s32 q2, r12
    vshl.s32 q3, r12
    vrmulh.s32 q2, q2, q4
    vrmulh.s32 q3, q3, q4
    vqmovnb.s32 q2, q2
    vqmovnt.s32 q2, q3
    vqadd.s16 q2, q2, r7
    vmax.s16 q2, q2, q5
    vmin.s16 q2, q2, q6
    vpst
    vstrbt.16 q2, [r1]
    add r0, r0, #8
    add r1, r1, #8
    subs r6, r6, #8
    bgt 1b
    vpop {d8-d15}
    pop {r4-r11, pc}
    """,
    _average,
)
