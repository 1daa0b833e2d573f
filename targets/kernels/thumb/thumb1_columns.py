"""ARMv6-M: columns of four packed pixels times every output channel, two products by one multiplication.

A word of a column holds two pixels, X = x0 + x1 * 2^16. With a signed weight, w * X = w x0 + w x1 * 2^16 (mod 2^32),
and since |wa xa + wb xb| < 2^15 for two products of int8 (128 times |wa| + |wb| <= 255), their sum t still tells both:

    U += (t + 2^15) >> 16   is the sum of the upper pixel's products,
    V += t                  minus U << 16 is the sum of the lower pixel's.

ASRS leaves the bit it rounds by in the carry, so that ASRS and ADCS do the first line. The weights of eight channels
lie side by side: the pointer to the columns moves by eight bytes for each place, so one register holds their distance.
"""

from __future__ import annotations

from tinyopt.targets.kernels.intrinsic import micro_kernel
from tinyopt.targets.kernels.thumb.meanings import columns_meaning, pack_pair
from tinyopt.targets.kernels.thumb.thumb1_text import RESTORE_AND_RETURN, SAVE_REGISTERS, SCALE

UNROLLED = 4  # pairs of places
STEP_BYTES = 32  # code of one pair of places

# r0 column, r1 weights - column, r2 U of pixel 3, r7 U of pixel 1, r8 and r9 their V
_STEP = """
    ldrsb r5, [r0, r1]
    ldmia r0!, {r3, r4}
    ldrsb r6, [r0, r1]
    muls r3, r5, r3
    muls r4, r6, r4
    adds r3, r3, r4
    add r8, r3
    asrs r3, r3, #16
    adcs r7, r3
    ldmia r0!, {r3, r4}
    muls r3, r5, r3
    muls r4, r6, r4
    adds r3, r3, r4
    add r9, r3
    asrs r3, r3, #16
    adcs r2, r3
"""

# The stack: four sums, then what the registers have no room for.
_WEIGHTS, _OUTPUT, _COLUMNS, _ENTRY, _DONE, _CHANNELS, _NEXT_GROUP, _STRIDE, _ZERO, _LAST = range(16, 56, 4)
_RESIDUAL, _RESIDUAL_LOW, _RESIDUAL_HIGH, _RESIDUAL_ZERO = range(56, 72, 4)
_FRAME = 72
_PASSED = _FRAME + 36  # arguments on the stack lie above nine saved registers

_ENTER = f"""
    {SAVE_REGISTERS}
    sub sp, #{_FRAME}
"""

_LEAVE = f"""
    add sp, #{_FRAME}
    {RESTORE_AND_RETURN}
"""

_SET_UP = f"""
    str r0, [sp, #{_COLUMNS}]
    subs r1, r1, r0
    str r1, [sp, #{_WEIGHTS}]
    mov r12, r2
    str r3, [sp, #{_OUTPUT}]
    ldr r4, [sp, #{_PASSED}]
    ldmia r4!, {{r1, r2, r3}}         @ bytes of a column, code to leave out in the first round, channels
    adds r0, r0, r1
    mov r10, r0                       @ the column's end
    subs r1, r1, #8
    str r1, [sp, #{_NEXT_GROUP}]
    adr r5, 1f
    adds r5, r5, r2
    str r5, [sp, #{_ENTRY}]
    str r3, [sp, #{_CHANNELS}]
    movs r0, #0
    str r0, [sp, #{_DONE}]
    ldmia r4!, {{r1, r2, r3}}         @ bytes from pixel to pixel, zero point - low, high - low
    str r1, [sp, #{_STRIDE}]
    str r2, [sp, #{_ZERO}]
    mov r11, r3
    ldmia r4!, {{r1}}
    mov lr, r1                        @ low
    ldr r1, [sp, #{_PASSED + 4}]
    lsls r1, r1, #2
    add r1, sp
    str r1, [sp, #{_LAST}]
"""

_SET_UP_RESIDUAL = f"""
    ldmia r4!, {{r1, r2, r3}}         @ the residual's zero point, its multiplier's low half, the rest of it
    rsbs r1, r1, #0
    str r1, [sp, #{_RESIDUAL_ZERO}]
    str r2, [sp, #{_RESIDUAL_LOW}]
    str r3, [sp, #{_RESIDUAL_HIGH}]
    ldr r1, [sp, #{_PASSED + 8}]
    ldr r2, [sp, #{_OUTPUT}]
    subs r1, r1, r2
    str r1, [sp, #{_RESIDUAL}]
"""

_PRODUCTS = f"""
0:
    ldr r0, [sp, #{_COLUMNS}]
    ldr r1, [sp, #{_WEIGHTS}]
    ldr r3, [sp, #{_ENTRY}]
    movs r2, #0
    movs r7, #0
    mov r8, r2
    mov r9, r2
    mov pc, r3
    .p2align 2
1:
{_STEP * UNROLLED}
    cmp r0, r10
    bne 1b
"""

_SUMS = f"""
    mov r3, r8
    lsls r4, r7, #16
    subs r3, r3, r4
    mov r5, r9
    lsls r4, r2, #16
    subs r5, r5, r4
    mov r0, r12
    ldmia r0!, {{r4}}                 @ bias
    adds r3, r3, r4
    adds r7, r7, r4
    adds r5, r5, r4
    adds r2, r2, r4
    str r3, [sp, #0]
    str r7, [sp, #4]
    str r5, [sp, #8]
    str r2, [sp, #12]
    ldrh r5, [r0, #0]                 @ the multiplier's halves
    ldrh r6, [r0, #2]
    adds r0, r0, #4
    mov r12, r0
    ldr r7, [sp, #{_OUTPUT}]
    adds r0, r7, #1
    str r0, [sp, #{_OUTPUT}]
    mov r4, sp
"""

# r4 the sums, r5 and r6 the multiplier's halves, r7 output. acc * M = ah mh 2^32 + (ah ml + al mh) 2^16 + al ml.
_FINISH = f"""
    ldr r3, [sp, #{_LAST}]
    ldr r0, [sp, #{_STRIDE}]
    mov r8, r0
    ldr r0, [sp, #{_ZERO}]
    mov r9, r0
2:
    ldmia r4!, {{r0}}
    {SCALE}
    add r1, r9
    cmp r1, r11
    bhi 5f
3:
    add r1, lr
    strb r1, [r7]
    add r7, r8
    cmp r4, r3
    bne 2b
"""

_FINISH_RESIDUAL = f"""
    ldr r0, [sp, #{_RESIDUAL_ZERO}]
    mov r8, r0
2:
    ldr r0, [sp, #{_RESIDUAL}]
    ldrsb r0, [r7, r0]
    add r0, r8
    ldr r1, [sp, #{_RESIDUAL_LOW}]
    muls r1, r0, r1
    mov r9, r1
    ldr r3, [sp, #{_RESIDUAL_HIGH}]
    muls r3, r0, r3
    ldmia r4!, {{r0}}
    asrs r1, r0, #16
    uxth r0, r0
    movs r2, r0
    muls r2, r5, r2
    muls r0, r6, r0
    adds r0, r0, r3
    lsrs r3, r2, #16
    adds r0, r0, r3
    uxth r2, r2
    add r2, r9
    asrs r2, r2, #16
    adds r0, r0, r2
    movs r2, r1
    muls r2, r5, r2
    adds r0, r0, r2
    muls r1, r6, r1
    asrs r0, r0, #16
    adcs r1, r0
    ldr r0, [sp, #{_ZERO}]
    adds r1, r1, r0
    cmp r1, r11
    bhi 5f
3:
    add r1, lr
    strb r1, [r7]
    ldr r0, [sp, #{_STRIDE}]
    adds r7, r7, r0
    ldr r0, [sp, #{_LAST}]
    cmp r4, r0
    bne 2b
"""

_NEXT = f"""
    ldr r1, [sp, #{_WEIGHTS}]
    adds r1, r1, #1
    ldr r0, [sp, #{_DONE}]
    adds r0, r0, #1
    lsls r2, r0, #29
    bne 4f
    ldr r2, [sp, #{_NEXT_GROUP}]
    adds r1, r1, r2
4:
    str r1, [sp, #{_WEIGHTS}]
    str r0, [sp, #{_DONE}]
    ldr r2, [sp, #{_CHANNELS}]
    cmp r0, r2
    beq 6f
    b 0b
6:
"""

# Above the range it is the range, below 0 it is 0.
_CLAMP = """
5:
    asrs r1, r1, #31
    mvns r1, r1
    mov r2, r11
    ands r1, r2
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
    "tinyopt_columns_thumb1",
    _PARAMETERS,
    _ENTER + _SET_UP + _PRODUCTS + _SUMS + _FINISH + _NEXT + _LEAVE + _CLAMP,
    columns_meaning,
)

COLUMNS_WITH_RESIDUAL = micro_kernel(
    "tinyopt_residual_columns_thumb1",
    (*_PARAMETERS, "const int8_t *residual"),
    _ENTER + _SET_UP + _SET_UP_RESIDUAL + _PRODUCTS + _SUMS + _FINISH_RESIDUAL + _NEXT + _LEAVE + _CLAMP,
    columns_meaning,
)

# r0, r1 the runs, r2 index, r3 columns, r12 even part of the count, then the odd place
PACK_PAIR = micro_kernel(
    "tinyopt_pack_thumb1",
    ("const int8_t *first", "const int8_t *second", "int32_t count", "int32_t *columns"),
    """
    push {r4, r5, r6, r7, lr}
    mov r12, r2
    lsrs r4, r2, #1
    lsls r4, r4, #1
    mov lr, r4
    movs r2, #0
    cmp r4, #0
    beq 2f
1:
    ldrsb r4, [r0, r2]
    ldrsb r5, [r1, r2]
    adds r2, r2, #1
    ldrsb r6, [r0, r2]
    ldrsb r7, [r1, r2]
    adds r2, r2, #1
    lsls r5, r5, #16
    adds r4, r4, r5
    lsls r7, r7, #16
    adds r6, r6, r7
    stmia r3!, {r4, r6}
    adds r3, r3, #8
    cmp r2, lr
    bne 1b
2:
    cmp r2, r12
    beq 3f
    ldrsb r4, [r0, r2]
    ldrsb r5, [r1, r2]
    lsls r5, r5, #16
    adds r4, r4, r5
    movs r6, #0
    stmia r3!, {r4, r6}
3:
    pop {r4, r5, r6, r7, pc}
""",
    pack_pair,
)
