"""Convolution in plain loops, float32 and integers: any stride, padding, dilation and grouping, with a residual.

For each output position the taps inside the image are found once; for each output channel the products are summed
over them. Weights stay [O, KH, KW, I/group], so that the innermost loop runs over neighbouring input channels, and over
whole rows of the window where there is one group and no dilation.

The bias of QConv counts on padding cells that hold zx. Where there are such cells, their product is not formed: the
kernel sums (x - zx) * w over the cells inside, with the bias as it was before -zx * sum(w) was folded into it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import InputArgument, Kernel, Refusal
from tinyopt.targets.kernels.requantize import type_suffix, zero_point_of
from tinyopt.targets.kernels.scalar.epilogue import (
    FLOAT,
    Arithmetic,
    Epilogue,
    FloatEpilogue,
    IntegerEpilogue,
    float_arguments,
    integer_arguments,
)
from tinyopt.targets.kernels.scalar.loops import Axis, Taps, tap_loop, taps_at, window_axes
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc

CHANNELS_AT_ONCE = 2  # they share each load of x; more do not fit the registers of a Cortex-M0+
LARGEST_UNROLLED_ROW = 7

Multiply = Callable[[Expr, Expr], None]  # adds x[first] * weights[second] to the accumulator


@dataclass(frozen=True)
class ConvolutionShape:
    """The shape of one convolution. `inputs` and `outputs` are the channels of one group."""

    batch: int
    vertical: Axis
    horizontal: Axis
    groups: int
    inputs: int
    outputs: int

    @classmethod
    def of(cls, node: Node) -> ConvolutionShape:
        weights = node.input(1).shape  # O, KH, KW, I/group
        vertical, horizontal = window_axes(node, weights[1:3])
        groups = node.int("group")
        return cls(node.input(0).shape[0], vertical, horizontal, groups, weights[3], weights[0] // groups)

    @property
    def input_elements(self) -> int:
        return self.batch * self.vertical.input * self.row_elements

    @property
    def row_elements(self) -> int:
        """Elements of one row of the image."""
        return self.horizontal.input * self.input_channels

    @property
    def input_channels(self) -> int:
        return self.groups * self.inputs

    @property
    def output_channels(self) -> int:
        return self.groups * self.outputs

    @property
    def output_elements(self) -> int:
        return self.batch * self.vertical.output * self.horizontal.output * self.output_channels

    @property
    def channel_weights(self) -> int:
        """Weights of one output channel."""
        return self.vertical.taps * self.horizontal.taps * self.inputs

    @property
    def is_padded(self) -> bool:
        return self.vertical.is_padded or self.horizontal.is_padded

    @property
    def rows_are_contiguous(self) -> bool:
        """Whether a row of the window is one run of memory, in the image and in the weights."""
        return self.groups == 1 and (self.horizontal.dilation == 1 or self.horizontal.taps == 1)


@dataclass(frozen=True)
class ConvolutionSpec:
    """`name` is the kernel's in C."""

    name: str
    shape: ConvolutionShape
    arithmetic: Arithmetic
    epilogue: Epilogue


def plan_conv(node: Node) -> Kernel | Refusal:
    """Conv in float32."""
    spec = ConvolutionSpec("conv_f32", ConvolutionShape.of(node), FLOAT, FloatEpilogue.of(node))
    return Kernel(convolve, spec, spec.name, (InputArgument(0), InputArgument(1), *float_arguments(node)))


def plan_qconv(node: Node) -> Kernel | Refusal:
    """QConv with its weights as they are."""
    spec, bias = integer_convolution(node)
    arguments = (InputArgument(0), InputArgument(1), *integer_arguments(node, bias))
    return Kernel(convolve, spec, spec.name, arguments)


def integer_convolution(node: Node) -> tuple[ConvolutionSpec, Array]:
    """The spec of a QConv, and the bias that goes with it."""
    shape = ConvolutionShape.of(node)
    zero_point = zero_point_of(node, node.input(0))
    bias = node.input(2).data
    offset = zero_point if shape.is_padded else 0
    if offset:
        sums = node.input(1).data.sum(axis=(1, 2, 3), dtype=np.int64)
        bias = (bias + offset * sums).astype(np.int32)
    arithmetic = Arithmetic(node.input(0).dtype, "int8", "int32", offset_a=offset)
    return ConvolutionSpec(f"conv_{type_suffix(node)}", shape, arithmetic, IntegerEpilogue.of(node)), bias


def convolve(spec: ConvolutionSpec) -> PrimFunc:
    """Position by position, and for each position channel by channel."""
    shape = spec.shape
    kernel = KernelBuilder(spec.name)
    with kernel.function():
        x = kernel.buffer("x", spec.arithmetic.element_a, shape.input_elements)
        weights = kernel.buffer("weights", spec.arithmetic.element_b, shape.output_channels * shape.channel_weights)
        finish = spec.epilogue.declare(kernel, shape.output_channels, shape.output_elements)
        totals = kernel.local(spec.arithmetic.accumulator, CHANNELS_AT_ONCE)

        def channels(window: Window, group: Expr, first: Expr, count: int) -> None:
            def multiply(input_index: Expr, weight_index: Expr) -> None:
                element = kernel.let(x[input_index])
                for i in range(count):
                    weight = weights[weight_index + i * shape.channel_weights]
                    totals[i] = totals[i] + spec.arithmetic.product(element, weight)

            for i in range(count):
                totals[i] = finish.start(first + i)
            window.each_product(kernel, group, first * shape.channel_weights, multiply)
            for i in range(count):
                finish.store(first + i, window.output_index + first + i, totals[i])

        with (
            kernel.loop(shape.batch) as image,
            kernel.loop(shape.vertical.output) as row,
            kernel.loop(shape.horizontal.output) as column,
        ):
            window = Window.at(kernel, shape, image, row, column)
            tiles, rest = divmod(shape.outputs, CHANNELS_AT_ONCE)
            with kernel.loop(shape.groups) as group:
                first = group * shape.outputs
                with kernel.loop(tiles) as tile:
                    channels(window, group, first + tile * CHANNELS_AT_ONCE, CHANNELS_AT_ONCE)
                if rest:
                    channels(window, group, first + tiles * CHANNELS_AT_ONCE, rest)
    return kernel.finish()


@dataclass(frozen=True)
class Window:
    """The window of one output position."""

    shape: ConvolutionShape
    image_start: Expr
    rows: Taps
    columns: Taps
    output_index: Expr

    @classmethod
    def at(cls, kernel: KernelBuilder, shape: ConvolutionShape, image: Expr, row: Expr, column: Expr) -> Window:
        position = (image * shape.vertical.output + row) * shape.horizontal.output + column
        return cls(
            shape,
            image * (shape.vertical.input * shape.row_elements),
            taps_at(kernel, shape.vertical, row),
            taps_at(kernel, shape.horizontal, column),
            kernel.let(position * shape.output_channels),
        )

    def each_product(self, kernel: KernelBuilder, group: Expr, weight_start: Expr, multiply: Multiply) -> None:
        """Call `multiply` for each pair of an input element and a weight; the weights begin at weight_start."""
        shape = self.shape
        first_weight = kernel.let(weight_start)
        with tap_loop(kernel, self.rows) as (row, y):
            row_start = self.image_start + y * shape.row_elements + group * shape.inputs
            row_weights = first_weight + row * (shape.horizontal.taps * shape.inputs)
            if shape.rows_are_contiguous:
                self._contiguous_row(kernel, row_start, row_weights, multiply)
            else:
                self._row_of_cells(kernel, row_start, row_weights, multiply)

    def _contiguous_row(self, kernel: KernelBuilder, row_start: Expr, row_weights: Expr, multiply: Multiply) -> None:
        inputs, columns = self.shape.inputs, self.columns
        assert columns.first is not None
        assert columns.end is not None
        start = kernel.keep(row_start + (columns.origin + columns.first) * inputs)
        weight = kernel.keep(row_weights + columns.first * inputs)
        with kernel.loop(kernel.keep((columns.end - columns.first) * inputs)) as i:
            multiply(start + i, weight + i)

    def _row_of_cells(self, kernel: KernelBuilder, row_start: Expr, row_weights: Expr, multiply: Multiply) -> None:
        shape, columns = self.shape, self.columns
        if shape.inputs == 1 and columns.end is not None and columns.axis.taps <= LARGEST_UNROLLED_ROW:
            self._row_of_single_cells(kernel, row_start, row_weights, multiply)
            return
        with tap_loop(kernel, columns) as (column, x):
            start = kernel.keep(row_start + x * shape.input_channels)
            weight = kernel.keep(row_weights + column * shape.inputs)
            with kernel.loop(shape.inputs) as i:
                multiply(start + i, weight + i)

    def _row_of_single_cells(
        self, kernel: KernelBuilder, row_start: Expr, row_weights: Expr, multiply: Multiply
    ) -> None:
        """Depthwise: without a loop where the whole row lies inside the image."""
        columns, step = self.columns, self.shape.input_channels
        start = kernel.keep(row_start + columns.origin * step)
        weights = kernel.keep(row_weights)

        def whole_row() -> None:
            for tap in range(columns.axis.taps):
                multiply(start + tap * (columns.axis.dilation * step), weights + tap)

        if not columns.axis.is_padded:
            whole_row()
            return
        assert columns.first is not None
        assert columns.end is not None
        with kernel.when_else(columns.end - columns.first == columns.axis.taps) as (then, otherwise):
            with then:
                whole_row()
            with otherwise, tap_loop(kernel, columns) as (tap, _):
                multiply(start + tap * step, weights + tap)
