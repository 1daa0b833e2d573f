"""ARMv7-M: columns of four packed pixels times every output channel, two products by one multiplication.

As on ARMv6-M (see thumb1_columns). MLA begins each pair of places with 2^15, which the shift needs to round; V holds
2^15 too much for each of them and begins with what makes up for it. The weights lie channel after channel.
"""

from __future__ import annotations

from tinyopt.targets.kernels.intrinsic import micro_kernel
from tinyopt.targets.kernels.thumb.meanings import columns_meaning, pack_pair

UNROLLED = 4  # pairs of places
STEP_BYTES = 38  # code of one pair of places

# r0 column, r1 weights, r2 2^15, r8 and r9 V, r10 and r11 U
_STEP = """
    ldrsb r3, [r1], #1
    ldmia r0!, {r4, r5, r6, r7}
    ldrsb r12, [r1], #1
    mla r4, r3, r4, r2
    mla r4, r12, r5, r4
    add r8, r4
    add r10, r10, r4, asr #16
    mla r6, r3, r6, r2
    mla r6, r12, r7, r6
    add r9, r6
    add r11, r11, r6, asr #16
"""

_COLUMNS, _OUTPUT, _RESCALING, _ENTRY, _START, _CHANNELS, _STRIDE, _ZERO, _RANGE, _LOW, _LAST = range(16, 60, 4)
_RESIDUAL, _RESIDUAL_ZERO, _RESIDUAL_MULTIPLIER, _RESIDUAL_SHIFT = range(60, 76, 4)
_FRAME = 80
_PASSED = _FRAME + 36

_ENTER = f"""
    push {{r4, r5, r6, r7, r8, r9, r10, r11, lr}}
    sub sp, #{_FRAME}
"""

_LEAVE = f"""
    add sp, #{_FRAME}
    pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}
"""

_SET_UP = f"""
    str r0, [sp, #{_COLUMNS}]
    str r2, [sp, #{_RESCALING}]
    str r3, [sp, #{_OUTPUT}]
    ldr r12, [sp, #{_PASSED}]
    ldmia r12!, {{r2, r3, r4, r5, r6, r7, r8}}
    add lr, r0, r2                    @ the column's end
    lsls r2, r2, #11                  @ 2^15 for each 16 bytes
    rsbs r2, r2, #0
    str r2, [sp, #{_START}]
    adr r2, 1f
    adds r2, r2, r3
    orr r2, r2, #1
    str r2, [sp, #{_ENTRY}]
    str r4, [sp, #{_CHANNELS}]
    str r5, [sp, #{_STRIDE}]
    str r6, [sp, #{_ZERO}]
    str r7, [sp, #{_RANGE}]
    str r8, [sp, #{_LOW}]
    ldr r3, [sp, #{_PASSED + 4}]
    add r3, sp, r3, lsl #2
    str r3, [sp, #{_LAST}]
"""

_SET_UP_RESIDUAL = f"""
    ldmia r12!, {{r2, r3, r4}}        @ the residual's zero point, its multiplier, how far it is shifted
    str r2, [sp, #{_RESIDUAL_ZERO}]
    str r3, [sp, #{_RESIDUAL_MULTIPLIER}]
    str r4, [sp, #{_RESIDUAL_SHIFT}]
    ldr r2, [sp, #{_PASSED + 8}]
    ldr r3, [sp, #{_OUTPUT}]
    subs r2, r2, r3
    str r2, [sp, #{_RESIDUAL}]
"""

_PRODUCTS = f"""
0:
    ldr r0, [sp, #{_COLUMNS}]
    ldr r8, [sp, #{_START}]
    ldr r3, [sp, #{_ENTRY}]
    mov r9, r8
    mov r10, #0
    mov r11, #0
    mov r2, #0x8000
    bx r3
    .p2align 2
1:
{_STEP * UNROLLED}
    cmp r0, lr
    bne 1b
"""

_SUMS = f"""
    ldr r12, [sp, #{_RESCALING}]
    ldmia r12!, {{r6, r7}}            @ bias, multiplier
    str r12, [sp, #{_RESCALING}]
    sub r2, r8, r10, lsl #16
    sub r4, r9, r11, lsl #16
    adds r2, r2, r6
    add r3, r10, r6
    adds r4, r4, r6
    add r5, r11, r6
    stmia sp, {{r2, r3, r4, r5}}
    mov r4, sp
    ldr r5, [sp, #{_OUTPUT}]
    adds r0, r5, #1
    str r0, [sp, #{_OUTPUT}]
    ldr r6, [sp, #{_LAST}]
    ldr r8, [sp, #{_ZERO}]
    ldr r9, [sp, #{_RANGE}]
    ldr r10, [sp, #{_LOW}]
    ldr r11, [sp, #{_STRIDE}]
"""

_MULTIPLY = """
2:
    ldr r2, [r4], #4
    smull r2, r3, r2, r7
"""

_ADD_RESIDUAL = f"""
    ldr r0, [sp, #{_RESIDUAL}]
    ldr r12, [sp, #{_RESIDUAL_ZERO}]
    ldrsb r0, [r5, r0]
    sub r0, r0, r12
    ldr r12, [sp, #{_RESIDUAL_SHIFT}]
    lsl r0, r0, r12
    ldr r12, [sp, #{_RESIDUAL_MULTIPLIER}]
    smlal r2, r3, r0, r12
"""

_STORE = """
    adds r2, r2, #0x80000000
    adc r3, r3, r8
    cmp r3, r9
    bhi 5f
3:
    add r3, r3, r10
    strb r3, [r5]
    add r5, r5, r11
    cmp r4, r6
    bne 2b
"""

_NEXT = f"""
    ldr r0, [sp, #{_CHANNELS}]
    subs r0, r0, #1
    str r0, [sp, #{_CHANNELS}]
    bne 0b
"""

_CLAMP = """
5:
    bic r3, r9, r3, asr #31
    b 3b
"""

_PARAMETERS = (
    "const int32_t *columns",
    "const int8_t *weights",
    "const int32_t *rescaling",
    "int8_t *y",
    "const int32_t *numbers",
    "int32_t pixels",
)

COLUMNS = micro_kernel(
    "tinyopt_columns_thumb2",
    _PARAMETERS,
    _ENTER + _SET_UP + _PRODUCTS + _SUMS + _MULTIPLY + _STORE + _NEXT + _LEAVE + _CLAMP,
    columns_meaning,
)

COLUMNS_WITH_RESIDUAL = micro_kernel(
    "tinyopt_residual_columns_thumb2",
    (*_PARAMETERS, "const int8_t *residual"),
    _ENTER
    + _SET_UP
    + _SET_UP_RESIDUAL
    + _PRODUCTS
    + _SUMS
    + _MULTIPLY
    + _ADD_RESIDUAL
    + _STORE
    + _NEXT
    + _LEAVE
    + _CLAMP,
    columns_meaning,
)

PACK_PAIR = micro_kernel(
    "tinyopt_pack_thumb2",
    ("const int8_t *first", "const int8_t *second", "int32_t count", "int32_t *columns"),
    """
    push {r4, r5, r6, lr}
    subs r2, r2, #2
    blt 2f
1:
    ldrsb r4, [r0], #1
    ldrsb r5, [r1], #1
    ldrsb r6, [r0], #1
    ldrsb r12, [r1], #1
    add r4, r4, r5, lsl #16
    add r5, r6, r12, lsl #16
    stmia r3!, {r4, r5}
    adds r3, r3, #8
    subs r2, r2, #2
    bge 1b
2:
    adds r2, r2, #2
    beq 3f
    ldrsb r4, [r0]
    ldrsb r5, [r1]
    movs r6, #0
    add r4, r4, r5, lsl #16
    stmia r3!, {r4, r6}
3:
    pop {r4, r5, r6, pc}
""",
    pack_pair,
)
