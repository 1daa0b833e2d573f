"""How a tile ends: its sums become int8 levels in the output. Parts of the functions in block_product.

r4-r7 are the sums of the first channel's pixels, r8-r11 those of the second, joined or not, and r1 points to the
multipliers.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyopt.targets.kernels.dsp.micro_kernels import PIXELS, ZERO_POINT

# The stack frame, below r4-r11 and lr, above which lie the arguments that the caller has put on the stack.
OFFSET, OUTPUT, STRIDE, BLOCK, FAST_END, BLOCK_END, ENTRY_ADDRESS, ENDING, TILE, SUMS = range(0, 40, 4)
PARAMETERS, END, ODD_END, FACTOR, START = range(68, 88, 4)
ROWS_LEFT, FIRST_ENDING, WEIGHTS, BLOCK_OUTPUT = range(92, 108, 4)
FRAME = 108
COUNT, BLOCKS, SOURCE, RESIDUAL = range(FRAME + 36, FRAME + 52, 4)

LARGEST_JOINED_SHIFT = 7  # of accumulators with joined weights
_FIRST_MULTIPLIER, _SECOND_MULTIPLIER = "r2", "r3"
_FIRSTS, _SECONDS = ("r4", "r5", "r6", "r7"), ("r8", "r9", "r10", "r11")


def short_ending(shift: int, has_residual: bool, is_joined: bool) -> str:
    """Two channels of four pixels, clamped to int8. After it r1 is past the multipliers, r12 at the next channel."""
    if has_residual:
        return _second_sums(is_joined, shift) + _with_residual(shift, is_joined)
    seconds = _levels_of_joined(shift) if is_joined else _levels(shift, _SECONDS, _SECOND_MULTIPLIER)
    return "\n".join(
        [
            *("ldrd r2, r3, [r1], #8", "ldm sp, {r0, r12, lr}"),
            *(f"sub {second}, {second}, {first}" for first, second in zip(_FIRSTS, _SECONDS, strict=True) if is_joined),
            *_levels(shift, _FIRSTS, _FIRST_MULTIPLIER),
            "add r2, lr, lr, lsl #1",
            *_stores(_FIRSTS),
            *seconds,
            *_stores(_SECONDS),
        ]
    )


def _levels(shift: int, registers: Sequence[str], multiplier: str) -> list[str]:
    return [
        *(f"lsl {r}, {r}, #{shift}" for r in registers if shift),
        *(f"smmlar {r}, {r}, {multiplier}, r0" for r in registers),
        *(f"ssat {r}, #8, {r}" for r in registers),
    ]


def _levels_of_joined(shift: int) -> list[str]:
    """256 times the sum times the multiplier, to 2^-(8 - shift), where the zero point and the half are added already.

    Rounding down twice, first to that and then to whole levels, is rounding down once.
    """
    return [
        f"ldr r0, [sp, #{FACTOR}]",
        *(f"smmla {r}, {r}, {_SECOND_MULTIPLIER}, r0" for r in _SECONDS),
        *(f"ssat {r}, #8, {r}, asr #{8 - shift}" for r in _SECONDS),
    ]


def _stores(registers: Sequence[str]) -> list[str]:
    """One byte of each of four pixels."""
    places = ("lr", "lr, lsl #1", "r2")
    rest = [f"strb {r}, [r12, {at}]" for r, at in zip(registers[1:], places, strict=True)]
    return [*rest, f"strb {registers[0]}, [r12], #1"]


def _second_sums(is_joined: bool, shift: int) -> str:
    """Take the second channel's sums out of those of joined weights, shifted left by `shift` already."""
    sums = zip(_FIRSTS, _SECONDS, strict=True)
    return "".join(f"sub {b}, {b}, {a}\nasr {b}, {b}, #{8 - shift}\n" for a, b in sums) if is_joined else ""


def _with_residual(shift: int, is_joined: bool) -> str:
    """The same with sums of 64 bits: the products of accumulator and residual are added before they are rounded."""

    def level(pixel: int, multiplier: str, at: str) -> list[str]:
        acc = f"r{4 + pixel}"
        is_shifted = is_joined and multiplier == _SECOND_MULTIPLIER
        return [
            f"ldrsb r10, [r0{at}]",
            f"ldrd r8, r9, [sp, #{START}]",
            *([f"lsl {acc}, {acc}, #{shift}"] if shift and not is_shifted else []),
            *([f"lsl r10, r10, #{shift}"] if shift else []),
            f"smlal r8, r9, {acc}, {multiplier}",
            "smlal r8, r9, r10, r11",
            "ssat r9, #8, r9",
            f"strb r9, [r12{at}]",
        ]

    def pixels(first: int, multiplier: str) -> str:
        return "\n".join([*level(first, multiplier, ""), *level(first + 1, multiplier, ", lr")])

    return f"""
strd r8, r9, [sp, #{SUMS}]
strd r10, r11, [sp, #{SUMS + 8}]
ldrd r2, r3, [r1], #8
ldm sp, {{r0, r12, lr}}
add r0, r0, r12
ldr r11, [sp, #{FACTOR}]
{pixels(0, _FIRST_MULTIPLIER)}
add r0, r0, lr, lsl #1
add r12, r12, lr, lsl #1
{pixels(2, _FIRST_MULTIPLIER)}
ldrd r4, r5, [sp, #{SUMS}]
ldrd r6, r7, [sp, #{SUMS + 8}]
add r0, r0, #1
add r12, r12, #1
{pixels(2, _SECOND_MULTIPLIER)}
sub r0, r0, lr, lsl #1
sub r12, r12, lr, lsl #1
{pixels(0, _SECOND_MULTIPLIER)}
add r12, r12, #1
"""


def long_ending(shift: int, has_residual: bool, is_joined: bool) -> str:
    """Any number of pixels, one channel or two, any clamp."""
    plain = "smmlar r0, r0, r2, r5"
    with_residual = f"""
ldr lr, [sp, #{OFFSET}]
ldrsb lr, [r3, lr]
{f"lsl lr, lr, #{shift}" if shift else ""}
ldrd r5, r11, [sp, #{START}]
smlal r5, r11, r0, r2
ldr r0, [sp, #{FACTOR}]
smlal r5, r11, lr, r0
mov r0, r11
"""
    return f"""
7: {_second_sums(is_joined, 0).strip()}
add r12, sp, #{SUMS}
stm r12, {{r4-r11}}
ldr r4, [sp, #{OUTPUT}]
ldr r8, [sp, #{PARAMETERS}]
add r8, r8, #{4 * ZERO_POINT}
ldm r8, {{r5, r6, r8, r9}}
8: ldr r2, [r1], #4
mov r3, r4
ldr r10, [sp, #{COUNT}]
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
ldr lr, [sp, #{OUTPUT}]
sub lr, r4, lr
cmp lr, #2
beq 17f
add r12, sp, #{SUMS + 4 * PIXELS}
add r0, r1, #4
ldr lr, [sp, #{ODD_END}]
cmp r0, lr
bne 8b
mov r1, r0
17: str r4, [sp, #{OUTPUT}]
ldr r0, [sp, #{BLOCK}]
ldr lr, [sp, #{END}]
cmp r1, lr
beq.w 1f
ldr pc, [sp, #{TILE}]
"""
