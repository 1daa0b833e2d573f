"""MaxPool, AveragePool and QAveragePool in plain loops, on NHWC images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np

from tinyopt.ir import DTYPES, Node
from tinyopt.ops.pool import average_divisors
from tinyopt.targets.kernel import Argument, ConstantArgument, InputArgument, Kernel, OutputArgument, Refusal
from tinyopt.targets.kernels.requantize import Requantization, requantize, type_suffix, zero_point_of
from tinyopt.targets.kernels.scalar.loops import CONTAINERS, Axis, clamp_float, tap_loop, taps_at, window_axes
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, cast, constant, maximum


@dataclass(frozen=True)
class PoolShape:
    """The geometry of a pool over NHWC images."""

    batch: int
    vertical: Axis
    horizontal: Axis
    channels: int

    @classmethod
    def of(cls, node: Node) -> PoolShape:
        batch, _, _, channels = node.input(0).shape
        return cls(batch, *window_axes(node, node.ints("kernel")), channels)

    @property
    def input_elements(self) -> int:
        return self.batch * self.vertical.input * self.horizontal.input * self.channels

    @property
    def positions(self) -> int:
        """Output positions of one image."""
        return self.vertical.output * self.horizontal.output


@dataclass(frozen=True)
class MaxSpec:
    """MaxPool of elements of `dtype`."""

    shape: PoolShape
    dtype: str


@dataclass(frozen=True)
class AverageSpec:
    """divisors: 1, or one for each output position."""

    shape: PoolShape
    divisors: int
    low: float
    high: float


@dataclass(frozen=True)
class IntegerAverageSpec:
    """multipliers: 1, or one for each output position. dtype: the input's."""

    shape: PoolShape
    multipliers: int
    dtype: str
    zero_point: int
    to: Requantization


def plan_max_pool(node: Node) -> Kernel | Refusal:
    """MaxPool of any signed type."""
    dtype = node.input(0).dtype
    if dtype not in ("int8", "int16", "int32", "float32"):
        return Refusal(f"MaxPool of {dtype}")
    spec = MaxSpec(PoolShape.of(node), dtype)
    return Kernel(max_pool, spec, f"max_pool_{dtype}", (InputArgument(0), OutputArgument(0)))


def plan_average_pool(node: Node) -> Kernel | Refusal:
    """AveragePool in float32."""
    divisors = average_divisors(node).astype(np.float32).ravel()
    if (divisors == divisors[0]).all():
        divisors = divisors[:1]
    spec = AverageSpec(PoolShape.of(node), len(divisors), node.float("clamp_low"), node.float("clamp_high"))
    arguments: tuple[Argument, ...] = (InputArgument(0), ConstantArgument("divisor", divisors), OutputArgument(0))
    return Kernel(average_pool, spec, "average_pool_f32", arguments)


def plan_qaverage_pool(node: Node) -> Kernel | Refusal:
    """QAveragePool."""
    x, multipliers = node.input(0), node.input(1).type.elements
    spec = IntegerAverageSpec(PoolShape.of(node), multipliers, x.dtype, zero_point_of(node, x), Requantization.of(node))
    arguments = (InputArgument(0), InputArgument(1), OutputArgument(0))
    return Kernel(average_pool_integers, spec, f"average_pool_{type_suffix(node)}", arguments)


def max_pool(spec: MaxSpec) -> PrimFunc:
    """y = the largest of the cells inside the image."""
    dtype = CONTAINERS[spec.dtype]
    kernel = KernelBuilder(f"max_pool_{spec.dtype}")
    with kernel.function():
        x = kernel.buffer("x", dtype, spec.shape.input_elements)
        y = kernel.buffer("y", dtype, spec.shape.batch * spec.shape.positions * spec.shape.channels)
        largest = kernel.local(dtype, 1)

        def accumulate(index: Expr) -> None:
            largest[0] = maximum(largest[0], x[index])

        def finish(_position: Expr, index: Expr) -> None:
            y[index] = largest[0]

        _each_window(kernel, spec.shape, largest, constant(lowest(spec.dtype), dtype), accumulate, finish)
    return kernel.finish()


def lowest(dtype: str) -> float:
    """The value that no other is below."""
    return -inf if DTYPES[dtype].kind == "f" else int(np.iinfo(DTYPES[dtype]).min)


def average_pool(spec: AverageSpec) -> PrimFunc:
    """y = clip(sum of the cells / divisor, low, high)."""
    kernel = KernelBuilder("average_pool_f32")
    with kernel.function():
        x = kernel.buffer("x", "float32", spec.shape.input_elements)
        divisors = kernel.buffer("divisors", "float32", spec.divisors)
        y = kernel.buffer("y", "float32", spec.shape.batch * spec.shape.positions * spec.shape.channels)
        total = kernel.local("float32", 1)

        def accumulate(index: Expr) -> None:
            total[0] = total[0] + x[index]

        def finish(position: Expr, index: Expr) -> None:
            divisor = divisors[position if spec.divisors > 1 else 0]
            y[index] = clamp_float(total[0] / divisor, spec.low, spec.high)

        _each_window(kernel, spec.shape, total, constant(0, "float32"), accumulate, finish)
    return kernel.finish()


def average_pool_integers(spec: IntegerAverageSpec) -> PrimFunc:
    """y = requantize(sum of the cells less their zero points)."""
    kernel = KernelBuilder("average_pool_integers")
    with kernel.function():
        x = kernel.buffer("x", spec.dtype, spec.shape.input_elements)
        multipliers = kernel.buffer("multipliers", "int32", spec.multipliers)
        y = kernel.buffer("y", spec.to.dtype, spec.shape.batch * spec.shape.positions * spec.shape.channels)
        total = kernel.local("int32", 1)

        def accumulate(index: Expr) -> None:
            total[0] = total[0] + (cast(x[index], "int32") - spec.zero_point)

        def finish(position: Expr, index: Expr) -> None:
            multiplier = multipliers[position if spec.multipliers > 1 else 0]
            y[index] = cast(requantize(total[0], multiplier, spec.to), spec.to.dtype)

        _each_window(kernel, spec.shape, total, constant(0, "int32"), accumulate, finish)
    return kernel.finish()


def _each_window(
    kernel: KernelBuilder,
    shape: PoolShape,
    accumulator: Buffer,
    start: Expr,
    accumulate: Callable[[Expr], None],
    finish: Callable[[Expr, Expr], None],
) -> None:
    """For each window and channel: start, accumulate(input index) for its cells inside, finish(position, index)."""
    row_elements = shape.horizontal.input * shape.channels
    with (
        kernel.loop(shape.batch) as image,
        kernel.loop(shape.vertical.output) as row,
        kernel.loop(shape.horizontal.output) as column,
    ):
        rows = taps_at(kernel, shape.vertical, row)
        columns = taps_at(kernel, shape.horizontal, column)
        position = row * shape.horizontal.output + column
        output_start = (image * shape.positions + position) * shape.channels
        with kernel.loop(shape.channels) as channel:
            accumulator[0] = start
            with tap_loop(kernel, rows) as (_, y):
                row_start = image * (shape.vertical.input * row_elements) + y * row_elements + channel
                with tap_loop(kernel, columns) as (_, x):
                    accumulate(row_start + x * shape.channels)
            finish(position, output_start + channel)
