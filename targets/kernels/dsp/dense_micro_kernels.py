"""The inner loops of dense layers on one vector, in assembly.

Two channels c, d share words of weights, [c_a, d_a, c_b, d_b] for the elements a, b of a pair of the vector. Read as
int16 a half of such a word is 256 d + c, if d was lowered by one where c is negative. So two SMLAD and one SXTB16 do
for four products:

    both = sum of (256 d + c) x     SMLAD with the word as it is, modulo 2^32
    low  = sum of c x               SMLAD with its bytes 0 and 2, widened by SXTB16
    (both - low) >> 8  = sum of d x, as long as that fits 24 bits, which depends on the weights alone

Weights for which it might not are taken as they are, with a second SXTB16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel

QUAD = 4  # elements of a step
_SAVED_BYTES = 36  # r4-r11 and lr


Element = Literal["int8", "int16", "int32"]
_STORED: Mapping[Element, str] = {"int8": "levels", "int16": "levels_int16", "int32": "sums"}


@dataclass(frozen=True)
class Rows:
    """Groups of `channels` (two or four) channels times a vector.

    is_joined: words are 256 d + c. element: what is stored, sums as int32 or rescaled levels.
    """

    channels: int
    is_joined: bool
    element: Element

    @property
    def steps(self) -> int:
        """Quads in the body of the longer of the two loops over the vector."""
        return 4 if self.channels == 4 else 2

    @property
    def intrinsic(self) -> Intrinsic:
        return _rows(self)


# Accumulators of each pair of channels: of both, or of the second; and of the first.
_HIGH, _LOW = ("r4", "r6"), ("r5", "r7")
_WEIGHTS, _PAIRS = ("r8", "r9", "r10", "r11"), ("r2", "r3")


def _step(rows: Rows) -> list[str]:
    """Four elements of the vector (r0) times the weights (r1)."""
    pairs = rows.channels // 2
    words = _WEIGHTS[: 2 * pairs]
    lines = [f"ldm r1!, {{{', '.join(words)}}}", f"ldrd {_PAIRS[0]}, {_PAIRS[1]}, [r0], #8"]
    for place, word in enumerate(words):
        x, high, low = _PAIRS[place // pairs], _HIGH[place % pairs], _LOW[place % pairs]
        if rows.is_joined:
            lines += [f"smlad {high}, {word}, {x}, {high}", f"sxtb16 {word}, {word}"]
        else:
            lines += [f"sxtb16 lr, {word}, ror #8", f"sxtb16 {word}, {word}", f"smlad {high}, lr, {x}, {high}"]
        lines.append(f"smlad {low}, {word}, {x}, {low}")
    return lines


def _begin(rows: Rows) -> list[str]:
    """The first bias of each pair of channels, at r2."""
    highs, lows = _HIGH[: rows.channels // 2], _LOW[: rows.channels // 2]
    load = "ldrd r5, r7, [r2]" if rows.channels == 4 else "ldr r5, [r2]"
    start = [f"mov {high}, {low if rows.is_joined else '#0'}" for high, low in zip(highs, lows, strict=True)]
    return [load, *start]


def _end(rows: Rows) -> list[str]:
    """Sums into r5, r8, r7, r9; then they are stored. r2: rescaling, r3: output; both move on."""
    lines = ["ldrd r2, r3, [sp, #8]"]
    lines.append("ldrd r8, r9, [r2, #8]" if rows.channels == 4 else "ldr r8, [r2, #4]")
    for high, low, total in zip(_HIGH[: rows.channels // 2], _LOW, ("r8", "r9"), strict=False):
        if rows.is_joined:
            lines += [f"sub {high}, {high}, {low}", f"add {total}, {total}, {high}, asr #8"]
        else:
            lines.append(f"add {total}, {total}, {high}")
    sums = ("r5", "r8", "r7", "r9")[: rows.channels]
    if rows.element == "int32":
        lines += [f"str {total}, [r3], #4" for total in sums]
    else:
        multipliers = ("r4", "r6", "r10", "r11")[: rows.channels]
        for place in range(0, rows.channels, 2):
            pair = ", ".join(multipliers[place : place + 2])
            lines.append(f"ldrd {pair}, [r2, #{4 * (rows.channels + place)}]")
        lines += [f"smmlar {total}, {total}, {by}, lr" for total, by in zip(sums, multipliers, strict=True)]
        bits, store = (8, "strb {}, [r3], #1") if rows.element == "int8" else (16, "strh {}, [r3], #2")
        lines += [f"ssat {total}, #{bits}, {total}" for total in sums]
        lines += [store.format(total) for total in sums]
    return [*lines, f"add r2, r2, #{8 * rows.channels}", "strd r2, r3, [sp, #8]"]


def _rows(rows: Rows) -> Intrinsic:
    """`groups` groups of channels.

    rescaling: of each group the biases, those of the first channels of pairs first, then the multipliers in the order
    of the channels. The depth is `long_steps` bodies of the longer loop and `short_steps` quads.
    """
    stack = 16  # pairs, weights, rescaling, y
    long_steps, short_steps, groups, zero_point = (stack + _SAVED_BYTES + 4 * place for place in range(4))
    lines = [
        "push {r0-r11, lr}",
        "1:",
        f"ldr r12, [sp, #{long_steps}]",
        *_begin(rows),
        "ldr r0, [sp]",
        "cmp r12, #0",
        "beq 3f",
        "2:",
        *(line for _ in range(rows.steps) for line in _step(rows)),
        "subs r12, r12, #1",
        "bne 2b",
        "3:",
        f"ldr r12, [sp, #{short_steps}]",
        "cmp r12, #0",
        "beq 5f",
        "4:",
        *_step(rows),
        "subs r12, r12, #1",
        "bne 4b",
        "5:",
        f"ldr lr, [sp, #{zero_point}]",
        *_end(rows),
        f"ldr r12, [sp, #{groups}]",
        "subs r12, r12, #1",
        f"str r12, [sp, #{groups}]",
        "bne 1b",
        "add sp, sp, #16",
        "pop {r4-r11, pc}",
    ]
    form = f"{rows.channels}{'_joined' if rows.is_joined else ''}_rows_to_{_STORED[rows.element]}"
    return micro_kernel(
        f"tinyopt_multiply_{form}",
        (
            *("const int32_t *pairs", "const int8_t *weights", "const int32_t *rescaling", "void *y"),
            *("int32_t long_steps", "int32_t short_steps", "int32_t groups", "int32_t zero_point"),
        ),
        "\n".join(lines),
        _sums,
    )


def _sums(weights: NDArray[np.int8], x: NDArray[np.int8], bias: NDArray[np.int32]) -> NDArray[np.int32]:
    """[channels, depth] times [depth]: the sums that are stored, or rescaled."""
    return np.asarray(weights.astype(np.int32) @ x.astype(np.int32) + bias, np.int32)


def _widened(x: NDArray[np.int8]) -> NDArray[np.int32]:
    padded = np.pad(x, (0, -len(x) % QUAD)).reshape(-1, 2, 2)  # quad, half, place
    return np.ascontiguousarray(padded.transpose(0, 2, 1).astype("<i2")).view("<i4").reshape(-1)


# Elements of each quad as the words (0, 2), (1, 3); zeros behind the last one.
WIDEN_ROW = micro_kernel(
    "tinyopt_widen_row",
    ("const int8_t *x", "int32_t *pairs", "int32_t depth"),
    """\
push {r4, lr}
lsrs r3, r2, #2
beq 2f
1:
ldr r4, [r0], #4
sxtb16 r12, r4
sxtb16 lr, r4, ror #8
strd r12, lr, [r1], #8
subs r3, r3, #1
bne 1b
2:
ands r2, r2, #3
beq 4f
3:
subs r2, r2, #1        @ the bytes that are left, from the last one on
ldrb r4, [r0, r2]
orr r3, r4, r3, lsl #8
bne 3b
sxtb16 r12, r3
sxtb16 lr, r3, ror #8
strd r12, lr, [r1]
4:
pop {r4, pc}
""",
    _widened,
)
