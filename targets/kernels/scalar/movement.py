"""Operators that move elements and do not change them: Transpose, Concat, Split, Slice, Pad, Gather, for every type.

Most are walks over strided memory. Where positions follow no stride (Gather, reflecting and repeating Pad, Resize to
the nearest neighbour), tables of offsets made beforehand say for each index along an axis what is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod

import numpy as np

from tinyopt.ir import DTYPES, Array, Node
from tinyopt.ops.movement import padded_positions
from tinyopt.ops.resize import nearest_indices, resized_axes
from tinyopt.targets.kernel import Argument, ConstantArgument, InputArgument, Kernel, OutputArgument, Refusal
from tinyopt.targets.kernels.scalar.loops import CONTAINERS, Walk, broadcast_strides, row_major, walk_loops
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, constant


@dataclass(frozen=True)
class CopySpec:
    """y[y_start + ...] = x[x_start + ...] over a walk of x and y; where `fill` is given, y is filled with it before."""

    name: str
    dtype: str
    x_elements: int
    y_elements: int
    walk: Walk
    x_start: int
    y_start: int
    fill: float | None = None


@dataclass(frozen=True)
class JoinSpec:
    """Blocks of `sizes` elements that lie side by side in one tensor, `outer` times."""

    dtype: str
    outer: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class TableSpec:
    """Nested loops over `sizes`. Along an axis of `tables` a table gives x's offset, along others x's stride does.

    tables: for each axis the place of its table in the constant, or None. The output is written in row-major order.
    """

    name: str
    dtype: str
    x_elements: int
    sizes: tuple[int, ...]
    x_strides: tuple[int, ...]
    tables: tuple[int | None, ...]
    table_elements: int


def plan_transpose(node: Node) -> Kernel | Refusal:
    """Transpose."""
    x, perm = node.input(0), node.ints("perm")
    strides = row_major(x.shape)
    walk = Walk.collapsed(node.output.shape, [strides[axis] for axis in perm], row_major(node.output.shape))
    return _copy_kernel(node, "transpose", walk)


def plan_slice(node: Node) -> Kernel | Refusal:
    """Slice."""
    strides, starts, steps = row_major(node.input(0).shape), node.ints("starts"), node.ints("steps")
    x_strides = [stride * step for stride, step in zip(strides, steps, strict=True)]
    walk = Walk.collapsed(node.output.shape, x_strides, row_major(node.output.shape))
    return _copy_kernel(node, "slice", walk, x_start=_dot(starts, strides))


def plan_expand(node: Node) -> Kernel | Refusal:
    """Expand."""
    shape = node.output.shape
    walk = Walk.collapsed(shape, broadcast_strides(node.input(0).shape, shape), row_major(shape))
    return _copy_kernel(node, "expand", walk)


def plan_pad(node: Node) -> Kernel | Refusal:
    """Pad; constant values are filled in, the other modes read by tables."""
    x = node.input(0)
    begins = node.ints("pads")[: x.type.rank]
    if node.str("mode") == "constant":
        y_strides = row_major(node.output.shape)
        walk = Walk.collapsed(x.shape, row_major(x.shape), y_strides)
        fill = as_container(node.float("value"), x.dtype)
        if x.dtype == "float64" and float(f"{fill:e}") != fill:
            return Refusal(f"{fill!r} is no float64 that TVM can write in C")
        return _copy_kernel(node, "pad", walk, y_start=_dot(begins, y_strides), fill=fill)
    ends = node.ints("pads")[x.type.rank :]
    indices: list[Array | None] = []
    for size, begin, end in zip(x.shape, begins, ends, strict=True):
        indices.append(padded_positions(size, begin, end, node.str("mode")) if begin or end else None)
    return _table_kernel(node, "pad", indices)


def as_container(value: float, dtype: str) -> float:
    """`value` of type `dtype` as the number that the type which its elements are copied as holds for the same bits."""
    if dtype == "float32":
        return value
    with np.errstate(over="ignore"):
        stored = np.array([value]).astype(DTYPES[dtype])
    bits = stored.view(CONTAINERS[dtype])[0]
    return float(bits) if dtype == "float64" else int(bits)


def plan_gather(node: Node) -> Kernel | Refusal:
    """Gather with constant indices."""
    indices = node.input(1)
    if indices.constant is None:
        return Refusal("the indices are not a constant")
    x, axis = node.input(0), node.int("axis")
    by_axis: list[Array | None] = [None] * x.type.rank
    by_axis[axis] = np.where(indices.constant < 0, indices.constant + x.shape[axis], indices.constant).ravel()
    return _table_kernel(node, "gather", by_axis)


def plan_resize_nearest(node: Node) -> Kernel | Refusal:
    """Resize to the nearest neighbour."""
    if node.str("mode") != "nearest":
        return Refusal(f"mode {node.str('mode')} is not nearest")
    resized = resized_axes(node)
    return _table_kernel(
        node,
        "resize_nearest",
        [nearest_indices(node, axis) if axis in resized else None for axis in range(node.input(0).type.rank)],
    )


def plan_concat(node: Node) -> Kernel | Refusal:
    """Concat."""
    axis = node.int("axis")
    sizes = tuple(prod(value.shape[axis:]) for value in node.present_inputs)
    spec = JoinSpec(node.output.dtype, prod(node.output.shape[:axis]), sizes)
    arguments: tuple[Argument, ...] = (*(InputArgument(i) for i in range(len(sizes))), OutputArgument(0))
    return Kernel(concatenate, spec, f"concat_{spec.dtype}", arguments)


def plan_split(node: Node) -> Kernel | Refusal:
    """Split."""
    axis = node.int("axis")
    sizes = tuple(prod(value.shape[axis:]) for value in node.outputs)
    spec = JoinSpec(node.input(0).dtype, prod(node.input(0).shape[:axis]), sizes)
    arguments: tuple[Argument, ...] = (InputArgument(0), *(OutputArgument(i) for i in range(len(sizes))))
    return Kernel(split, spec, f"split_{spec.dtype}", arguments)


def _dot(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _copy_kernel(
    node: Node, name: str, walk: Walk, x_start: int = 0, y_start: int = 0, fill: float | None = None
) -> Kernel:
    x, y = node.input(0), node.output
    spec = CopySpec(f"{name}_{x.dtype}", x.dtype, x.type.elements, y.type.elements, walk, x_start, y_start, fill)
    return Kernel(copy, spec, spec.name, (InputArgument(0), OutputArgument(0)))


def _table_kernel(node: Node, name: str, indices: Sequence[Array | None]) -> Kernel:
    """A kernel that reads index indices[axis][i] of x for index i along the axis; None reads index i."""
    x = node.input(0)
    strides = row_major(x.shape)
    walked = [len(chosen) if chosen is not None else size for chosen, size in zip(indices, x.shape, strict=True)]
    tables = [chosen * stride for chosen, stride in zip(indices, strides, strict=True) if chosen is not None]
    starts = accumulate((0 if chosen is None else len(chosen) for chosen in indices), initial=0)
    places = tuple(start if chosen is not None else None for start, chosen in zip(starts, indices, strict=False))
    sizes, x_strides, places = _without_inner_loops(walked, strides, places)
    table = np.concatenate(tables).astype(np.int32) if tables else np.zeros(1, np.int32)
    spec = TableSpec(f"{name}_{x.dtype}", x.dtype, x.type.elements, sizes, x_strides, places, len(table))
    arguments = (InputArgument(0), ConstantArgument("table", table), OutputArgument(0))
    return Kernel(copy_by_tables, spec, spec.name, arguments)


def _without_inner_loops(
    sizes: Sequence[int], strides: Sequence[int], places: Sequence[int | None]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int | None, ...]]:
    """Make one loop of neighbouring axes without a table: they are one run of memory."""
    merged: list[tuple[int, int, int | None]] = []
    for size, stride, place in zip(sizes, strides, places, strict=True):
        if merged and place is None and merged[-1][2] is None:
            merged[-1] = (merged[-1][0] * size, stride, None)
        else:
            merged.append((size, stride, place))
    return (
        tuple(size for size, _, _ in merged),
        tuple(stride for _, stride, _ in merged),
        tuple(place for _, _, place in merged),
    )


def copy(spec: CopySpec) -> PrimFunc:
    """One walk from x to y; what it does not reach holds `fill`."""
    dtype = CONTAINERS[spec.dtype]
    kernel = KernelBuilder(spec.name)
    with kernel.function():
        x = kernel.buffer("x", dtype, spec.x_elements)
        y = kernel.buffer("y", dtype, spec.y_elements)
        if spec.fill is not None:
            value = spec.fill if dtype.startswith("float") else int(spec.fill)
            with kernel.loop(spec.y_elements) as i:
                y[i] = constant(value, dtype)
        with walk_loops(kernel, spec.walk, (spec.x_start, spec.y_start)) as (x_index, y_index):
            y[y_index] = x[x_index]
    return kernel.finish()


def concatenate(spec: JoinSpec) -> PrimFunc:
    """The inputs' runs side by side."""
    dtype, total = CONTAINERS[spec.dtype], sum(spec.sizes)
    kernel = KernelBuilder(f"concat_{spec.dtype}")
    with kernel.function():
        parts = [kernel.buffer(f"x{i}", dtype, spec.outer * size) for i, size in enumerate(spec.sizes)]
        y = kernel.buffer("y", dtype, spec.outer * total)
        with kernel.loop(spec.outer) as i:
            for part, size, start in zip(parts, spec.sizes, accumulate(spec.sizes, initial=0), strict=False):
                _copy_run(kernel, part, i * size, y, i * total + start, size)
    return kernel.finish()


def split(spec: JoinSpec) -> PrimFunc:
    """The reverse of `concatenate`."""
    dtype, total = CONTAINERS[spec.dtype], sum(spec.sizes)
    kernel = KernelBuilder(f"split_{spec.dtype}")
    with kernel.function():
        x = kernel.buffer("x", dtype, spec.outer * total)
        parts = [kernel.buffer(f"y{i}", dtype, spec.outer * size) for i, size in enumerate(spec.sizes)]
        with kernel.loop(spec.outer) as i:
            for part, size, start in zip(parts, spec.sizes, accumulate(spec.sizes, initial=0), strict=False):
                _copy_run(kernel, x, i * total + start, part, i * size, size)
    return kernel.finish()


def _copy_run(kernel: KernelBuilder, x: Buffer, x_start: Expr, y: Buffer, y_start: Expr, size: int) -> None:
    with kernel.loop(size) as j:
        y[y_start + j] = x[x_start + j]


def copy_by_tables(spec: TableSpec) -> PrimFunc:
    """y[i, j, ...] = x[table_0[i] + table_1[j] + ...], along strided axes without a table."""
    dtype = CONTAINERS[spec.dtype]
    kernel = KernelBuilder(spec.name)
    with kernel.function():
        x = kernel.buffer("x", dtype, spec.x_elements)
        table = kernel.buffer("table", "int32", spec.table_elements)
        y = kernel.buffer("y", dtype, prod(spec.sizes))
        y_strides = row_major(spec.sizes)

        def nest(axis: int, x_index: Expr, y_index: Expr) -> None:
            if axis == len(spec.sizes):
                y[y_index] = x[x_index]
                return
            place = spec.tables[axis]
            with kernel.loop(spec.sizes[axis]) as i:
                step = i * spec.x_strides[axis] if place is None else kernel.let(table[place + i])
                nest(axis + 1, x_index + step, y_index + i * y_strides[axis])

        nest(0, 0, 0)
    return kernel.finish()
