"""Convolution with any window, stride and padding, as a matrix product over gathered windows.

The window of each pixel is widened into the block, row by row; then every pair of channels takes its tile. A window
that lies across the image's border has the input's zero point outside: where the channels are a multiple of four, each
of its taps is a run of its own; elsewhere each of its rows is put together as bytes first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import Argument, InputArgument, Kernel, Refusal, ScalarArgument, ScratchArgument
from tinyopt.targets.kernels.dsp.layer import (
    LayerSpec,
    declare_layer,
    layer_arguments,
    layer_spec,
    residual_overlap,
    run_layer,
)
from tinyopt.targets.kernels.dsp.packing import depth_pairs, words_in_run
from tinyopt.targets.kernels.dsp.product import ANY_SIZE, PIXELS
from tinyopt.targets.kernels.dsp.widening import fill_run, widen_run
from tinyopt.targets.kernels.requantize import zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, both, cast

UNROLLED_WORDS = 20  # a window up to this size is widened without loops


@dataclass(frozen=True)
class ConvolutionSpec:
    """rows, columns: of the window. channels: of the input."""

    rows: int
    columns: int
    channels: int
    layer: LayerSpec

    @property
    def taps_are_runs(self) -> bool:
        return self.channels % 4 == 0

    @property
    def run(self) -> int:
        return self.channels if self.taps_are_runs else self.columns * self.channels

    @property
    def runs(self) -> int:
        return self.rows * self.columns if self.taps_are_runs else self.rows


def plan_convolution(node: Node) -> Kernel | Refusal:
    """QConv with one group and no dilation."""
    x, weight = node.input(0), node.input(1)
    if node.int("group") != 1:
        return Refusal("it has more than one group")
    if node.ints("dilations") != (1, 1):
        return Refusal("it is dilated")
    if x.shape[0] != 1:
        return Refusal("its batch is not 1")
    _, rows, columns, channels = weight.shape
    run = channels if channels % 4 == 0 else columns * channels
    pairs = depth_pairs(run, rows * columns * channels // run)
    spec = ConvolutionSpec(rows, columns, channels, layer_spec(node, len(pairs)))
    return Kernel(
        template=convolution,
        spec=spec,
        name="conv_smlad" if spec.layer.clusters is None else "conv_clustered_smlad",
        arguments=(InputArgument(0), *_image_arguments(node, spec), *layer_arguments(node, spec.layer, pairs)),
        intrinsics=spec.layer.intrinsics,
        overlaps=residual_overlap(node),
    )


def _image_arguments(node: Node, spec: ConvolutionSpec) -> list[Argument]:
    """What `_declare_image` declares, in its order."""
    _, height, width, _ = node.input(0).shape
    zero_point = zero_point_of(node, node.input(0))
    top, left, _, _ = node.ints("pads")
    numbers = (height, width, node.output.shape[2], *node.ints("strides"), top, left, zero_point)
    arguments: list[Argument] = [ScalarArgument(number) for number in numbers]
    return arguments if spec.taps_are_runs else [*arguments, ScratchArgument(spec.run, 4)]


@dataclass(frozen=True)
class _Image:
    """The input and where the present pixel's window begins in it.

    border: bytes for one row of the window, where such a row is one run.
    """

    x: Buffer
    height: Expr
    width: Expr
    output_width: Expr
    row_stride: Expr
    column_stride: Expr
    top: Expr
    left: Expr
    zero_point: Expr
    border: Buffer | None
    window: Buffer  # first row, first column


def _declare_image(kernel: KernelBuilder, spec: ConvolutionSpec) -> Callable[[], _Image]:
    """Declare the parameters; calling the result, after all others are declared, makes the locals."""
    x = kernel.buffer("x", "int8", ANY_SIZE)
    height, width, output_width = (kernel.scalar(name) for name in ("height", "width", "output_width"))
    row_stride, column_stride = kernel.scalar("row_stride"), kernel.scalar("column_stride")
    top, left, zero_point = (kernel.scalar(name) for name in ("top", "left", "zero_point"))
    border = None if spec.taps_are_runs else kernel.buffer("border", "int8", spec.run)

    def make() -> _Image:
        window = kernel.local("int32", 2)
        return _Image(x, height, width, output_width, row_stride, column_stride, top, left, zero_point, border, window)

    return make


def convolution(spec: ConvolutionSpec) -> PrimFunc:
    """Gathers the window of each pixel into a block of int16 pairs, which all output channels are multiplied with."""
    kernel = KernelBuilder("convolution")
    with kernel.function():
        make_image = _declare_image(kernel, spec)
        layer = declare_layer(kernel, spec.layer)
        image = make_image()
        filler = kernel.let((image.zero_point & 0xFFFF) | (image.zero_point << 16))
        gather_row = _gather_taps if spec.taps_are_runs else _gather_run

        def rewind() -> None:
            image.window[0] = 0 - image.top
            image.window[1] = 0 - image.left

        def gather(_: Expr, lane: Expr) -> None:
            with kernel.when_else(_is_inside(kernel, spec, image)) as (then, other):
                with then:
                    _gather_inside(kernel, spec, image, layer.tensors.block, lane)
                with other, kernel.loop(spec.rows) as row:
                    gather_row(kernel, spec, image, filler, layer.tensors.block, row, lane)
            _advance(kernel, image)

        run_layer(kernel, spec.layer, layer, rewind, gather)
    return kernel.finish()


def _is_inside(kernel: KernelBuilder, spec: ConvolutionSpec, image: _Image) -> Expr:
    """Whether the present pixel's whole window lies in the image."""
    y, x = kernel.let(image.window[0]), kernel.let(image.window[1])
    return both(y >= 0, x >= 0, y + spec.rows <= image.height, x + spec.columns <= image.width)


def _advance(kernel: KernelBuilder, image: _Image) -> None:
    """On to the next pixel's window."""
    image.window[1] = image.window[1] + image.column_stride
    with kernel.when(image.window[1] == image.output_width * image.column_stride - image.left):
        image.window[1] = 0 - image.left
        image.window[0] = image.window[0] + image.row_stride


def _gather_inside(kernel: KernelBuilder, spec: ConvolutionSpec, image: _Image, block: Buffer, lane: Expr) -> None:
    """A window that lies wholly in the image: each row is one run, which the runs of its taps add up to."""
    run = spec.columns * spec.channels
    words = words_in_run(run)
    start = kernel.let((image.window[0] * image.width + image.window[1]) * spec.channels)
    row_bytes = kernel.let(image.width * spec.channels)
    if spec.rows * words <= UNROLLED_WORDS:
        for row in range(spec.rows):
            widen_run(kernel, image.x, start + row * row_bytes, run, block, lane + row * words * PIXELS)
        return
    with kernel.loop(spec.rows) as row:
        widen_run(
            kernel, image.x, kernel.let(start + row * row_bytes), run, block, kernel.let(lane + row * (words * PIXELS))
        )


def _gather_taps(
    kernel: KernelBuilder, spec: ConvolutionSpec, image: _Image, filler: Expr, block: Buffer, row: Expr, lane: Expr
) -> None:
    """One row of a window across the border, each tap a run."""
    y = kernel.let(image.window[0] + row)
    words = words_in_run(spec.channels)
    with kernel.loop(spec.columns) as column:
        x = kernel.let(image.window[1] + column)
        first = kernel.let((row * spec.columns + column) * (words * PIXELS) + lane)
        inside = both(y >= 0, y < image.height, x >= 0, x < image.width)
        with kernel.when_else(inside) as (then, other):
            with then:
                start = kernel.let((y * image.width + x) * spec.channels)
                widen_run(kernel, image.x, start, spec.channels, block, first)
            with other:
                fill_run(kernel, filler, words, block, first)


def _gather_run(
    kernel: KernelBuilder, spec: ConvolutionSpec, image: _Image, filler: Expr, block: Buffer, row: Expr, lane: Expr
) -> None:
    """One row of a window across the border as one run."""
    border = image.border
    assert border is not None
    y, x = kernel.let(image.window[0] + row), kernel.let(image.window[1])
    words = words_in_run(spec.run)
    first = kernel.let(row * (words * PIXELS) + lane)
    with kernel.when_else(both(y >= 0, y < image.height)) as (then, other):
        with then:
            _assemble(kernel, spec, image, border, kernel.let((y * image.width + x) * spec.channels), x)
            widen_run(kernel, border, 0, spec.run, block, first)
        with other:
            fill_run(kernel, filler, words, block, first)
            if spec.run % 2:  # a half without a value is 0
                block[first + (words - 1) * PIXELS] = filler & 0xFFFF


def _assemble(
    kernel: KernelBuilder, spec: ConvolutionSpec, image: _Image, border: Buffer, start: Expr, x: Expr
) -> None:
    """Copy a row of the window that lies partly outside the image."""
    with kernel.loop(spec.columns) as column:
        inside = both(x + column >= 0, x + column < image.width)
        with kernel.loop(spec.channels) as channel:
            place = column * spec.channels + channel
            with kernel.when_else(inside) as (then, other):
                with then:
                    border[place] = image.x[start + place]
                with other:
                    border[place] = cast(image.zero_point, "int8")
