"""The inner tiles for clustered weights, in assembly: one channel times eight or four pixels, decoded on the way.

The activations of a block are interleaved: word [pair][pixel], two int16 each. A step decodes a pair of weights and
multiplies it with the block's pixels: for 16 values two instructions (LDRB, LDR from the table of pairs) for eight
SMLAD and four LDRD. All channels are done before the function returns; the table and the block stay where they are.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array
from tinyopt.targets.kernels.dsp.clustered.pairs import PAIRS_AT_ONCE
from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel

WIDE, NARROW = 8, 4  # pixels of the two tiles
TABLE_BITS = 5  # indices up to this many bits have a table of pairs

# The frame below the arguments that lie on the stack: six words of its own, then r0-r11 and lr.
_LOOP, _STORE, _LAST, _PLACE, _SUM = 0, 4, 8, 12, 16
_BLOCK, _TABLE, _RESCALING = 24, 28, 36
_OUTPUT, _CHANNELS, _BLOCK_END, _PIXELS, _ZERO_POINT, _LIMITS, _RESIDUAL = range(76, 104, 4)

_PARAMETERS = (
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


def decode_instructions(bits: int) -> float:
    """Instructions of a step that decode a pair of indices of `bits` bits."""
    return sum(len(_decode(bits, pair)) for pair in range(PAIRS_AT_ONCE)) / PAIRS_AT_ONCE


def _decode(bits: int, pair: int, places: str = "r2") -> list[str]:
    """Bring the pair of weights into r3, and `places` on to the next one. pair: its number among four."""
    width = 2 * bits
    first, shift = divmod(pair * width, 8)
    onward = (pair + 1) * width // 8 - first
    load = "ldrb" if shift + width <= 8 else "ldrh"
    size = 8 if load == "ldrb" else 16
    lines = [f"{load} r3, [{places}], #{onward}" if onward else f"{load} r3, [{places}]"]
    if bits > TABLE_BITS:
        return [
            *lines,
            f"ubfx r12, r3, #{shift}, #{bits}",
            f"ubfx r3, r3, #{shift + bits}, #{bits}",
            "ldrsb r12, [r1, r12]",
            "ldrsb r3, [r1, r3]",
            "pkhbt r3, r12, r3, lsl #16",
        ]
    if width < size:
        lines.append(f"lsr r3, r3, #{shift}" if shift + width == size else f"ubfx r3, r3, #{shift}, #{width}")
    return [*lines, "ldr r3, [r1, r3, lsl #1]"]


def _steps(bits: int, pixels: int) -> list[str]:
    """Four pairs times all pixels of the block; the sums are in r4, r5, ..."""
    lines: list[str] = []
    for pair in range(PAIRS_AT_ONCE):
        lines += _decode(bits, pair)
        for pixel in range(0, pixels, 2):
            lines.append("ldrd r12, lr, [r0], #8")
            lines += [f"smlad r{4 + pixel}, r3, r12, r{4 + pixel}", f"smlad r{5 + pixel}, r3, lr, r{5 + pixel}"]
    return lines


def _begin(pixels: int, has_residual: bool) -> list[str]:
    """The frame, and where the loop and the stores are entered."""
    half_of_loop = 4 * pixels * PAIRS_AT_ONCE
    lines = [
        "push {r0-r11, lr}",
        "sub sp, sp, #24",
        f"ldr r4, [sp, #{_BLOCK_END}]",
        "add r5, r0, r4",
        f"str r5, [sp, #{_BLOCK_END}]",
        "adr.w r5, 2f",
        "adr.w r6, 3f",
        f"tst r4, #{half_of_loop}",
        "it ne",
        "movne r5, r6",
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
    """The sums of one channel. A depth of an odd number of fours enters the loop in its middle."""
    return [
        "1:",
        f"ldr r3, [sp, #{_RESCALING}]",
        "ldr r4, [r3], #8",
        f"str r3, [sp, #{_RESCALING}]",
        *(f"mov r{4 + pixel}, r4" for pixel in range(1, pixels)),
        f"ldr r0, [sp, #{_BLOCK}]",
        f"ldr pc, [sp, #{_LOOP}]",
        "2:",
        *_steps(bits, pixels),
        "3:",
        *_steps(bits, pixels),
        f"ldr r3, [sp, #{_BLOCK_END}]",
        "cmp r0, r3",
        "bne 2b",
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
    ]


ROWS = 4  # channels that a vector is multiplied with at a time

# The vector's kernel has no words of its own below the registers.
_VECTOR_OUTPUT, _VECTOR_CHANNELS, _VECTOR_BYTES, _ROW_BYTES, _VECTOR_ZERO_POINT, _VECTOR_LIMITS = range(52, 76, 4)

_VECTOR_PARAMETERS = (
    "const void *vector",
    *_PARAMETERS[1:6],
    "int32_t vector_bytes",
    "int32_t row_bytes",
    *_PARAMETERS[8:10],
)


def _vector_steps(bits: int) -> list[str]:
    """Four pairs times four channels: places in r4-r7, sums in r8-r11."""
    lines: list[str] = []
    for pair in range(PAIRS_AT_ONCE):
        x = "lr"
        if bits > TABLE_BITS:  # decoding needs r12
            lines.append("ldr lr, [r0], #4")
        elif pair % 2 == 0:
            x = "r12"
            lines.append("ldrd r12, lr, [r0], #8")
        for row in range(ROWS):
            lines += [*_decode(bits, pair, f"r{4 + row}"), f"smlad r{8 + row}, r3, {x}, r{8 + row}"]
    return lines


def _vector_rescale(is_clamped: bool) -> list[str]:
    lines = ["ldr r3, [sp, #12]", f"ldr lr, [sp, #{_VECTOR_ZERO_POINT}]"]
    for row in range(ROWS):
        register = f"r{8 + row}"
        lines += [f"ldr r12, [r3, #{8 * row + 4}]", f"smmlar {register}, {register}, r12, lr"]
        lines.append(f"ssat {register}, #8, {register}")
    if is_clamped:
        lines += [f"ldr r12, [sp, #{_VECTOR_LIMITS}]", "ldrd r12, lr, [r12]"]
        for row in range(ROWS):
            register = f"r{8 + row}"
            lines += [f"cmp {register}, r12", "it lt", f"movlt {register}, r12"]
            lines += [f"cmp {register}, lr", "it gt", f"movgt {register}, lr"]
    return lines


@cache
def multiply_vector(bits: int, is_clamped: bool) -> Intrinsic:
    """At least four channels of one pixel, whose depth is a multiple of four pairs; the last four may overlap others.

    row_bytes: of a channel's places.
    """
    lines = [
        "push {r0-r11, lr}",
        f"ldr r2, [sp, #{_VECTOR_BYTES}]",
        "add r2, r0, r2",
        "1:",
        "ldr r3, [sp, #12]",
        *(f"ldr r{8 + row}, [r3, #{8 * row}]" for row in range(ROWS)),
        "ldr r4, [sp, #8]",
        f"ldr r12, [sp, #{_ROW_BYTES}]",
        *(f"add r{5 + row}, r{4 + row}, r12" for row in range(ROWS - 1)),
        "ldr r0, [sp]",
        "2:",
        *_vector_steps(bits),
        "cmp r0, r2",
        "bne 2b",
        *_vector_rescale(is_clamped),
        f"ldr r4, [sp, #{_VECTOR_OUTPUT}]",
        *(f"strb r{8 + row}, [r4, #{row}]" for row in range(ROWS)),
        f"ldr r5, [sp, #{_VECTOR_CHANNELS}]",
        "subs r5, r5, #4",
        "beq 3f",
        "rsbs r6, r5, #4  @ channels to go back by where fewer than four are left",
        "it mi",
        "movmi r6, #0",
        "add r5, r5, r6",
        f"str r5, [sp, #{_VECTOR_CHANNELS}]",
        "add r4, r4, #4",
        "sub r4, r4, r6",
        f"str r4, [sp, #{_VECTOR_OUTPUT}]",
        "add r3, r3, #32",
        "sub r3, r3, r6, lsl #3",
        "str r3, [sp, #12]",
        f"ldr r12, [sp, #{_ROW_BYTES}]",
        "mls r7, r6, r12, r7",
        "str r7, [sp, #8]",
        "b 1b",
        "3:",
        "pop {r0-r11, pc}",
    ]

    def meaning(*arguments: Array | int) -> None:
        first, last = arguments[:7], arguments[8:]
        _multiply_block(bits, 1, is_clamped, False, *first, 1, *last, np.zeros(0, np.int8))

    name = f"tinyopt_clustered{bits}_vector{'_clamped' if is_clamped else ''}"
    return micro_kernel(name, _VECTOR_PARAMETERS, "\n".join(lines), meaning)


@cache
def multiply_block(bits: int, pixels: int, is_clamped: bool, has_residual: bool) -> Intrinsic:
    """All channels of a block of up to `pixels` pixels, whose depth is a multiple of four pairs.

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
        _multiply_block(bits, pixels, is_clamped, has_residual, *arguments)

    return micro_kernel(name, _PARAMETERS, "\n".join(lines), meaning)


def decoded(bits: int, table: Array, places: Array, pairs: int) -> NDArray[np.int64]:
    """int64 [pairs, 2]: the weights of the first `pairs` places."""
    as_bits = np.unpackbits(places.view(np.uint8), bitorder="little")[: pairs * 2 * bits].reshape(pairs, 2 * bits)
    numbers = (as_bits.astype(np.int64) << np.arange(2 * bits)).sum(axis=1)
    if bits > TABLE_BITS:
        numbers = np.stack([numbers % (1 << bits), numbers >> bits], axis=1)
        return np.asarray(table[numbers], np.int64)
    return np.asarray(table[numbers[:, None] + np.arange(2)], np.int64)


def _multiply_block(bits: int, width: int, is_clamped: bool, has_residual: bool, *arguments: Array | int) -> None:
    """What the assembly does."""
    block, table, places, rescaling, output = (np.asarray(array) for array in arguments[:5])
    channels, block_bytes, pixels, zero_point = (int(number) for number in arguments[5:9])
    limits, residual = (np.asarray(array) for array in arguments[9:])
    pairs = block_bytes // (4 * width)
    x = block.view(np.int16)[: pairs * width * 2].reshape(pairs, width, 2).astype(np.int64)
    row = pairs * 2 * bits // 8
    for channel in range(channels):
        weights = decoded(bits, table, places[channel * row :], pairs)
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


def _widen_runs(*arguments: Array | int) -> None:
    """What the assembly does; steps are bytes, as there."""
    source, block = np.asarray(arguments[0]), np.asarray(arguments[1])
    length, count, from_step, to_step, stride = (int(number) for number in arguments[2:])
    for run in range(count):
        values = source[run * from_step : run * from_step + length].astype(np.int64) & 0xFFFF
        whole = length - length % 4
        order = [quad + place for quad in range(0, whole, 4) for place in (0, 2, 1, 3)] + list(range(whole, length))
        halves = np.pad(values[order], (0, length % 2)).reshape(-1, 2)
        words = (halves[:, 0] | halves[:, 1] << 16).astype(np.uint32).view(np.int32)
        first = run * to_step // 4
        block[first : first + len(words) * stride // 4 : stride // 4] = words


# Widens `count` runs of `bytes` int8 into a block: the words of a run lie `stride` bytes apart.
WIDEN_RUNS = micro_kernel(
    "tinyopt_widen_runs",
    (
        "const int8_t *from",
        "void *to",
        "int32_t bytes",
        "int32_t count",
        "int32_t from_step",
        "int32_t to_step",
        "int32_t stride",
    ),
    """
    push {r4-r11, lr}
    ldrd r4, r5, [sp, #36]
    ldr r6, [sp, #44]
    adr.w lr, 3f      @ what follows the last four bytes of a run: nothing, or one to three more
    ands r9, r2, #3
    beq 1f
    adr.w lr, 4f
    cmp r9, #2
    blt 1f
    ite eq
    adreq.w lr, 5f
    adrne.w lr, 6f
    1:
    orr lr, lr, #1
    7:
    mov r7, r0
    mov r8, r1
    lsrs r9, r2, #2
    it eq
    bxeq lr
    2:
    ldr r10, [r7], #4
    sxtb16 r12, r10
    sxtb16 r10, r10, ror #8
    str r12, [r8]
    str r10, [r8, r6]
    add r8, r8, r6, lsl #1
    subs r9, r9, #1
    bne 2b
    bx lr
    4:
    ldrsb r10, [r7]
    uxth r10, r10
    str r10, [r8]
    b 3f
    6:
    ldrsb r10, [r7, #2]
    uxth r10, r10
    str r10, [r8, r6]
    5:
    ldrsb r10, [r7]
    ldrsb r11, [r7, #1]
    pkhbt r10, r10, r11, lsl #16
    str r10, [r8]
    3:
    add r0, r0, r4
    add r1, r1, r5
    subs r3, r3, #1
    bne 7b
    pop {r4-r11, pc}
    """,
    _widen_runs,
)
