"""Inner loops over elements, in assembly: sums of two tensors, and functions given by a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel

BLOCK = 8  # elements of a turn


def add_block(shift: int, is_clamped: bool) -> Intrinsic:
    """y = saturate((a * multiplier_a + b * multiplier_b + offset) >> shift) for `blocks` blocks.

    A byte in the upper half of an int16 times the multiplier in the upper three bytes of a word: the upper 32 of 48
    bits, which SMLAW adds, are their exact product. Multipliers have less than 24 bits. is_clamped: between lows and
    highs too, which have the limit in each byte.
    """
    assert 1 <= shift <= 31, shift
    set_up = ["ldrd r4, r5, [sp, #36]", "ldr r6, [sp, #44]"]
    set_up += ["lsl r4, r4, #8", "lsl r5, r5, #8", "mov r7, #0xFF00FF00"]
    factors = ("multiplier_a", "multiplier_b", "offset")
    return _over_blocks(
        f"tinyopt_add_asr{shift}", factors, is_clamped, set_up, _four_sums(shift, is_clamped), _sums(shift)
    )


def _over_blocks(
    name: str,
    factors: Sequence[str],
    is_clamped: bool,
    set_up: Sequence[str],
    four: Sequence[str],
    meaning: Callable[..., Any],
) -> Intrinsic:
    """The loop over blocks of two tensors. factors: the numbers passed on the stack; four: code of four elements."""
    lines = ["push {r4-r11, lr}", *set_up, "cmp r3, #0", "beq 2f"]
    lines += ["1:", *four, *four, "subs r3, r3, #1", "bne 1b"]
    lines += ["2:", "pop {r4-r11, pc}"]
    limits = ("lows", "highs") if is_clamped else ()
    return micro_kernel(
        f"{name}{'_clamped' if is_clamped else ''}",
        (
            *("const int8_t *a", "const int8_t *b", "int8_t *y", "int32_t blocks"),
            *(f"int32_t {number}" for number in (*factors, *limits)),
        ),
        "\n".join(lines),
        meaning,
    )


# The products of four elements: the halves of the words of a and b, and where the sum goes.
_PLACES = (("b", "r10", "r11", "r12"), ("b", "r8", "r9", "lr"), ("t", "r10", "r11", "r10"), ("t", "r8", "r9", "r8"))


def _four_sums(shift: int, is_clamped: bool) -> list[str]:
    lines = ["ldr r8, [r0], #4", "ldr r9, [r1], #4"]
    lines += ["and r10, r7, r8, lsl #8", "and r11, r7, r9, lsl #8", "and r8, r8, r7", "and r9, r9, r7"]
    for half, a, b, total in _PLACES:
        lines += [f"smlaw{half} {total}, r4, {a}, r6", f"smlaw{half} {total}, r5, {b}, {total}"]
        lines.append(f"ssat {total}, #8, {total}, asr #{shift}")
    return [*lines, *_store_four(is_clamped, 48)]


def _store_four(is_clamped: bool, limits: int) -> list[str]:
    """The levels in r12, lr, r10, r8 as one word; lows and highs lie `limits` bytes up the stack."""
    lines = ["bfi r12, lr, #8, #8", "bfi r12, r10, #16, #8", "bfi r12, r8, #24, #8"]
    if is_clamped:
        lines += [f"ldrd r10, r11, [sp, #{limits}]", "ssub8 r8, r12, r10", "sel r12, r12, r10"]
        lines += ["ssub8 r8, r11, r12", "sel r12, r12, r11"]
    return [*lines, "str r12, [r2], #4"]


def multiply_block(is_clamped: bool) -> Intrinsic:
    """y = saturate(round((a + minus_a) * (b + minus_b) * multiplier / 2^32) + zero_point) for `blocks` blocks.

    is_clamped: between lows and highs too, which have the limit in each byte.
    """
    set_up = ["ldrd r4, r5, [sp, #36]", "ldrd r6, r7, [sp, #44]"]
    set_up += ["pkhbt r4, r4, r4, lsl #16", "pkhbt r5, r5, r5, lsl #16"]
    factors = ("minus_a", "minus_b", "multiplier", "zero_point")
    return _over_blocks("tinyopt_multiply_elements", factors, is_clamped, set_up, _four_products(is_clamped), _products)


def _four_products(is_clamped: bool) -> list[str]:
    lines = ["ldr r8, [r0], #4", "ldr r9, [r1], #4"]
    lines += ["sxtab16 r10, r4, r8", "sxtab16 r11, r5, r9"]
    lines += ["sxtab16 r8, r4, r8, ror #8", "sxtab16 r9, r5, r9, ror #8"]
    for half, a, b, level in _PLACES:
        lines += [
            f"smul{half}{half} {level}, {a}, {b}",
            f"smmlar {level}, {level}, r6, r7",
            f"ssat {level}, #8, {level}",
        ]
    return [*lines, *_store_four(is_clamped, 52)]


def _products(
    a: NDArray[np.int8], b: NDArray[np.int8], zero_points: tuple[int, int], multiplier: int, zero_point: int
) -> NDArray[np.int8]:
    product = (a.astype(np.int64) - zero_points[0]) * (b.astype(np.int64) - zero_points[1])
    return np.asarray(np.clip(((product * multiplier + (1 << 31)) >> 32) + zero_point, -128, 127), np.int8)


def _sums(shift: int) -> Any:
    def sums(a: NDArray[np.int8], b: NDArray[np.int8], multipliers: tuple[int, int], offset: int) -> NDArray[np.int8]:
        total = a.astype(np.int64) * multipliers[0] + b.astype(np.int64) * multipliers[1] + offset
        return np.asarray(np.clip(total >> shift, -128, 127), np.int8)

    return sums


LOOKUP = micro_kernel(
    "tinyopt_look_up",
    ("const int8_t *x", "const int8_t *middle", "int8_t *y", "int32_t blocks"),
    "\n".join(
        [
            *("cbz r3, 2f", "push {r4, lr}"),
            "1:",
            *(
                line
                for _ in range(BLOCK)
                for line in ("ldrsb r4, [r0], #1", "ldrb r12, [r1, r4]", "strb r12, [r2], #1")
            ),
            *("subs r3, r3, #1", "bne 1b"),
            "pop {r4, lr}",
            "2:",
            "bx lr",
        ]
    ),
    lambda x, table: table[x.astype(np.int32) + 128],
)
