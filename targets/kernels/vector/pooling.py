"""Pools in vectors over the channels: AveragePool, QAveragePool, MaxPool. Padding cells are the neutral element.

Averages of float16 are summed in float32: there may be many cells in a window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Node
from tinyopt.ops.pool import average_divisors
from tinyopt.targets.kernel import ConstantArgument, Kernel, Refusal
from tinyopt.targets.kernels.requantize import Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, broadcast, cast, maximum
from tinyopt.targets.kernels.vector.channel_blocks import ChannelBlocks, channel_blocks, write_blocks
from tinyopt.targets.kernels.vector.float_ending import Clamp, clamped
from tinyopt.targets.kernels.vector.generic import levels_of_products, splat, vector_type
from tinyopt.targets.kernels.vector.rows import RowPlan, declare_rows, plan_rows, row_arguments
from tinyopt.targets.kernels.vector.window import window_of

NARROWEST = 4  # channels
WIDEST = 16
LOWEST_FLOAT = float("-inf")
SUM = "float32"  # the type that floats are summed in


@dataclass(frozen=True)
class PoolSpec:
    """What every pool depends on. padding: what padding cells hold."""

    rows: RowPlan
    blocks: ChannelBlocks
    padding: float

    @property
    def output_elements(self) -> int:
        return self.positions * self.rows.window.channels

    @property
    def positions(self) -> int:
        return self.rows.window.out_height * self.rows.window.out_width


@dataclass(frozen=True)
class AverageSpec:
    """A float average. factors: 1, or one for each output position."""

    pool: PoolSpec
    factors: int
    clamp: Clamp


@dataclass(frozen=True)
class QuantizedAverageSpec:
    """An int8 average. multipliers: 1, or one for each output position."""

    pool: PoolSpec
    multipliers: int
    to: Requantization


def plan_average_pool(node: Node) -> Kernel | Refusal:
    """AveragePool."""
    pool = _plan_pool(node, 0)
    if isinstance(pool, Refusal):
        return pool
    factors = (1 / average_divisors(node)).astype(np.float32).reshape(-1)
    if (factors == factors[0]).all():
        factors = factors[:1]
    spec = AverageSpec(pool, len(factors), Clamp.of(node))
    constants = (ConstantArgument("multiplier", factors),)
    return Kernel(average_pool, spec, "average_pool_vector", row_arguments(pool.rows, constants))


def plan_quantized_average_pool(node: Node) -> Kernel | Refusal:
    """QAveragePool."""
    pool = _plan_pool(node, zero_point_of(node, node.input(0)))
    if isinstance(pool, Refusal):
        return pool
    multipliers = node.input(1).data.astype(np.int32).reshape(-1)
    spec = QuantizedAverageSpec(pool, len(multipliers), Requantization.of(node))
    constants = (ConstantArgument("multiplier", multipliers),)
    return Kernel(quantized_average_pool, spec, "average_pool_q_vector", row_arguments(pool.rows, constants))


def plan_max_pool(node: Node) -> Kernel | Refusal:
    """MaxPool of floats or int8."""
    pool = _plan_pool(node, -128 if node.input(0).dtype == "int8" else LOWEST_FLOAT)
    if isinstance(pool, Refusal):
        return pool
    return Kernel(max_pool, pool, "max_pool_vector", row_arguments(pool.rows, ()))


def _plan_pool(node: Node, padding: float) -> PoolSpec | Refusal:
    dtype = node.input(0).dtype
    if dtype not in ("float32", "float16", "int8"):
        return Refusal(f"elements of {dtype}")
    kernel = node.ints("kernel")
    window = window_of(node, (kernel[0], kernel[1]))
    if isinstance(window, Refusal):
        return window
    blocks = channel_blocks(window.channels, WIDEST, NARROWEST)
    if isinstance(blocks, Refusal):
        return blocks
    return PoolSpec(plan_rows(window, dtype, read_over_end=False), blocks, padding)


@dataclass(frozen=True)
class _Reduction:
    """How the cells of a window become one value. Each function takes the number of lanes last."""

    accumulator: str
    begin: Callable[[int], Expr]
    add: Callable[[Expr, Expr, int], Expr]
    end: Callable[[Expr, Expr, int], Expr]  # (accumulated, output position, lanes)


def average_pool(spec: AverageSpec) -> PrimFunc:
    """A float AveragePool."""
    dtype = spec.pool.rows.dtype
    kernel = KernelBuilder("average_pool_vector")
    with kernel.function():
        x = kernel.buffer("x", dtype, spec.pool.rows.window.input_elements)
        factors = kernel.buffer("factors", "float32", spec.factors)

        def end(total: Expr, position: Expr, width: int) -> Expr:
            factor = broadcast(factors[position if spec.factors > 1 else 0], width)
            return _as_float(clamped(total * factor, spec.clamp, width), (SUM, dtype), width)

        reduction = _Reduction(
            SUM,
            lambda width: splat(0.0, SUM, width),
            lambda total, cell, width: total + _as_float(cell, (dtype, SUM), width),
            end,
        )
        _write_pool(kernel, spec.pool, x, reduction)
    return kernel.finish()


def _as_float(value: Expr, dtypes: tuple[str, str], width: int) -> Expr:
    """`value` of the first type as one of the second."""
    return value if dtypes[0] == dtypes[1] else cast(value, vector_type(dtypes[1], width))


def quantized_average_pool(spec: QuantizedAverageSpec) -> PrimFunc:
    """A QAveragePool: the sum of the cells less their zero points, requantized."""
    kernel = KernelBuilder("average_pool_q_vector")
    cells = spec.pool.rows.window.kernel[0] * spec.pool.rows.window.kernel[1]
    with kernel.function():
        x = kernel.buffer("x", "int8", spec.pool.rows.window.input_elements)
        multipliers = kernel.buffer("multipliers", "int32", spec.multipliers)

        def end(total: Expr, position: Expr, width: int) -> Expr:
            multiplier = broadcast(cast(multipliers[position if spec.multipliers > 1 else 0], "int64"), width)
            return levels_of_products(cast(total, vector_type("int64", width)) * multiplier, spec.to, width)

        reduction = _Reduction(
            "int32",
            lambda width: splat(-cells * int(spec.pool.padding), "int32", width),
            lambda total, cell, width: total + cast(cell, vector_type("int32", width)),
            end,
        )
        _write_pool(kernel, spec.pool, x, reduction)
    return kernel.finish()


def max_pool(spec: PoolSpec) -> PrimFunc:
    """A MaxPool."""
    dtype = spec.rows.dtype
    kernel = KernelBuilder("max_pool_vector")
    with kernel.function():
        x = kernel.buffer("x", dtype, spec.rows.window.input_elements)
        reduction = _Reduction(
            dtype,
            lambda width: splat(spec.padding, dtype, width),
            lambda total, cell, _: maximum(total, cell),
            lambda total, _position, _width: total,
        )
        _write_pool(kernel, spec, x, reduction)
    return kernel.finish()


def _write_pool(kernel: KernelBuilder, spec: PoolSpec, x: Buffer, reduction: _Reduction) -> None:
    """The remaining parameters (ring, output) and the loops."""
    plan, window = spec.rows, spec.rows.window
    rows = declare_rows(kernel, plan, x, spec.padding)
    y = kernel.buffer("y", plan.dtype, spec.output_elements)

    def write_row(out_row: Expr, _number: Expr, channel: Expr, width: int) -> None:
        with kernel.loop(window.out_width) as column:
            total = kernel.local(reduction.accumulator, width)
            total.store_vector(0, reduction.begin(width), width)
            with kernel.loop(window.kernel[0]) as row:
                first = column * (window.strides[1] * window.channels) + channel
                start = kernel.let(rows.base(out_row, row) + first)
                with kernel.loop(window.kernel[1]) as tap:
                    cell = rows.data.vector(start + tap * (window.dilations[1] * window.channels), width)
                    total.store_vector(0, reduction.add(total.vector(0, width), cell, width), width)
            position = kernel.let(out_row * window.out_width + column)
            value = reduction.end(total.vector(0, width), position, width)
            y.store_vector(position * window.channels + channel, value, width)

    write_blocks(kernel, rows, plan, spec.blocks, write_row)
