"""How pixels get into a block: rows of the image are copied, windows in them widened; in assembly.

A *block* is the widened activations of up to four pixels, interleaved: word [pair][pixel], two int16 each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinyopt.targets.kernels.dsp.packing import run_pairs
from tinyopt.targets.kernels.intrinsic import micro_kernel

PIXELS = 4  # of a full block

# The int32 numbers that the functions read, by their places in the array of parameters.
BLOCK_BYTES, WEIGHT_BYTES, FAST_BYTES, IS_ODD, ENTRY = range(5)  # fast: the channels that `_store` takes; see `entry`
ZERO_POINT, CHANNELS, LOW, HIGH, RESIDUAL_MULTIPLIER, START_LOW, START_HIGH = range(5, 12)  # start: a residual's sum's
DISTANCE, QUAD_BYTES, TAIL, SKIP, ROWS = range(12, 17)  # gathering: bytes from pixel to pixel; runs and what is between
SOURCE_STEP, OUTPUT_STEP = 17, 18  # bytes from one full block to the next
IS_THREE_WIDE = 19  # windows of three columns at stride 1, and channels that fill words: `_gather_three_wide`
FIRST_FREE = 20


def gather_four(rows_left: int, parameters: int, first_label: int) -> str:
    """The windows of four pixels at equal distances into a block, within a function.

    In: r0 the source, r1 the block, lr the parameters. rows_left, parameters: places in the frame, where the address of
    the parameters lies too. It uses all registers, and `first_label` and the seven labels after it.
    """
    row, quad, rest, single, end, three_wide, three_wide_quad, done = (first_label + n for n in range(8))
    return f"""
ldr r4, [lr, #{4 * ROWS}]
str r4, [sp, #{rows_left}]
ldr r2, [lr, #{4 * DISTANCE}]
ldr r12, [lr, #{4 * IS_THREE_WIDE}]
add r3, r2, r2, lsl #1
cmp r12, #0
bne {three_wide}f
{row}: ldr r12, [lr, #{4 * QUAD_BYTES}]
add r12, r12, r0
cmp r12, r0
beq {rest}f
{quad}: ldr r5, [r0, r2]
ldr r6, [r0, r2, lsl #1]
ldr r7, [r0, r3]
ldr r4, [r0], #4
sxtb16 r8, r4, ror #8
sxtb16 r9, r5, ror #8
sxtb16 r10, r6, ror #8
sxtb16 r11, r7, ror #8
sxtb16 r4, r4
sxtb16 r5, r5
sxtb16 r6, r6
sxtb16 r7, r7
stm r1!, {{r4-r11}}
cmp r0, r12
bne {quad}b
{rest}: ldr r12, [lr, #{4 * TAIL}]
lsls r12, r12, #31
bcc {single}f
ldrsb r5, [r0, r2]
ldrsb r6, [r0, r2, lsl #1]
ldrsb r7, [r0, r3]
ldrsb r4, [r0], #1
ldrsb r9, [r0, r2]
ldrsb r10, [r0, r2, lsl #1]
ldrsb r11, [r0, r3]
ldrsb r8, [r0], #1
pkhbt r4, r4, r8, lsl #16
pkhbt r5, r5, r9, lsl #16
pkhbt r6, r6, r10, lsl #16
pkhbt r7, r7, r11, lsl #16
stm r1!, {{r4-r7}}
{single}: bpl {end}f
ldrsb r5, [r0, r2]
ldrsb r6, [r0, r2, lsl #1]
ldrsb r7, [r0, r3]
ldrsb r4, [r0], #1
stm r1!, {{r4-r7}}
{end}: ldr r4, [lr, #{4 * SKIP}]
ldr r5, [sp, #{rows_left}]
add r0, r0, r4
subs r5, r5, #1
str r5, [sp, #{rows_left}]
bne {row}b
b {done}f
{_gather_three_wide(rows_left, parameters, three_wide, three_wide_quad)}
{done}:
"""


def _gather_three_wide(rows_left: int, parameters: int, row: int, quad: int) -> str:
    """Of six neighbouring cells, the words of the first four are the left column of the windows, and so on."""
    loads = "\n".join(
        f"ldr r{5 + n}, [r0, {at}]" for n, at in enumerate(("r2", "r2, lsl #1", "r3", "r2, lsl #2", "r12"))
    )
    stores = "stm r1!, {r4-r7}\nstm r10!, {r5-r8}\nstm r11!, {r6-r9}"
    low, high = ("\n".join(f"sxtb16 r{n}, r{n}{rotation}" for n in range(4, 10)) for rotation in ("", ", ror #8"))
    return f"""
{row}: add r12, r2, r2, lsl #2
add r10, r1, r2, lsl #3
add r11, r1, r2, lsl #4
add lr, r0, r2
{quad}: {loads}
ldr r4, [r0]
{low}
{stores}
{loads}
ldr r4, [r0], #4
{high}
{stores}
cmp r0, lr
bne {quad}b
mov r1, r11
ldr lr, [sp, #{parameters}]
ldr r4, [lr, #{4 * SKIP}]
ldr r5, [sp, #{rows_left}]
add r0, r0, r4
add r0, r0, r2, lsl #1
subs r5, r5, #1
str r5, [sp, #{rows_left}]
bne {row}b
"""


def gather(source: NDArray[np.int8], block: NDArray[np.int16], parameters: Sequence[int]) -> None:
    """One pixel. A half that no value belongs to has the sign of its neighbour; its weight is 0."""
    run = parameters[QUAD_BYTES] + parameters[TAIL]
    place, at = 0, 0
    for _ in range(parameters[ROWS]):
        for low, high in run_pairs(0, run):
            block[place] = source[at + low]
            block[place + 1] = source[at + high] if high >= 0 else source[at + low] >> 7
            place += 2 * PIXELS
        at += run + parameters[SKIP]


# The window of one pixel, widened into its lane of the block.
GATHER_ONE = micro_kernel(
    "tinyopt_gather_one",
    ("const int8_t *source", "int32_t *block", "const int32_t *parameters"),
    f"""
push {{r4-r8, lr}}
add r2, r2, #{4 * QUAD_BYTES}
ldm r2, {{r6, r7, r8, r12}}
1: adds r3, r0, r6
cbz r6, 3f
2: ldr r4, [r0], #4
sxtb16 r5, r4
sxtb16 r4, r4, ror #8
str r4, [r1, #{4 * PIXELS}]
str r5, [r1], #{8 * PIXELS}
cmp r0, r3
bne 2b
3: cbz r7, 5f
tst r7, #2
beq 4f
ldrsb r4, [r0], #1
ldrsb r5, [r0], #1
pkhbt r4, r4, r5, lsl #16
str r4, [r1], #{4 * PIXELS}
4: tst r7, #1
beq 5f
ldrsb r4, [r0], #1
str r4, [r1], #{4 * PIXELS}
5: add r0, r0, r8
subs r12, r12, #1
bne 1b
pop {{r4-r8, pc}}
""",
    gather,
)


def _copy(target: NDArray[np.int8], source: NDArray[np.int8], bytes: int) -> None:
    target[:bytes] = source[:bytes].copy()


def _fill(target: NDArray[np.int8], level: int, bytes: int) -> None:
    target[:bytes] = level


# `bytes` bytes from any address to any other at which nothing is read later.
COPY = micro_kernel(
    "tinyopt_copy",
    ("int8_t *to", "const int8_t *from", "int32_t bytes"),
    """
push {r4, r5}
orr r3, r0, r1
lsls r3, r3, #30
bne 2f
subs r2, r2, #16
blt 3f
1: ldm r1!, {r3, r4, r5, r12}
stm r0!, {r3, r4, r5, r12}
subs r2, r2, #16
bge 1b
3: add r2, r2, #16
2: subs r2, r2, #4
blt 5f
4: ldr r3, [r1], #4
str r3, [r0], #4
subs r2, r2, #4
bge 4b
5: adds r2, r2, #4
beq 7f
6: ldrb r3, [r1], #1
strb r3, [r0], #1
subs r2, r2, #1
bne 6b
7: pop {r4, r5}
bx lr
""",
    _copy,
)

# `bytes` bytes of one level; whole words, from a whole word on.
FILL = micro_kernel(
    "tinyopt_fill",
    ("int8_t *to", "int32_t level", "int32_t bytes"),
    """
uxtb r1, r1
orr r1, r1, r1, lsl #8
orr r1, r1, r1, lsl #16
1: str r1, [r0], #4
subs r2, r2, #4
bgt 1b
bx lr
""",
    _fill,
)
