"""Convolution with any window, stride and padding: two windows at a time times all output channels.

A window that lies inside the image is read where it is, row by row, if the rows are short; else, and across the
border, where the input's zero point is outside, its rows are copied to two windows' memory first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import (
    Argument,
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Overlap,
    Refusal,
    ScratchArgument,
)
from tinyopt.targets.kernels.intrinsic import NAKED, Intrinsic
from tinyopt.targets.kernels.mve.dense import plan_vector
from tinyopt.targets.kernels.mve.depth import Cut, cut_of_windows
from tinyopt.targets.kernels.mve.geometry import Geometry
from tinyopt.targets.kernels.mve.memory import COPY_ROWS, FILL
from tinyopt.targets.kernels.mve.micro_kernels import pair_tile
from tinyopt.targets.kernels.mve.pointwise import ANY_SIZE
from tinyopt.targets.kernels.mve.tile import (
    MAXIMUM_CHANNELS,
    PAIR_ORDER,
    Tile,
    levels_of,
    pair_offsets,
    rescaling_of,
    stream_of,
)
from tinyopt.targets.kernels.requantize import zero_point_of
from tinyopt.targets.kernels.tir import (
    Buffer,
    Expr,
    KernelBuilder,
    PrimFunc,
    cast,
    maximum,
    minimum,
    select,
    truncated_quotient,
)

PARAMETERS = (
    "pixels",
    "output_width",
    "channels",
    "row_stride",
    "column_stride",
    "top",
    "left",
    "height",
    "width",
    "input_channels",
    "rows",
    "columns",
    "zero_point",
    "pitch",  # bytes from row to row of a copied window
    "window",  # bytes of a copied window
    "walk",  # of copied windows
    "walk_inside",  # of windows that are read where they are
    "limit",  # the last column at which such a window may begin
    "last_limit",  # the same for the last row
)


@dataclass(frozen=True)
class ConvolutionSpec:
    """reads_inside: windows inside the image are read where they are."""

    tile: Tile
    reads_inside: bool

    @property
    def has_residual(self) -> bool:
        return self.tile.finish.has_residual

    @property
    def intrinsics(self) -> tuple[Intrinsic, ...]:
        return (NAKED, pair_tile(self.tile), COPY_ROWS, FILL)


def plan_convolution(node: Node) -> Kernel | Refusal:
    """QConv with one group, one image and no dilation."""
    if node.int("group") != 1:
        return Refusal("it has more than one group")
    if node.ints("dilations") != (1, 1):
        return Refusal("it is dilated")
    if node.input(0).shape[0] != 1:
        return Refusal("its batch is not 1")
    if node.output.shape[-1] > MAXIMUM_CHANNELS:
        return Refusal(f"it has more than {MAXIMUM_CHANNELS} output channels")
    shape = Geometry.of(node)
    if shape.is_whole_image:
        return plan_vector(node)
    rescaling = rescaling_of(node)
    if isinstance(rescaling, Refusal):
        return rescaling
    cut = cut_of_windows(shape, rescaling.finish)
    spec = ConvolutionSpec(cut.tile, cut.reads_inside)
    steps = 2 * shape.column_stride * shape.input_channels, 2 * shape.channels
    distances = (shape.channels, 0) if shape.pixels % 2 else (shape.channels,)
    levels = np.concatenate([levels_of(node, rescaling, pair_offsets(distance), *steps) for distance in distances])
    weights = _padded(node.input(1).data, cut)
    arguments: list[Argument] = [
        InputArgument(0),
        ConstantArgument("weight", stream_of(weights, node.input(2).data, rescaling.multipliers, PAIR_ORDER)),
        ConstantArgument("levels", levels),
        OutputArgument(0),
        ConstantArgument("parameters", _parameters(shape, cut, zero_point_of(node, node.input(0)))),
        ScratchArgument(2 * cut.places, 4),
    ]
    if spec.has_residual:
        arguments.append(InputArgument(4))
    return Kernel(
        template=convolution,
        spec=spec,
        name="conv_mve",
        arguments=tuple(arguments),
        intrinsics=spec.intrinsics,
        overlaps=_overlaps(node, shape),
    )


def _padded(weights: Array, cut: Cut) -> Array:
    """OHWI to [output channel, places]: zeros fill each row, or all of the window, to whole steps."""
    channels = len(weights)
    flat = weights.reshape(channels, cut.rows, -1)
    return np.pad(flat, ((0, 0), (0, 0), (0, cut.places // cut.rows - flat.shape[2]))).reshape(channels, -1)


def _parameters(shape: Geometry, cut: Cut, zero_point: int) -> Array:
    row_bytes = cut.places // cut.rows if cut.rows > 1 or shape.rows == 1 else shape.run
    limit = shape.width - shape.columns
    numbers = {
        "pixels": shape.pixels,
        "output_width": shape.output_width,
        "channels": shape.channels,
        "row_stride": shape.row_stride,
        "column_stride": shape.column_stride,
        "top": shape.top,
        "left": shape.left,
        "height": shape.height,
        "width": shape.width,
        "input_channels": shape.input_channels,
        "rows": shape.rows,
        "columns": shape.columns,
        "zero_point": zero_point,
        "pitch": row_bytes,
        "window": cut.places,
        "walk": cut.walk(0),
        "walk_inside": cut.walk(cut.gap),
        "limit": limit,
        "last_limit": min(limit, (shape.pitch - row_bytes) // shape.input_channels),
    }
    return np.array([numbers[name] for name in PARAMETERS], np.int32)


def _overlaps(node: Node, shape: Geometry) -> tuple[Overlap, ...]:
    shared = Overlap.forward(0, shape.lead)
    residual = node.optional_input(4)
    if residual is None:
        return (shared,)
    return () if residual is node.input(0) else (shared, Overlap.in_place(4))


Numbers = dict[str, Expr]


def convolution(spec: ConvolutionSpec) -> PrimFunc:
    """Pair after pair of pixels; the last one of an odd number is computed twice."""
    kernel = KernelBuilder("convolution")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        stream = kernel.buffer("stream", "int32", ANY_SIZE)
        levels = kernel.buffer("levels", "int32", 2 * spec.tile.finish.levels_words)
        y = kernel.buffer("y", "int8", ANY_SIZE)
        parameters = kernel.buffer("parameters", "int32", len(PARAMETERS))
        windows = kernel.buffer("windows", "int8", ANY_SIZE)
        residual = kernel.buffer("residual", "int8", ANY_SIZE) if spec.has_residual else y
        number = {name: parameters[place] for place, name in enumerate(PARAMETERS)}
        pixels = kernel.let(number["pixels"])
        done = kernel.local("int32", 1)  # pairs
        done[0] = 0
        with kernel.loop((pixels + 1) >> 1) as pair, kernel.when(pair >= done[0]):
            pixel = kernel.let(pair * 2)

            def run(source: Buffer, start: Expr, distance: Expr, walk: Expr, count: Expr) -> None:
                at = kernel.let(pixel * number["channels"])
                is_single = kernel.let(cast(pixel + 1 == pixels, "int32"))
                kernel.run(
                    pair_tile(spec.tile),
                    stream.address(0),
                    levels.address(is_single * spec.tile.finish.levels_words),
                    source.address(start),
                    source.address(start + distance),
                    walk,
                    y.address(at),
                    residual.address(at),
                    count,
                )

            def copy_and_run() -> None:
                with kernel.loop(2) as lane:
                    place = _place(kernel, number, kernel.let(minimum(pixel + lane, pixels - 1)))
                    _copy(kernel, number, x, windows, lane * number["window"], place)
                run(windows, 0, number["window"], number["walk"], 1)

            if not spec.reads_inside:
                copy_and_run()
            else:
                place = _place(kernel, number, pixel)
                count = kernel.let(place.pairs_inside(kernel, number))
                with kernel.when_else(count > 0) as (then, other):
                    with then:
                        done[0] = pair + count
                        distance = number["column_stride"] * number["input_channels"]
                        run(x, place.start(number), distance, number["walk_inside"], count)
                    with other:
                        copy_and_run()
    return kernel.finish()


@dataclass(frozen=True)
class _Place:
    """Where in the image the first cell of a window is; outside it the row or the column may be negative."""

    row: Expr
    column: Expr

    def start(self, number: Numbers) -> Expr:
        return (self.row * number["width"] + self.column) * number["input_channels"]

    def pairs_inside(self, kernel: KernelBuilder, number: Numbers) -> Expr:
        """How many pairs from here to the right lie inside the image and can be read where they are."""
        last_row = kernel.let(number["height"] - number["rows"])
        limit = select(self.row == last_row, number["last_limit"], number["limit"])
        stride = kernel.let(number["column_stride"])
        count = kernel.let(truncated_quotient(limit - self.column + stride, 2 * stride))
        return select((self.row | self.column | (last_row - self.row)) < 0, 0, count)


def _place(kernel: KernelBuilder, number: Numbers, pixel: Expr) -> _Place:
    row = kernel.let(truncated_quotient(pixel, number["output_width"]))
    column = pixel - row * number["output_width"]
    return _Place(
        kernel.let(row * number["row_stride"] - number["top"]),
        kernel.let(column * number["column_stride"] - number["left"]),
    )


def _copy(kernel: KernelBuilder, number: Numbers, x: Buffer, windows: Buffer, to: Expr, place: _Place) -> None:
    """Copy the part of a window that lies in the image; the zero point goes where the rest would be."""
    top, left = kernel.let(maximum(0 - place.row, 0)), kernel.let(maximum(0 - place.column, 0))
    rows = kernel.let(minimum(number["height"] - place.row, number["rows"]) - top)
    columns = kernel.let(minimum(number["width"] - place.column, number["columns"]) - left)
    missing = (number["rows"] - rows) | (number["columns"] - columns)
    with kernel.when(missing != 0):
        kernel.run(FILL, windows.address(to), number["zero_point"], number["window"])
    with kernel.when(columns > 0):
        first = to + top * number["pitch"] + left * number["input_channels"]
        start = ((place.row + top) * number["width"] + place.column + left) * number["input_channels"]
        kernel.run(
            COPY_ROWS,
            windows.address(first),
            x.address(start),
            rows,
            columns * number["input_channels"],
            number["pitch"],
            number["width"] * number["input_channels"],
        )
