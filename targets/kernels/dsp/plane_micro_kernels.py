"""The planes of a depthwise convolution, in assembly: images widened, borders filled, rows moved.

Four channels are widened into four *planes*: a row of the image is a row of words there, two neighbouring cells of one
channel in each as int16, the border filled with the input's zero point. Rows of the four planes lie behind one another:
word [row][plane][word].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyopt.targets.kernels.dsp.depthwise_micro_kernels import field_offset
from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel

GROUP = 4  # channels widened together: those of one word

FILL_FIELDS = (
    "channels",
    "plane_bytes",
    "left_edge",
    "quads",
    "pair",
    "right_edge",
    "filler",
    "row_skip",
    "plane_skip",
)


def _scatter(low: str, high: str) -> list[str]:
    """Two cells of four channels, (a0 a1 b0 b1) and (a2 a3 b2 b3), to the four planes."""
    return [
        f"sxtb16 r8, {low}",
        "str r8, [r4], #4",
        f"sxtb16 r8, {low}, ror #8",
        "str r8, [r5], #4",
        f"sxtb16 r8, {high}",
        "str r8, [r6], #4",
        f"sxtb16 r8, {high}, ror #8",
        "str r8, [r7], #4",
    ]


_SPLIT_AND_SCATTER = ["pkhbt r10, r8, r9, lsl #16", "pkhtb r11, r9, r8, asr #16", *_scatter("r10", "r11")]


def _fill() -> Intrinsic:
    """Widen `rows` whole rows of the image, four channels from x on. parameters: FILL_FIELDS.

    A row is: the border's last cell with the first one of the image where `left_edge`, four cells `quads` times, two
    cells where `pair`, and the last one with the border's first where `right_edge`. row_skip, plane_skip: bytes from
    there to the next row.
    """

    def at(name: str) -> str:
        return f"[r2, #{field_offset(FILL_FIELDS, name)}]"

    lines = [
        "cmp r3, #0",
        *("it le", "bxle lr"),
        "push {r2-r11, lr}",  # parameters, rows
        "mov r4, r1",
        "ldrd r1, r3, [r2]",
        "add lr, r1, r1, lsl #1",
        *("add r5, r4, r3", "add r6, r5, r3", "add r7, r6, r3"),
        "1:",
        f"ldr r3, {at('left_edge')}",
        "cbz r3, 2f",
        *(f"ldr r8, {at('filler')}", "ldr r9, [r0]", "add r0, r0, r1"),
        *_SPLIT_AND_SCATTER,
        "2:",
        f"ldr r3, {at('quads')}",
        "cbz r3, 4f",
        "3:",
        *("ldr r8, [r0]", "ldr r9, [r0, r1]", "ldr r10, [r0, r1, lsl #1]", "ldr r11, [r0, lr]"),
        "add r0, r0, r1, lsl #2",
        *("pkhbt r12, r8, r9, lsl #16", "pkhtb r9, r9, r8, asr #16"),
        *("pkhbt r8, r10, r11, lsl #16", "pkhtb r11, r11, r10, asr #16"),
        *("sxtb16 r10, r12", "sxtb16 r2, r8", "strd r10, r2, [r4], #8"),
        *("sxtb16 r12, r12, ror #8", "sxtb16 r8, r8, ror #8", "strd r12, r8, [r5], #8"),
        *("sxtb16 r10, r9", "sxtb16 r2, r11", "strd r10, r2, [r6], #8"),
        *("sxtb16 r9, r9, ror #8", "sxtb16 r11, r11, ror #8", "strd r9, r11, [r7], #8"),
        *("subs r3, r3, #1", "bne 3b"),
        "ldr r2, [sp]",
        "4:",
        f"ldr r3, {at('pair')}",
        "cbz r3, 5f",
        *("ldr r8, [r0]", "ldr r9, [r0, r1]", "add r0, r0, r1, lsl #1"),
        *_SPLIT_AND_SCATTER,
        "5:",
        f"ldr r3, {at('right_edge')}",
        "cbz r3, 6f",
        *("ldr r8, [r0]", f"ldr r9, {at('filler')}", "add r0, r0, r1"),
        *_SPLIT_AND_SCATTER,
        "6:",
        f"ldrd r8, r9, {at('row_skip')}",
        "ldr r3, [sp, #4]",
        *("add r0, r0, r8", "add r4, r4, r9", "add r5, r5, r9", "add r6, r6, r9", "add r7, r7, r9"),
        *("subs r3, r3, #1", "str r3, [sp, #4]", "bne 1b"),
        "pop {r2-r11, pc}",
    ]
    return micro_kernel(
        "tinyopt_fill_planes",
        ("const int8_t *x", "void *planes", "const int32_t *parameters", "int32_t rows"),
        "\n".join(lines),
        _widened,
    )


def _widened(cells: NDArray[np.int8]) -> NDArray[np.int32]:
    """Cells [even number][4] of a row as words [plane][pair]."""
    return np.ascontiguousarray(cells.T.astype("<i2")).view("<i4")


FILL_PLANES = _fill()

# Write whole fours of a word.
FILL_WORDS = micro_kernel(
    "tinyopt_fill_words",
    ("void *to", "int32_t word", "int32_t words"),
    """\
cbz r2, 2f
mov r3, r1
1:
strd r1, r3, [r0], #8
strd r1, r3, [r0], #8
subs r2, r2, #4
bne 1b
2:
bx lr
""",
    lambda memory, to, word, words: memory.__setitem__(slice(to, to + words), word),
)

# Move whole fours of words to a lower place in the same memory.
MOVE_WORDS = micro_kernel(
    "tinyopt_move_words",
    ("void *to", "const void *from", "int32_t words"),
    """\
cbz r2, 2f
push {r4, r5}
1:
ldm r1!, {r3, r4, r5, r12}
stm r0!, {r3, r4, r5, r12}
subs r2, r2, #4
bne 1b
pop {r4, r5}
2:
bx lr
""",
    lambda memory, to, start, words: memory.__setitem__(slice(to, to + words), memory[start : start + words].copy()),
)
