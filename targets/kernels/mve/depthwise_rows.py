"""Micro-kernels that lay out two rows of an image as pairs of bytes, for the depthwise convolution's gathers.

A pixel's channels lie in halfwords: (even row, odd row) of channel 0, of channel 1, ... of all lanes of the group.
"""

from __future__ import annotations

from itertools import product

from tinyopt.ir import Array
from tinyopt.targets.kernels.intrinsic import micro_kernel


def _pair_rows(image: Array, filler: Array, target: Array, row: int, slots: int, numbers: Array, channels: int) -> None:
    """What lies behind the last channel of a pixel is left undefined; here it stays as it was."""
    height, row_bytes, columns, step, slot_bytes, lanes = (int(number) for number in numbers[:6])
    for slot, half, column in product(range(slots), range(2), range(columns)):
        y = row + 2 * slot + half
        begin = y * row_bytes + column * step
        cells = image[begin : begin + channels] if 0 <= y < height else filler[:channels]
        pixel = slot * slot_bytes + 2 * lanes * column + half
        target[pixel : pixel + 2 * channels : 2] = cells


# numbers: the image's height, bytes of a row, columns, bytes of a pixel; bytes of a slot, and its lanes, 16 or 8
# r0, r1: the pixel in the two rows; r7, r10: steps to the next one, 0 where a row is outside the image, which is where
# its pointer stays at the filler; r2: where they go; r3, r4: row, slots still to do; r11: the slot
PAIR_ROWS = micro_kernel(
    "tinyopt_pair_rows",
    (
        "const int8_t *image",
        "const int8_t *filler",
        "int8_t *target",
        "int32_t row",
        "int32_t slots",
        "const int32_t *numbers",
        "int32_t channels",
    ),
    """
    push {r4-r11, lr}
    ldrd r4, r5, [sp, #36]  @ slots, numbers
    push {r0, r1}
    mov r11, r2
    1:
    ldrd r6, r12, [r5]  @ height, bytes of a row
    ldr r7, [r5, #12]
    mov r10, r7
    ldr r2, [sp]  @ image
    mla r0, r3, r12, r2
    add r1, r0, r12
    ldr r2, [sp, #4]  @ filler
    cmp r3, r6
    itt hs
    movhs r0, r2
    movhs r7, #0
    add r12, r3, #1
    cmp r12, r6
    itt hs
    movhs r1, r2
    movhs r10, #0
    mov r2, r11
    ldr lr, [r5, #8]
    dls lr, lr
    ldr r6, [sp, #52]  @ channels
    ldr r12, [r5, #20]  @ lanes
    cmp r12, #8
    beq 3f
    vctp.8 r6
    2:
    vpstt
    vldrbt.u8 q0, [r0]
    vldrbt.u8 q1, [r1]
    add r0, r0, r7
    add r1, r1, r10
    vst20.8 {q0, q1}, [r2]
    vst21.8 {q0, q1}, [r2]!
    le lr, 2b
    b 5f
    3:
    vctp.16 r6
    4:
    vpstt
    vldrbt.u16 q0, [r0]
    vldrbt.u16 q1, [r1]
    add r0, r0, r7
    add r1, r1, r10
    vsli.16 q0, q1, #8
    vstrh.16 q0, [r2], #16
    le lr, 4b
    5:
    ldr r12, [r5, #16]
    add r11, r11, r12
    add r3, r3, #2
    subs r4, #1
    bne 1b
    pop {r0, r1}
    pop {r4-r11, pc}
    """,
    _pair_rows,
)
