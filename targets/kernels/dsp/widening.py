"""From int8 activations to the interleaved pairs of int16 that the multiply-accumulates take."""

from __future__ import annotations

from tinyopt.targets.kernels.dsp.intrinsics import LOAD_WORD, SXTB16, SXTB16_ROR8
from tinyopt.targets.kernels.dsp.product import PIXELS
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, call, cast, read


def widen_run(kernel: KernelBuilder, source: Buffer, start: Expr, length: int, block: Buffer, first: Expr) -> None:
    """Widen `length` bytes from `start` on into words first, first + 4, ... of the block, in the order of run_pairs."""
    quads = length // 4
    unrolled = next(steps for steps in (4, 3, 2, 1) if quads % steps == 0)
    if quads <= 4:
        unrolled = quads
    if quads and quads == unrolled:
        for quad in range(quads):
            _widen_quad(kernel, source, start + 4 * quad, block, first + 2 * PIXELS * quad)
    elif quads:
        with kernel.loop(quads // unrolled) as outer:
            for quad in range(unrolled):
                at = outer * unrolled + quad
                _widen_quad(kernel, source, start + 4 * at, block, first + 2 * PIXELS * at)
    _widen_rest(source, start + 4 * quads, length % 4, block, first + 2 * PIXELS * quads)


def _widen_quad(kernel: KernelBuilder, source: Buffer, start: Expr, block: Buffer, first: Expr) -> None:
    word = kernel.let(read(LOAD_WORD, source.address(start)))
    block[first] = call(SXTB16, word)
    block[first + PIXELS] = call(SXTB16_ROR8, word)


def _widen_rest(source: Buffer, start: Expr, length: int, block: Buffer, first: Expr) -> None:
    """Up to three bytes, read one by one; the half without a value becomes 0."""
    for place in range(0, length, 2):
        low = cast(source[start + place], "int32") & 0xFFFF
        high = cast(source[start + place + 1], "int32") << 16 if place + 1 < length else 0
        block[first + PIXELS * (place // 2)] = low | high


def fill_run(kernel: KernelBuilder, value: Expr, words: int, block: Buffer, first: Expr) -> None:
    """Write the pair `value` to `words` words of one pixel."""
    if words <= 4:
        for word in range(words):
            block[first + PIXELS * word] = value
        return
    with kernel.loop(words) as word:
        block[first + PIXELS * word] = value
