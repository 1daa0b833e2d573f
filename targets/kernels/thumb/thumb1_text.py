"""Pieces of ARMv6-M assembly that several micro-kernels share."""

from __future__ import annotations

# Only the low registers can be pushed and popped. Behind them the arguments on the stack lie 36 bytes up.
SAVE_REGISTERS = """
    push {r4, r5, r6, r7, lr}
    mov r4, r8
    mov r5, r9
    mov r6, r10
    mov r7, r11
    push {r4, r5, r6, r7}
"""

RESTORE_AND_RETURN = """
    pop {r4, r5, r6, r7}
    mov r8, r4
    mov r9, r5
    mov r10, r6
    mov r11, r7
    pop {r4, r5, r6, r7, pc}
"""

# r1 = the accumulator in r0 times the multiplier with the halves r6 (high) and r5 (low), rounded, in units of 2^32:
# from four products of halves. ASRS leaves the bit it rounds by in the carry. Spoils r0 and r2.
SCALE = """
    asrs r1, r0, #16
    uxth r0, r0
    movs r2, r0
    muls r2, r5, r2
    lsrs r2, r2, #16
    muls r0, r6, r0
    adds r0, r0, r2
    movs r2, r1
    muls r2, r5, r2
    adds r0, r0, r2
    muls r1, r6, r1
    asrs r0, r0, #16
    adcs r1, r0
"""
