"""OneHot, Trilu and ReverseSequence: rows whose elements follow from where they stand and from a number for the row."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Refusal
from tinyopt.targets.kernels.scalar.loops import CONTAINERS
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc, cast, constant, maximum, minimum, select


@dataclass(frozen=True)
class OneHotSpec:
    """Indices [outer, inner], output [outer, depth, inner]."""

    dtype: str
    index_dtype: str
    outer: int
    depth: int
    inner: int


@dataclass(frozen=True)
class TriangleSpec:
    """Matrices of `rows` by `columns`; what lies below (above) diagonal `k` is zero where `is_upper` (else)."""

    dtype: str
    matrices: int
    rows: int
    columns: int
    k: int
    is_upper: bool


@dataclass(frozen=True)
class ReverseSpec:
    """Data [time, batch, inner], or [batch, time, inner]."""

    dtype: str
    length_dtype: str
    time: int
    batch: int
    inner: int
    is_time_first: bool


def plan_one_hot(node: Node) -> Kernel | Refusal:
    """OneHot."""
    indices, values, axis = node.input(0), node.input(1), node.int("axis")
    outer, inner = prod(indices.shape[:axis]), prod(indices.shape[axis:])
    spec = OneHotSpec(values.dtype, indices.dtype, outer, node.int("depth"), inner)
    return Kernel(one_hot, spec, f"one_hot_{values.dtype}", (InputArgument(0), InputArgument(1), OutputArgument(0)))


def plan_trilu(node: Node) -> Kernel | Refusal:
    """Trilu."""
    x = node.input(0)
    rows, columns = x.shape[-2:]
    k = min(max(node.int("k"), -rows - 1), columns + 1)  # beyond that nothing changes any more
    spec = TriangleSpec(x.dtype, prod(x.shape[:-2]), rows, columns, k, bool(node.int("upper")))
    return Kernel(triangle, spec, f"trilu_{x.dtype}", (InputArgument(0), OutputArgument(0)))


def plan_reverse_sequence(node: Node) -> Kernel | Refusal:
    """ReverseSequence."""
    x, lengths, time = node.input(0), node.input(1), node.int("time_axis")
    spec = ReverseSpec(x.dtype, lengths.dtype, x.shape[time], x.shape[1 - time], prod(x.shape[2:]), time == 0)
    arguments = (InputArgument(0), InputArgument(1), OutputArgument(0))
    return Kernel(reverse_sequences, spec, f"reverse_sequence_{x.dtype}", arguments)


def one_hot(spec: OneHotSpec) -> PrimFunc:
    """y[o, d, i] = values[1] where indices[o, i] is d or d - depth, else values[0]."""
    dtype = CONTAINERS[spec.dtype]
    kernel = KernelBuilder(f"one_hot_{spec.dtype}")
    with kernel.function():
        indices = kernel.buffer("indices", spec.index_dtype, spec.outer * spec.inner)
        values = kernel.buffer("values", dtype, 2)
        y = kernel.buffer("y", dtype, spec.outer * spec.depth * spec.inner)
        off, on = kernel.let(values[0]), kernel.let(values[1])
        with kernel.loop(spec.outer) as o, kernel.loop(spec.depth) as d:
            target = kernel.let((o * spec.depth + d) * spec.inner)
            front = kernel.let(cast(d, spec.index_dtype))
            back = kernel.let(cast(d - spec.depth, spec.index_dtype))
            with kernel.loop(spec.inner) as i:
                index = kernel.let(indices[o * spec.inner + i])
                y[target + i] = select(index == front, on, select(index == back, on, off))
    return kernel.finish()


def triangle(spec: TriangleSpec) -> PrimFunc:
    """One triangle of each matrix, zero elsewhere."""
    dtype = CONTAINERS[spec.dtype]
    kernel = KernelBuilder(f"trilu_{spec.dtype}")
    with kernel.function():
        elements = spec.matrices * spec.rows * spec.columns
        x = kernel.buffer("x", dtype, elements)
        y = kernel.buffer("y", dtype, elements)
        zero = constant(0, dtype)
        with kernel.loop(spec.matrices) as m, kernel.loop(spec.rows) as r:
            start = kernel.let((m * spec.rows + r) * spec.columns)
            with kernel.loop(spec.columns) as c:
                is_kept = c >= r + spec.k if spec.is_upper else c <= r + spec.k
                y[start + c] = select(is_kept, x[start + c], zero)
    return kernel.finish()


def reverse_sequences(spec: ReverseSpec) -> PrimFunc:
    """The first lengths[b] steps of sequence b backwards, the others as they are."""
    dtype = CONTAINERS[spec.dtype]
    kernel = KernelBuilder(f"reverse_sequence_{spec.dtype}")
    with kernel.function():
        elements = spec.time * spec.batch * spec.inner
        x = kernel.buffer("x", dtype, elements)
        lengths = kernel.buffer("lengths", spec.length_dtype, spec.batch)
        y = kernel.buffer("y", dtype, elements)
        step = (spec.batch if spec.is_time_first else 1) * spec.inner
        row = (1 if spec.is_time_first else spec.time) * spec.inner
        with kernel.loop(spec.batch) as b:
            none, all_steps = constant(0, spec.length_dtype), constant(spec.time, spec.length_dtype)
            length = kernel.let(cast(minimum(maximum(lengths[b], none), all_steps), "int32"))
            with kernel.loop(spec.time) as t:
                source = kernel.let(b * row + select(t < length, length - 1 - t, t) * step)
                target = kernel.let(b * row + t * step)
                with kernel.loop(spec.inner) as i:
                    y[target + i] = x[source + i]
    return kernel.finish()
