"""From int8 activations to a block of int16 pairs, in assembly."""

from __future__ import annotations

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.intrinsic import micro_kernel


def _widen_runs(*arguments: Array | int) -> None:
    """What the assembly does; steps are bytes, as there."""
    source, block = np.asarray(arguments[0]), np.asarray(arguments[1])
    length, count, from_step, to_step, stride = (int(number) for number in arguments[2:])
    for run in range(count):
        values = source[run * from_step : run * from_step + length].astype(np.int64) & 0xFFFF
        whole = length - length % 4
        order = [quad + place for quad in range(0, whole, 4) for place in (0, 2, 1, 3)] + list(range(whole, length))
        halves = np.pad(values[order], (0, length % 2)).reshape(-1, 2)
        words = (halves[:, 0] | halves[:, 1] << 16).astype(np.uint32).view(np.int32)
        first = run * to_step // 4
        block[first : first + len(words) * stride // 4 : stride // 4] = words


# Widens `count` runs of `bytes` int8 into a block: the words of a run lie `stride` bytes apart.
WIDEN_RUNS = micro_kernel(
    "tinyopt_widen_runs",
    (
        "const int8_t *from",
        "void *to",
        "int32_t bytes",
        "int32_t count",
        "int32_t from_step",
        "int32_t to_step",
        "int32_t stride",
    ),
    """
    push {r4-r11, lr}
    ldrd r4, r5, [sp, #36]
    ldr r6, [sp, #44]
    adr.w lr, 3f      @ what follows the last four bytes of a run: nothing, or one to three more
    ands r9, r2, #3
    beq 1f
    adr.w lr, 4f
    cmp r9, #2
    blt 1f
    ite eq
    adreq.w lr, 5f
    adrne.w lr, 6f
    1:
    orr lr, lr, #1
    7:
    mov r7, r0
    mov r8, r1
    lsrs r9, r2, #2
    it eq
    bxeq lr
    2:
    ldr r10, [r7], #4
    sxtb16 r12, r10
    sxtb16 r10, r10, ror #8
    str r12, [r8]
    str r10, [r8, r6]
    add r8, r8, r6, lsl #1
    subs r9, r9, #1
    bne 2b
    bx lr
    4:
    ldrsb r10, [r7]
    uxth r10, r10
    str r10, [r8]
    b 3f
    6:
    ldrsb r10, [r7, #2]
    uxth r10, r10
    str r10, [r8, r6]
    5:
    ldrsb r10, [r7]
    ldrsb r11, [r7, #1]
    pkhbt r10, r10, r11, lsl #16
    str r10, [r8]
    3:
    add r0, r0, r4
    add r1, r1, r5
    subs r3, r3, #1
    bne 7b
    pop {r4-r11, pc}
    """,
    _widen_runs,
)
