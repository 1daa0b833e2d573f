"""The product of blocks of pixels with the weights of all channels, in assembly.

One tile is two output channels times the block's pixels over the whole depth. A step of it is LDR and SXTB16 for the
weights of both channels at two places, two LDRD for four pixels' words, and eight SMLAD: 12 instructions for 16
products, which take all registers there are. What saves a second SXTB16: the weights m0, m1 of two channels are
*joined* in a half, m0 + 256 m1. Its low byte is m0; multiplied as it is it gives the first channel's sum plus 256 times
the second's,

    sum of m1 x = (sum of (m0 + 256 m1) x - sum of m0 x) / 256

which is exact modulo 2^32 while the second channel's sum has no more than 24 bits. Where it may have more, m0 and m1
are bytes beside one another, and a step has an SXTB16 for each. The weights of two channels lie in the order in which
they are read: bias, bias, a word for each pair of places (see packing), multiplier, multiplier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tinyopt.targets.kernels.dsp.endings import (
    BLOCK,
    BLOCK_END,
    BLOCK_OUTPUT,
    BLOCKS,
    COUNT,
    END,
    ENDING,
    ENTRY_ADDRESS,
    FACTOR,
    FIRST_ENDING,
    FRAME,
    LARGEST_JOINED_SHIFT,
    OFFSET,
    OUTPUT,
    PARAMETERS,
    RESIDUAL,
    ROWS_LEFT,
    SOURCE,
    START,
    WEIGHTS,
    long_ending,
    short_ending,
)
from tinyopt.targets.kernels.dsp.micro_kernels import (
    BLOCK_BYTES,
    CHANNELS,
    DISTANCE,
    HIGH,
    LOW,
    OUTPUT_STEP,
    PIXELS,
    RESIDUAL_MULTIPLIER,
    SOURCE_STEP,
    START_HIGH,
    START_LOW,
    ZERO_POINT,
    gather,
    gather_four,
)
from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel

STEPS = 16  # in the body of the loop over the depth

_SECOND_CHANNEL = "sxtb16 r3, r3, ror #8"  # of weights that are not joined
_STEP = f"""
ldr r3, [r1], #4
ldrd r12, lr, [r0], #8
sxtb16 r2, r3
{_SECOND_CHANNEL}
smlad r4, r2, r12, r4
smlad r5, r2, lr, r5
smlad r8, r3, r12, r8
smlad r9, r3, lr, r9
ldrd r12, lr, [r0], #8
smlad r6, r2, r12, r6
smlad r7, r2, lr, r7
smlad r10, r3, r12, r10
smlad r11, r3, lr, r11
"""

# The first step adds the biases in r4 and r8 to the products of all pixels.
_FIRST_STEP = f"""
ldrd r4, r8, [r1], #8
ldr r3, [r1], #4
ldrd r12, lr, [r0], #8
sxtb16 r2, r3
{_SECOND_CHANNEL}
ldrd r6, r7, [r0], #8
smlad r5, r2, lr, r4
smlad r9, r3, lr, r8
smlad r10, r3, r6, r8
smlad r11, r3, r7, r8
smlad r6, r2, r6, r4
smlad r7, r2, r7, r4
smlad r4, r2, r12, r4
smlad r8, r3, r12, r8
"""


def _narrow_tile(label: int, pixels: int) -> str:
    """One or two pixels that are left over, two steps at a time; it uses the two labels after its own as well."""
    firsts, seconds = ("r4", "r5")[:pixels], ("r8", "r9")[:pixels]
    copies = "mov r5, r4\nmov r9, r8" if pixels == 2 else ""
    products = "\n".join(
        f"smlad {acc}, {weights}, {x}, {acc}"
        for weights, sums in (("r2", firsts), ("r3", seconds))
        for acc, x in zip(sums, ("r10", "r11")[:pixels], strict=True)
    )
    step = f"""
ldr r3, [r1], #4
{"ldrd r10, r11" if pixels == 2 else "ldr r10"}, [r0], #{4 * PIXELS}
sxtb16 r2, r3
{_SECOND_CHANNEL}
{products}
"""
    return f"""
{label}: ldrd r4, r8, [r1], #8
{copies}
ldr r12, [sp, #{BLOCK_END}]
sub lr, r12, r0
tst lr, #{4 * PIXELS}
bne {label + 2}f
{label + 1}: {step.strip()}
{label + 2}: {step.strip()}
cmp r0, r12
bne {label + 1}b
b.w 7f
"""


def entry(pairs: int, is_joined: bool) -> int:
    """Where the loop over the depth is entered, whose first step stands before it: bytes from its begin."""
    step_bytes = 48 if is_joined else 52
    return step_bytes * (-(pairs - 1) % STEPS if pairs > 1 else STEPS)


@cache
def multiply_blocks(shift: int, has_residual: bool, is_joined: bool) -> Intrinsic:
    """`blocks` full blocks, each gathered first, or where that is 0 the `count` pixels that the block holds already.

    They are multiplied with all channels and requantized; before that, accumulators are shifted left by `shift`. Full
    blocks take a short ending where neither a clamp to less than int8 nor a missing second channel asks for more.
    """
    parts = [
        _prologue(has_residual, shift),
        f"2: {_FIRST_STEP.strip()}\nldr pc, [sp, #{ENTRY_ADDRESS}]\n3:{_STEP * STEPS}",
        f"ldr r12, [sp, #{BLOCK_END}]\ncmp r0, r12\nbne 3b\nldr pc, [sp, #{ENDING}]\n",
        f"6: {short_ending(shift, has_residual, is_joined).strip()}{_NEXT_TILE}",
        _narrow_tile(20, 2),
        _narrow_tile(30, 1),
        long_ending(shift, has_residual, is_joined),
        _NEXT_BLOCK,
    ]
    assembly = "\n".join(parts)
    if is_joined:
        assembly = assembly.replace(_SECOND_CHANNEL, "")
    names = ["with_residual"] * has_residual + [f"shift_{shift}"] * (shift > 0) + ["unjoined"] * (not is_joined)
    parameters = ["void *block", "const void *weights", "int8_t *y", "const int32_t *parameters", "int32_t count"]
    parameters += ["int32_t blocks", "const int8_t *source"] + ["const int8_t *residual"] * has_residual
    name = "_".join(["tinyopt_multiply_blocks", *names])
    return micro_kernel(name, parameters, assembly, _multiply_blocks(shift, is_joined))


def _prologue(has_residual: bool, shift: int) -> str:
    """Fill the frame; a block that is not full takes the long ending, one of at most two pixels a narrow tile."""
    residual = f"""
ldr r10, [sp, #{RESIDUAL}]
sub r10, r10, r2
add r4, r3, #{4 * RESIDUAL_MULTIPLIER}
ldm r4, {{r4, r12, lr}}
strd r4, r12, [sp, #{FACTOR}]
str lr, [sp, #{START + 4}]
"""
    rounded = (
        f"""
lsl r4, r10, #{8 - shift}
add r4, r4, #{1 << 7 - shift}
str r4, [sp, #{FACTOR}]
"""
        if shift <= LARGEST_JOINED_SHIFT
        else ""
    )
    return f"""
push {{r4-r11, lr}}
sub sp, sp, #{FRAME}
ldm r3, {{r5-r11}}
{residual if has_residual else rounded}
str r10, [sp, #{OFFSET}]
strd r2, r11, [sp, #{OUTPUT}]
str r3, [sp, #{PARAMETERS}]
strd r1, r2, [sp, #{WEIGHTS}]
add r5, r5, r0
add r6, r6, r1
add r7, r7, r1
mul r8, r8, r6
adr.w r12, 3f
orr r12, r12, #1
add r9, r9, r12
adr.w r10, 2f
adr.w r11, 6f
ldrd r4, lr, [sp, #{COUNT}]
cmp r4, #{PIXELS}
it ne
movne r7, r1
cmp r4, #2
it eq
adreq.w r10, 20f
cmp r4, #1
it eq
adreq.w r10, 30f
cmp r7, r1
it eq
adreq.w r11, 7f
orr r10, r10, #1
orr r11, r11, #1
str r11, [sp, #{FIRST_ENDING}]
strd r0, r7, [sp, #{BLOCK}]
strd r5, r9, [sp, #{BLOCK_END}]
strd r11, r10, [sp, #{ENDING}]
strd r6, r8, [sp, #{END}]
cmp lr, #0
bgt 11f
bx r10
"""


# The last of an odd number of channels is left to the long ending.
_NEXT_TILE = f"""
ldrd r0, lr, [sp, #{BLOCK}]
str r12, [sp, #{OUTPUT}]
cmp r1, lr
bne 2b
ldr lr, [sp, #{END}]
cmp r1, lr
beq.w 1f
adr.w r12, 7f
orr r12, r12, #1
str r12, [sp, #{ENDING}]
b 2b
"""

_NEXT_BLOCK = f"""
1: ldr r4, [sp, #{BLOCKS}]
subs r4, r4, #1
ble 10f
str r4, [sp, #{BLOCKS}]
ldr lr, [sp, #{PARAMETERS}]
ldr r0, [lr, #{4 * SOURCE_STEP}]
ldr r2, [lr, #{4 * OUTPUT_STEP}]
ldr r3, [sp, #{SOURCE}]
ldr r4, [sp, #{BLOCK_OUTPUT}]
ldr r5, [sp, #{FIRST_ENDING}]
add r0, r0, r3
add r2, r2, r4
str r0, [sp, #{SOURCE}]
str r2, [sp, #{BLOCK_OUTPUT}]
str r2, [sp, #{OUTPUT}]
str r5, [sp, #{ENDING}]
11: ldr r0, [sp, #{SOURCE}]
ldr r1, [sp, #{BLOCK}]
ldr lr, [sp, #{PARAMETERS}]
{gather_four(ROWS_LEFT, PARAMETERS, 40)}
ldr r0, [sp, #{BLOCK}]
ldr r1, [sp, #{WEIGHTS}]
b 2b
10: add sp, sp, #{FRAME}
pop {{r4-r11, pc}}
"""


def _multiply_block(shift: int, is_joined: bool) -> Callable[..., None]:
    def multiply(
        block: NDArray[np.int16],
        weights: NDArray[np.int32],
        y: NDArray[np.int8],
        parameters: Sequence[int],
        count: int,
        residual: NDArray[np.int8] | None = None,
    ) -> None:
        pairs, channels = parameters[BLOCK_BYTES] // (4 * PIXELS), parameters[CHANNELS]
        x = block[: 2 * PIXELS * pairs].reshape(pairs, PIXELS, 2)[:, :count].astype(np.int64)
        for channel in range(channels):
            row = weights[channel // 2 * (pairs + 4) :]
            first = row[2 : 2 + pairs].astype("<i4").view(np.int8)[::2].astype(np.int64)
            second = row[2 : 2 + pairs].astype("<i4").view(np.int8)[1::2].astype(np.int64)
            factors = (first, second + (first < 0) if is_joined else second)[channel % 2].reshape(pairs, 1, 2)
            bias = int(row[channel % 2])
            if is_joined and channel % 2:
                bias = (bias - int(row[0])) % 2**32 // 2**8
                bias -= bias >> 23 << 24
            sums = (x * factors).sum((0, 2)) + bias
            products = (sums << shift) * int(row[2 + pairs + channel % 2])
            places = np.arange(count) * channels + channel
            if residual is None:
                levels = ((products + (1 << 31)) >> 32) + parameters[ZERO_POINT]
            else:
                start = (parameters[START_HIGH] << 32) + (parameters[START_LOW] & 0xFFFFFFFF)
                added = (residual[places].astype(np.int64) << shift) * parameters[RESIDUAL_MULTIPLIER]
                levels = (products + added + start) >> 32
            y[places] = np.clip(levels, parameters[LOW], parameters[HIGH])

    return multiply


def _multiply_blocks(shift: int, is_joined: bool) -> Callable[..., None]:
    multiply = _multiply_block(shift, is_joined)

    def multiply_all(
        block: NDArray[np.int16],
        weights: NDArray[np.int32],
        y: NDArray[np.int8],
        parameters: Sequence[int],
        count: int,
        blocks: int,
        source: NDArray[np.int8],
        residual: NDArray[np.int8] | None = None,
    ) -> None:
        """Forward only: `y` and `source` are arrays from the first block on."""
        if blocks == 0:
            multiply(block, weights, y, parameters, count, residual)
        for number in range(blocks):
            at, place = number * parameters[SOURCE_STEP], number * parameters[OUTPUT_STEP]
            for pixel in range(PIXELS):
                gather(source[at + pixel * parameters[DISTANCE] :], block[2 * pixel :], parameters)
            multiply(block, weights, y[place:], parameters, PIXELS, None if residual is None else residual[place:])

    return multiply_all
