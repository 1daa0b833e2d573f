"""ARMv6-M: the taps of a depthwise window times pairs of rows, multiplied as in thumb1_columns."""

from __future__ import annotations

from tinyopt.targets.kernels.intrinsic import micro_kernel
from tinyopt.targets.kernels.thumb.meanings import interleave_rows, taps_meaning
from tinyopt.targets.kernels.thumb.thumb1_text import RESTORE_AND_RETURN, SAVE_REGISTERS

UNROLLED = 5  # pairs of taps
STEP_BYTES = 16  # code of one pair of taps

# r0 column, r1 taps, r6 V, r7 U
_STEP = """
    ldmia r0!, {r2, r3}
    ldmia r1!, {r4, r5}
    muls r2, r4, r2
    muls r3, r5, r3
    adds r2, r2, r3
    adds r6, r6, r2
    asrs r2, r2, #16
    adcs r7, r2
"""

_TAPS, _START, _ENTRY, _LOW_HALF, _HIGH_HALF, _COLUMN_STEP, _COUNT, _STRIDE, _OUTPUT, _ROW = range(0, 40, 4)
_FRAME = 40
_PASSED = _FRAME + 36

_ENTER = f"""
    {SAVE_REGISTERS}
    sub sp, #{_FRAME}
    mov r11, r0
    str r1, [sp, #{_TAPS}]
    str r3, [sp, #{_OUTPUT}]
    ldmia r2!, {{r4, r5}}             @ bias, what V begins with
    mov r8, r4
    str r5, [sp, #{_START}]
    ldrh r4, [r2, #0]
    ldrh r5, [r2, #2]
    str r4, [sp, #{_LOW_HALF}]
    str r5, [sp, #{_HIGH_HALF}]
    ldr r0, [sp, #{_PASSED}]
    ldmia r0!, {{r2, r3, r4, r5, r6, r7}}  @ bytes of taps, code to leave out, steps from column to column ...
    adds r2, r2, r1
    mov r10, r2                       @ the end of the taps
    adr r2, 1f
    adds r2, r2, r3
    str r2, [sp, #{_ENTRY}]
    str r4, [sp, #{_COLUMN_STEP}]
    str r5, [sp, #{_COUNT}]
    str r6, [sp, #{_STRIDE}]
    mov r9, r7                        @ zero point - low
    ldmia r0!, {{r2, r3}}
    mov r12, r2                       @ high - low
    mov lr, r3                        @ low
    ldr r2, [sp, #{_PASSED + 4}]
    str r2, [sp, #{_ROW}]
"""


def _finish(accumulator: str, clamp: int, back: int) -> str:
    """Rescale to r1; r4 and r5 are the multiplier's halves."""
    return f"""
    asrs r1, {accumulator}, #16
    uxth r0, {accumulator}
    movs r2, r0
    muls r2, r4, r2
    lsrs r2, r2, #16
    muls r0, r5, r0
    adds r0, r0, r2
    movs r2, r1
    muls r2, r4, r2
    adds r0, r0, r2
    muls r1, r5, r1
    asrs r0, r0, #16
    adcs r1, r0
    add r1, r9
    cmp r1, r12
    bhi {clamp}f
{back}:
    add r1, lr
"""


def _clamp(clamp: int, back: int) -> str:
    return f"""
{clamp}:
    asrs r1, r1, #31
    mvns r1, r1
    mov r2, r12
    ands r1, r2
    b {back}b
"""


# The lower row is written first: where there is none, its place is the upper one's.
_COLUMNS = f"""
0:
    mov r0, r11
    ldr r1, [sp, #{_TAPS}]
    ldr r2, [sp, #{_ENTRY}]
    ldr r6, [sp, #{_START}]
    mov r7, r8
    mov pc, r2
    .p2align 2
1:
{_STEP * UNROLLED}
    cmp r1, r10
    bne 1b
    lsls r0, r7, #16
    subs r6, r6, r0
    ldr r4, [sp, #{_LOW_HALF}]
    ldr r5, [sp, #{_HIGH_HALF}]
    ldr r3, [sp, #{_OUTPUT}]
{_finish("r7", 5, 2)}
    ldr r2, [sp, #{_ROW}]
    strb r1, [r3, r2]
{_finish("r6", 6, 3)}
    strb r1, [r3]
    ldr r2, [sp, #{_STRIDE}]
    adds r3, r3, r2
    str r3, [sp, #{_OUTPUT}]
    ldr r2, [sp, #{_COLUMN_STEP}]
    add r11, r2
    ldr r2, [sp, #{_COUNT}]
    subs r2, r2, #1
    str r2, [sp, #{_COUNT}]
    bne 0b
"""

_LEAVE = f"""
    add sp, #{_FRAME}
    {RESTORE_AND_RETURN}
"""

TAPS = micro_kernel(
    "tinyopt_taps_thumb1",
    (
        "const int32_t *columns",
        "const int32_t *taps",
        "const int32_t *rescaling",
        "int8_t *y",
        "const int32_t *numbers",
        "int32_t row",
    ),
    _ENTER + _COLUMNS + _LEAVE + _clamp(5, 2) + _clamp(6, 3),
    taps_meaning,
)

INTERLEAVE_ROWS = micro_kernel(
    "tinyopt_interleave_thumb1",
    (
        "const int8_t *upper",
        "const int8_t *lower",
        "int32_t *columns",
        "int32_t count",
        "int32_t stride",
        "int32_t column_bytes",
    ),
    """
    push {r4, r5, r6, r7, lr}
    ldr r4, [sp, #20]
    mov r12, r4
    ldr r5, [sp, #24]
    movs r4, #0
1:
    ldrsb r6, [r0, r4]
    ldrsb r7, [r1, r4]
    lsls r7, r7, #16
    adds r6, r6, r7
    str r6, [r2]
    add r4, r12
    adds r2, r2, r5
    subs r3, r3, #1
    bne 1b
    pop {r4, r5, r6, r7, pc}
""",
    interleave_rows,
)
