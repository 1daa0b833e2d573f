"""Sums, means, products, extremes, norms and logarithms of sums over any axes, and QReduceSum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, prod

import numpy as np

from tinyopt.ir import DTYPES, Node
from tinyopt.ops.reduce import NUMBERS
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Refusal
from tinyopt.targets.kernels.narrow import wrapping_dtype
from tinyopt.targets.kernels.requantize import Requantization, requantize, type_suffix, zero_point_of
from tinyopt.targets.kernels.scalar.loops import Walk, row_major, walk_loops
from tinyopt.targets.kernels.scalar.pool import lowest
from tinyopt.targets.kernels.tir import (
    Expr,
    KernelBuilder,
    PrimFunc,
    both,
    cast,
    constant,
    maximum,
    minimum,
    real_call,
    select,
    truncated_quotient,
)


@dataclass(frozen=True)
class Reduction:
    """kept: the walk over x and y. reduced: the walk over x that one element of y sums up."""

    x_elements: int
    y_elements: int
    kept: Walk
    reduced: Walk

    @classmethod
    def of(cls, node: Node) -> Reduction:
        x, axes = node.input(0), node.ints("axes")
        strides = row_major(x.shape)
        kept = [axis for axis in range(x.type.rank) if axis not in axes]
        kept_sizes = [x.shape[axis] for axis in kept]
        return cls(
            x.type.elements,
            node.output.type.elements,
            Walk.collapsed(kept_sizes, [strides[axis] for axis in kept], row_major(kept_sizes)),
            Walk.collapsed([x.shape[axis] for axis in axes], [strides[axis] for axis in axes]),
        )

    @property
    def count(self) -> int:
        """Elements that one sum is made of."""
        return prod(self.reduced.sizes)


@dataclass(frozen=True)
class ReduceSpec:
    """function: a key of `_FUNCTIONS`."""

    function: str
    dtype: str
    reduction: Reduction


@dataclass(frozen=True)
class IntegerSumSpec:
    """QReduceSum; dtype: the input's."""

    reduction: Reduction
    dtype: str
    zero_point: int
    multiplier: int
    to: Requantization


@dataclass(frozen=True)
class _Function:
    """How elements become one: start and combine(total, element), then finish(total, count), for a dtype."""

    start: Callable[[str], float]
    combine: Callable[[Expr, Expr], Expr]
    finish: Callable[[Expr, int, str], Expr]


def highest(dtype: str) -> float:
    """The value that no other is above."""
    return inf if DTYPES[dtype].kind == "f" else int(np.iinfo(DTYPES[dtype]).max)


def _zero(_dtype: str) -> float:
    return 0


def _unit(_dtype: str) -> float:
    return 1


def _add(total: Expr, x: Expr) -> Expr:
    return total + x


def _add_square(total: Expr, x: Expr) -> Expr:
    return total + x * x


def _add_magnitude(total: Expr, x: Expr) -> Expr:
    return total + maximum(x, 0 - x)


def _add_distance(total: Expr, x: Expr) -> Expr:
    """The magnitude of an integer that is held without sign: how far it is from 0, up or down."""
    return total + minimum(x, 0 - x)


def _as_it_is(total: Expr, _count: int, _dtype: str) -> Expr:
    return total


def _divided(total: Expr, count: int, dtype: str) -> Expr:
    divisor = constant(count, dtype)
    return total / divisor if dtype.startswith("float") else truncated_quotient(total, divisor)


def _root(total: Expr, _count: int, dtype: str) -> Expr:
    return real_call("sqrt", dtype, total)


def _logarithm(total: Expr, _count: int, dtype: str) -> Expr:
    return real_call("log", dtype, total)


_FUNCTIONS: Mapping[str, _Function] = {
    "mean": _Function(_zero, _add, _divided),
    "sum": _Function(_zero, _add, _as_it_is),
    "max": _Function(lowest, maximum, _as_it_is),
    "min": _Function(highest, minimum, _as_it_is),
    "prod": _Function(_unit, lambda total, x: total * x, _as_it_is),
    "sum_square": _Function(_zero, _add_square, _as_it_is),
    "l1": _Function(_zero, _add_magnitude, _as_it_is),
    "l2": _Function(_zero, _add_square, _root),
    "log_sum": _Function(_zero, _add, _logarithm),
}
_NAMES: Mapping[str, str] = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "prod",
    "ReduceSumSquare": "sum_square",
    "ReduceL1": "l1",
    "ReduceL2": "l2",
    "ReduceLogSum": "log_sum",
}
_EXTREMES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")


def plan_reduce(node: Node) -> Kernel | Refusal:
    """The reductions that go through their elements once."""
    dtype = node.input(0).dtype
    allowed = _EXTREMES if _NAMES[node.op] in ("max", "min") else NUMBERS
    dtype = "uint8" if dtype == "bool" else dtype
    if dtype not in allowed:
        return Refusal(f"{node.op} of {dtype}")
    spec = ReduceSpec(_NAMES[node.op], dtype, Reduction.of(node))
    return Kernel(reduce, spec, f"reduce_{spec.function}_{dtype}", (InputArgument(0), OutputArgument(0)))


def plan_reduce_log_sum_exp(node: Node) -> Kernel | Refusal:
    """ReduceLogSumExp in float32 or float64."""
    spec = ReduceSpec("log_sum_exp", node.input(0).dtype, Reduction.of(node))
    name = f"reduce_log_sum_exp_{spec.dtype}"
    return Kernel(reduce_log_sum_exp, spec, name, (InputArgument(0), OutputArgument(0)))


def plan_qreduce_sum(node: Node) -> Kernel | Refusal:
    """QReduceSum."""
    x, to = node.input(0), Requantization.of(node)
    spec = IntegerSumSpec(Reduction.of(node), x.dtype, zero_point_of(node, x), node.int("multiplier"), to)
    return Kernel(sum_integers, spec, f"reduce_sum_{type_suffix(node)}", (InputArgument(0), OutputArgument(0)))


def reduce(spec: ReduceSpec) -> PrimFunc:
    """One number for the elements over the reduced axes."""
    function, dtype, count = _FUNCTIONS[spec.function], spec.dtype, spec.reduction.count
    wide = dtype if spec.function in ("max", "min") else wrapping_dtype(dtype)
    combine = _add_distance if spec.function == "l1" and wide != dtype else function.combine
    return _reduction(
        f"reduce_{spec.function}_{dtype}",
        (dtype, wide, dtype),
        spec.reduction,
        constant(function.start(dtype), wide),
        lambda total, x: combine(total, cast(x, wide)),
        lambda total: function.finish(cast(total, dtype), count, dtype),
    )


def reduce_log_sum_exp(spec: ReduceSpec) -> PrimFunc:
    """m + log(sum(exp(x - m))), m the largest element where it is finite, so that no exponential overflows."""
    reduction, dtype = spec.reduction, spec.dtype
    limit = float(np.finfo(DTYPES[dtype]).max)
    kernel = KernelBuilder("reduce_log_sum_exp")
    with kernel.function():
        x = kernel.buffer("x", dtype, reduction.x_elements)
        y = kernel.buffer("y", dtype, reduction.y_elements)
        largest, total = kernel.local(dtype, 1), kernel.local(dtype, 1)
        with walk_loops(kernel, reduction.kept) as (x_start, y_index):
            largest[0] = constant(-inf, dtype)
            with walk_loops(kernel, reduction.reduced, (x_start,)) as (x_index,):
                largest[0] = maximum(largest[0], x[x_index])
            is_finite = both(largest[0] >= constant(-limit, dtype), largest[0] <= constant(limit, dtype))
            shift = kernel.let(select(is_finite, largest[0], constant(0, dtype)))
            total[0] = constant(0, dtype)
            with walk_loops(kernel, reduction.reduced, (x_start,)) as (x_index,):
                total[0] = total[0] + real_call("exp", dtype, x[x_index] - shift)
            y[y_index] = shift + real_call("log", dtype, total[0])
    return kernel.finish()


def sum_integers(spec: IntegerSumSpec) -> PrimFunc:
    """y = requantize(sum of x - zx over the reduced axes)."""

    def combine(total: Expr, x: Expr) -> Expr:
        return total + cast(x, "int32")

    def finish(total: Expr) -> Expr:
        return cast(requantize(total, constant(spec.multiplier, "int32"), spec.to), spec.to.dtype)

    start = constant(-spec.zero_point * spec.reduction.count, "int32")
    return _reduction("reduce_sum", (spec.dtype, "int32", spec.to.dtype), spec.reduction, start, combine, finish)


def _reduction(
    name: str,
    dtypes: tuple[str, str, str],
    reduction: Reduction,
    start: Expr,
    combine: Callable[[Expr, Expr], Expr],
    finish: Callable[[Expr], Expr],
) -> PrimFunc:
    element, accumulator, result = dtypes
    kernel = KernelBuilder(name)
    with kernel.function():
        x = kernel.buffer("x", element, reduction.x_elements)
        y = kernel.buffer("y", result, reduction.y_elements)
        total = kernel.local(accumulator, 1)
        with walk_loops(kernel, reduction.kept) as (x_start, y_index):
            total[0] = start
            with walk_loops(kernel, reduction.reduced, (x_start,)) as (x_index,):
                total[0] = combine(total[0], x[x_index])
            y[y_index] = finish(total[0])
    return kernel.finish()
