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
from tinyopt.targets.kernels.mve.depth import Cut, contiguous, row_by_row
from tinyopt.targets.kernels.mve.memory import COPY_ROWS, FILL
from tinyopt.targets.kernels.mve.micro_kernels import pair_tile
from tinyopt.targets.kernels.mve.pointwise import ANY_SIZE
from tinyopt.targets.kernels.mve.tile import (
    LEVELS,
    PAIR_CHANNELS,
    PAIR_ORDER,
    STEP,
    Ending,
    Tile,
    levels_of,
    pair_offsets,
    rescaling_of,
    stream_of,
)
from tinyopt.targets.kernels.requantize import zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, maximum, minimum, truncated_quotient

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
    "last_start",  # the last place of a window that can be read where it is
    "walk_inside",  # of windows that are read where they are
)


@dataclass(frozen=True)
class Geometry:
    """The sizes of a convolution without dilation on one image."""

    height: int
    width: int
    input_channels: int
    rows: int
    columns: int
    row_stride: int
    column_stride: int
    top: int
    left: int
    output_height: int
    output_width: int
    channels: int

    @classmethod
    def of(cls, node: Node) -> Geometry:
        _, rows, columns, input_channels = node.input(1).shape
        _, height, width, _ = node.input(0).shape
        _, output_height, output_width, channels = node.output.shape
        top, left, _, _ = node.ints("pads")
        strides = node.ints("strides")
        return cls(
            height,
            width,
            input_channels,
            rows,
            columns,
            strides[0],
            strides[1],
            top,
            left,
            output_height,
            output_width,
            channels,
        )

    @property
    def run(self) -> int:
        """Bytes of one row of a window."""
        return self.columns * self.input_channels

    @property
    def pitch(self) -> int:
        """Bytes of one row of the image."""
        return self.width * self.input_channels

    @property
    def pixels(self) -> int:
        return self.output_height * self.output_width

    @property
    def is_whole_image(self) -> bool:
        return (
            self.pixels == 1 and (self.rows, self.columns) == (self.height, self.width) and self.top == self.left == 0
        )

    @property
    def inner_pixels(self) -> int:
        """How many windows lie inside the image."""

        def inside(outputs: int, stride: int, before: int, size: int, window: int) -> int:
            starts = np.arange(outputs) * stride - before
            return int(np.count_nonzero((starts >= 0) & (starts + window <= size)))

        return inside(self.output_height, self.row_stride, self.top, self.height, self.rows) * inside(
            self.output_width, self.column_stride, self.left, self.width, self.columns
        )


@dataclass(frozen=True)
class ConvolutionSpec:
    """reads_inside: windows inside the image are read where they are."""

    tile: Tile
    reads_inside: bool

    @property
    def has_residual(self) -> bool:
        return self.tile.ending == "residual"

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
    shape = Geometry.of(node)
    if shape.is_whole_image:
        return plan_vector(node)
    rescaling = rescaling_of(node)
    if isinstance(rescaling, Refusal):
        return rescaling
    cut = _best_cut(shape, rescaling.ending)
    spec = ConvolutionSpec(cut.tile, cut.tile.walk == "rows")
    distances = (shape.channels, 0) if shape.pixels % 2 else (shape.channels,)
    levels = np.concatenate([levels_of(node, rescaling, pair_offsets(distance)) for distance in distances])
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


def _best_cut(shape: Geometry, ending: Ending) -> Cut:
    """Windows copied as a whole, or read where they are if that takes fewer instructions.

    Counted are those of one pair of windows: a step takes 14, a row's end 4; copying a window 20, 10 for each of its
    rows and 3 for each vector.
    """
    whole = contiguous(shape.rows * shape.run, ending)
    inside = row_by_row(shape.run, shape.rows, ending)
    if inside is None or abs(shape.pitch - STEP * inside.tile.steps) >= MAXIMUM_GAP:
        return whole
    groups = -(-shape.channels // PAIR_CHANNELS)
    copying = 2 * (20 + shape.rows * (10 + 3 * -(-shape.run // STEP)))
    copied = 1 - shape.inner_pixels / shape.pixels
    whole_cost = copying + groups * whole.repetitions * (14 * whole.tile.steps + 2 * (whole.repetitions > 1))
    inside_cost = copied * copying + groups * inside.repetitions * (14 * inside.tile.steps + 4)
    return inside if inside_cost < whole_cost else whole


MAXIMUM_GAP = 1 << 15


def _padded(weights: Array, cut: Cut) -> Array:
    """OHWI to [output channel, places]: zeros fill each row, or all of the window, to whole steps."""
    channels, rows = weights.shape[:2]
    parts = rows if cut.tile.walk == "rows" else 1
    flat = weights.reshape(channels, parts, -1)
    return np.pad(flat, ((0, 0), (0, 0), (0, cut.places // parts - flat.shape[2]))).reshape(channels, -1)


def _parameters(shape: Geometry, cut: Cut, zero_point: int) -> Array:
    if cut.tile.walk == "rows":
        pitch = STEP * cut.tile.steps
        repeat = (shape.rows - 1) << 16
        walk, walk_inside = repeat, repeat | ((shape.pitch - pitch) & 0xFFFF)
        last_start = (shape.height - shape.rows + 1) * shape.pitch - pitch
    else:
        pitch, walk, walk_inside, last_start = shape.run, cut.repetitions, 0, 0
    numbers = (
        shape.pixels,
        shape.output_width,
        shape.channels,
        shape.row_stride,
        shape.column_stride,
        shape.top,
        shape.left,
        shape.height,
        shape.width,
        shape.input_channels,
        shape.rows,
        shape.columns,
        zero_point,
        pitch,
        cut.places,
        walk,
        last_start,
        walk_inside,
    )
    return np.array(numbers, np.int32)


def _overlaps(node: Node, shape: Geometry) -> tuple[Overlap, ...]:
    shared = Overlap.forward(0, _lead(shape))
    residual = node.optional_input(4)
    if residual is None:
        return (shared,)
    return () if residual is node.input(0) else (shared, Overlap.in_place(4))


def _lead(shape: Geometry) -> int:
    """How far the output must run ahead, so that no pair's bytes lie on what it or a later one still reads."""
    pixel = np.arange(shape.pixels)
    row, column = pixel // shape.output_width, pixel % shape.output_width
    top = np.maximum(row * shape.row_stride - shape.top, 0) * shape.pitch
    starts = top + np.maximum(column * shape.column_stride - shape.left, 0) * shape.input_channels
    needed = np.minimum.accumulate(starts[::-1])[::-1]
    written = (pixel + 2) * shape.channels
    return int((written - needed)[::2].max())


def convolution(spec: ConvolutionSpec) -> PrimFunc:
    """Pair after pair of pixels; the last one of an odd number is computed twice."""
    kernel = KernelBuilder("convolution")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        stream = kernel.buffer("stream", "int32", ANY_SIZE)
        levels = kernel.buffer("levels", "int32", 2 * LEVELS)
        y = kernel.buffer("y", "int8", ANY_SIZE)
        parameters = kernel.buffer("parameters", "int32", len(PARAMETERS))
        windows = kernel.buffer("windows", "int8", ANY_SIZE)
        residual = kernel.buffer("residual", "int8", ANY_SIZE) if spec.has_residual else y
        number = {name: parameters[place] for place, name in enumerate(PARAMETERS)}
        pixels, channels = kernel.let(number["pixels"]), kernel.let(number["channels"])
        with kernel.loop((pixels + 1) >> 1) as pair:
            pixel = kernel.let(pair * 2)
            second = kernel.let(minimum(pixel + 1, pixels - 1))
            ending = kernel.let((1 - second + pixel) * LEVELS)
            places = [_place(kernel, number, each) for each in (pixel, second)]

            def run(source: Buffer, first: Expr, next_one: Expr, walk: Expr) -> None:
                kernel.run(
                    pair_tile(spec.tile),
                    stream.address(0),
                    levels.address(ending),
                    source.address(first),
                    source.address(next_one),
                    walk,
                    y.address(pixel * channels),
                    channels,
                    residual.address(pixel * channels),
                )

            def copy_and_run() -> None:
                for lane, place in enumerate(places):
                    _copy(kernel, number, x, windows, lane * number["window"], place)
                run(windows, 0, number["window"], number["walk"])

            if not spec.reads_inside:
                copy_and_run()
            else:
                starts = [kernel.let(place.start(number)) for place in places]
                room = [r for p, s in zip(places, starts, strict=True) for r in p.room(number, s)]
                with kernel.when_else(_any_negative(room)) as (then, other):
                    with then:
                        copy_and_run()
                    with other:
                        run(x, starts[0], starts[1], number["walk_inside"])
    return kernel.finish()


Numbers = dict[str, Expr]


@dataclass(frozen=True)
class _Place:
    """Where in the image the first cell of a window is; outside it the row or the column may be negative."""

    row: Expr
    column: Expr

    def start(self, number: Numbers) -> Expr:
        return (self.row * number["width"] + self.column) * number["input_channels"]

    def room(self, number: Numbers, start: Expr) -> list[Expr]:
        """What is negative where the window does not lie inside the image, or its last steps end beyond it."""
        below = number["height"] - number["rows"] - self.row
        right = number["width"] - number["columns"] - self.column
        return [self.row, self.column, below, right, number["last_start"] - start]


def _place(kernel: KernelBuilder, number: Numbers, pixel: Expr) -> _Place:
    row = kernel.let(truncated_quotient(pixel, number["output_width"]))
    column = pixel - row * number["output_width"]
    return _Place(
        kernel.let(row * number["row_stride"] - number["top"]),
        kernel.let(column * number["column_stride"] - number["left"]),
    )


def _any_negative(values: list[Expr]) -> Expr:
    together = values[0]
    for value in values[1:]:
        together = together | value
    return together < 0


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
