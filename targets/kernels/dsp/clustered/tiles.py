"""The inner tiles for clustered weights, in assembly: one channel times eight or four pixels, decoded on the way.

The activations of a block are interleaved: word [pair][pixel], two int16 each. A step decodes a pair of weights and
multiplies it with the block's pixels: for 16 values two instructions (LDRB, LDR from the table of pairs) for eight
SMLAD and four LDRD. All channels are done before the function returns; the table and the block stay where they are.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.dsp.clustered.decode_steps import decode, decoded
from tinyopt.targets.kernels.dsp.clustered.pairs import PAIRS_AT_ONCE, packed_row_bytes
from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel

WIDE, NARROW = 8, 4  # pixels of the two tiles
UNROLLED = 8  # pairs in the body of the loop over the depth

_FIRST_STEP = 20  # label of the first step

# The frame below the arguments that lie on the stack: six words of its own, then r0-r11 and lr.
_LOOP, _STORE, _LAST, _PLACE, _SUM = 0, 4, 8, 12, 16
_BLOCK, _TABLE, _RESCALING = 24, 28, 36
_OUTPUT, _CHANNELS, _BLOCK_END, _PIXELS, _ZERO_POINT, _LIMITS, _RESIDUAL = range(76, 104, 4)

PARAMETERS = (
    "const void *block",
    "const void *table",
    "const void *places",
    "const int32_t *rescaling",
    "int8_t *output",
    "int32_t channels",
    "int32_t block_bytes",
    "int32_t pixels",
    "int32_t zero_point",
    "const int32_t *limits",
    "const int8_t *residual",
)


def _step(bits: int, pixels: int, pair: int) -> list[str]:
    """A pair times all pixels of the block; the sums are in r4, r5, ... It begins with a label of its own."""
    lines = [f"{_FIRST_STEP + pair}:", *decode(bits, pair % PAIRS_AT_ONCE)]
    for pixel in range(0, pixels, 2):
        lines.append("ldrd r12, lr, [r0], #8")
        lines += [f"smlad r{4 + pixel}, r3, r12, r{4 + pixel}", f"smlad r{5 + pixel}, r3, lr, r{5 + pixel}"]
    return lines


def _begin(pixels: int, has_residual: bool) -> list[str]:
    """The frame, and where the loop and the stores are entered."""
    words = pixels.bit_length() + 1  # log2 of the bytes of a pair
    lines = [
        "push {r0-r11, lr}",
        "sub sp, sp, #24",
        f"ldr r4, [sp, #{_BLOCK_END}]",
        "add r5, r0, r4",
        f"str r5, [sp, #{_BLOCK_END}]",
        "rsb r4, r4, #0",
        f"ubfx r4, r4, #{words}, #3",
        "adr.w r5, 9f",
        "ldrh r4, [r5, r4, lsl #1]",
        "sub r5, r5, r4",
        "orr r5, r5, #1",
        f"str r5, [sp, #{_LOOP}]",
        f"ldr r4, [sp, #{_PIXELS}]",
        f"rsb r4, r4, #{pixels}",
        "adr.w r5, 5f",
        "add r5, r5, r4, lsl #2",
        "orr r5, r5, #1",
        f"str r5, [sp, #{_STORE}]",
        f"ldr r4, [sp, #{_OUTPUT}]",
        f"ldr r5, [sp, #{_CHANNELS}]",
        "add r4, r4, r5",
        f"str r4, [sp, #{_LAST}]",
    ]
    if has_residual:
        lines += [f"ldr r4, [sp, #{_LIMITS}]", "ldrd r5, r6, [r4, #12]", f"strd r5, r6, [sp, #{_SUM}]"]
    return lines


def _channel(bits: int, pixels: int) -> list[str]:
    """The sums of one channel. The loop is entered where the last steps of its body are as many as are over."""
    return [
        "1:",
        f"ldr r3, [sp, #{_RESCALING}]",
        "ldr r4, [r3], #8",
        f"str r3, [sp, #{_RESCALING}]",
        *(f"mov r{4 + pixel}, r4" for pixel in range(1, pixels)),
        f"ldr r0, [sp, #{_BLOCK}]",
        f"ldr pc, [sp, #{_LOOP}]",
        *(line for pair in range(UNROLLED) for line in _step(bits, pixels, pair)),
        f"ldr r3, [sp, #{_BLOCK_END}]",
        "cmp r0, r3",
        f"bne {_FIRST_STEP}b",
    ]


def _rescale(pixels: int) -> list[str]:
    lines = [f"ldr r3, [sp, #{_RESCALING}]", "ldr r12, [r3, #-4]", f"ldr lr, [sp, #{_ZERO_POINT}]"]
    for register in range(4, 4 + pixels):
        lines += [f"smmlar r{register}, r{register}, r12, lr", f"ssat r{register}, #8, r{register}"]
    return lines


def _rescale_with_residual(pixels: int) -> list[str]:
    """Two SMLAL for each; pixels that are not there read the last one's residual."""
    lines = [
        f"str r2, [sp, #{_PLACE}]",
        f"ldr r3, [sp, #{_RESCALING}]",
        "ldr r12, [r3, #-4]",
        f"ldr lr, [sp, #{_LIMITS}]",
        "ldr lr, [lr, #8]",
        f"ldr r1, [sp, #{_RESIDUAL}]",
        "add r2, r1, #1",
        f"str r2, [sp, #{_RESIDUAL}]",
    ]
    for pixel in range(pixels):
        register = 4 + pixel
        lines += [
            f"ldrd r0, r3, [sp, #{_SUM}]",
            f"smlal r0, r3, r{register}, r12",
            "ldrsb r2, [r1]",
            "smlal r0, r3, r2, lr",
            f"ssat r{register}, #8, r3",
        ]
        if pixel + 1 < pixels:
            lines += [f"ldr r2, [sp, #{_PIXELS}]", f"ldr r0, [sp, #{_CHANNELS}]", f"cmp r2, #{pixel + 1}"]
            lines += ["it gt", "addgt r1, r1, r0"]
    return [*lines, f"ldr r1, [sp, #{_TABLE}]", f"ldr r2, [sp, #{_PLACE}]"]


def _clamp(pixels: int) -> list[str]:
    lines = [f"ldr r0, [sp, #{_LIMITS}]", "ldrd r0, r3, [r0]"]
    for register in range(4, 4 + pixels):
        lines += [f"cmp r{register}, r0", "it lt", f"movlt r{register}, r0"]
        lines += [f"cmp r{register}, r3", "it gt", f"movgt r{register}, r3"]
    return lines


_STORED_AT = (  # pixel n, `channels` (r0) bytes apart; r3: the first, r12: the fourth, lr: the third one's place
    "[r3], #1",
    "[r3, r0]",
    "[r3, r0, lsl #1]",
    "[r12]",
    "[r12, r0]",
    "[r12, r0, lsl #1]",
    "[lr, r0, lsl #2]",
    "[r12, r0, lsl #2]",
)


def _store(pixels: int) -> list[str]:
    """From the last pixel to the first, entered where the pixels begin that are there: each store takes four bytes."""
    return [
        f"ldr r3, [sp, #{_OUTPUT}]",
        f"ldr r0, [sp, #{_CHANNELS}]",
        "add r12, r3, r0",
        "add r12, r12, r0, lsl #1",
        "add lr, r3, r0, lsl #1",
        f"ldr pc, [sp, #{_STORE}]",
        "5:",
        *(f"strb.w r{4 + pixel}, {_STORED_AT[pixel]}" for pixel in reversed(range(pixels))),
        f"str r3, [sp, #{_OUTPUT}]",
        f"ldr r0, [sp, #{_LAST}]",
        "cmp r3, r0",
        "bne 1b",
        "add sp, sp, #24",
        "pop {r0-r11, pc}",
        ".balign 2",
        "9:",
        *(f".hword 9b - {_FIRST_STEP + pair}b" for pair in range(UNROLLED)),
    ]


@cache
def multiply_block(bits: int, pixels: int, is_clamped: bool, has_residual: bool) -> Intrinsic:
    """All channels of a block of up to `pixels` pixels.

    rescaling: bias and multiplier of each channel. limits: low, high, and the residual's multiplier and 64-bit start.
    """
    lines = [
        *_begin(pixels, has_residual),
        *_channel(bits, pixels),
        *(_rescale_with_residual(pixels) if has_residual else _rescale(pixels)),
        *(_clamp(pixels) if is_clamped else ()),
        *_store(pixels),
    ]
    kind = f"{'_clamped' if is_clamped else ''}{'_residual' if has_residual else ''}"
    name = f"tinyopt_clustered{bits}_x{pixels}{kind}"

    def meaning(*arguments: Array | int) -> None:
        multiply_block_meaning(bits, pixels, is_clamped, has_residual, *arguments)

    return micro_kernel(name, PARAMETERS, "\n".join(lines), meaning)


def multiply_block_meaning(
    bits: int, width: int, is_clamped: bool, has_residual: bool, *arguments: Array | int
) -> None:
    """What the assembly does."""
    block, table, places, rescaling, output = (np.asarray(array) for array in arguments[:5])
    channels, block_bytes, pixels, zero_point = (int(number) for number in arguments[5:9])
    limits, residual = (np.asarray(array) for array in arguments[9:])
    pairs = block_bytes // (4 * width)
    x = block.view(np.int16)[: pairs * width * 2].reshape(pairs, width, 2).astype(np.int64)
    row = packed_row_bytes(pairs, bits)
    for channel in range(channels):
        weights = decoded(bits, table, places.reshape(-1)[channel * row :], pairs)
        sums = int(rescaling[2 * channel]) + np.einsum("kph,kh->p", x, weights)[:pixels]
        total = sums * int(rescaling[2 * channel + 1])
        if has_residual:
            total += residual[channel : channel + pixels * channels : channels].astype(np.int64) * int(limits[2])
            total += int(limits[3]) % 2**32 + (int(limits[4]) << 32)
        else:
            total += (zero_point << 32) + 2**31
        level = np.clip(total >> 32, -128, 127)
        if is_clamped:
            level = np.clip(level, limits[0], limits[1])
        output[channel : channel + pixels * channels : channels] = level
