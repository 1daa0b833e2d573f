"""Pooling of four channels at a time: sums in pairs of int16 (SXTAB16), maxima in four bytes (SSUB8 and SEL)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Node
from tinyopt.targets.kernel import (
    Argument,
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Overlap,
    Refusal,
    ScalarArgument,
)
from tinyopt.targets.kernels.dsp.intrinsics import LOAD_WORD, MAX_BYTES, STORE_WORD, SXTAB16, SXTAB16_ROR8
from tinyopt.targets.kernels.dsp.product import ANY_SIZE, finish
from tinyopt.targets.kernels.requantize import SMMLAR_INTRINSICS, Requantization, zero_point_of
from tinyopt.targets.kernels.tir import (
    Buffer,
    Expr,
    KernelBuilder,
    PrimFunc,
    call,
    cast,
    constant,
    maximum,
    minimum,
    read,
)

GROUP = 4  # channels of one word
CELLS_IN_INT16 = 255  # |sum| <= 255 * 128 < 2^15
SMALLEST_BYTES = -0x7F7F7F80  # four times -128


@dataclass(frozen=True)
class PoolSpec:
    """to: of a sum; None for maxima. multipliers: 1, or one for each output position."""

    channels: int
    rows: int
    columns: int
    to: Requantization | None
    is_one_multiplier: bool
    can_overhang: bool  # some windows reach over the image's border


def plan_average_pool(node: Node) -> Kernel | Refusal:
    """QAveragePool without dilation."""
    if (refusal := _refusal(node)) is not None:
        return refusal
    if node.ints("kernel")[1] > CELLS_IN_INT16:
        return Refusal("a row of its window is too long for sums in 16 bits")
    multiplier = node.input(1).data
    return Kernel(
        template=average_pool,
        spec=_spec(node, Requantization.of(node)),
        name="average_pool_sxtab16",
        arguments=(
            InputArgument(0),
            ConstantArgument("multiplier", multiplier),
            OutputArgument(0),
            *_image_arguments(node),
            ScalarArgument(zero_point_of(node, node.input(0))),
        ),
        intrinsics=(LOAD_WORD, SXTAB16, SXTAB16_ROR8, *SMMLAR_INTRINSICS),
        overlaps=_overlaps(node),
    )


def plan_max_pool(node: Node) -> Kernel | Refusal:
    """MaxPool of int8 without dilation."""
    if node.input(0).dtype != "int8":
        return Refusal("its elements are not int8")
    if (refusal := _refusal(node)) is not None:
        return refusal
    return Kernel(
        template=max_pool,
        spec=_spec(node, None),
        name="max_pool_sel",
        arguments=(InputArgument(0), OutputArgument(0), *_image_arguments(node)),
        intrinsics=(LOAD_WORD, MAX_BYTES, STORE_WORD),
        overlaps=_overlaps(node),
    )


def _refusal(node: Node) -> Refusal | None:
    x = node.input(0)
    if node.ints("dilations") != (1, 1):
        return Refusal("it is dilated")
    if x.shape[0] != 1:
        return Refusal("its batch is not 1")
    if x.shape[3] < GROUP:
        return Refusal(f"it has fewer than {GROUP} channels")
    return None


def _spec(node: Node, to: Requantization | None) -> PoolSpec:
    rows, columns = node.ints("kernel")
    height, width = node.input(0).shape[1:3]
    output_height, output_width = node.output.shape[1:3]
    row_stride, column_stride = node.ints("strides")
    top, left, _, _ = node.ints("pads")
    reach = (output_height - 1) * row_stride - top + rows, (output_width - 1) * column_stride - left + columns
    can_overhang = bool(top or left) or reach[0] > height or reach[1] > width
    one = len(node.inputs) < 2 or node.input(1).type.elements == 1
    return PoolSpec(node.input(0).shape[3], rows, columns, to, one, can_overhang)


def _overlaps(node: Node) -> tuple[Overlap, ...]:
    """How far behind the input's begin the output may begin, so that nothing is overwritten before it is read.

    A position's channels are written four at a time behind their own windows; the last four may be read again.
    """
    _, _, width, channels = node.input(0).shape
    _, output_height, output_width, _ = node.output.shape
    (row_stride, column_stride), (top, left, _, _) = node.ints("strides"), node.ints("pads")
    rows = np.maximum(np.arange(output_height) * row_stride - top, 0) * width
    columns = np.maximum(np.arange(output_width) * column_stride - left, 0)
    starts = (rows[:, None] + columns).reshape(-1)  # of each position's window, in cells
    positions = np.arange(len(starts))
    later = np.minimum.accumulate(starts[::-1])[::-1]
    again = GROUP - channels % GROUP if channels % GROUP else 0
    within = int((starts - positions).min()) * channels - again
    between = int((later[1:] - positions[1:]).min(initial=within)) * channels
    return (Overlap(0, None, min(within, between)),)


_SCALARS = ("height", "width", "output_height", "output_width", "row_stride", "column_stride", "top", "left")


def _image_arguments(node: Node) -> list[Argument]:
    top, left, _, _ = node.ints("pads")
    numbers = (*node.input(0).shape[1:3], *node.output.shape[1:3], *node.ints("strides"), top, left)
    return [ScalarArgument(number) for number in numbers]


@dataclass(frozen=True)
class _Window:
    """The cells of one output position that lie in the image. output: index of its channel 0. position: its number."""

    first_row: Expr
    rows: Expr
    first_column: Expr
    columns: Expr
    width: Expr
    channel: Expr
    position: Expr
    output: Expr


def average_pool(spec: PoolSpec) -> PrimFunc:
    """QAveragePool, four channels to a word."""
    kernel = KernelBuilder("average_pool")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        multiplier = kernel.buffer("multiplier", "int32", ANY_SIZE)
        y = kernel.buffer("y", "int8", ANY_SIZE)
        scalars = {name: kernel.scalar(name) for name in (*_SCALARS, "zero_point")}

        def pool(window: _Window) -> None:
            offset = kernel.let(0 - scalars["zero_point"] * (window.rows * window.columns))
            sums = _sums(kernel, spec, x, window, offset)
            factor = kernel.let(multiplier[0 if spec.is_one_multiplier else window.position])
            assert spec.to is not None
            for channel in range(GROUP):
                level = finish(sums[channel], factor, spec.to, None, 0)
                y[window.output + window.channel + channel] = cast(level, "int8")

        _for_windows(kernel, spec, scalars, pool)
    return kernel.finish()


def _sums(kernel: KernelBuilder, spec: PoolSpec, x: Buffer, window: _Window, offset: Expr) -> Buffer:
    """The sums of four channels, with `offset` added. The int16 lanes are emptied before they can overflow."""
    sums, lanes = kernel.local("int32", GROUP), kernel.local("int32", 2)
    for channel in range(GROUP):
        sums[channel] = offset

    def empty() -> None:
        for channel in range(GROUP):
            lane = lanes[channel % 2]
            half = lane >> 16 if channel >= 2 else cast(cast(lane, "int16"), "int32")
            sums[channel] = sums[channel] + half

    def begin() -> None:
        lanes[0] = constant(0, "int32")
        lanes[1] = constant(0, "int32")

    def add_cell(word: Expr) -> None:
        lanes[0] = call(SXTAB16, lanes[0], word)
        lanes[1] = call(SXTAB16_ROR8, lanes[1], word)

    if spec.rows * spec.columns <= CELLS_IN_INT16:
        begin()
        with _for_rows(kernel, window) as row:
            _for_cells(kernel, spec, x, window, row, add_cell)
        empty()
    else:
        with _for_rows(kernel, window) as row:
            begin()
            _for_cells(kernel, spec, x, window, row, add_cell)
            empty()
    return sums


def max_pool(spec: PoolSpec) -> PrimFunc:
    """MaxPool of int8, four channels to a word."""
    kernel = KernelBuilder("max_pool")
    with kernel.function():
        x, y = kernel.buffer("x", "int8", ANY_SIZE), kernel.buffer("y", "int8", ANY_SIZE)
        scalars = {name: kernel.scalar(name) for name in _SCALARS}

        def pool(window: _Window) -> None:
            largest = kernel.local("int32", 1)
            largest[0] = constant(SMALLEST_BYTES, "int32")

            def add_cell(word: Expr) -> None:
                largest[0] = call(MAX_BYTES, largest[0], word)

            with _for_rows(kernel, window) as row:
                _for_cells(kernel, spec, x, window, row, add_cell)
            kernel.run(STORE_WORD, y.address(window.output + window.channel), largest[0])

        _for_windows(kernel, spec, scalars, pool)
    return kernel.finish()


def _for_windows(
    kernel: KernelBuilder, spec: PoolSpec, scalars: dict[str, Expr], pool: Callable[[_Window], None]
) -> None:
    """Every output position, and there every group of channels; the last group may overlap the one before it."""
    with kernel.loop(scalars["output_height"]) as row, kernel.loop(scalars["output_width"]) as column:
        y = kernel.let(row * scalars["row_stride"] - scalars["top"])
        x = kernel.let(column * scalars["column_stride"] - scalars["left"])
        first_row, rows = _inside(kernel, spec, y, spec.rows, scalars["height"])
        first_column, columns = _inside(kernel, spec, x, spec.columns, scalars["width"])
        position = kernel.let(row * scalars["output_width"] + column)
        output = kernel.let(position * spec.channels)
        with kernel.loop(-(-spec.channels // GROUP)) as group:
            channel = kernel.let(minimum(group * GROUP, spec.channels - GROUP))
            pool(_Window(first_row, rows, first_column, columns, scalars["width"], channel, position, output))


def _inside(kernel: KernelBuilder, spec: PoolSpec, start: Expr, extent: int, size: Expr) -> tuple[Expr, Expr]:
    """Where the cells inside the image begin, and how many they are."""
    if not spec.can_overhang:
        return start, constant(extent, "int32")
    first = kernel.let(maximum(start, 0))
    return first, kernel.let(minimum(start + extent, size) - first)


@contextmanager
def _for_rows(kernel: KernelBuilder, window: _Window) -> Generator[Expr]:
    with kernel.loop(window.rows) as row:
        yield kernel.let(window.first_row + row)


def _for_cells(
    kernel: KernelBuilder, spec: PoolSpec, x: Buffer, window: _Window, row: Expr, add_cell: Callable[[Expr], None]
) -> None:
    """The words of a row of the window."""
    start = kernel.let((row * window.width + window.first_column) * spec.channels + window.channel)
    with kernel.loop(window.columns) as column:
        add_cell(kernel.let(read(LOAD_WORD, x.address(start + column * spec.channels))))
