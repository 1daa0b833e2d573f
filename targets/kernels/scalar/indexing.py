"""Gathers and scatters by indices that are known at run time only. An index outside of its dimension is clamped.

Data is [outer, places, inner]: an index chooses one of `places`, and `inner` elements lie behind it. Where indices
choose single elements along an axis (GatherElements, ScatterElements) loops run over the indices' own shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Refusal
from tinyopt.targets.kernels.scalar.loops import CONTAINERS, Walk, row_major, walk_loops
from tinyopt.targets.kernels.tir import (
    Buffer,
    Expr,
    KernelBuilder,
    PrimFunc,
    cast,
    constant,
    math_call,
    maximum,
    minimum,
    select,
)

_THREE = (InputArgument(0), InputArgument(1), InputArgument(2), OutputArgument(0))
_TWO = (InputArgument(0), InputArgument(1), OutputArgument(0))


@dataclass(frozen=True)
class SliceSpec:
    """Data [outer, prod(sizes), inner]; indices [outer or 1, count, len(sizes)]. reduction: of a scatter."""

    name: str
    dtype: str
    index_dtype: str
    outer: int
    sizes: tuple[int, ...]
    inner: int
    count: int
    is_shared: bool  # the same indices for each of `outer`
    reduction: str = "none"

    @property
    def elements(self) -> int:
        return self.outer * prod(self.sizes) * self.inner

    @property
    def index_elements(self) -> int:
        return (1 if self.is_shared else self.outer) * self.count * len(self.sizes)


@dataclass(frozen=True)
class ElementSpec:
    """Indices of single elements along a dimension of `size` and `stride`.

    walk: over the indices' shape; its operands are the data without that dimension, the indices and what is moved.
    """

    name: str
    dtype: str
    index_dtype: str
    elements: int
    index_elements: int
    size: int
    stride: int
    walk: Walk
    reduction: str = "none"


def plan_dynamic_gather(node: Node) -> Kernel | Refusal:
    """Gather with indices that are no constant."""
    x, indices, axis = node.input(0), node.input(1), node.int("axis")
    outer, inner = prod(x.shape[:axis]), prod(x.shape[axis + 1 :])
    spec = SliceSpec(
        f"gather_{x.dtype}", x.dtype, indices.dtype, outer, (x.shape[axis],), inner, indices.type.elements, True
    )
    return Kernel(gather_slices, spec, spec.name, _TWO)


def plan_gather_nd(node: Node) -> Kernel | Refusal:
    """GatherND."""
    x, indices, batch = node.input(0), node.input(1), node.int("batch_dims")
    depth = indices.shape[-1]
    spec = SliceSpec(
        f"gather_nd_{x.dtype}",
        x.dtype,
        indices.dtype,
        prod(x.shape[:batch]),
        x.shape[batch : batch + depth],
        prod(x.shape[batch + depth :]),
        prod(indices.shape[batch:-1]),
        is_shared=False,
    )
    return Kernel(gather_slices, spec, spec.name, _TWO)


def plan_scatter_nd(node: Node) -> Kernel | Refusal:
    """ScatterND."""
    x, indices = node.input(0), node.input(1)
    if reason := _unreduced(node):
        return Refusal(reason)
    depth = indices.shape[-1]
    spec = SliceSpec(
        f"scatter_nd_{x.dtype}",
        x.dtype,
        indices.dtype,
        1,
        x.shape[:depth],
        prod(x.shape[depth:]),
        prod(indices.shape[:-1]),
        is_shared=True,
        reduction=node.str("reduction"),
    )
    return Kernel(scatter_slices, spec, spec.name, _THREE)


def plan_gather_elements(node: Node) -> Kernel | Refusal:
    """GatherElements."""
    return Kernel(gather_elements, _element_spec(node, "gather_elements"), f"gather_elements_{node.output.dtype}", _TWO)


def plan_scatter_elements(node: Node) -> Kernel | Refusal:
    """ScatterElements."""
    if reason := _unreduced(node):
        return Refusal(reason)
    spec = _element_spec(node, "scatter_elements", node.str("reduction"))
    return Kernel(scatter_elements, spec, spec.name, _THREE)


def _unreduced(node: Node) -> str | None:
    """Why a scatter's reduction has no kernel, None where it has."""
    dtype, reduction = node.output.dtype, node.str("reduction")
    return f"reduction {reduction} of {dtype}" if dtype == "float64" and reduction in ("min", "max") else None


def _element_spec(node: Node, name: str, reduction: str = "none") -> ElementSpec:
    x, indices, axis = node.input(0), node.input(1), node.int("axis")
    strides = row_major(x.shape)
    others = [0 if i == axis else stride for i, stride in enumerate(strides)]
    walk = Walk.collapsed(indices.shape, others, row_major(indices.shape))
    return ElementSpec(
        f"{name}_{x.dtype}",
        x.dtype,
        indices.dtype,
        x.type.elements,
        indices.type.elements,
        x.shape[axis],
        strides[axis],
        walk,
        reduction,
    )


def _place(kernel: KernelBuilder, index: Expr, dtype: str, size: int) -> Expr:
    """int32: `index` counted from the front, at least 0 and at most `size` - 1."""
    index = kernel.let(index)
    front = kernel.let(select(index < constant(0, dtype), index + constant(size, dtype), index))
    return cast(minimum(maximum(front, constant(0, dtype)), constant(size - 1, dtype)), "int32")


def _slice_place(kernel: KernelBuilder, spec: SliceSpec, indices: Buffer, at: Expr) -> Expr:
    """Which of prod(sizes) slices the index vector that begins at `at` names."""
    place: Expr = 0
    for i, size in enumerate(spec.sizes):
        place = place * size + kernel.let(_place(kernel, indices[at + i], spec.index_dtype, size))
    return kernel.let(place)


def gather_slices(spec: SliceSpec) -> PrimFunc:
    """y[o, m] = x[o, indices[m]], slices of `inner` elements."""
    dtype = CONTAINERS[spec.dtype]
    kernel = KernelBuilder(spec.name)
    with kernel.function():
        x = kernel.buffer("x", dtype, spec.elements)
        indices = kernel.buffer("indices", spec.index_dtype, spec.index_elements)
        y = kernel.buffer("y", dtype, spec.outer * spec.count * spec.inner)
        depth, slices = len(spec.sizes), prod(spec.sizes)
        with kernel.loop(spec.outer) as o, kernel.loop(spec.count) as m:
            row = m if spec.is_shared else o * spec.count + m
            source = kernel.let((o * slices + _slice_place(kernel, spec, indices, row * depth)) * spec.inner)
            target = kernel.let((o * spec.count + m) * spec.inner)
            with kernel.loop(spec.inner) as i:
                y[target + i] = x[source + i]
    return kernel.finish()


def scatter_slices(spec: SliceSpec) -> PrimFunc:
    """y = x, then y[indices[m]] = updates[m] or reduced with it, slices of `inner` elements."""
    dtype = _scattered_type(spec.dtype, spec.reduction)
    kernel = KernelBuilder(spec.name)
    with kernel.function():
        x = kernel.buffer("x", dtype, spec.elements)
        indices = kernel.buffer("indices", spec.index_dtype, spec.index_elements)
        updates = kernel.buffer("updates", dtype, spec.count * spec.inner)
        y = kernel.buffer("y", dtype, spec.elements)
        _copy_all(kernel, x, y, spec.elements)
        with kernel.loop(spec.count) as m:
            target = kernel.let(_slice_place(kernel, spec, indices, m * len(spec.sizes)) * spec.inner)
            with kernel.loop(spec.inner) as i:
                y[target + i] = _reduced(kernel, spec.reduction, dtype, y[target + i], updates[m * spec.inner + i])
    return kernel.finish()


def gather_elements(spec: ElementSpec) -> PrimFunc:
    """y[p, j, q] = x[p, indices[p, j, q], q]."""
    dtype = CONTAINERS[spec.dtype]
    kernel = KernelBuilder(spec.name)
    with kernel.function():
        x = kernel.buffer("x", dtype, spec.elements)
        indices = kernel.buffer("indices", spec.index_dtype, spec.index_elements)
        y = kernel.buffer("y", dtype, spec.index_elements)
        with walk_loops(kernel, spec.walk) as (others, at):
            place = _place(kernel, indices[at], spec.index_dtype, spec.size)
            y[at] = x[others + kernel.let(place) * spec.stride]
    return kernel.finish()


def scatter_elements(spec: ElementSpec) -> PrimFunc:
    """y = x, then y[p, indices[p, j, q], q] = updates[p, j, q] or reduced with it."""
    dtype = _scattered_type(spec.dtype, spec.reduction)
    kernel = KernelBuilder(spec.name)
    with kernel.function():
        x = kernel.buffer("x", dtype, spec.elements)
        indices = kernel.buffer("indices", spec.index_dtype, spec.index_elements)
        updates = kernel.buffer("updates", dtype, spec.index_elements)
        y = kernel.buffer("y", dtype, spec.elements)
        _copy_all(kernel, x, y, spec.elements)
        with walk_loops(kernel, spec.walk) as (others, at):
            place = _place(kernel, indices[at], spec.index_dtype, spec.size)
            target = kernel.let(others + kernel.let(place) * spec.stride)
            y[target] = _reduced(kernel, spec.reduction, dtype, y[target], updates[at])
    return kernel.finish()


def _scattered_type(dtype: str, reduction: str) -> str:
    """Elements that are computed with need their own type, others any of that size."""
    return CONTAINERS[dtype] if reduction == "none" else dtype


def _copy_all(kernel: KernelBuilder, x: Buffer, y: Buffer, elements: int) -> None:
    with kernel.loop(elements) as i:
        y[i] = x[i]


def _reduced(kernel: KernelBuilder, reduction: str, dtype: str, old: Expr, update: Expr) -> Expr:
    if reduction == "none":
        return update
    old, update = kernel.let(old), kernel.let(update)
    if reduction == "add":
        return old + update
    if reduction == "mul":
        return old * update
    if dtype != "float32":
        return maximum(old, update) if reduction == "max" else minimum(old, update)
    is_number = math_call("fabsf", update) <= constant(inf, "float32")  # TVM takes x == x for true
    return select(is_number, select(update > old if reduction == "max" else update < old, update, old), update)
