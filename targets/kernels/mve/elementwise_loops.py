"""Micro-kernels that go over all elements once: sums, products and tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel

_BINARY = ("const int8_t *a", "const int8_t *b", "int8_t *y", "const int32_t *parameters")


def add_narrowing(shift: int) -> Intrinsic:
    """y = clamp((a * Ma + b * Mb + offset + 2^(shift - 1)) >> shift), 16 elements at a time; 17 <= shift <= 24.

    parameters: blocks of 16, elements behind them, Ma, Mb, offset, three unused; low and high in 16 bytes each; and the
    places of the bytes that the narrowings leave: one of each of four vectors of four, then the next of each.
    """
    sums = "".join(
        f"""
        vldrb.s32 q4, [r0], #4
        vldrb.s32 q5, [r1], #4
        vmlas.s32 q4, q0, r8
        vmla.s32 q4, q5, r7
        vshrn{half}.i32 q{register}, q4, #16
        """
        for half, register in (("b", 2), ("b", 3), ("t", 2), ("t", 3))
    )
    return micro_kernel(
        f"tinyopt_mve_add_{shift}",
        _BINARY,
        f"""
        push {{r4-r8, lr}}
        vpush {{d8-d15}}
        ldrd r4, r5, [r3]  @ blocks, elements behind them
        ldrd r6, r7, [r3, #8]  @ multipliers
        ldr r8, [r3, #16]  @ offset
        vdup.32 q0, r6
        vldrw.u32 q6, [r3, #32]
        vldrw.u32 q7, [r3, #48]
        vldrw.u32 q1, [r3, #64]
        wls lr, r4, 2f
        1:
        {sums}
        vqrshrnb.s16 q2, q2, #{shift - 16}
        vqrshrnt.s16 q2, q3, #{shift - 16}
        vmax.s8 q2, q2, q6
        vmin.s8 q2, q2, q7
        vstrb.8 q2, [r2, q1]
        add r2, r2, #16
        le lr, 1b
        2:
        wlstp.32 lr, r5, 4f
        3:
        vldrb.s32 q4, [r0], #4
        vldrb.s32 q5, [r1], #4
        vmlas.s32 q4, q0, r8
        vmla.s32 q4, q5, r7
        vrshr.s32 q4, q4, #{shift}
        vqmovnb.s32 q4, q4
        vqmovnb.s16 q4, q4
        vmax.s8 q4, q4, q6
        vmin.s8 q4, q4, q7
        vstrb.32 q4, [r2], #4
        letp lr, 3b
        4:
        vpop {{d8-d15}}
        pop {{r4-r8, pc}}
        """,
        _meaning_of_add_narrowing(shift),
    )


def _meaning_of_add_narrowing(shift: int) -> Callable[..., None]:
    def add(a: Array, b: Array, y: Array, parameters: Array) -> None:
        blocks, rest, factor_a, factor_b, offset = (int(number) for number in parameters[:5])
        low, high = parameters[8:12].view(np.int8)[0], parameters[12:16].view(np.int8)[0]
        count = 16 * blocks + rest
        total = a[:count].astype(np.int64) * factor_a + b[:count].astype(np.int64) * factor_b + offset
        y[:count] = np.clip((total + (1 << (shift - 1))) >> shift, low, high)

    return add


def _add(a: Array, b: Array, y: Array, parameters: Array) -> None:
    count, shift, factor_a, factor_b, offset, zero_point, low, high = (int(number) for number in parameters)
    total = a[:count].astype(np.int64) * factor_a + b[:count].astype(np.int64) * factor_b + offset
    y[:count] = np.clip((total >> -shift) + zero_point, low, high)


# parameters: elements, -shift, Ma, Mb, offset, zero point, low, high
ADD = micro_kernel(
    "tinyopt_mve_add",
    _BINARY,
    """
    push {r4-r10, lr}
    vpush {d8-d9}
    ldrd r4, r5, [r3]  @ elements, -shift
    ldrd r6, r7, [r3, #8]  @ multipliers
    ldrd r8, r9, [r3, #16]  @ offset, zero point
    ldrd r10, r3, [r3, #24]  @ low, high
    vdup.32 q0, r6
    vdup.32 q3, r10
    vdup.32 q4, r3
    wlstp.32 lr, r4, 2f
    1:
    vldrb.s32 q1, [r0], #4
    vldrb.s32 q2, [r1], #4
    vmlas.s32 q1, q0, r8
    vmla.s32 q1, q2, r7
    vshl.s32 q1, r5
    vadd.i32 q1, q1, r9
    vmax.s32 q1, q1, q3
    vmin.s32 q1, q1, q4
    vstrb.32 q1, [r2], #4
    letp lr, 1b
    2:
    vpop {d8-d9}
    pop {r4-r10, pc}
    """,
    _add,
)


def _multiply(a: Array, b: Array, y: Array, parameters: Array) -> None:
    zero_a, zero_b, factor, zero_point, low, high, count, left_shift = (int(number) for number in parameters)
    products = (a[:count].astype(np.int64) + zero_a) * (b[:count].astype(np.int64) + zero_b) << left_shift
    y[:count] = np.clip((products * factor + (1 << 31) >> 32) + zero_point, low, high)


def multiply(is_shifted: bool) -> Intrinsic:
    """y = requantize((a - za) * (b - zb)), eight elements at a time.

    parameters: -za, -zb, multiplier, zero point, low, high, elements, and how far products are shifted to the left
    where they are.
    """
    shift = "vshl.s32 q2, r11\nvshl.s32 q3, r11\n" if is_shifted else ""
    levels = f"""
        vadd.i16 q0, q0, r4
        vadd.i16 q1, q1, r5
        vmullb.s16 q2, q0, q1
        vmullt.s16 q3, q0, q1
        {shift}
        vrmulh.s32 q2, q2, q4
        vrmulh.s32 q3, q3, q4
        vqmovnb.s32 q2, q2
        vqmovnt.s32 q2, q3
        vqadd.s16 q2, q2, r7
        vmax.s16 q2, q2, q5
        vmin.s16 q2, q2, q6
    """
    return micro_kernel(
        f"tinyopt_mve_multiply{'_shifted' if is_shifted else ''}",
        _BINARY,
        f"""
        push {{r4-r11, lr}}
        vpush {{d8-d13}}
        ldrd r4, r5, [r3]  @ -za, -zb
        ldrd r6, r7, [r3, #8]  @ multiplier, zero point
        ldrd r8, r9, [r3, #16]  @ low, high
        ldrd r10, r11, [r3, #24]  @ elements, left shift
        vdup.32 q4, r6
        vdup.16 q5, r8
        vdup.16 q6, r9
        lsr r6, r10, #3
        and r10, r10, #7
        wls lr, r6, 2f
        1:
        vldrb.s16 q0, [r0], #8
        vldrb.s16 q1, [r1], #8
        {levels}
        vstrb.16 q2, [r2], #8
        le lr, 1b
        2:
        vctp.16 r10  @ a loop with LETP would predicate the halves of 32-bit lanes
        vpstt
        vldrbt.s16 q0, [r0]
        vldrbt.s16 q1, [r1]
        {levels}
        vpst
        vstrbt.16 q2, [r2]
        vpop {{d8-d13}}
        pop {{r4-r11, pc}}
        """,
        _multiply,
    )


def _look_up(table: Array, x: Array, y: Array, count: int) -> None:
    y[:count] = table[x[:count].astype(np.uint8)]


# the table's order is that of bytes without a sign
LOOK_UP = micro_kernel(
    "tinyopt_mve_look_up",
    ("const int8_t *table", "const int8_t *x", "int8_t *y", "int32_t elements"),
    """
    push {r4, lr}
    wlstp.8 lr, r3, 2f
    1:
    vldrb.u8 q0, [r1], #16
    vldrb.u8 q1, [r0, q0]
    vstrb.8 q1, [r2], #16
    letp lr, 1b
    2:
    pop {r4, pc}
    """,
    _look_up,
)
