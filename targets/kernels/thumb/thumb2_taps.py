"""ARMv7-M: the taps of a depthwise window times pairs of rows, multiplied as in thumb2_columns."""

from __future__ import annotations

from tinyopt.targets.kernels.intrinsic import micro_kernel
from tinyopt.targets.kernels.thumb.meanings import interleave_rows, taps_meaning

UNROLLED = 5  # pairs of taps
STEP_BYTES = 18  # code of one pair of taps

# r0 column, r1 taps, r2 2^15, r7 V, r12 U
_STEP = """
    ldmia r0!, {r3, r4}
    ldmia r1!, {r5, r6}
    mla r3, r3, r5, r2
    mla r3, r4, r6, r3
    add r7, r3
    add r12, r12, r3, asr #16
"""

_TAPS, _START, _BIAS, _ENTRY, _COLUMN_STEP, _COUNT, _STRIDE, _ZERO, _RANGE, _LOW, _OUTPUT = range(0, 44, 4)
_FRAME = 48
_PASSED = _FRAME + 36

_ENTER = f"""
    push {{r4, r5, r6, r7, r8, r9, r10, r11, lr}}
    sub sp, #{_FRAME}
    mov r9, r0
    str r1, [sp, #{_TAPS}]
    mov r11, r3
    ldmia r2, {{r4, r5, r6}}          @ bias, what V begins with, multiplier
    str r4, [sp, #{_BIAS}]
    str r5, [sp, #{_START}]
    mov r10, r6
    ldr r0, [sp, #{_PASSED}]
    ldmia r0, {{r0, r2, r3, r4, r5, r6, r7, r8}}
    add lr, r1, r0                    @ the end of the taps
    adr r1, 1f
    add r1, r1, r2
    orr r1, r1, #1
    str r1, [sp, #{_ENTRY}]
    str r3, [sp, #{_COLUMN_STEP}]
    str r4, [sp, #{_COUNT}]
    str r5, [sp, #{_STRIDE}]
    str r6, [sp, #{_ZERO}]
    str r7, [sp, #{_RANGE}]
    str r8, [sp, #{_LOW}]
    ldr r8, [sp, #{_PASSED + 4}]
    mov r2, #0x8000
"""


def _finish(accumulator: str) -> str:
    """Rescale to r1; r4 is zero point - low, r5 high - low, r6 low."""
    return f"""
    smull r0, r1, {accumulator}, r10
    adds r0, r0, #0x80000000
    adc r1, r1, r4
    cmp r1, r5
    it hi
    bichi r1, r5, r1, asr #31
    add r1, r1, r6
"""


# The lower row is written first: where there is none, its place is the upper one's.
_COLUMNS = f"""
0:
    mov r0, r9
    ldr r1, [sp, #{_TAPS}]
    ldr r3, [sp, #{_ENTRY}]
    ldr r7, [sp, #{_START}]
    ldr r12, [sp, #{_BIAS}]
    bx r3
    .p2align 2
1:
{_STEP * UNROLLED}
    cmp r1, lr
    bne 1b
    sub r7, r7, r12, lsl #16
    ldr r4, [sp, #{_ZERO}]
    ldr r5, [sp, #{_RANGE}]
    ldr r6, [sp, #{_LOW}]
{_finish("r12")}
    strb r1, [r11, r8]
{_finish("r7")}
    strb r1, [r11]
    ldr r3, [sp, #{_STRIDE}]
    add r11, r11, r3
    ldr r3, [sp, #{_COLUMN_STEP}]
    add r9, r9, r3
    ldr r3, [sp, #{_COUNT}]
    subs r3, r3, #1
    str r3, [sp, #{_COUNT}]
    bne 0b
"""

_LEAVE = f"""
    add sp, #{_FRAME}
    pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}
"""

TAPS = micro_kernel(
    "tinyopt_taps_thumb2",
    (
        "const int32_t *columns",
        "const int32_t *taps",
        "const int32_t *rescaling",
        "int8_t *y",
        "const int32_t *numbers",
        "int32_t row",
    ),
    _ENTER + _COLUMNS + _LEAVE,
    taps_meaning,
)

INTERLEAVE_ROWS = micro_kernel(
    "tinyopt_interleave_thumb2",
    (
        "const int8_t *upper",
        "const int8_t *lower",
        "int32_t *columns",
        "int32_t count",
        "int32_t stride",
        "int32_t column_bytes",
    ),
    """
    push {r4, r5, r6, lr}
    ldr r4, [sp, #16]
    ldr r5, [sp, #20]
    subs r1, r1, r0
1:
    ldrsb r12, [r0, r1]
    ldrsb r6, [r0]
    add r0, r0, r4
    add r6, r6, r12, lsl #16
    str r6, [r2]
    add r2, r2, r5
    subs r3, r3, #1
    bne 1b
    pop {r4, r5, r6, pc}
""",
    interleave_rows,
)
