"""The inner tile for one pixel, in assembly: four channels with clustered weights times a vector.

Each channel has its own pointer to its places, so that the order in flash is the same for every tile.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.dsp.clustered.decode_steps import TABLE_BITS, decode_one
from tinyopt.targets.kernels.dsp.clustered.pairs import PAIRS_AT_ONCE
from tinyopt.targets.kernels.dsp.clustered.tiles import PARAMETERS, multiply_block_meaning
from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel

ROWS = 4  # channels that a vector is multiplied with at a time

_FIRST_STEP = 20  # label of the first step
_FIRST_ENTRY = 30  # label of the first way in

# The frame below the arguments that lie on the stack: one word of its own, then r0-r11 and lr.
_LOOP, _VECTOR, _WEIGHTS, _OUTPUT = 0, 4, 12, 16
_CHANNELS, _PAIRS, _ROW_BYTES, _ZERO_POINT, _LIMITS = range(56, 76, 4)


def _parameters(dtype: str) -> tuple[str, ...]:
    first = ("const void *vector", *PARAMETERS[1:3], f"{dtype}_t *output", PARAMETERS[4])
    return (*first, "int32_t pairs", "int32_t row_bytes", *PARAMETERS[7:9])


def _steps(bits: int) -> list[str]:
    """Four pairs times four channels: places in r4-r7, sums in r8-r11."""
    lines: list[str] = []
    for pair in range(PAIRS_AT_ONCE):
        x = "r12" if pair % 2 == 0 and _loads_two(bits) else "lr"
        if x == "r12":
            lines += [f"{_FIRST_STEP + pair}:", "ldrd r12, lr, [r0], #8"]
        else:
            lines += [f"{_FIRST_STEP + pair}:"] if _loads_two(bits) else [f"{_FIRST_STEP + pair}:", "ldr lr, [r0], #4"]
        for row in range(ROWS):
            lines += [*decode_one(bits, pair, f"r{4 + row}"), f"smlad r{8 + row}, r3, {x}, r{8 + row}"]
    return lines


def _loads_two(bits: int) -> bool:
    """Whether two words of the vector are loaded at once; else decoding needs the register."""
    return bits <= TABLE_BITS


def _entries(bits: int) -> list[str]:
    """Ways into the loop at each step, the second of two words being loaded alone where the first is left out."""
    lines: list[str] = []
    for pair in range(PAIRS_AT_ONCE):
        lines.append(f"{_FIRST_ENTRY + pair}:")
        lines += ["ldr lr, [r0], #4"] if pair % 2 and _loads_two(bits) else []
        lines.append(f"b {_FIRST_STEP + pair}b")
    return lines


def _rescale(is_clamped: bool, bits: int) -> list[str]:
    lines = [f"ldr lr, [sp, #{_ZERO_POINT}]"]
    for row in range(ROWS):
        register = f"r{8 + row}"
        lines += [f"ldr r12, [r{4 + row}], #4", f"smmlar {register}, {register}, r12, lr"]
        lines.append(f"ssat {register}, #{bits}, {register}")
    if is_clamped:
        lines += [f"ldr r12, [sp, #{_LIMITS}]", "ldrd r12, lr, [r12]"]
        for row in range(ROWS):
            register = f"r{8 + row}"
            lines += [f"cmp {register}, r12", "it lt", f"movlt {register}, r12"]
            lines += [f"cmp {register}, lr", "it gt", f"movgt {register}, lr"]
    return lines


@cache
def multiply_vector(bits: int, is_clamped: bool, dtype: str = "int8") -> Intrinsic:
    """At least four channels of one pixel, of `dtype`; the last four may overlap others.

    row_bytes: from one channel's weights to the next one's.
    """
    size = np.dtype(dtype).itemsize
    store, back = ("strb", "sub r4, r4, r6") if size == 1 else ("strh", "sub r4, r4, r6, lsl #1")
    lines = [
        "push {r0-r11, lr}",
        "sub sp, sp, #4",
        f"ldr r2, [sp, #{_PAIRS}]",
        "rsb r4, r2, #0",
        "and r4, r4, #3",
        "add r2, r0, r2, lsl #2",
        "adr.w r5, 9f",
        "ldrh r4, [r5, r4, lsl #1]",
        "sub r5, r5, r4",
        "orr r5, r5, #1",
        f"str r5, [sp, #{_LOOP}]",
        "1:",
        f"ldr r4, [sp, #{_WEIGHTS}]",
        f"ldr r12, [sp, #{_ROW_BYTES}]",
        *(f"add r{5 + row}, r{4 + row}, r12" for row in range(ROWS - 1)),
        *(f"ldr r{8 + row}, [r{4 + row}], #4" for row in range(ROWS)),
        f"ldr r0, [sp, #{_VECTOR}]",
        f"ldr pc, [sp, #{_LOOP}]",
        *_steps(bits),
        "cmp r0, r2",
        f"bne {_FIRST_STEP}b",
        *_rescale(is_clamped, 8 * size),
        f"ldr r4, [sp, #{_OUTPUT}]",
        *(f"{store} r{8 + row}, [r4, #{size * row}]" for row in range(ROWS)),
        f"ldr r5, [sp, #{_CHANNELS}]",
        "subs r5, r5, #4",
        "beq 3f",
        "rsbs r6, r5, #4  @ channels to go back by where fewer than four are left",
        "it mi",
        "movmi r6, #0",
        "add r5, r5, r6",
        f"str r5, [sp, #{_CHANNELS}]",
        f"add r4, r4, #{size * ROWS}",
        back,
        f"str r4, [sp, #{_OUTPUT}]",
        f"ldr r12, [sp, #{_ROW_BYTES}]",
        "mls r7, r6, r12, r7",
        f"str r7, [sp, #{_WEIGHTS}]",
        "b 1b",
        "3:",
        "add sp, sp, #4",
        "pop {r0-r11, pc}",
        *_entries(bits),
        ".balign 2",
        "9:",
        *(f".hword 9b - {_FIRST_ENTRY + pair}b" for pair in range(PAIRS_AT_ONCE)),
    ]

    def meaning(*arguments: Array | int) -> None:
        first, last = arguments[:6], arguments[7:]
        multiply_block_meaning(bits, 1, is_clamped, False, *first, 1, *last, np.zeros(0, np.int8), output_bits=8 * size)

    name = f"tinyopt_clustered{bits}_vector{'' if size == 1 else '_s16'}{'_clamped' if is_clamped else ''}"
    return micro_kernel(name, _parameters(dtype), "\n".join(lines), meaning)
