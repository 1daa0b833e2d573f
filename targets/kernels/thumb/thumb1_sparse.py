"""ARMv6-M: a dense layer that goes over those activations alone that are not zero, as many are behind a ReLU.

The activations x - zero point are listed with the places of their weights. One pass over the list serves eight
channels; weights are bytes w + 128, for which 128 times the sum of the list is taken off at the start.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.intrinsic import micro_kernel
from tinyopt.targets.kernels.thumb.thumb1_text import RESTORE_AND_RETURN, SAVE_REGISTERS

CHANNELS = 8  # at a time
ENTRIES = 2  # of the list at a time


def list_meaning(x: Array, zero_point: int) -> tuple[int, list[tuple[int, int]]]:
    """-128 times the sum of the entries, and the entries: x - zero_point, 8 * place; an even number, at least two."""
    entries = [(int(value) - zero_point, CHANNELS * place) for place, value in enumerate(x) if value != zero_point]
    total = sum(value for value, _ in entries)
    entries += [(0, 0)] * (len(entries) % 2 if entries else 2)
    return -128 * total, entries


def sparse_meaning(entries: Sequence[tuple[int, int]], weights: Array, start: Sequence[int]) -> list[int]:
    """weights: uint8 [places, 8 channels] of one group."""
    sums = np.array(start, np.int64)
    for value, place in entries:
        sums += value * weights[place // CHANNELS].astype(np.int64)
    return [int(total) for total in sums]


# r0 x, r1 list, r2 depth, r3 zero point; the result is the bytes of the entries, which follow the list's first word
LIST = micro_kernel(
    "tinyopt_list_thumb1",
    ("const int8_t *x", "int32_t *list", "int32_t depth", "int32_t zero_point"),
    """
    push {r4, r5, r6, r7, lr}
    mov r12, r1
    adds r1, r1, #4
    movs r4, #0
    movs r7, #0
1:
    ldrsb r5, [r0, r4]
    subs r5, r5, r3
    beq 2f
    lsls r6, r4, #3
    stmia r1!, {r5, r6}
    adds r7, r7, r5
2:
    adds r4, r4, #1
    cmp r4, r2
    bne 1b
    mov r2, r12
    lsls r7, r7, #7
    rsbs r7, r7, #0
    str r7, [r2, #0]
    movs r5, #0
    movs r6, #0
    subs r0, r1, r2
    subs r0, r0, #4
    bne 3f
    stmia r1!, {r5, r6}
    stmia r1!, {r5, r6}
    movs r0, #16
3:
    lsls r3, r0, #28
    bpl 4f
    stmia r1!, {r5, r6}
    adds r0, r0, #8
4:
    pop {r4, r5, r6, r7, pc}
""",
    list_meaning,
    result="int32",
)

_LIST, _ADDED, _START, _SUMS, _GROUPS, _GROUP_BYTES, _END, _WEIGHTS = range(0, 32, 4)
_FRAME = 32
_PASSED = _FRAME + 36


def _channel(number: int) -> str:
    accumulator = ("r8", "r9", "r10", "r11", "r12", "lr", "r6", "r7")[number]
    return f"""
    ldrb r3, [r2, #{number}]
    muls r3, r1, r3
    add {accumulator}, r3
"""


# r0 list, r4 weights, r5 the list's end
_ENTRY = "    ldmia r0!, {r1, r2}\n    adds r2, r2, r4\n" + "".join(map(_channel, range(CHANNELS)))

SPARSE = micro_kernel(
    "tinyopt_sparse_thumb1",
    (
        "const int32_t *list",
        "int32_t list_bytes",
        "const uint8_t *weights",
        "const int32_t *start",
        "int32_t *sums",
        "int32_t groups",
        "int32_t group_bytes",
    ),
    f"""
    {SAVE_REGISTERS}
    sub sp, #{_FRAME}
    ldmia r0!, {{r4}}
    str r0, [sp, #{_LIST}]
    str r4, [sp, #{_ADDED}]
    str r3, [sp, #{_START}]
    adds r0, r0, r1
    str r0, [sp, #{_END}]
    str r2, [sp, #{_WEIGHTS}]
    ldr r4, [sp, #{_PASSED}]
    str r4, [sp, #{_SUMS}]
    ldr r4, [sp, #{_PASSED + 4}]
    str r4, [sp, #{_GROUPS}]
    ldr r4, [sp, #{_PASSED + 8}]
    str r4, [sp, #{_GROUP_BYTES}]
0:
    ldr r4, [sp, #{_START}]
    ldr r5, [sp, #{_ADDED}]
    ldmia r4!, {{r0, r1, r2, r3}}
    adds r0, r0, r5
    adds r1, r1, r5
    adds r2, r2, r5
    adds r3, r3, r5
    mov r8, r0
    mov r9, r1
    mov r10, r2
    mov r11, r3
    ldmia r4!, {{r0, r1, r6, r7}}
    adds r0, r0, r5
    adds r1, r1, r5
    adds r6, r6, r5
    adds r7, r7, r5
    mov r12, r0
    mov lr, r1
    str r4, [sp, #{_START}]
    ldr r0, [sp, #{_LIST}]
    ldr r4, [sp, #{_WEIGHTS}]
    ldr r5, [sp, #{_END}]
1:
{_ENTRY * ENTRIES}
    cmp r0, r5
    bne 1b
    ldr r0, [sp, #{_SUMS}]
    ldr r5, [sp, #{_GROUP_BYTES}]
    adds r4, r4, r5
    str r4, [sp, #{_WEIGHTS}]
    mov r1, r8
    mov r2, r9
    mov r3, r10
    mov r4, r11
    stmia r0!, {{r1, r2, r3, r4}}
    mov r1, r12
    mov r2, lr
    stmia r0!, {{r1, r2, r6, r7}}
    str r0, [sp, #{_SUMS}]
    ldr r5, [sp, #{_GROUPS}]
    subs r5, r5, #1
    str r5, [sp, #{_GROUPS}]
    bne 0b
    add sp, #{_FRAME}
    {RESTORE_AND_RETURN}
""",
    sparse_meaning,
)
