"""The matrix product that convolutions and dense layers come down to: pairs of channels times blocks of pixels.

A *block* is the widened activations of up to four pixels, interleaved: word [pair][pixel], two int16 each. One tile is
two channels times the block's pixels over the whole depth; its inner step is LDR, SXTB16, SXTB16 with ROR for the
weights, one LDRD for each two pixels, and two SMLAD for each: 13 instructions for 16 products.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.targets.kernels.dsp.intrinsics import (
    OPAQUE_ADDRESS,
    REQUANTIZE_RESIDUAL,
    SXTB16,
    SXTB16_ROR8,
    multiply_columns,
    store_columns,
)
from tinyopt.targets.kernels.intrinsic import Intrinsic
from tinyopt.targets.kernels.requantize import INT8_HIGH, INT8_LOW, SMMLAR, SSAT8, Requantization, requantize_sum, wide
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, call, cast, maximum, minimum, read

PIXELS = 4  # of a full block
ANY_SIZE = 1 << 24  # buffers whose extent is not known when the function is compiled

PRODUCT_INTRINSICS: tuple[Intrinsic, ...] = (OPAQUE_ADDRESS, SXTB16, SXTB16_ROR8, SMMLAR, SSAT8)
RESIDUAL_INTRINSICS: tuple[Intrinsic, ...] = (REQUANTIZE_RESIDUAL,)


@dataclass(frozen=True)
class Residual:
    """A tensor of the output's shape that is added before the requantization."""

    values: Buffer
    zero_point: Expr
    multiplier: Expr


@dataclass(frozen=True)
class Tensors:
    """What a tile reads and writes.

    weights: words of two channels times two places of the depth. rescaling: for each pair of channels two biases, then
    two multipliers.
    """

    block: Buffer
    weights: Buffer
    rescaling: Buffer
    output: Buffer
    residual: Residual | None


@dataclass(frozen=True)
class Shape:
    """pairs: words of the depth. pixels: of this block. channels: of the output, which may be odd."""

    pairs: int
    pixels: int
    channels: Expr
    channels_are_odd: bool


def unrolled_steps(pairs: int) -> int:
    """Steps in the body of the loop over the depth: all of a short one, else at most 8 that divide it where some do."""
    if pairs <= 10:
        return pairs
    return next((steps for steps in (8, 7, 6, 5) if pairs % steps == 0), 8)


def tile(
    kernel: KernelBuilder, shape: Shape, tensors: Tensors, to: Requantization, weight: Expr, channel: Expr, pixel: Expr
) -> None:
    """Two channels from `channel` on times the block, whose first pixel is `pixel`; weights from word `weight` on."""
    pixels = shape.pixels
    acc = kernel.local("int32", 2 * pixels)
    for lane in range(2):
        bias = kernel.let(tensors.rescaling[2 * channel + lane])
        for n in range(pixels):
            acc[lane * pixels + n] = bias
    _accumulate(kernel, shape, tensors, acc, weight)
    _store(kernel, shape, tensors, to, acc, channel, pixel)


def _accumulate(kernel: KernelBuilder, shape: Shape, tensors: Tensors, acc: Buffer, weight: Expr) -> None:
    steps = unrolled_steps(shape.pairs)
    multiply = multiply_columns(shape.pixels)

    def step(block: Expr, pair: Expr) -> None:
        kernel.run(multiply, acc.address(), block, pair * PIXELS, tensors.weights[weight + pair])

    block = tensors.block.address()
    looped = shape.pairs // steps
    if looped == 1:  # the block's words do not change from one tile to the next: keep them from moving out of that loop
        looped = 0
        block = kernel.let(read(OPAQUE_ADDRESS, block))
    with kernel.loop(looped) as outer:
        for pair in range(steps):
            step(block, outer * steps + pair)
    for pair in range(looped * steps, shape.pairs):
        step(block, pair)


def _store(
    kernel: KernelBuilder, shape: Shape, tensors: Tensors, to: Requantization, acc: Buffer, channel: Expr, pixel: Expr
) -> None:
    multipliers = [kernel.let(tensors.rescaling[2 * channel + 2 + lane]) for lane in range(2)]
    place = kernel.let(pixel * shape.channels + channel)

    def level(lane: int, n: int) -> Expr:
        at = place + n * shape.channels + lane
        return finish(acc[lane * shape.pixels + n], multipliers[lane], to, tensors.residual, at)

    def store(lanes: range) -> None:
        levels = [level(lane, n) for n in range(shape.pixels) for lane in lanes]
        address = tensors.output.address(place + lanes.start)
        kernel.run(store_columns(len(lanes), shape.pixels), address, shape.channels, *levels)

    if not shape.channels_are_odd:
        store(range(2))
        return
    store(range(1))
    with kernel.when(channel + 1 < shape.channels):
        store(range(1, 2))


def finish(acc: Expr, multiplier: Expr, to: Requantization, residual: Residual | None, place: Expr) -> Expr:
    """The int8 level of an accumulator, in SMMLAR and SSAT where the shift is 32."""
    if residual is None:
        if to.shift != 32:
            return requantize_sum(wide(acc) * wide(multiplier), to)
        return saturate(call(SMMLAR, acc, multiplier, to.zero_point), to)
    centred = cast(residual.values[place], "int32") - residual.zero_point
    if to.shift != 32:
        return requantize_sum(wide(acc) * wide(multiplier) + wide(centred) * wide(residual.multiplier), to)
    return saturate(call(REQUANTIZE_RESIDUAL, acc, multiplier, centred, residual.multiplier, to.zero_point), to)


def saturate(level: Expr, to: Requantization) -> Expr:
    """Between low and high, with SSAT doing what it can."""
    return clamp_saturated(call(SSAT8, level), to)


def clamp_saturated(level: Expr, to: Requantization) -> Expr:
    """The rest of a clamp to low and high, for a level that is an int8 already."""
    if to.low > INT8_LOW:
        level = maximum(level, to.low)
    return minimum(level, to.high) if to.high < INT8_HIGH else level
