"""The inner loops of convolution in assembly: gathering of pixels into a block, and its product with all channels.

A *block* is the widened activations of up to four pixels, interleaved: word [pair][pixel], two int16 each. One tile is
two output channels times the block's pixels over the whole depth. A step of it is LDR and SXTB16 for the weights of
both channels at two places, two LDRD for four pixels' words, and eight SMLAD: 12 instructions for 16 products, which
take all registers there are. What saves a second SXTB16: the weights m0, m1 of two channels are *joined* in a half,
m0 + 256 m1. Its low byte is m0; multiplied as it is it gives the sum of the first channel plus 256 times the second's,

    sum of m1 x = (sum of (m0 + 256 m1) x - sum of m0 x) / 256

which is exact modulo 2^32 while the second channel's sum has no more than 24 bits. Where it may have more, m0 and m1
are bytes beside one another, and a step has an SXTB16 for each. The weights of two channels lie in the order in which
they are read: bias, bias, a word for each pair of places (see packing), multiplier, multiplier.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyopt.targets.kernels.dsp.packing import run_pairs
from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel

PIXELS = 4  # of a full block
STEPS = 16  # in the body of the loop over the depth

# The int32 numbers that the functions read, by their places in the array of parameters.
BLOCK_BYTES, WEIGHT_BYTES, FAST_BYTES, IS_ODD, ENTRY = range(5)  # fast: the channels that `_store` takes; see `entry`
ZERO_POINT, CHANNELS, LOW, HIGH, RESIDUAL_MULTIPLIER, START_LOW, START_HIGH = range(5, 12)  # start: a residual's sum's
DISTANCE, QUAD_BYTES, TAIL, SKIP, ROWS = range(12, 17)  # gathering: bytes from pixel to pixel; runs and what is between
FIRST_FREE = 17

# The stack frame of the product, below r4-r11, lr, and what the caller has put on the stack.
_OFFSET, _OUTPUT, _STRIDE, _BLOCK, _FAST_END, _BLOCK_END, _ENTRY, _ENDING, _TILE = range(0, 36, 4)
_SUMS, _PARAMETERS, _END, _ODD_END, _FACTOR, _START = 36, 68, 72, 76, 80, 84
_FRAME = 92
_COUNT, _RESIDUAL = _FRAME + 36, _FRAME + 40

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

# Up to two pixels of a last block: all that there is to save registers for is gone.
_NARROW_TILE = f"""
4: ldrd r4, r8, [r1], #8
mov r5, r4
mov r9, r8
ldr r12, [sp, #{_BLOCK_END}]
5: ldr r3, [r1], #4
ldrd r10, r11, [r0], #16
sxtb16 r2, r3
{_SECOND_CHANNEL}
smlad r4, r2, r10, r4
smlad r5, r2, r11, r5
smlad r8, r3, r10, r8
smlad r9, r3, r11, r9
cmp r0, r12
bne 5b
"""


def entry(pairs: int, is_joined: bool) -> int:
    """Where the loop over the depth is entered, whose first step stands before it: bytes from its begin."""
    step_bytes = 48 if is_joined else 52
    return step_bytes * (-(pairs - 1) % STEPS if pairs > 1 else STEPS)


@cache
def multiply_block(shift: int, has_residual: bool, is_joined: bool) -> Intrinsic:
    """A block of `count` pixels times all channels, requantized. The accumulators are shifted left by `shift` first.

    Full blocks take a short ending where neither a clamp to less than int8 nor a missing second channel asks for more.
    """
    ending = _store_with_residual(shift) if has_residual else _store(shift)
    parts = [
        _prologue(has_residual),
        f"2: {_FIRST_STEP.strip()}\nldr pc, [sp, #{_ENTRY}]\n3:{_STEP * STEPS}",
        f"ldr r12, [sp, #{_BLOCK_END}]\ncmp r0, r12\nbne 3b\n{_second_sums(PIXELS, is_joined)}",
        f"ldr pc, [sp, #{_ENDING}]\n",
        f"{_NARROW_TILE}{_second_sums(2, is_joined)}b 7f\n",
        f"6: {ending.strip()}{_NEXT_TILE}",
        _store_any(shift, has_residual),
        f"1: add sp, sp, #{_FRAME}\npop {{r4-r11, pc}}\n",
    ]
    parameters = ["const void *block", "const void *weights", "int8_t *y", "const int32_t *parameters", "int32_t count"]
    parameters += ["const int8_t *residual"] if has_residual else []
    name = f"tinyopt_multiply_block{'_with_residual' if has_residual else ''}{f'_shift_{shift}' if shift else ''}"
    assembly = "\n".join(parts)
    if is_joined:
        return micro_kernel(name, parameters, assembly.replace(_SECOND_CHANNEL, ""), _multiply_block(shift, is_joined))
    return micro_kernel(f"{name}_unjoined", parameters, assembly, _multiply_block(shift, is_joined))


def _second_sums(pixels: int, is_joined: bool) -> str:
    """Take the second channel's sums out of those of joined weights."""
    if not is_joined:
        return ""
    return "".join(f"sub r{8 + n}, r{8 + n}, r{4 + n}\nasr r{8 + n}, r{8 + n}, #8\n" for n in range(pixels))


def _prologue(has_residual: bool) -> str:
    """Fill the frame; a block that is not full takes the long ending, one of at most two pixels the narrow tile."""
    residual = f"""
ldr r10, [sp, #{_RESIDUAL}]
sub r10, r10, r2
ldr r4, [r3, #{4 * RESIDUAL_MULTIPLIER}]
str r4, [sp, #{_FACTOR}]
ldr r4, [r3, #{4 * START_LOW}]
str r4, [sp, #{_START}]
ldr r4, [r3, #{4 * START_HIGH}]
str r4, [sp, #{_START + 4}]
"""
    return f"""
push {{r4-r11, lr}}
sub sp, sp, #{_FRAME}
ldm r3, {{r5-r11}}
{residual if has_residual else ""}
str r10, [sp, #{_OFFSET}]
strd r2, r11, [sp, #{_OUTPUT}]
str r3, [sp, #{_PARAMETERS}]
add r5, r5, r0
add r6, r6, r1
add r7, r7, r1
mul r8, r8, r6
adr.w r12, 3f
orr r12, r12, #1
add r9, r9, r12
adr.w r10, 2f
adr.w r11, 6f
ldr r4, [sp, #{_COUNT}]
cmp r4, #{PIXELS}
it ne
movne r7, r1
cmp r4, #2
it le
adrle.w r10, 4f
cmp r7, r1
it eq
adreq.w r11, 7f
orr r10, r10, #1
orr r11, r11, #1
strd r0, r7, [sp, #{_BLOCK}]
strd r5, r9, [sp, #{_BLOCK_END}]
strd r11, r10, [sp, #{_ENDING}]
strd r6, r8, [sp, #{_END}]
bx r10
"""


def _store(shift: int) -> str:
    """Two channels of four pixels, saturated."""

    def channel(first: int, multiplier: str) -> str:
        registers = [f"r{first + pixel}" for pixel in range(PIXELS)]
        lines = [f"lsl {r}, {r}, #{shift}" for r in registers if shift]
        lines += [f"smmlar {r}, {r}, {multiplier}, r0" for r in registers]
        lines += [f"ssat {r}, #8, {r}" for r in registers]
        lines += ["add r2, lr, lr, lsl #1"] if first == 4 else []
        lines += [f"strb {r}, [r12, {at}]" for r, at in zip(registers[1:], ("lr", "lr, lsl #1", "r2"), strict=True)]
        return "\n".join([*lines, f"strb {registers[0]}, [r12], #1\n"])

    return f"ldrd r2, r3, [r1], #8\nldm sp, {{r0, r12, lr}}\n{channel(4, 'r2')}{channel(8, 'r3')}"


def _store_with_residual(shift: int) -> str:
    """The same with sums of 64 bits: the products of accumulator and residual are added before they are rounded."""

    def level(pixel: int, multiplier: str, at: str) -> str:
        acc = f"r{4 + pixel}"
        shifts = f"lsl {acc}, {acc}, #{shift}\nlsl r10, r10, #{shift}\n" if shift else ""
        return f"""\
ldrsb r10, [r0{at}]
ldrd r8, r9, [sp, #{_START}]
{shifts}smlal r8, r9, {acc}, {multiplier}
smlal r8, r9, r10, r11
ssat r9, #8, r9
strb r9, [r12{at}]
"""

    def pixels(first: int, multiplier: str) -> str:
        return level(first, multiplier, "") + level(first + 1, multiplier, ", lr")

    return f"""
strd r8, r9, [sp, #{_SUMS}]
strd r10, r11, [sp, #{_SUMS + 8}]
ldrd r2, r3, [r1], #8
ldm sp, {{r0, r12, lr}}
add r0, r0, r12
ldr r11, [sp, #{_FACTOR}]
{pixels(0, "r2")}
add r0, r0, lr, lsl #1
add r12, r12, lr, lsl #1
{pixels(2, "r2")}
ldrd r4, r5, [sp, #{_SUMS}]
ldrd r6, r7, [sp, #{_SUMS + 8}]
add r0, r0, #1
add r12, r12, #1
{pixels(2, "r3")}
sub r0, r0, lr, lsl #1
sub r12, r12, lr, lsl #1
{pixels(0, "r3")}
add r12, r12, #1
"""


# The last of an odd number of channels is left to the long ending.
_NEXT_TILE = f"""
ldrd r0, lr, [sp, #{_BLOCK}]
str r12, [sp, #{_OUTPUT}]
cmp r1, lr
bne 2b
ldr lr, [sp, #{_END}]
cmp r1, lr
beq 1f
adr.w r12, 7f
orr r12, r12, #1
str r12, [sp, #{_ENDING}]
b 2b
"""


def _store_any(shift: int, has_residual: bool) -> str:
    """Any number of pixels, one channel or two, any clamp."""
    plain = "smmlar r0, r0, r2, r5"
    with_residual = f"""
ldr lr, [sp, #{_OFFSET}]
ldrsb lr, [r3, lr]
{f"lsl lr, lr, #{shift}" if shift else ""}
ldrd r5, r11, [sp, #{_START}]
smlal r5, r11, r0, r2
ldr r0, [sp, #{_FACTOR}]
smlal r5, r11, lr, r0
mov r0, r11
"""
    return f"""
7: add r12, sp, #{_SUMS}
stm r12, {{r4-r11}}
ldr r4, [sp, #{_OUTPUT}]
ldr r8, [sp, #{_PARAMETERS}]
add r8, r8, #{4 * ZERO_POINT}
ldm r8, {{r5, r6, r8, r9}}
8: ldr r2, [r1], #4
mov r3, r4
ldr r10, [sp, #{_COUNT}]
9: ldr r0, [r12], #4
{f"lsl r0, r0, #{shift}" if shift else ""}
{with_residual if has_residual else plain}
cmp r0, r8
it lt
movlt r0, r8
cmp r0, r9
it gt
movgt r0, r9
strb r0, [r3]
add r3, r3, r6
subs r10, r10, #1
bne 9b
add r4, r4, #1
ldr lr, [sp, #{_OUTPUT}]
sub lr, r4, lr
cmp lr, #2
beq 10f
add r12, sp, #{_SUMS + 4 * PIXELS}
add r0, r1, #4
ldr lr, [sp, #{_ODD_END}]
cmp r0, lr
bne 8b
mov r1, r0
10: str r4, [sp, #{_OUTPUT}]
ldr r0, [sp, #{_BLOCK}]
ldr lr, [sp, #{_END}]
cmp r1, lr
beq 1f
ldr pc, [sp, #{_TILE}]
"""


def _multiply_block(shift: int, is_joined: bool) -> Any:
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


def _gather(pixels: int) -> Any:
    def gather(source: NDArray[np.int8], block: NDArray[np.int16], parameters: Sequence[int]) -> None:
        """`block` from the first pixel's first half on."""
        run = parameters[QUAD_BYTES] + parameters[TAIL]
        pairs = run_pairs(0, run)
        for pixel in range(pixels):
            place, at = 2 * pixel, pixel * parameters[DISTANCE]
            for _ in range(parameters[ROWS]):
                for low, high in pairs:
                    block[place] = source[at + low]
                    block[place + 1] = source[at + high] if high >= 0 else 0
                    place += 2 * PIXELS
                at += run + parameters[SKIP]

    return gather


_GATHER_PARAMETERS = ("const int8_t *source", "int32_t *block", "const int32_t *parameters")

# The window of one pixel, widened into its lane of the block.
GATHER_ONE = micro_kernel(
    "tinyopt_gather_one",
    _GATHER_PARAMETERS,
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
uxth r4, r4
str r4, [r1], #{4 * PIXELS}
5: add r0, r0, r8
subs r12, r12, #1
bne 1b
pop {{r4-r8, pc}}
""",
    _gather(1),
)

# The windows of four pixels at equal distances.
GATHER_FOUR = micro_kernel(
    "tinyopt_gather_four",
    _GATHER_PARAMETERS,
    f"""
push {{r4-r11, lr}}
mov lr, r2
ldr r4, [lr, #{4 * ROWS}]
push {{r4}}
ldr r2, [lr, #{4 * DISTANCE}]
add r3, r2, r2, lsl #1
1: ldr r12, [lr, #{4 * QUAD_BYTES}]
add r12, r12, r0
cmp r12, r0
beq 3f
2: ldr r5, [r0, r2]
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
bne 2b
3: ldr r12, [lr, #{4 * TAIL}]
cmp r12, #0
beq 5f
tst r12, #2
beq 4f
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
4: tst r12, #1
beq 5f
ldrb r5, [r0, r2]
ldrb r6, [r0, r2, lsl #1]
ldrb r7, [r0, r3]
ldrb r4, [r0], #1
sxtb16 r4, r4
sxtb16 r5, r5
sxtb16 r6, r6
sxtb16 r7, r7
stm r1!, {{r4-r7}}
5: ldr r4, [lr, #{4 * SKIP}]
ldr r5, [sp]
add r0, r0, r4
subs r5, r5, #1
str r5, [sp]
bne 1b
add sp, sp, #4
pop {{r4-r11, pc}}
""",
    _gather(PIXELS),
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
