"""The inner tiles for clustered weights, in assembly: one channel times six or three pixels, decoded on the way.

The activations of a block are interleaved: word [pair][pixel], two int16 each. A step decodes a pair of weights and
multiplies it with the block's pixels: for 16 values two instructions (LDRB, LDR from the table of pairs) for six SMLAD
and two LDM, which take all registers but one. All channels are done before the function returns; the table and the
block stay where they are.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.dsp.clustered.decode_steps import decode, decoded, enter
from tinyopt.targets.kernels.dsp.clustered.pairs import PAIRS_AT_ONCE, packed_row_bytes
from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel

WIDE, NARROW = 6, 3  # pixels of the two tiles
_UNROLLED = 16  # pairs in the body of the loop over the depth

_FIRST_STEP, _FIRST_ENTRY = 20, 40  # labels of the first step and of the first way in

# The frame below the arguments that lie on the stack: words of its own, then r0-r11 and lr.
_BLOCK, _LOOP, _STRIDE, _THREE_STRIDES, _STORE, _LAST, _PLACE, _SUM = range(0, 32, 4)
_END, _FRAME = 36, 40
_TABLE, _OUTPUT = _FRAME + 4, _FRAME + 12
_CHANNELS, _PAIRS, _PIXELS, _ZERO_POINT, _LIMITS, _RESIDUAL = range(_FRAME + 52, _FRAME + 76, 4)

PARAMETERS = (
    "const void *block",
    "const void *table",
    "const void *weights",
    "int8_t *output",
    "int32_t channels",
    "int32_t pairs",
    "int32_t pixels",
    "int32_t zero_point",
    "const int32_t *limits",
    "const int8_t *residual",
)


def _step(bits: int, pixels: int, pair: int) -> list[str]:
    """A pair times all pixels of the block; the sums are in r4, r5, ... It begins with a label of its own."""
    lines = [f"{_FIRST_STEP + pair}:", *decode(bits, pair % PAIRS_AT_ONCE)]
    for pixel in range(0, pixels, 3):
        lines.append("ldm r0!, {r10, r11, r12}")
        lines += [f"smlad r{4 + pixel + n}, r3, r{10 + n}, r{4 + pixel + n}" for n in range(3)]
    return lines


def _entries(bits: int) -> list[str]:
    """Ways into the loop at each step, as offsets to go back, and the ones that do more than go there."""
    lines, offsets = [], [".balign 2", "9:"]
    for pair in range(_UNROLLED):
        first = enter(bits, pair % PAIRS_AT_ONCE)
        if first:
            lines += [f"{_FIRST_ENTRY + pair}:", *first, f"b {_FIRST_STEP + pair}b"]
        offsets.append(f".hword 9b - {(_FIRST_ENTRY if first else _FIRST_STEP) + pair}b")
    return [*lines, *offsets]


def _begin(pixels: int, has_residual: bool) -> list[str]:
    """The frame, and where the loop and the stores are entered."""
    lines = [
        "push {r0-r11, lr}",
        f"sub sp, sp, #{_FRAME}",
        f"ldr r4, [sp, #{_PAIRS}]",
        f"mov r5, #{4 * pixels}",
        "mla r5, r4, r5, r0",
        f"str r5, [sp, #{_END}]",
        "rsb r4, r4, #0",
        f"and r4, r4, #{_UNROLLED - 1}",
        "adr.w r5, 9f",
        "ldrh r4, [r5, r4, lsl #1]",
        "sub r5, r5, r4",
        "orr r5, r5, #1",
        f"strd r0, r5, [sp, #{_BLOCK}]",
        f"ldr r4, [sp, #{_CHANNELS}]",
        "add r5, r4, r4, lsl #1",
        f"strd r4, r5, [sp, #{_STRIDE}]",
        f"ldr r5, [sp, #{_PIXELS}]",
        f"rsb r5, r5, #{pixels}",
        "adr.w r6, 5f",
        "add r5, r6, r5, lsl #2",
        "orr r5, r5, #1",
        "add r6, r3, r4",
        f"strd r5, r6, [sp, #{_STORE}]",
    ]
    if has_residual:
        lines += [f"ldr r4, [sp, #{_LIMITS}]", "ldrd r5, r6, [r4, #12]", f"strd r5, r6, [sp, #{_SUM}]"]
    return lines


def _channel(bits: int, pixels: int) -> list[str]:
    """The sums of one channel. The loop is entered where the last steps of its body are as many as are over."""
    return [
        "1:",
        "ldr r4, [r2], #4",
        *(f"mov r{4 + pixel}, r4" for pixel in range(1, pixels)),
        "ldm sp, {r0, pc}  @ the block, and the way into the loop",
        *(line for pair in range(_UNROLLED) for line in _step(bits, pixels, pair)),
        f"ldr r3, [sp, #{_END}]",
        "cmp r0, r3",
        f"bne {_FIRST_STEP}b",
        "ldr r12, [r2], #4",
    ]


def _rescale(pixels: int) -> list[str]:
    lines = [f"ldr lr, [sp, #{_ZERO_POINT}]"]
    for register in range(4, 4 + pixels):
        lines += [f"smmlar r{register}, r{register}, r12, lr", f"ssat r{register}, #8, r{register}"]
    return lines


def _rescale_with_residual(pixels: int, shift: int) -> list[str]:
    """Two SMLAL for each; pixels that are not there read the last one's residual."""
    lines = [
        f"str r2, [sp, #{_PLACE}]",
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
            *([f"lsl r2, r2, #{shift}"] if shift else []),
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


# pixel n, `channels` (r0) bytes apart; r3: the first one's place, r12: the fourth one's
_STORED_AT = ("[r3], #1", "[r3, r0]", "[r3, r0, lsl #1]", "[r12]", "[r12, r0]", "[r12, r0, lsl #1]")


def _store(bits: int, pixels: int) -> list[str]:
    """From the last pixel to the first, entered where the pixels begin that are there: each store takes four bytes."""
    return [
        f"ldr r3, [sp, #{_OUTPUT}]",
        f"ldrd r0, r12, [sp, #{_STRIDE}]",
        "add r12, r12, r3",
        f"ldr pc, [sp, #{_STORE}]",
        "5:",
        *(f"strb.w r{4 + pixel}, {_STORED_AT[pixel]}" for pixel in reversed(range(pixels))),
        f"str r3, [sp, #{_OUTPUT}]",
        f"ldr r0, [sp, #{_LAST}]",
        "cmp r3, r0",
        "bne 1b",
        f"add sp, sp, #{_FRAME}",
        "pop {r0-r11, pc}",
        *_entries(bits),
    ]


@cache
def multiply_block(bits: int, pixels: int, is_clamped: bool, has_residual: bool, residual_shift: int = 0) -> Intrinsic:
    """All channels of a block of up to `pixels` pixels.

    weights: for each channel its bias, its places and its multiplier. limits: low, high, and the residual's multiplier
    and 64-bit start. residual_shift: by how much residuals are shifted up before they are multiplied.
    """
    lines = [
        *_begin(pixels, has_residual),
        *_channel(bits, pixels),
        *(_rescale_with_residual(pixels, residual_shift) if has_residual else _rescale(pixels)),
        *(_clamp(pixels) if is_clamped else ()),
        *_store(bits, pixels),
    ]
    kind = f"{'_clamped' if is_clamped else ''}{'_residual' if has_residual else ''}{residual_shift or ''}"
    name = f"tinyopt_clustered{bits}_x{pixels}{kind}"

    def meaning(*arguments: Array | int) -> None:
        multiply_block_meaning(bits, pixels, is_clamped, has_residual, *arguments, residual_shift=residual_shift)

    return micro_kernel(name, PARAMETERS, "\n".join(lines), meaning)


def multiply_block_meaning(
    bits: int,
    width: int,
    is_clamped: bool,
    has_residual: bool,
    *arguments: Array | int,
    residual_shift: int = 0,
    output_bits: int = 8,
) -> None:
    """What the assembly does."""
    block, table, stream, output = (np.asarray(array) for array in arguments[:4])
    channels, pairs, pixels, zero_point = (int(number) for number in arguments[4:8])
    limits, residual = (np.asarray(array) for array in arguments[8:])
    x = block.view(np.int16)[: pairs * width * 2].reshape(pairs, width, 2).astype(np.int64)
    row_bytes = packed_row_bytes(pairs, bits) + 8
    for channel, row in enumerate(stream[: channels * row_bytes].reshape(channels, row_bytes)):
        weights = decoded(bits, table, row[4:-4], pairs)
        bias, multiplier = (int(part.copy().view(np.int32)[0]) for part in (row[:4], row[-4:]))
        sums = bias + np.einsum("kph,kh->p", x, weights)[:pixels]
        total = sums * multiplier
        if has_residual:
            added = residual[channel : channel + pixels * channels : channels].astype(np.int64) << residual_shift
            total += added * int(limits[2])
            total += int(limits[3]) % 2**32 + (int(limits[4]) << 32)
        else:
            total += (zero_point << 32) + 2**31
        level = np.clip(total >> 32, -(1 << (output_bits - 1)), (1 << (output_bits - 1)) - 1)
        if is_clamped:
            level = np.clip(level, limits[0], limits[1])
        output[channel : channel + pixels * channels : channels] = level
