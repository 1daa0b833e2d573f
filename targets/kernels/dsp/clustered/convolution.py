"""Convolution with any window, stride and padding and clustered weights, as a product over gathered windows.

As with int8 weights the rows of the image that the present windows lie in are kept as a copy in scratch, with the
input's zero point around the image, so that no window needs to know of the border.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel, Overlap, Refusal, ScratchArgument
from tinyopt.targets.kernels.dsp.clustered.costs import with_costs
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
from tinyopt.targets.kernels.dsp.convolution import Geometry
from tinyopt.targets.kernels.dsp.layer import overlaps
from tinyopt.targets.kernels.dsp.micro_kernels import COPY, FILL
from tinyopt.targets.kernels.dsp.packing import words_in_run
from tinyopt.targets.kernels.requantize import zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, both, constant

_NUMBERS = (
    *("height", "row_bytes", "copied_bytes", "output_width", "first_row", "rows_left_out"),
    *("kept_rows", "pitch", "interior", "begin", "filler", "rows", "run", "words", "step"),
)


def convolution_kernel(node: Node) -> Kernel | Refusal:
    """QConv with one group and no dilation."""
    if reason := refusal(node):
        return Refusal(reason)
    if node.int("group") != 1:
        return Refusal("it has more than one group")
    if node.ints("dilations") != (1, 1):
        return Refusal("it is dilated")
    if node.input(0).shape[0] != 1:
        return Refusal("its batch is not 1")
    geometry, spec = Geometry.of(node), layer_spec(node)
    depth = Depth(geometry.run, geometry.rows)
    x, *others = layer_arguments(node, spec, depth, _gathering(node, geometry))
    lead = _lead(geometry)
    kernel = Kernel(
        template=convolution,
        spec=spec,
        name="conv_clustered",
        arguments=(x, ScratchArgument(geometry.rows * geometry.pitch, 4), *others),
        intrinsics=(*spec.intrinsics, COPY, FILL),
        overlaps=overlaps(node, Overlap(0, None, None) if lead is None else Overlap.forward(0, lead)),
    )
    return with_costs(node, kernel, spec, depth)


def _lead(geometry: Geometry) -> int | None:
    """By how many bytes writing can come ahead of what is still to be copied; None where it cannot."""
    sizes = block_pixels(geometry.output_height * geometry.output_width)
    starts = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)  # for each pixel, how many are written when it is gathered
    leads: list[int] = []
    for row in range(geometry.output_height):
        top = row * geometry.row_stride - geometry.top
        first = top + (0 if row == 0 else geometry.kept_rows)
        if max(first, 0) < min(top + geometry.rows, geometry.height):  # it copies rows of the image
            unread = max(first, 0) * geometry.width * geometry.channels
            written = int(starts[row * geometry.output_width]) * geometry.output_channels
            leads += [written - unread] if written else []
    return max(leads, default=None)


def _gathering(node: Node, geometry: Geometry) -> list[int]:
    """`_NUMBERS`, in their order."""
    rows_left_out = max(geometry.row_stride - geometry.rows, 0)
    interior = geometry.begin + geometry.left * geometry.channels
    return [
        *(geometry.height, geometry.width * geometry.channels, geometry.copied_bytes),
        *(geometry.output_width, -geometry.top, rows_left_out),
        *(geometry.kept_rows, geometry.pitch, interior, geometry.begin, zero_point_of(node, node.input(0))),
        *(geometry.rows, geometry.run, words_in_run(geometry.run), geometry.column_stride * geometry.channels),
    ]


@dataclass(frozen=True)
class _Image:
    """The input, its copied rows, the numbers by their names, and the row to be copied and the column that are next."""

    x: Buffer
    copy: Buffer
    number: dict[str, Expr]
    state: Buffer


_NEXT_ROW, _NEXT_COLUMN = range(2)


def convolution(spec: LayerSpec) -> PrimFunc:
    """Gathers the window of each pixel into a block of int16 pairs, which all output channels are multiplied with."""
    kernel = KernelBuilder("convolution_clustered")
    with kernel.function():
        x, copy = kernel.buffer("x", "int8", ANY_SIZE), kernel.buffer("copy", "int8", ANY_SIZE)
        layer = declare_layer(kernel, spec, x)
        number = {name: kernel.let(layer.numbers[GATHERING + place]) for place, name in enumerate(_NUMBERS)}
        image = _Image(x, copy, number, kernel.local("int32", 2))
        image.state[_NEXT_ROW] = number["first_row"]
        image.state[_NEXT_COLUMN] = constant(0, "int32")
        kernel.run(FILL, copy.address(), number["filler"], number["rows"] * number["pitch"])
        _copy_rows(kernel, image, number["rows"] - number["kept_rows"], number["kept_rows"])

        def gather(_: Expr, count: Expr, stride: Expr) -> None:
            with kernel.loop(count) as lane:
                _gather_window(kernel, layer, image, lane, stride)

        run_layer(kernel, spec, layer, constant(0, "int32"), gather)
    return kernel.finish()


def _gather_window(kernel: KernelBuilder, layer: Layer, image: _Image, lane: Expr, stride: Expr) -> None:
    """The next pixel's window; a new row of pixels needs new rows of the image first."""
    number = image.number
    column = kernel.let(image.state[_NEXT_COLUMN])
    with kernel.when(column == 0):
        _go_down(kernel, image)
    source = image.copy.address(number["begin"] + column * number["step"])
    words = number["words"] * stride
    to = layer.block.address(lane)
    kernel.run(WIDEN_RUNS, source, to, number["run"], number["rows"], number["pitch"], words * 4, stride * 4)
    image.state[_NEXT_COLUMN] = column + 1
    with kernel.when(column + 1 == number["output_width"]):
        image.state[_NEXT_COLUMN] = constant(0, "int32")


def _go_down(kernel: KernelBuilder, image: _Image) -> None:
    """Move the copied rows that the next windows share to the begin, and copy what is new to them."""
    number = image.number
    pitch, kept = number["pitch"], number["kept_rows"]
    with kernel.loop(kept) as row:
        source = image.copy.address((number["rows"] - kept + row) * pitch)
        kernel.run(COPY, image.copy.address(row * pitch), source, pitch)
    _copy_rows(kernel, image, kept, number["rows"] - kept)
    image.state[_NEXT_ROW] = image.state[_NEXT_ROW] + number["rows_left_out"]


def _copy_rows(kernel: KernelBuilder, image: _Image, first: Expr, count: Expr) -> None:
    """Copy the image's next rows, or what is outside of it, to rows of the copy."""
    number, pitch = image.number, image.number["pitch"]
    with kernel.loop(count) as row:
        y = kernel.let(image.state[_NEXT_ROW])
        to = kernel.let((first + row) * pitch)
        with kernel.when_else(both(y >= 0, y < number["height"])) as (then, other):
            with then:
                source = image.x.address(y * number["row_bytes"])
                kernel.run(COPY, image.copy.address(to + number["interior"]), source, number["copied_bytes"])
            with other:
                kernel.run(FILL, image.copy.address(to), number["filler"], pitch)
        image.state[_NEXT_ROW] = y + 1
