"""The inner tiles of convolutions and dense layers, in assembly: VMLADAVA adds sixteen products to a core register.

VMLADAVA accumulates into even registers, of which eight are free: r0, r2, r4, r6, r8, r10, r12 and lr. A tile of four
channels and two pixels loads six vectors for eight multiplications; one of eight channels and one pixel loads nine.
Where all of a short depth is unrolled, up to four vectors of the two pixels are held in q4 to q7 for all channels.
What belongs to a group of channels lies in one stream, in the order in which it is read:

    biases (int32) | weights, for each step of 16 places of the depth: 16 of each channel | multipliers (int32)

How the depth is walked over, and what `levels` and `walk` hold, stands in tile.py.

Throughout r1 is in the stream, r3 and r5 in the pixels, r9 the channels left, r11 in y; on the stack are x0, x1, walk,
levels behind its vectors, residual - y (or the zero point), the stream's begin, and the arguments from the fifth on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyopt.targets.kernels.intrinsic import Intrinsic, micro_kernel
from tinyopt.targets.kernels.mve.endings import DENSE, FIRST, PAIR, SECOND, Lanes, ending, ending_of_held
from tinyopt.targets.kernels.mve.tile import Finish, Tile, dense_meaning, pair_meaning

_PARAMETERS = (
    "const int32_t *stream",
    "const int32_t *levels",
    "const int8_t *x0",
    "const int8_t *x1",
    "int32_t walk",
    "int8_t *y",
    "const int8_t *residual",
    "int32_t count",
)


def pair_tile(tile: Tile) -> Intrinsic:
    """All output channels of two pixels, four at a time, and of the following pairs, `count` in all."""
    biases = ("ldm r1, {r0, r2, r4, r6}", "ldm r1!, {r8, r10, r12, lr}")
    if _holds_pixels(tile):
        parts = _Parts(_HELD_ENTRY, _held_pixels(tile), biases, _held_steps(tile), ending_of_held(), "q3", PAIR)
    else:
        begin = ("ldm sp, {r3, r5, r7}", *biases)
        parts = _Parts(_ENTRY, (), begin, _pair_steps(tile), ending(tile.finish, PAIR), "q4", PAIR)
    return micro_kernel(f"tinyopt_pair_{tile.name}", _PARAMETERS, _text(parts), pair_meaning(tile))


def dense_tile(tile: Tile) -> Intrinsic:
    """All output channels of one pixel (x0), eight at a time; in a group the even ones stand before the odd ones.

    `x1` is not used, and `count` is 1.
    """
    begin = ("ldm sp, {r3, r5, r7}", "ldm r1!, {r0, r2, r4, r6, r8, r10, r12, lr}")
    store = _STORE_INT16 if tile.finish.is_int16 else _STORE_INT8
    parts = _Parts(_ENTRY, (), begin, _dense_steps(tile), ending(tile.finish, DENSE), "q4", DENSE, store)
    return micro_kernel(f"tinyopt_dense_{tile.name}", _PARAMETERS, _text(parts), dense_meaning(tile))


@dataclass(frozen=True)
class _Store:
    """How eight levels are written at r11. instruction: without its condition. bytes: of a level."""

    instruction: str
    scale: str
    bytes: int

    def text(self, places: str, condition: str = "") -> str:
        return f"{self.instruction}{condition}.16 q0, [r11, {places}{self.scale}]"


_STORE_INT8, _STORE_INT16 = _Store("vstrb", "", 1), _Store("vstrh", ", uxtw #1", 2)


@dataclass(frozen=True)
class _Parts:
    """What differs from tile to tile.

    entry: fills the constant vectors from r1 on, moves r1 behind them, and leaves in r6 what goes on the stack.
    pixels: once for each pair. begin, steps, ending: for each group of channels. places: the vector of the lanes'
    places in memory.
    """

    entry: Sequence[str]
    pixels: Sequence[str]
    begin: Sequence[str]
    steps: Sequence[str]
    ending: Sequence[str]
    places: str
    lanes: Lanes
    store: _Store = _STORE_INT8


_ENTRY = ("vldmia r1!, {d8-d15}", "ldr r6, [sp, #108]", "sub r6, r6, r11")  # residual - y
_HELD_ENTRY = ("ldrsh r6, [r1, #16]", "vldrw.32 q3, [r1], #64")  # the zero point


def _text(parts: _Parts) -> str:
    """From group to group of channels, then from pair to pair of pixels.

    Of the last group of channels only those that there are get stored.
    """
    channels = parts.lanes.channels
    lines = (
        "push {r4-r11, lr}",
        "vpush {d8-d15}",
        "ldrd r4, r11, [sp, #100]",  # walk, y
        "ldr r9, [r1], #12",  # channels
        *parts.entry,
        "mov r5, r1",
        "mov r7, r0",
        "push {r2-r7}",
        "mov r1, r0",
        "0:",
        *parts.pixels,
        "1:",
        *parts.begin,
        "2:",
        *parts.steps,
        *parts.ending,
        f"subs r9, r9, #{channels}",
        "blt 3f",
        parts.store.text(parts.places),
        f"add r11, r11, #{channels * parts.store.bytes}",
        "bgt 1b",
        "b 4f",
        f"3: add r9, r9, #{channels}",
        parts.lanes.predicate,
        "vpst",
        parts.store.text(parts.places, "t"),
        "4: ldr r0, [sp, #136]",  # count
        "subs r0, r0, #1",
        "beq 5f",
        "str r0, [sp, #136]",
        "ldr r7, [sp, #12]",
        "ldrd r9, r2, [r7, #-76]",  # channels, from pair to pair in x
        "ldr r0, [r7, #-68]",  # from here to the next pair in y
        "ldrd r3, r5, [sp]",
        "add r3, r3, r2",
        "add r5, r5, r2",
        "strd r3, r5, [sp]",
        "add r11, r11, r0",
        "ldr r1, [sp, #20]",
        "b 0b",
        "5: add sp, sp, #24",
        "vpop {d8-d15}",
        "pop {r4-r11, pc}",
    )
    return "\n".join(lines)


_REPEAT = {
    "once": (),
    "unrolled": (),
    "blocks": ("subs r7, r7, #1", "bne 2b"),
    "rows": ("sxtah r3, r3, r7", "sxtah r5, r5, r7", "subs r7, r7, #65536", "bhs 2b"),
}
_TO_NEXT_ROW = ("add r3, r3, r7", "add r5, r5, r7")


def _pair_steps(tile: Tile) -> list[str]:
    loads = ("vldrb.8 q0, [r3], #16", "vldrb.8 q1, [r5], #16")
    row = [line for _ in range(tile.steps) for line in (*loads, *_pair_step("q0", "q1", ("q2", "q3")))]
    rows = [*row, *(line for _ in range(tile.rows - 1) for line in (*_TO_NEXT_ROW, *row))]
    return [*rows, *_REPEAT[tile.walk]]


def _pair_step(pixel: str, next_pixel: str, free: Sequence[str]) -> list[str]:
    """Sixteen products of four channels, whose weights come into the `free` vectors in turn, and two pixels."""
    lines: list[str] = []
    for place, (first, second) in enumerate(zip(FIRST, SECOND, strict=True)):
        weights = free[place % len(free)]
        lines.append(f"vldrb.8 {weights}, [r1], #16")
        lines += [f"vmladava.s8 {first}, {weights}, {pixel}", f"vmladava.s8 {second}, {weights}, {next_pixel}"]
    return lines


def _dense_steps(tile: Tile) -> list[str]:
    lines: list[str] = []
    for _ in range(tile.steps):
        lines.append("vldrb.8 q0, [r3], #16")
        for place, accumulator in enumerate((*FIRST, *SECOND)):
            weights = f"q{1 + place % 2}"
            lines += [f"vldrb.8 {weights}, [r1], #16", f"vmladava.s8 {accumulator}, {weights}, q0"]
    return [*lines, *_REPEAT[tile.walk]]


_HELD = (("q4", "q5"), ("q6", "q7"))  # two steps of two pixels


def _holds_pixels(tile: Tile) -> bool:
    """Whether one pointer to each pixel reaches all steps that are not held, so that it stays for all channels."""
    is_short = tile.walk == "once" or (tile.walk == "unrolled" and tile.steps == 1 and tile.rows <= len(_HELD) + 1)
    return is_short and tile.finish == Finish("high", is_clamped=False)


def _held_pixels(tile: Tile) -> list[str]:
    """Load the first steps of a pair of pixels; leave r3 and r5 at the next ones and the zero point in r7."""
    lines = ["ldm sp, {r3, r5, r7}"]
    for place, (pixel, next_pixel) in enumerate(_HELD[: tile.steps * tile.rows]):
        lines += [f"vldrb.8 {pixel}, [r3], #16", f"vldrb.8 {next_pixel}, [r5], #16"]
        lines += _TO_NEXT_ROW if tile.walk == "unrolled" and place + 1 < tile.rows else ()
    return [*lines, "ldr r7, [sp, #16]"]


def _held_steps(tile: Tile) -> list[str]:
    """The steps that are held, then those that are loaded from where r3 and r5 stay."""
    lines: list[str] = []
    for place in range(tile.steps * tile.rows):
        if place < len(_HELD):
            lines += _pair_step(*_HELD[place], ("q0", "q1"))
        else:
            offset = 16 * (place - len(_HELD))
            lines += [f"vldrb.8 q0, [r3, #{offset}]", f"vldrb.8 q1, [r5, #{offset}]", *_pair_step("q0", "q1", ("q2",))]
    return lines
