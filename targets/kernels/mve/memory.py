"""Copying and filling of memory by vectors, in assembly: tail-predicated loops that touch no byte too many."""

from __future__ import annotations

from tinyopt.ir import Array
from tinyopt.targets.kernels.intrinsic import micro_kernel


def _copy_rows(to: Array, source: Array, rows: int, run: int, to_pitch: int, source_pitch: int) -> None:
    for row in range(rows):
        to[row * to_pitch : row * to_pitch + run] = source[row * source_pitch : row * source_pitch + run]


def _fill(to: Array, value: int, count: int) -> None:
    to[:count] = value


COPY_ROWS = micro_kernel(
    "tinyopt_copy_rows",
    (
        "int8_t *to",
        "const int8_t *source",
        "int32_t rows",
        "int32_t run",
        "int32_t to_pitch",
        "int32_t source_pitch",
    ),
    """
        push {r4-r7, lr}
        cmp r2, #0
        ble 5f
        ldrd r4, r5, [sp, #20]
        cmp r3, #16
        bgt 2f
        vctp.8 r3              @ rows of one vector
        dls lr, r2
    1:  vpstt
        vldrbt.8 q0, [r1]
        vstrbt.8 q0, [r0]
        add r0, r0, r4
        add r1, r1, r5
        le lr, 1b
        pop {r4-r7, pc}
    2:  mov r6, r0
        mov r7, r1
        dlstp.8 lr, r3
    3:  vldrb.8 q0, [r7], #16
        vstrb.8 q0, [r6], #16
        letp lr, 3b
        add r0, r0, r4
        add r1, r1, r5
        subs r2, r2, #1
        bne 2b
    5:  pop {r4-r7, pc}
    """,
    _copy_rows,
)

FILL = micro_kernel(
    "tinyopt_fill",
    ("int8_t *to", "int32_t value", "int32_t count"),
    """
        push {r4, lr}
        vdup.8 q0, r1
        wlstp.8 lr, r2, 2f
    1:  vstrb.8 q0, [r0], #16
        letp lr, 1b
    2:  pop {r4, pc}
    """,
    _fill,
)
