"""Convolution with any window, stride and padding, as a matrix product over gathered windows.

The rows of the image that the present windows lie in are kept as a copy in scratch, with the input's zero point around
the image. So no window needs to know of the border, and the output can take the place of rows that have been copied.
The windows of four pixels at a time are widened into a block, with which all channels are multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, Overlap, Refusal, ScratchArgument
from tinyopt.targets.kernels.dsp.layer import (
    Layer,
    LayerSpec,
    declare_layer,
    gather_and_multiply,
    layer_arguments,
    layer_spec,
    multiply,
    overlaps,
)
from tinyopt.targets.kernels.dsp.micro_kernels import (
    CHANNELS,
    COPY,
    DISTANCE,
    FILL,
    FIRST_FREE,
    GATHER_ONE,
    IS_THREE_WIDE,
    PIXELS,
    QUAD_BYTES,
    ROWS,
    SKIP,
    SOURCE_STEP,
    TAIL,
)
from tinyopt.targets.kernels.dsp.packing import depth_pairs
from tinyopt.targets.kernels.dsp.product import ANY_SIZE
from tinyopt.targets.kernels.requantize import zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, both, minimum

_NUMBERS = (
    *("height", "row_bytes", "copied_bytes", "output_height", "output_width", "first_row", "rows_left_out"),
    *("kept_rows", "pitch", "interior", "begin", "filler"),
)


@dataclass(frozen=True)
class Geometry:
    """The window over the image; rows and columns: of the window."""

    height: int
    width: int
    channels: int
    rows: int
    columns: int
    row_stride: int
    column_stride: int
    top: int
    left: int
    output_height: int
    output_width: int
    output_channels: int

    @classmethod
    def of(cls, node: Node) -> Geometry:
        _, height, width, channels = node.input(0).shape
        _, rows, columns, _ = node.input(1).shape
        top, left, _, _ = node.ints("pads")
        down, right = node.ints("strides")
        _, output_height, output_width, output_channels = node.output.shape
        sizes = (height, width, channels, rows, columns, down, right, top, left)
        return cls(*sizes, output_height, output_width, output_channels)

    @property
    def run(self) -> int:
        """Bytes of one row of the window."""
        return self.columns * self.channels

    @property
    def begin(self) -> int:
        """Where a copied row begins, such that the image in it begins at a whole word."""
        return -self.left * self.channels % 4

    @property
    def pitch(self) -> int:
        """Bytes from one copied row to the next."""
        columns = (self.output_width - 1) * self.column_stride + self.columns
        return (self.begin + columns * self.channels + 3) // 4 * 4

    @property
    def copied_bytes(self) -> int:
        """Of each row of the image, as far as windows reach."""
        columns = (self.output_width - 1) * self.column_stride + self.columns - self.left
        return min(max(columns, 0), self.width) * self.channels

    @property
    def kept_rows(self) -> int:
        """Rows of the copy that the next windows need as well."""
        return max(self.rows - self.row_stride, 0)

    @property
    def lead(self) -> int | None:
        """By how many bytes writing can come ahead of what is still to be copied; None where it cannot."""
        row_bytes = self.width * self.channels
        leads: list[int] = []
        unread: int | None = None
        for row in reversed(range(self.output_height)):
            if unread is not None:
                pixels = (row + 1) * self.output_width // PIXELS * PIXELS
                leads.append(pixels * self.output_channels - unread * row_bytes)
            first = row * self.row_stride - self.top + (0 if row == 0 else self.kept_rows)
            copied = range(max(first, 0), min(row * self.row_stride - self.top + self.rows, self.height))
            unread = copied.start if copied else unread
        return max(leads, default=None)


def plan_convolution(node: Node) -> Kernel | Refusal:
    """QConv with one group and no dilation."""
    if node.int("group") != 1:
        return Refusal("it has more than one group")
    if node.ints("dilations") != (1, 1):
        return Refusal("it is dilated")
    if node.input(0).shape[0] != 1:
        return Refusal("its batch is not 1")
    spec = layer_spec(node)
    if isinstance(spec, Refusal):
        return spec
    geometry = Geometry.of(node)
    pairs = depth_pairs(geometry.run, geometry.rows)
    lead = geometry.lead
    return Kernel(
        template=convolution,
        spec=spec,
        name="conv_smlad",
        arguments=(
            InputArgument(0),
            ScratchArgument(geometry.rows * geometry.pitch, 4),
            *layer_arguments(node, spec, pairs, _numbers(node, geometry)),
        ),
        intrinsics=(*spec.intrinsics, COPY, FILL),
        overlaps=overlaps(
            node,
            Overlap(0, None, None) if lead is None else Overlap.forward(0, lead),
            Overlap.forward(4, PIXELS * geometry.output_channels),
        ),
    )


def _numbers(node: Node, geometry: Geometry) -> dict[int, int]:
    of_window = (
        *(geometry.height, geometry.width * geometry.channels, geometry.copied_bytes),
        *(geometry.output_height, geometry.output_width, -geometry.top),
        max(geometry.row_stride - geometry.rows, 0),
        *(geometry.kept_rows, geometry.pitch, geometry.begin + geometry.left * geometry.channels, geometry.begin),
        zero_point_of(node, node.input(0)),
    )
    gathering = {
        DISTANCE: geometry.column_stride * geometry.channels,
        SOURCE_STEP: PIXELS * geometry.column_stride * geometry.channels,
        QUAD_BYTES: geometry.run - geometry.run % 4,
        TAIL: geometry.run % 4,
        SKIP: geometry.pitch - geometry.run,
        ROWS: geometry.rows,
        IS_THREE_WIDE: int((geometry.columns, geometry.column_stride, geometry.channels % 4) == (3, 1, 0)),
    }
    return {**gathering, **{FIRST_FREE + place: number for place, number in enumerate(of_window)}}


@dataclass(frozen=True)
class _Image:
    """The input, its copied rows, and the numbers. state: row to be copied next, pixels in the block, bytes written."""

    spec: LayerSpec
    layer: Layer
    x: Buffer
    copy: Buffer
    rows: Expr
    step: Expr
    channels: Expr
    numbers: dict[str, Expr]
    state: Buffer


_NEXT_ROW, _FILLED, _WRITTEN = range(3)


def convolution(spec: LayerSpec) -> PrimFunc:
    """Row by row: copies what is new to the windows of a row of pixels, then gathers and multiplies them."""
    kernel = KernelBuilder("convolution")
    with kernel.function():
        x, copy = kernel.buffer("x", "int8", ANY_SIZE), kernel.buffer("copy", "int8", ANY_SIZE)
        layer = declare_layer(kernel, spec)
        numbers = {name: kernel.let(layer.parameters[FIRST_FREE + n]) for n, name in enumerate(_NUMBERS)}
        rows, step, channels = (kernel.let(layer.parameters[place]) for place in (ROWS, DISTANCE, CHANNELS))
        image = _Image(spec, layer, x, copy, rows, step, channels, numbers, kernel.local("int32", 3))
        image.state[_NEXT_ROW] = numbers["first_row"]
        image.state[_FILLED] = 0
        image.state[_WRITTEN] = 0
        kernel.run(FILL, copy.address(), numbers["filler"], rows * numbers["pitch"])
        with kernel.loop(numbers["kept_rows"]) as row:
            _copy_row(kernel, image, row)
        with kernel.loop(numbers["output_height"]) as output_row:
            with kernel.when(output_row > 0):
                _keep_rows(kernel, image)
            with kernel.loop(rows - numbers["kept_rows"]) as row:
                _copy_row(kernel, image, numbers["kept_rows"] + row)
            image.state[_NEXT_ROW] = image.state[_NEXT_ROW] + numbers["rows_left_out"]
            _row_of_pixels(kernel, image)
        with kernel.when(image.state[_FILLED] > 0):
            multiply(kernel, spec, layer, image.state[_WRITTEN], image.state[_FILLED])
    return kernel.finish()


def _keep_rows(kernel: KernelBuilder, image: _Image) -> None:
    """Move the last rows of the copy to its begin."""
    pitch, kept = image.numbers["pitch"], image.numbers["kept_rows"]
    with kernel.loop(kept) as row:
        source = image.copy.address((image.rows - kept + row) * pitch)
        kernel.run(COPY, image.copy.address(row * pitch), source, pitch)


def _copy_row(kernel: KernelBuilder, image: _Image, row: Expr) -> None:
    """Copy the image's next row, or what is outside of it, to a row of the copy."""
    numbers, pitch = image.numbers, image.numbers["pitch"]
    y = kernel.let(image.state[_NEXT_ROW])
    to = kernel.let(row * pitch)
    with kernel.when_else(both(y >= 0, y < numbers["height"])) as (then, other):
        with then:
            source = image.x.address(y * numbers["row_bytes"])
            kernel.run(COPY, image.copy.address(to + numbers["interior"]), source, numbers["copied_bytes"])
        with other:
            kernel.run(FILL, image.copy.address(to), numbers["filler"], pitch)
    image.state[_NEXT_ROW] = y + 1


def _row_of_pixels(kernel: KernelBuilder, image: _Image) -> None:
    """Single pixels until a block is full, whole blocks, and single pixels again."""
    width = image.numbers["output_width"]
    head = kernel.keep(minimum((0 - image.state[_FILLED]) & (PIXELS - 1), width))
    blocks = kernel.keep((width - head) >> 2)
    _single_pixels(kernel, image, 0, head)
    with kernel.when(blocks > 0):
        source = image.copy.address(image.numbers["begin"] + head * image.step)
        gather_and_multiply(kernel, image.spec, image.layer, image.state[_WRITTEN], blocks, source)
        image.state[_WRITTEN] = image.state[_WRITTEN] + blocks * PIXELS * image.channels
    done = kernel.keep(head + blocks * PIXELS)
    _single_pixels(kernel, image, done, kernel.keep(width - done))


def _single_pixels(kernel: KernelBuilder, image: _Image, first: Expr, count: Expr) -> None:
    with kernel.loop(count) as pixel:
        lane = kernel.let(image.state[_FILLED])
        source = image.copy.address(image.numbers["begin"] + (first + pixel) * image.step)
        kernel.run(GATHER_ONE, source, image.layer.block.address(lane), image.layer.parameters.address())
        with kernel.when_else(lane == PIXELS - 1) as (then, other):
            with then:
                multiply(kernel, image.spec, image.layer, image.state[_WRITTEN], PIXELS)
                image.state[_WRITTEN] = image.state[_WRITTEN] + PIXELS * image.channels
                image.state[_FILLED] = 0
            with other:
                image.state[_FILLED] = lane + 1
