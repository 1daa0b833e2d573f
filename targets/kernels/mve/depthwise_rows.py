"""Micro-kernels that lay out two rows of an image as pairs of bytes, for the depthwise convolution's gathers.

A pixel's channels lie in halfwords: (even row, odd row) of channel 0, of channel 1, ... of all lanes of the group.
"""

from __future__ import annotations

from tinyopt.ir import Array
from tinyopt.targets.kernels.intrinsic import micro_kernel


def _pair_rows(lanes: int, image: Array, filler: Array, target: Array, *numbers: int) -> None:
    """What lies behind the last channel of a pixel is left undefined; here it stays as it was."""
    row, height, row_bytes, columns, step, channels = numbers
    for place, y in enumerate((row, row + 1)):
        for column in range(columns):
            begin = y * row_bytes + column * step
            cells = image[begin : begin + channels] if 0 <= y < height else filler[:channels]
            pixel = 2 * lanes * column + place
            target[pixel : pixel + 2 * channels : 2] = cells


_PARAMETERS = (
    "const int8_t *image",
    "const int8_t *filler",
    "int8_t *target",
    "int32_t row",
    "int32_t height",
    "int32_t row_bytes",
    "int32_t columns",
    "int32_t step",
    "int32_t channels",
)

# r0 and r1 walk along the even and the odd row by r7 and r10; outside the image they stay at the filler
_FIND_ROWS = """
    push {r4-r10, lr}
    ldrd r4, r5, [sp, #32]  @ height, bytes of a row
    ldrd r6, r7, [sp, #40]  @ columns, step
    ldr r12, [sp, #48]  @ channels
    mla r8, r3, r5, r0
    add r9, r8, r5
    mov r10, r7
    add r5, r3, #1
    cmp r5, r4
    itt hs
    movhs r9, r1
    movhs r10, #0
    cmp r3, r4
    itt hs
    movhs r8, r1
    movhs r7, #0
    mov r0, r8  @ widening loads take low registers only
    mov r1, r9
    dls lr, r6
"""

_PAIR_ROWS_OF_16 = micro_kernel(
    "tinyopt_pair_rows_of_16",
    _PARAMETERS,
    f"""{_FIND_ROWS}
    vctp.8 r12
    1:
    vpstt
    vldrbt.u8 q0, [r0]
    vldrbt.u8 q1, [r1]
    add r0, r0, r7
    add r1, r1, r10
    vst20.8 {{q0, q1}}, [r2]
    vst21.8 {{q0, q1}}, [r2]!
    le lr, 1b
    pop {{r4-r10, pc}}
    """,
    lambda *arguments: _pair_rows(16, *arguments),
)

_PAIR_ROWS_OF_8 = micro_kernel(
    "tinyopt_pair_rows_of_8",
    _PARAMETERS,
    f"""{_FIND_ROWS}
    vctp.16 r12
    1:
    vpstt
    vldrbt.u16 q0, [r0]
    vldrbt.u16 q1, [r1]
    add r0, r0, r7
    add r1, r1, r10
    vsli.16 q0, q1, #8
    vstrh.16 q0, [r2], #16
    le lr, 1b
    pop {{r4-r10, pc}}
    """,
    lambda *arguments: _pair_rows(8, *arguments),
)

PAIR_ROWS = {16: _PAIR_ROWS_OF_16, 8: _PAIR_ROWS_OF_8}  # by the channels of a group
