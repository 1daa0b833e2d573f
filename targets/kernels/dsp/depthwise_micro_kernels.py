"""The inner loop of depthwise convolution, in assembly: the window over planes of int16 pairs.

A row of a plane is a row of words, two neighbouring cells of one channel in each (see `plane_micro_kernels`). With the
taps as pairs (w0, w1), (w1, w2), ... a row of a window of three takes two instructions for each output; at stride 1
output pixels 0 and 1 share the words (p0, p1), (p2, p3):

    y0 = SMLAD((p0, p1), (w0, w1)) + SMLABT((p2, p3), (w1, w2))        p0 w0 + p1 w1 + p2 w2
    y1 = SMLATB((p0, p1), (w0, w1)) + SMLAD((p2, p3), (w1, w2))        p1 w0 + p2 w1 + p3 w2
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel

CELL_BYTES = 2

_LOW_REGISTERS = ("r0", "r1", "r2", "r3")
_ACCUMULATORS = ("r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11")
MOST_PIXELS = len(_ACCUMULATORS)
_SAVED_BYTES = 36  # r4-r11 and lr

# Words at the bottom of a window's stack frame, in the order in which they are loaded at the end of a block.
_MULTIPLIER, _BACK, _OUTPUT, _STEP, _BIAS, _OUTER, _BEGIN, _TAPS = 0, 12, 16, 24, 28, 32, 36, 44

WINDOW_FIELDS = (*("channels", "plane_bytes", "zero_point", "back", "step", "advance", "outer_source", "outer_output"),)


@dataclass(frozen=True)
class Window:
    """A block of `pixels` neighbouring outputs of one channel. stride: from one of them to the next.

    is_raw: the accumulators are stored as they are, as int32 behind one another, instead of rescaled int8.
    """

    rows: int
    columns: int
    stride: int
    pixels: int
    is_raw: bool = False

    @property
    def words(self) -> int:
        """Words of a row of the plane that the block reads."""
        return ((self.pixels - 1) * self.stride + self.columns + 1) // 2

    @property
    def tap_words(self) -> int:
        """Pairs of neighbouring taps in a row of the window."""
        return max(self.columns - 1, 1)

    @property
    def free_registers(self) -> tuple[str, ...]:
        """For taps and cells: what is left beside accumulators, source (r12) and the way to the next row (lr)."""
        return (*_LOW_REGISTERS, *_ACCUMULATORS[self.pixels :])

    @property
    def output_registers(self) -> tuple[str, str]:
        """The output's address and the blocks that are left, at the end of a block."""
        return ("r10", "r11") if self.pixels <= 6 else ("r3", "r4")

    @property
    def holds_taps(self) -> bool:
        """Whether a row's taps and a word of the plane fit the registers; else taps are loaded as they are met."""
        return self.tap_words < len(self.free_registers)

    @property
    def row_writeback(self) -> int:
        """How many bytes the source has moved on behind a row."""
        return _row(self, is_first=False)[1]

    @property
    def last_stop(self) -> int:
        """How many outputs the address has moved on behind a block."""
        return self.pixels if self.is_raw else sum(_stops(self.pixels))

    @property
    def block_instructions(self) -> int:
        """What a block costs."""
        return len(_block(self))

    @property
    def intrinsic(self) -> Intrinsic:
        return _window(self)


def _groups_of_words(window: Window) -> Iterator[tuple[list[str], str, int]]:
    """The loads of a row's cells: registers, the instruction, and how far the source moves on with it."""
    registers = window.free_registers[window.tap_words if window.holds_taps else -1 :]
    first, moved = 0, 0
    while first < window.words:
        chosen = list(registers[: window.words - first])
        last = first + len(chosen)
        offset = 4 * first - moved
        if len(chosen) == 1:
            yield chosen, f"ldr {chosen[0]}, [r12, #{offset}]", 0
        elif len(chosen) == 2:
            yield chosen, f"ldrd {chosen[0]}, {chosen[1]}, [r12, #{offset}]", 0
        else:
            assert offset == 0
            writeback = 4 * len(chosen) if last < window.words else 0
            yield chosen, f"ldm r12{'!' if writeback else ''}, {{{', '.join(chosen)}}}", writeback
            moved += writeback
        first = last


class _Taps:
    """The registers of a row's taps, which are loaded all at once, or one by one in the place of the oldest."""

    def __init__(self, window: Window, row: int) -> None:
        self.lines: list[str] = []  # loads that are still to be written
        self._place = _TAPS + 4 * window.tap_words * row
        self._free = list(window.free_registers[:-1])
        self._held: dict[int, str] = {}
        if window.holds_taps:
            registers = window.free_registers[: window.tap_words]
            self._held = dict(enumerate(registers))
            self.lines += _load_words(registers, "sp", self._place)

    def register(self, tap: int) -> str:
        """Where the pair of taps that begins with `tap` lies."""
        if tap not in self._held:
            register = self._free.pop() if self._free else self._held.pop(next(iter(self._held)))
            self.lines.append(f"ldr {register}, [sp, #{self._place + 4 * tap}]")
            self._held[tap] = register
        else:
            self._held[tap] = self._held.pop(tap)  # the newest now
        return self._held[tap]

    def take_loads(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


def _multiply(window: Window, word: str, taps: _Taps, tap: int) -> str | None:
    """The operation on `word`, whose low half meets `tap` and whose high half the next one: {0} = ... + {1}."""
    last = window.columns - 1
    if tap == -1:
        return f"smlatb {{0}}, {word}, {taps.register(0)}, {{1}}"
    if 0 <= tap < last:
        return f"smlad {{0}}, {word}, {taps.register(tap)}, {{1}}"
    if tap == last:
        return f"smlab{'t' if last else 'b'} {{0}}, {word}, {taps.register(max(last - 1, 0))}, {{1}}"
    return None


def _load_words(registers: tuple[str, ...], base: str, offset: int) -> list[str]:
    """Loads of neighbouring words, two at a time."""
    lines: list[str] = []
    for place in range(0, len(registers), 2):
        pair = registers[place : place + 2]
        name = "ldrd" if len(pair) == 2 else "ldr"
        lines.append(f"{name} {', '.join(pair)}, [{base}, #{offset + 4 * place}]")
    return lines


@cache
def _row(window: Window, is_first: bool, row: int = 0) -> tuple[list[str], int]:
    """The instructions of one row of the window, and how far the source has moved on.

    In the first row the last accumulator holds the bias, which the others take as their first summand.
    """
    taps = _Taps(window, row)
    lines = taps.take_loads()
    accumulators = _ACCUMULATORS[: window.pixels]
    begun: set[int] = set()
    word, moved = 0, 0
    for registers, load, writeback in _groups_of_words(window):
        lines.append(load)
        moved += writeback
        for register in registers:
            for pixel, accumulator in enumerate(accumulators):
                text = _multiply(window, register, taps, 2 * word - pixel * window.stride)
                if text is None:
                    continue
                starts = is_first and pixel not in begun
                lines += taps.take_loads()
                lines.append(text.format(accumulator, accumulators[-1] if starts else accumulator))
                begun.add(pixel)
            word += 1
    return lines, moved


_STEPS = {0: "", 1: "", 2: ", lsl #1", 4: ", lsl #2", 8: ", lsl #3"}  # distances that come free with an address


@cache
def _stops(pixels: int) -> tuple[int, ...]:
    """The fewest steps, as distances, from whose stops all of `pixels` outputs can be reached."""
    for length in range(pixels):
        for steps in product(tuple(_STEPS)[1:], repeat=length):
            stops = np.cumsum((0, *steps)).tolist()
            if {stop + step for stop in stops for step in _STEPS} >= set(range(pixels)):
                return steps
    raise AssertionError(pixels)


def _stores(pixels: int, output: str) -> list[str]:
    """Store the accumulators' low bytes r2 bytes apart; the output moves on by `last_stop` of them."""
    lines: list[str] = []
    left, base = set(range(pixels)), 0
    for step in (0, *_stops(pixels)):
        if step:
            lines.append(f"add {output}, {output}, r2{_STEPS[step]}")
            base += step
        for distance in _STEPS:
            if base + distance in left:
                left.remove(base + distance)
                index = f", r2{_STEPS[distance]}" if distance else ""
                lines.append(f"strb {_ACCUMULATORS[base + distance]}, [{output}{index}]")
    return lines


def _block(window: Window) -> list[str]:
    """One block: all rows of the window, then the outputs, and on to the next block's source."""
    accumulators = _ACCUMULATORS[: window.pixels]
    lines = [f"ldr {accumulators[-1]}, [sp, #{_BIAS}]"]
    for row in range(window.rows):
        lines += ["add r12, r12, lr"] if row else []
        lines += _row(window, row == 0, row)[0]
    output, blocks = window.output_registers
    fits = output == "r10"
    lines.append("ldm sp, {r0, r1, r2, r3, r10, r11}" if fits else "ldm sp, {r0, r1, r2, r3}")
    lines.append("add r12, r12, r3")
    lines += [] if fits else [f"ldr r3, [sp, #{_OUTPUT}]"]
    if window.is_raw:
        several = f"stm {output}!, {{{', '.join(accumulators)}}}"
        lines.append(several if window.pixels > 1 else f"str r4, [{output}], #4")  # STM takes no single register
    else:
        lines += [f"smmlar {register}, {register}, r0, r1" for register in accumulators]
        lines += [f"ssat {register}, #8, {register}" for register in accumulators]
        lines += [*_stores(window.pixels, output), f"ldr r0, [sp, #{_STEP}]", f"add {output}, {output}, r0"]
    lines += [] if fits else [f"ldr r4, [sp, #{_OUTPUT + 4}]"]
    return [*lines, f"subs {blocks}, {blocks}, #1", f"strd {output}, {blocks}, [sp, #{_OUTPUT}]", "bne 2b"]


def _widen_taps(window: Window) -> list[str]:
    """The int8 taps at r2 as pairs of int16 into the frame; r2 moves on to the next channel."""
    lines: list[str] = []
    for row in range(window.rows):
        place = _TAPS + 4 * window.tap_words * row
        lines.append("ldrsb r4, [r2], #1")
        if window.columns == 1:
            lines += ["uxth r4, r4", f"str r4, [sp, #{place}]"]
        for tap in range(1, window.columns, 2):
            lines += ["ldrsb r5, [r2], #1", "pkhbt r6, r4, r5, lsl #16"]
            if tap + 1 < window.columns:
                lines += ["ldrsb r4, [r2], #1", "pkhbt r7, r5, r4, lsl #16"]
                lines.append(f"strd r6, r7, [sp, #{place + 4 * (tap - 1)}]")
            else:
                lines.append(f"str r6, [sp, #{place + 4 * (tap - 1)}]")
    return lines


def field_offset(names: tuple[str, ...], name: str) -> int:
    return 4 * names.index(name)


def _window(window: Window) -> Intrinsic:
    """Blocks of several planes, in two loops, of which one is over rows and one over the blocks of a row.

    planes, y, weights, rescaling: of the first channel; rescaling holds each channel's bias and multiplier. parameters:
    WINDOW_FIELDS, in bytes: back, from where a block's last row was read to the next block; step, from the output's
    last stop to the next block; advance, from a row's last cells to the next row; outer_source, outer_output: from
    one turn of the outer loop to the next.
    """
    saved = _TAPS + 4 * window.rows * window.tap_words  # planes, y, weights, rescaling
    frame = saved + 16
    parameters, inner, planes = (frame + _SAVED_BYTES + 4 * place for place in (0, 1, 3))
    output, _ = window.output_registers
    lines = [
        "push {r4-r11, lr}",
        f"sub sp, sp, #{frame}",
        f"ldr r12, [sp, #{parameters}]",
        "ldr r4, [r12]",  # channels
        "ldrd r5, r6, [r12, #8]",  # zero point, back
        "ldrd r7, lr, [r12, #16]",  # step, advance
        "strd r5, r4, [sp, #4]",
        f"str r6, [sp, #{_BACK}]",
        f"str r7, [sp, #{_STEP}]",
        "1:",
        "ldrd r4, r5, [r3], #8",
        f"ldrd r7, r8, [sp, #{inner}]",
        f"str r5, [sp, #{_MULTIPLIER}]",
        f"str r4, [sp, #{_BIAS}]",
        f"strd r1, r7, [sp, #{_OUTPUT}]",
        f"str r8, [sp, #{_OUTER}]",
        *_widen_taps(window),
        f"strd r0, r1, [sp, #{_BEGIN}]",
        f"strd r0, r1, [sp, #{saved}]",
        f"strd r2, r3, [sp, #{saved + 8}]",
        "mov r12, r0",
        "2:",
        *_block(window),
        f"ldr r0, [sp, #{_OUTER}]",
        f"ldr r1, [sp, #{parameters}]",
        "subs r0, r0, #1",
        "beq 3f",
        f"str r0, [sp, #{_OUTER}]",
        f"ldrd r4, r5, [r1, #{field_offset(WINDOW_FIELDS, 'outer_source')}]",
        f"ldr r0, [sp, #{inner}]",
        f"ldrd r2, r3, [sp, #{_BEGIN}]",
        "add r12, r2, r4",
        f"add {output}, r3, r5",
        f"strd r12, {output}, [sp, #{_BEGIN}]",
        f"strd {output}, r0, [sp, #{_OUTPUT}]",
        "b 2b",
        "3:",
        f"ldr r5, [sp, #{planes}]",
        f"ldr r4, [r1, #{field_offset(WINDOW_FIELDS, 'plane_bytes')}]",
        "subs r5, r5, #1",
        "beq 4f",
        f"str r5, [sp, #{planes}]",
        f"ldrd r0, r1, [sp, #{saved}]",
        f"ldrd r2, r3, [sp, #{saved + 8}]",
        "add r0, r0, r4",
        "add r1, r1, #1",
        "b 1b",
        "4:",
        f"add sp, sp, #{frame}",
        "pop {r4-r11, pc}",
    ]
    kind = "sums" if window.is_raw else "levels"
    return micro_kernel(
        f"tinyopt_depthwise_{window.rows}x{window.columns}_by_{window.stride}_{window.pixels}_{kind}",
        (
            *("const void *planes", "void *y", "const int8_t *weights", "const int32_t *rescaling"),
            *("const int32_t *parameters", "int32_t inner", "int32_t outer", "int32_t count"),
        ),
        "\n".join(lines),
        _meaning(window),
    )


def _meaning(window: Window) -> Any:
    """One plane, one row, on arrays: the cells [rows, cells] and the taps [rows, columns] -> sums [pixels]."""

    def sums(cells: NDArray[np.int16], taps: NDArray[np.int8], bias: int) -> list[int]:
        starts = range(0, window.pixels * window.stride, window.stride)
        blocks = (cells[:, start : start + window.columns].astype(int) for start in starts)
        return [bias + int((block * taps).sum()) for block in blocks]

    return sums
