"""Transposed convolution in plain loops, float32 and integers, written from the output's side.

Output position p takes tap k from input position i where i * stride = p + pad - k * dilation. Which taps have such an
input is known beforehand: a table holds, for each output row and each output column, the pairs (offset in the image,
offset in the weights), with -1 where there are fewer than the most. So nothing is divided at run time, no accumulators
but one are needed, and strides, dilations and output padding cost nothing. Weights are packed [O, KH, KW, I/group].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import ConstantArgument, InputArgument, Kernel, Refusal
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
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc

_NONE = -1


@dataclass(frozen=True)
class TransposedSpec:
    """`inputs` and `outputs` are the channels of one group; row_taps, column_taps the pairs that a table row holds."""

    name: str
    batch: int
    image_elements: int  # of one image of the input
    output: tuple[int, int]
    groups: int
    inputs: int
    outputs: int
    channel_weights: int
    row_taps: int
    column_taps: int
    arithmetic: Arithmetic
    epilogue: Epilogue


def plan_conv_transpose(node: Node) -> Kernel | Refusal:
    """ConvTranspose in float32."""
    return _plan(node, "conv_transpose_f32", FLOAT, FloatEpilogue.of(node))


def plan_qconv_transpose(node: Node) -> Kernel | Refusal:
    """QConvTranspose."""
    arithmetic = Arithmetic(node.input(0).dtype, "int8", "int32", offset_a=zero_point_of(node, node.input(0)))
    return _plan(node, f"conv_transpose_{type_suffix(node)}", arithmetic, IntegerEpilogue.of(node))


def _plan(node: Node, name: str, arithmetic: Arithmetic, epilogue: Epilogue) -> Kernel | Refusal:
    weights = node.input(1)
    if weights.constant is None:
        return Refusal("the weights are not a constant")
    batch, height, width, channels = node.input(0).shape
    groups = node.int("group")
    _, kernel_rows, kernel_columns, outputs = weights.shape
    inputs = channels // groups
    rows = _tap_table(node, 0, width * channels, kernel_columns * inputs)
    columns = _tap_table(node, 1, channels, inputs)
    spec = TransposedSpec(
        name=name,
        batch=batch,
        image_elements=height * width * channels,
        output=(node.output.shape[1], node.output.shape[2]),
        groups=groups,
        inputs=inputs,
        outputs=outputs,
        channel_weights=kernel_rows * kernel_columns * inputs,
        row_taps=rows.shape[1],
        column_taps=columns.shape[1],
        arithmetic=arithmetic,
        epilogue=epilogue,
    )
    is_float = arithmetic is FLOAT
    arguments = (
        InputArgument(0),
        ConstantArgument("weight", _packed(weights.constant, groups)),
        ConstantArgument("table", rows),
        ConstantArgument("table", columns),
        *(float_arguments(node) if is_float else integer_arguments(node, node.input(2).data)),
    )
    return Kernel(convolve_transposed, spec, name, arguments)


def _packed(weights: Array, groups: int) -> Array:
    """[I, KH, KW, O/group] to [O, KH, KW, I/group]."""
    channels, rows, columns, outputs = weights.shape
    grouped = weights.reshape(groups, channels // groups, rows, columns, outputs)
    return np.ascontiguousarray(grouped.transpose(0, 4, 2, 3, 1)).reshape(-1, rows, columns, channels // groups)


def _tap_table(node: Node, dimension: int, input_step: int, weight_step: int) -> Array:
    """int32 [output size, taps, 2]: for each output position its (offset in the image, offset in the weights)."""
    stride, dilation = node.ints("strides")[dimension], node.ints("dilations")[dimension]
    pad, size = node.ints("pads")[dimension], node.input(0).shape[1 + dimension]
    pairs: list[list[tuple[int, int]]] = []
    for position in range(node.output.shape[1 + dimension]):
        reached = [(position + pad - tap * dilation, tap) for tap in range(node.input(1).shape[1 + dimension])]
        pairs.append(
            [
                (place // stride * input_step, tap * weight_step)
                for place, tap in reached
                if place % stride == 0 and 0 <= place // stride < size
            ]
        )
    table = np.full((len(pairs), max(1, *map(len, pairs)), 2), _NONE, np.int32)
    for row, found in zip(table, pairs, strict=True):
        row[: len(found)] = np.array(found, np.int32).reshape(-1, 2)
    return table


def convolve_transposed(spec: TransposedSpec) -> PrimFunc:
    """Gathers: each output element sums the input cells whose taps reach it, listed in tables of rows and columns."""
    channels = spec.groups * spec.outputs
    height, width = spec.output
    kernel = KernelBuilder(spec.name)
    with kernel.function():
        x = kernel.buffer("x", spec.arithmetic.element_a, spec.batch * spec.image_elements)
        weights = kernel.buffer("weights", spec.arithmetic.element_b, channels * spec.channel_weights)
        rows = kernel.buffer("rows", "int32", height * spec.row_taps * 2)
        columns = kernel.buffer("columns", "int32", width * spec.column_taps * 2)
        finish = spec.epilogue.declare(kernel, channels, spec.batch * height * width * channels)
        total = kernel.local(spec.arithmetic.accumulator, 1)
        with (
            kernel.loop(spec.batch) as image,
            kernel.loop(height) as row,
            kernel.loop(width) as column,
            kernel.loop(spec.groups) as group,
            kernel.loop(spec.outputs) as member,
        ):
            channel = group * spec.outputs + member
            total[0] = finish.start(channel)
            with kernel.loop(spec.row_taps) as i:
                row_entry = (row * spec.row_taps + i) * 2
                row_start = kernel.let(rows[row_entry])
                with kernel.when(row_start >= 0), kernel.loop(spec.column_taps) as j:
                    column_entry = (column * spec.column_taps + j) * 2
                    column_start = kernel.let(columns[column_entry])
                    with kernel.when(column_start >= 0):
                        start = kernel.let(image * spec.image_elements + row_start + column_start + group * spec.inputs)
                        weight = kernel.let(
                            channel * spec.channel_weights + rows[row_entry + 1] + columns[column_entry + 1]
                        )
                        with kernel.loop(spec.inputs) as k:
                            product = spec.arithmetic.product(x[start + k], weights[weight + k])
                            total[0] = total[0] + product
            finish.store(channel, ((image * height + row) * width + column) * channels + channel, total[0])
    return kernel.finish()
