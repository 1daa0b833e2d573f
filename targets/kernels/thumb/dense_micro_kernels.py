"""Dense layers on ARMv6-M and ARMv7-M: four products by two multiplications of whole words.

A word of weights W holds four bytes b = w + 128 of one channel, O = (W >> 8) & 0x00FF00FF two of them and E the others,
W = E + (O << 8). With the activations packed as XE = x2 + x0 * 2^16 and XO = x3 + x1 * 2^16,

    E * XE + O * XO  =  W * XE + O * (XO - (XE << 8))  (mod 2^32)

has b0 x0 + b1 x1 + b2 x2 + b3 x3 in its upper half, so that E need not be cut out. What the 128s bring depends on the
activations alone: it is packed beside them, negative and with the 2^15 that the shift by 16 needs to round. The upper
half is exact where |w0| + |w1| + |w2| + |w3| <= 255: what weights have beyond that is added afterwards, one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.intrinsic import micro_kernel
from tinyopt.targets.kernels.thumb.thumb1_text import RESTORE_AND_RETURN, SAVE_REGISTERS

PLACES = 4  # weights in a word
CHANNELS = 4  # at a time
UNROLLED = 4  # words of each channel


def dot_meaning(packed: Array, weights: Array, start: Sequence[int]) -> list[int]:
    """packed: int32 [words, 3]; weights: uint32 [words, channels]."""
    words = weights.astype(np.uint64)
    odd = words >> np.uint64(8) & np.uint64(0x00FF00FF)
    added, even_x, odd_x = (packed[:, i].astype(np.int64).astype(np.uint64)[:, None] for i in range(3))
    total = (words * even_x + odd * odd_x + added).astype(np.uint32).view(np.int32) >> 16
    return [int(value) + first for value, first in zip(total.sum(axis=0), start, strict=True)]


def pack_meaning(x: Array) -> Array:
    """int32 [words, 3] of int8 [words * 4]."""
    groups = x.astype(np.int64).reshape(-1, PLACES)
    even = groups[:, 2] + (groups[:, 0] << 16)
    odd = groups[:, 3] + (groups[:, 1] << 16)
    return np.stack([(1 << 15) - 0x00800080 * (even + odd), even, odd - (even << 8)], axis=1).astype(np.int32)


def correct_meaning(x: Array, entries: Sequence[int], sums: list[int]) -> None:
    """Each entry: place of x, channel << 16, what is missing of the weight << 24."""
    for entry in entries:
        sums[entry >> 16 & 0xFF] += (entry >> 24) * int(x[entry & 0xFFFF])


def _thumb1_word(weights: str, accumulator: str) -> str:
    return f"""
    lsrs r5, {weights}, #8
    ands r5, r2
    muls {weights}, r6, {weights}
    muls r5, r7, r5
    adds {weights}, {weights}, r5
    add {weights}, r12
    asrs {weights}, {weights}, #16
    add {accumulator}, {weights}
"""


# r0 activations, r1 weights, r2 mask, r12 what is added, r8 to r11 sums
_THUMB1_STEP = f"""
    ldmia r0!, {{r5, r6, r7}}
    mov r12, r5
    ldmia r1!, {{r3, r4}}
{_thumb1_word("r3", "r8")}
{_thumb1_word("r4", "r9")}
    ldmia r1!, {{r3, r4}}
{_thumb1_word("r3", "r10")}
{_thumb1_word("r4", "r11")}
"""
THUMB1_STEP_BYTES = 72

_DOT_PARAMETERS = (
    "const int32_t *packed",
    "const int32_t *weights",
    "const int32_t *start",
    "int32_t *sums",
    "const int32_t *numbers",
    "int32_t groups",
)

# The stack: start, sums, groups left, activations, entry
THUMB1_DOT = micro_kernel(
    "tinyopt_dot_thumb1",
    _DOT_PARAMETERS,
    f"""
    {SAVE_REGISTERS}
    sub sp, #20
    str r2, [sp, #0]
    str r3, [sp, #4]
    str r0, [sp, #12]
    ldr r4, [sp, #56]
    ldr r5, [r4, #0]                  @ bytes of activations
    adds r5, r5, r0
    mov lr, r5
    ldr r5, [r4, #4]                  @ code to leave out in the first round
    adr r4, 1f
    adds r4, r4, r5
    str r4, [sp, #16]
    ldr r4, [sp, #60]
    str r4, [sp, #8]
    movs r2, #255
    lsls r3, r2, #16
    orrs r2, r3
0:
    ldr r0, [sp, #0]
    ldmia r0!, {{r4, r5, r6, r7}}
    str r0, [sp, #0]
    mov r8, r4
    mov r9, r5
    mov r10, r6
    mov r11, r7
    ldr r0, [sp, #12]
    ldr r3, [sp, #16]
    mov pc, r3
    .p2align 2
1:
{_THUMB1_STEP * UNROLLED}
    cmp r0, lr
    beq 2f
    b 1b
2:
    ldr r0, [sp, #4]
    mov r4, r8
    mov r5, r9
    mov r6, r10
    mov r7, r11
    stmia r0!, {{r4, r5, r6, r7}}
    str r0, [sp, #4]
    ldr r3, [sp, #8]
    subs r3, r3, #1
    str r3, [sp, #8]
    beq 3f
    b 0b
3:
    add sp, #20
    {RESTORE_AND_RETURN}
""",
    dot_meaning,
)


def _thumb2_word(weights: str, accumulator: str) -> str:
    return f"""
    and r8, r2, {weights}, lsr #8
    mla {weights}, {weights}, r4, r3
    mla {weights}, r8, r5, {weights}
    add {accumulator}, {accumulator}, {weights}, asr #16
"""


# r0 activations, r1 weights, r2 mask, r3 what is added, r9 to r12 sums
_THUMB2_STEP = f"""
    ldmia r0!, {{r3, r4, r5}}
    ldmia r1!, {{r6, r7}}
{_thumb2_word("r6", "r9")}
{_thumb2_word("r7", "r10")}
    ldmia r1!, {{r6, r7}}
{_thumb2_word("r6", "r11")}
{_thumb2_word("r7", "r12")}
"""
THUMB2_STEP_BYTES = 70

THUMB2_DOT = micro_kernel(
    "tinyopt_dot_thumb2",
    _DOT_PARAMETERS,
    f"""
    push {{r4, r5, r6, r7, r8, r9, r10, r11, lr}}
    sub sp, #20
    strd r2, r3, [sp, #0]
    str r0, [sp, #12]
    ldr r4, [sp, #56]
    ldrd r4, r5, [r4]                 @ bytes of activations, code to leave out in the first round
    add lr, r0, r4
    adr r4, 1f
    add r4, r4, r5
    orr r4, r4, #1
    str r4, [sp, #16]
    ldr r4, [sp, #60]
    str r4, [sp, #8]
    mov r2, #0x00FF00FF
0:
    ldr r0, [sp, #0]
    ldmia r0!, {{r9, r10, r11, r12}}
    str r0, [sp, #0]
    ldr r0, [sp, #12]
    ldr r3, [sp, #16]
    bx r3
    .p2align 2
1:
{_THUMB2_STEP * UNROLLED}
    cmp r0, lr
    bne 1b
    ldr r0, [sp, #4]
    stmia r0!, {{r9, r10, r11, r12}}
    str r0, [sp, #4]
    ldr r3, [sp, #8]
    subs r3, r3, #1
    str r3, [sp, #8]
    bne 0b
    add sp, #20
    pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}
""",
    dot_meaning,
)

# ARMv6-M's instructions, good for both cores.
PACK = micro_kernel(
    "tinyopt_pack_dense_thumb",
    ("const int8_t *x", "int32_t *packed", "int32_t words"),
    """
    push {r4, r5, r6, r7, lr}
    movs r3, #1
    lsls r3, r3, #15
    mov r12, r3
1:
    movs r3, #0
    ldrsb r4, [r0, r3]
    movs r3, #1
    ldrsb r5, [r0, r3]
    movs r3, #2
    ldrsb r6, [r0, r3]
    movs r3, #3
    ldrsb r7, [r0, r3]
    lsls r4, r4, #16
    adds r6, r6, r4                   @ x2 + x0 * 2^16
    lsls r5, r5, #16
    adds r7, r7, r5                   @ x3 + x1 * 2^16
    adds r4, r6, r7
    lsls r5, r4, #7
    lsls r4, r5, #16
    adds r5, r5, r4
    mov r4, r12
    subs r5, r4, r5                   @ 2^15 - 128 * (1 + 2^16) * both
    lsls r4, r6, #8
    subs r7, r7, r4
    stmia r1!, {r5, r6, r7}
    adds r0, r0, #4
    subs r2, r2, #1
    bne 1b
    pop {r4, r5, r6, r7, pc}
""",
    pack_meaning,
)

CORRECT = micro_kernel(
    "tinyopt_correct_thumb",
    ("const int8_t *x", "const int32_t *entries", "const int32_t *end", "int32_t *sums"),
    """
    push {r4, r5, r6, lr}
    cmp r1, r2
    beq 2f
1:
    ldmia r1!, {r4}
    uxth r5, r4
    ldrsb r5, [r0, r5]
    asrs r6, r4, #24
    muls r5, r6, r5
    lsls r4, r4, #8
    lsrs r4, r4, #22                  @ 4 * channel
    ldr r6, [r3, r4]
    adds r6, r6, r5
    str r6, [r3, r4]
    cmp r1, r2
    bne 1b
2:
    pop {r4, r5, r6, pc}
""",
    correct_meaning,
)
