"""Softmax along any axis: float32, its logarithm, and integers by tables of exponentials."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, prod

from tinyopt.ir import Node
from tinyopt.ops.integer_rules import level_limits
from tinyopt.ops.integer_softmax import EXPONENTIAL_BITS, PRODUCT_SHIFT, TABLE_ENTRIES, table_type
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Overlap, Refusal
from tinyopt.targets.kernels.requantize import type_suffix, zero_point_of
from tinyopt.targets.kernels.tir import (
    Buffer,
    Expr,
    KernelBuilder,
    PrimFunc,
    cast,
    clamp,
    constant,
    math_call,
    maximum,
    truncated_quotient,
)


@dataclass(frozen=True)
class Line:
    """The axis that is normalized, between what lies before and behind it."""

    outer: int
    size: int
    inner: int

    @classmethod
    def of(cls, node: Node) -> Line:
        shape, axis = node.input(0).shape, node.int("axis")
        return cls(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))

    @property
    def elements(self) -> int:
        return self.outer * self.size * self.inner


@dataclass(frozen=True)
class IntegerSpec:
    """QSoftmax. dtypes: the input's and the output's. ratio: 1 / the output's scale."""

    line: Line
    dtypes: tuple[str, str]
    ratio: int
    zero_point: int

    @property
    def accumulator(self) -> str:
        """int32 where both the sum of exponentials and what is divided by it fit in it."""
        largest_sum = self.line.size << EXPONENTIAL_BITS
        largest = largest_sum // 2 + (self.ratio << EXPONENTIAL_BITS)
        return "int32" if max(largest, largest_sum) < 1 << 31 else "int64"


_ARGUMENTS = (InputArgument(0), OutputArgument(0))


def plan_softmax(node: Node) -> Kernel | Refusal:
    """Softmax in float32."""
    return Kernel(softmax, Line.of(node), "softmax_f32", _ARGUMENTS, overlaps=(Overlap.in_place(0),))


def plan_log_softmax(node: Node) -> Kernel | Refusal:
    """LogSoftmax in float32."""
    return Kernel(log_softmax, Line.of(node), "log_softmax_f32", _ARGUMENTS, overlaps=(Overlap.in_place(0),))


def plan_qsoftmax(node: Node) -> Kernel | Refusal:
    """QSoftmax."""
    x, y = node.input(0), node.output
    spec = IntegerSpec(Line.of(node), (x.dtype, y.dtype), node.int("ratio"), zero_point_of(node, y))
    return Kernel(
        softmax_integers,
        spec,
        f"softmax_{type_suffix(node)}",
        (InputArgument(0), InputArgument(1), OutputArgument(0)),
        overlaps=(Overlap.in_place(0),) if x.dtype == y.dtype else (),
    )


@dataclass(frozen=True)
class _Cells:
    """The elements of one line."""

    kernel: KernelBuilder
    line: Line
    start: Expr

    @contextmanager
    def each(self) -> Generator[Expr]:
        """A loop over them; yields an element's index."""
        with self.kernel.loop(self.line.size) as k:
            yield self.start + k * self.line.inner

    def keep_largest(self, values: Buffer, largest: Buffer, lowest: Expr) -> None:
        """largest[0] = the largest of `values`, none of which is below `lowest`."""
        largest[0] = lowest
        with self.each() as index:
            largest[0] = maximum(largest[0], cast(values[index], largest.dtype))


@contextmanager
def _each_line(kernel: KernelBuilder, line: Line) -> Generator[_Cells]:
    with kernel.loop(line.outer) as i, kernel.loop(line.inner) as j:
        yield _Cells(kernel, line, i * (line.size * line.inner) + j)


def softmax(spec: Line) -> PrimFunc:
    """exp(x - m) / sum(exp(x - m)), m the largest x of the line, so that no exponential overflows."""
    kernel = KernelBuilder("softmax_f32")
    with kernel.function():
        x = kernel.buffer("x", "float32", spec.elements)
        y = kernel.buffer("y", "float32", spec.elements)
        largest = kernel.local("float32", 1)
        total = kernel.local("float32", 1)
        with _each_line(kernel, spec) as cells:
            cells.keep_largest(x, largest, constant(-inf, "float32"))
            total[0] = constant(0, "float32")
            with cells.each() as index:
                power = kernel.let(math_call("expf", x[index] - largest[0]))
                y[index] = power
                total[0] = total[0] + power
            total[0] = constant(1, "float32") / total[0]
            with cells.each() as index:
                y[index] = y[index] * total[0]
    return kernel.finish()


def log_softmax(spec: Line) -> PrimFunc:
    """x - m - log(sum(exp(x - m))), m the largest x of the line."""
    kernel = KernelBuilder("log_softmax_f32")
    with kernel.function():
        x = kernel.buffer("x", "float32", spec.elements)
        y = kernel.buffer("y", "float32", spec.elements)
        largest = kernel.local("float32", 1)
        total = kernel.local("float32", 1)
        with _each_line(kernel, spec) as cells:
            cells.keep_largest(x, largest, constant(-inf, "float32"))
            total[0] = constant(0, "float32")
            with cells.each() as index:
                total[0] = total[0] + math_call("expf", x[index] - largest[0])
            total[0] = math_call("logf", total[0])
            with cells.each() as index:
                y[index] = x[index] - largest[0] - total[0]
    return kernel.finish()


def softmax_integers(spec: IntegerSpec) -> PrimFunc:
    """clamp((e * ratio + S // 2) // S + zero_point), e = exponential(m - x), S the sum of the line's e."""
    line, accumulator = spec.line, spec.accumulator
    x_dtype, y_dtype = spec.dtypes
    entries = table_type(x_dtype)
    exponential = _looked_up if x_dtype == "int8" else _multiplied
    (lowest, _), (low, high) = level_limits(x_dtype), level_limits(y_dtype)
    kernel = KernelBuilder("softmax_integers")
    with kernel.function():
        x = kernel.buffer("x", x_dtype, line.elements)
        table = kernel.buffer("table", entries.dtype, entries.elements)
        y = kernel.buffer("y", y_dtype, line.elements)
        largest = kernel.local("int32", 1)
        total = kernel.local(accumulator, 1)

        def power(index: Expr) -> Expr:
            return cast(exponential(kernel, table, largest[0] - cast(x[index], "int32")), accumulator)

        with _each_line(kernel, line) as cells:
            cells.keep_largest(x, largest, constant(lowest, "int32"))
            total[0] = constant(0, accumulator)
            with cells.each() as index:
                total[0] = total[0] + power(index)
            half = kernel.let(total[0] >> constant(1, accumulator))
            with cells.each() as index:
                scaled = power(index) * constant(spec.ratio, accumulator) + half
                level = cast(truncated_quotient(scaled, total[0]), "int32") + spec.zero_point
                y[index] = cast(clamp(level, low, high), y_dtype)
    return kernel.finish()


def _looked_up(_kernel: KernelBuilder, table: Buffer, distance: Expr) -> Expr:
    """The exponential of an int8 distance."""
    return table[distance]


def _multiplied(kernel: KernelBuilder, table: Buffer, distance: Expr) -> Expr:
    """The exponential of an int16 distance, of two factors of 16 bits."""
    far = kernel.let(distance)
    coarse, fine = table[far >> 8], table[TABLE_ENTRIES + (far & (TABLE_ENTRIES - 1))]
    product = cast(coarse, "uint32") * cast(fine, "uint32") + constant(1 << (PRODUCT_SHIFT - 1), "uint32")
    return cast(product >> constant(PRODUCT_SHIFT, "uint32"), "int32")
