"""Convolution in plain loops, float32 and int8: any stride, padding, dilation and grouping, with a residual.

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
from tinyopt.targets.kernels.requantize import zero_point_of
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
    spec = ConvolutionSpec("conv_s8", shape, Arithmetic("int8", "int32", offset_a=offset), IntegerEpilogue.of(node))
    return spec, bias


def convolve(spec: ConvolutionSpec) -> PrimFunc:
    """Position by position, and for each position channel by channel."""
    shape = spec.shape
    kernel = KernelBuilder(spec.name)
    with kernel.function():
        x = kernel.buffer("x", spec.arithmetic.element, shape.input_elements)
        weights = kernel.buffer("weights", spec.arithmetic.element, shape.output_channels * shape.channel_weights)
        finish = spec.epilogue.declare(kernel, shape.output_channels, shape.output_elements)
        total = kernel.local(spec.arithmetic.accumulator, 1)

        def multiply(input_index: Expr, weight_index: Expr) -> None:
            total[0] = total[0] + spec.arithmetic.product(x[input_index], weights[weight_index])

        with (
            kernel.loop(shape.batch) as image,
            kernel.loop(shape.vertical.output) as row,
            kernel.loop(shape.horizontal.output) as column,
        ):
            window = Window.at(kernel, shape, image, row, column)
            with kernel.loop(shape.groups) as group, kernel.loop(shape.outputs) as member:
                channel = kernel.let(group * shape.outputs + member)
                total[0] = finish.start(channel)
                window.each_product(kernel, group, channel * shape.channel_weights, multiply)
                finish.store(channel, window.output_index + channel, total[0])
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
        start = kernel.let(row_start + (columns.origin + columns.first) * inputs)
        weight = kernel.let(row_weights + columns.first * inputs)
        with kernel.loop((columns.end - columns.first) * inputs) as i:
            multiply(start + i, weight + i)

    def _row_of_cells(self, kernel: KernelBuilder, row_start: Expr, row_weights: Expr, multiply: Multiply) -> None:
        inputs = self.shape.inputs
        with tap_loop(kernel, self.columns) as (column, x):
            start = kernel.let(row_start + x * self.shape.input_channels)
            weight = kernel.let(row_weights + column * inputs)
            with kernel.loop(inputs) as i:
                multiply(start + i, weight + i)
