"""Convolution with any window, stride and padding and clustered weights, as a product over gathered windows.

Each row of a window is one run of bytes. Windows that lie in the image are widened at once. Outside the image is the
input's zero point: where the channels are a multiple of four, the widened row is filled left and right of what lies
inside; elsewhere the row is put together as bytes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel, Overlap, Refusal, ScratchArgument
from tinyopt.targets.kernels.dsp.clustered.costs import with_costs, worthwhile
from tinyopt.targets.kernels.dsp.clustered.layer import (
    ANY_SIZE,
    GATHERING,
    Depth,
    Layer,
    LayerSpec,
    block_pixels,
    declare_layer,
    layer_arguments,
    layer_spec,
    refusal,
    run_layer,
)
from tinyopt.targets.kernels.dsp.clustered.widening import WIDEN_RUNS
from tinyopt.targets.kernels.dsp.packing import words_in_run
from tinyopt.targets.kernels.requantize import zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, both, cast, constant, maximum, minimum

_NUMBERS = (
    "rows",
    "columns",
    "channels",
    "words",
    "height",
    "width",
    "output_width",
    "row_stride",
    "column_stride",
    "top",
    "left",
    "zero_point",
)


@dataclass(frozen=True)
class ConvolutionSpec:
    """taps_are_words: channels come in fours, so that a widened row can be filled tap by tap."""

    taps_are_words: bool
    layer: LayerSpec


def plan_clustered_convolution(node: Node) -> Kernel | Refusal:
    """`convolution_kernel` where it is worthwhile."""
    return worthwhile(node, convolution_kernel(node))


def convolution_kernel(node: Node) -> Kernel | Refusal:
    """QConv with one group and no dilation."""
    x, weight = node.input(0), node.input(1)
    if reason := refusal(node):
        return Refusal(reason)
    if node.int("group") != 1:
        return Refusal("it has more than one group")
    if node.ints("dilations") != (1, 1):
        return Refusal("it is dilated")
    if x.shape[0] != 1:
        return Refusal("its batch is not 1")
    _, rows, columns, channels = weight.shape
    spec = ConvolutionSpec(channels % 4 == 0, layer_spec(node))
    depth = Depth(columns * channels, rows)
    arguments = layer_arguments(node, spec.layer, depth, _gathering(node, depth))
    border = () if spec.taps_are_words else (ScratchArgument(depth.run, 4),)
    kernel = Kernel(
        template=convolution,
        spec=spec,
        name="conv_clustered",
        arguments=(*arguments, *border),
        intrinsics=spec.layer.intrinsics,
        overlaps=_overlaps(node),
    )
    return with_costs(node, kernel, spec.layer, depth)


def _gathering(node: Node, depth: Depth) -> list[int]:
    """`_NUMBERS`, in their order."""
    x = node.input(0)
    top, left, _, _ = node.ints("pads")
    window = (*node.input(1).shape[1:], words_in_run(depth.run))
    image = (*x.shape[1:3], node.output.shape[2], *node.ints("strides"), top, left)
    return [*window, *image, zero_point_of(node, x)]


def _overlaps(node: Node) -> tuple[Overlap, ...]:
    """From the first pixel to the last: what later windows read must lie behind what has been written."""
    residual = node.optional_input(4)
    if residual is node.input(0):
        return ()
    own = Overlap.forward(0, _lead(node))
    return (own,) if residual is None else (own, Overlap.in_place(4))


def _lead(node: Node) -> int:
    """Bytes that the output must begin before the input."""
    _, height, width, channels = node.input(0).shape
    _, _, output_width, output_channels = node.output.shape
    strides, pads = node.ints("strides"), node.ints("pads")
    done = np.cumsum(block_pixels(node.output.type.elements // output_channels))[:-1]  # pixels, after each block
    if not done.size:
        return -node.input(0).type.bytes - node.output.type.bytes
    y, x = np.divmod(done, output_width)
    row, below = (np.clip((y + later) * strides[0] - pads[0], 0, height) for later in (0, 1))
    column = np.clip(x * strides[1] - pads[1], 0, width)
    unread = np.minimum(row * width + column, below * width) * channels
    return int(np.max(done * output_channels - unread))


@dataclass(frozen=True)
class _Image:
    """The numbers by their names, the pair that stands outside, and the present window's first row and column."""

    number: dict[str, Expr]
    filler: Expr
    window: Buffer


def convolution(spec: ConvolutionSpec) -> PrimFunc:
    """Gathers the window of each pixel into a block of int16 pairs, which all output channels are multiplied with."""
    kernel = KernelBuilder("convolution_clustered")
    with kernel.function():
        layer = declare_layer(kernel, spec.layer)
        border = None if spec.taps_are_words else kernel.buffer("border", "int8", ANY_SIZE)
        number = {name: kernel.let(layer.numbers[GATHERING + place]) for place, name in enumerate(_NUMBERS)}
        filler = kernel.let((number["zero_point"] & 0xFFFF) | (number["zero_point"] << 16))
        image = _Image(number, filler, kernel.local("int32", 2))
        image.window[0] = 0 - number["top"]
        image.window[1] = 0 - number["left"]
        gather_row = _gather_words if border is None else _gather_bytes(border)

        def gather(_: Expr, count: Expr, stride: Expr) -> None:
            with kernel.loop(count) as lane:
                _gather_window(kernel, layer, image, lane, stride, gather_row)
                _advance(kernel, image)

        run_layer(kernel, spec.layer, layer, constant(0, "int32"), gather)
    return kernel.finish()


# Gathers a row of the window that is not wholly inside, `y` being a row of the image, into the block from a word on.
GatherRow = Callable[[KernelBuilder, Layer, _Image, Expr, Expr, Expr], None]


def _gather_window(
    kernel: KernelBuilder, layer: Layer, image: _Image, lane: Expr, stride: Expr, gather_row: GatherRow
) -> None:
    number = image.number
    y, x = kernel.let(image.window[0]), kernel.let(image.window[1])
    run = kernel.let(number["columns"] * number["channels"])
    step = kernel.let(number["words"] * stride)
    inside_across = both(x >= 0, x + number["columns"] <= number["width"])
    inside = both(y >= 0, y + number["rows"] <= number["height"], inside_across)
    with kernel.when_else(inside) as (then, other):
        with then:
            start = layer.x.address((y * number["width"] + x) * number["channels"])
            row_bytes = number["width"] * number["channels"]
            kernel.run(
                WIDEN_RUNS, start, layer.block.address(lane), run, number["rows"], row_bytes, step * 4, stride * 4
            )
        with other, kernel.loop(number["rows"]) as row:
            line = kernel.let(y + row)
            first = kernel.let(row * step + lane)
            with kernel.when_else(both(line >= 0, line < number["height"])) as (there, outside):
                with there:
                    gather_row(kernel, layer, image, line, first, stride)
                with outside:
                    _fill(kernel, layer, image, number["words"], first, stride)
                    _empty_last_half(kernel, layer, image, first, stride)


def _advance(kernel: KernelBuilder, image: _Image) -> None:
    """On to the next pixel's window."""
    number = image.number
    image.window[1] = image.window[1] + number["column_stride"]
    with kernel.when(image.window[1] == number["output_width"] * number["column_stride"] - number["left"]):
        image.window[1] = 0 - number["left"]
        image.window[0] = image.window[0] + number["row_stride"]


def _fill(kernel: KernelBuilder, layer: Layer, image: _Image, words: Expr, first: Expr, stride: Expr) -> None:
    with kernel.loop(words) as word:
        layer.block[first + word * stride] = image.filler


def _empty_last_half(kernel: KernelBuilder, layer: Layer, image: _Image, first: Expr, stride: Expr) -> None:
    """Its weight is any: a run of odd length must end in 0."""
    number = image.number
    with kernel.when(((number["columns"] * number["channels"]) & 1) == 1):
        layer.block[first + (number["words"] - 1) * stride] = image.filler & 0xFFFF


def _inside(kernel: KernelBuilder, image: _Image) -> tuple[Expr, Expr]:
    """The first column of the window that is in the image, and how many are."""
    x, columns = kernel.let(image.window[1]), image.number["columns"]
    first = kernel.let(minimum(maximum(0 - x, 0), columns))
    last = kernel.let(minimum(columns, image.number["width"] - x))
    return first, kernel.let(maximum(last - first, 0))


def _gather_words(kernel: KernelBuilder, layer: Layer, image: _Image, y: Expr, first: Expr, stride: Expr) -> None:
    """The row's taps inside as one run, between words that are filled."""
    number = image.number
    skipped, count = _inside(kernel, image)
    words = kernel.let(number["channels"] >> 1)
    _fill(kernel, layer, image, skipped * words, first, stride)
    with kernel.when(count > 0):
        start = layer.x.address((y * number["width"] + image.window[1] + skipped) * number["channels"])
        to = layer.block.address(first + skipped * words * stride)
        kernel.run(WIDEN_RUNS, start, to, count * number["channels"], 1, 0, 0, stride * 4)
    done = kernel.let(skipped + count)
    _fill(kernel, layer, image, (number["columns"] - done) * words, kernel.let(first + done * words * stride), stride)


def _gather_bytes(border: Buffer) -> GatherRow:
    """The row as bytes in `border`, then widened."""

    def gather(kernel: KernelBuilder, layer: Layer, image: _Image, y: Expr, first: Expr, stride: Expr) -> None:
        number = image.number
        skipped, count = _inside(kernel, image)
        run = kernel.let(number["columns"] * number["channels"])
        with kernel.loop(run) as place:
            border[place] = cast(number["zero_point"], "int8")
        start = kernel.let((y * number["width"] + image.window[1] + skipped) * number["channels"])
        offset = kernel.let(skipped * number["channels"])
        with kernel.loop(count * number["channels"]) as place:
            border[offset + place] = layer.x[start + place]
        kernel.run(WIDEN_RUNS, border.address(), layer.block.address(first), run, 1, 0, 0, stride * 4)

    return gather
