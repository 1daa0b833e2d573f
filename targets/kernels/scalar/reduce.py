"""Sums, means and maxima over any axes: ReduceMean, ReduceSum, ReduceMax, QReduceSum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Refusal
from tinyopt.targets.kernels.requantize import Requantization, requantize, type_suffix, zero_point_of
from tinyopt.targets.kernels.scalar.loops import Walk, row_major, walk_loops
from tinyopt.targets.kernels.scalar.pool import lowest
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc, cast, constant, maximum


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
    """function: mean, sum or max."""

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


_NAMES: Mapping[str, str] = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max"}


def plan_reduce(node: Node) -> Kernel | Refusal:
    """ReduceMean and ReduceSum in float32, ReduceMax of any signed type."""
    dtype = node.input(0).dtype
    allowed = ("int8", "int16", "int32", "float32") if node.op == "ReduceMax" else ("float32",)
    if dtype not in allowed:
        return Refusal(f"{node.op} of {dtype}")
    spec = ReduceSpec(_NAMES[node.op], dtype, Reduction.of(node))
    return Kernel(reduce, spec, f"reduce_{spec.function}_{dtype}", (InputArgument(0), OutputArgument(0)))


def plan_qreduce_sum(node: Node) -> Kernel | Refusal:
    """QReduceSum."""
    x, to = node.input(0), Requantization.of(node)
    spec = IntegerSumSpec(Reduction.of(node), x.dtype, zero_point_of(node, x), node.int("multiplier"), to)
    return Kernel(sum_integers, spec, f"reduce_sum_{type_suffix(node)}", (InputArgument(0), OutputArgument(0)))


def reduce(spec: ReduceSpec) -> PrimFunc:
    """The mean, sum or maximum over the reduced axes."""

    def finish(total: Expr) -> Expr:
        return total / constant(spec.reduction.count, "float32") if spec.function == "mean" else total

    def combine(total: Expr, x: Expr) -> Expr:
        return maximum(total, x) if spec.function == "max" else total + x

    start = constant(lowest(spec.dtype) if spec.function == "max" else 0, spec.dtype)
    name = f"reduce_{spec.function}_{spec.dtype}"
    return _reduction(name, (spec.dtype, spec.dtype, spec.dtype), spec.reduction, start, combine, finish)


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
