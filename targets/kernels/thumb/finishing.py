"""A row of sums to int8, each channel with its own multiplier, on ARMv6-M and ARMv7-M."""

from __future__ import annotations

from collections.abc import Sequence

from tinyopt.targets.kernels.intrinsic import micro_kernel
from tinyopt.targets.kernels.thumb.meanings import rescaled
from tinyopt.targets.kernels.thumb.thumb1_text import SCALE


def finish_meaning(sums: Sequence[int], multipliers: Sequence[int], to: Sequence[int]) -> list[int]:
    return [rescaled(total, multiplier, 0, to) for total, multiplier in zip(sums, multipliers, strict=True)]


_FINISH_PARAMETERS = (
    "const int32_t *sums",
    "const int32_t *multipliers",
    "int8_t *y",
    "const int32_t *numbers",
    "int32_t count",
)

THUMB1_FINISH = micro_kernel(
    "tinyopt_finish_thumb1",
    _FINISH_PARAMETERS,
    """
    push {r4, r5, r6, r7, lr}
    mov r4, r8
    mov r5, r9
    push {r4, r5}
    ldr r4, [r3, #0]                  @ zero point - low
    mov r8, r4
    ldr r4, [r3, #4]                  @ high - low
    mov r9, r4
    ldr r4, [r3, #8]                  @ low
    mov lr, r4
    ldr r4, [sp, #28]
    lsls r4, r4, #2
    adds r4, r4, r0
    mov r12, r4
    movs r4, r0
    movs r3, r1
    movs r7, r2
1:
    ldmia r4!, {r0}
    ldrh r5, [r3, #0]
    ldrh r6, [r3, #2]
    adds r3, r3, #4
"""
    + SCALE
    + """
    add r1, r8
    cmp r1, r9
    bhi 3f
2:
    add r1, lr
    strb r1, [r7]
    adds r7, r7, #1
    cmp r4, r12
    bne 1b
    pop {r4, r5}
    mov r8, r4
    mov r9, r5
    pop {r4, r5, r6, r7, pc}
3:
    asrs r1, r1, #31
    mvns r1, r1
    mov r2, r9
    ands r1, r2
    b 2b
""",
    finish_meaning,
)

THUMB2_FINISH = micro_kernel(
    "tinyopt_finish_thumb2",
    _FINISH_PARAMETERS,
    """
    push {r4, r5, r6, r7, r8, lr}
    ldmia r3, {r4, r5, r6}            @ zero point - low, high - low, low
    ldr r7, [sp, #24]
1:
    ldr r3, [r0], #4
    ldr r12, [r1], #4
    smull r3, r12, r3, r12
    adds r3, r3, #0x80000000
    adc r12, r12, r4
    cmp r12, r5
    it hi
    bichi r12, r5, r12, asr #31
    add r12, r12, r6
    strb r12, [r2], #1
    subs r7, r7, #1
    bne 1b
    pop {r4, r5, r6, r7, r8, pc}
""",
    finish_meaning,
)
