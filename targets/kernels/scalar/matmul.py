"""Products of two tensors in plain loops, float32 and integers, with the batch dimensions of numpy.matmul."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Refusal
from tinyopt.targets.kernels.narrow import narrow_operand, wrapping_dtype
from tinyopt.targets.kernels.requantize import Requantization, requantize, type_suffix, zero_point_of
from tinyopt.targets.kernels.scalar.epilogue import FLOAT, Arithmetic
from tinyopt.targets.kernels.scalar.loops import Walk, broadcast_strides, row_major, walk_loops
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc, cast, constant


@dataclass(frozen=True)
class MatMulSpec:
    """y[rows, columns] = a[rows, depth] b[depth, columns] for each step of `batches`.

    multiplier and to are for integers alone.
    """

    name: str
    batches: Walk
    rows: int
    depth: int
    columns: int
    elements: tuple[int, int, int]
    arithmetic: Arithmetic
    dtype: str  # of y
    multiplier: int = 0
    to: Requantization | None = None


def plan_matmul(node: Node) -> Kernel | Refusal:
    """MatMul in float32."""
    return _plan(node, "matmul_f32", FLOAT, 0, None)


def plan_integer_matmul(node: Node) -> Kernel | Refusal:
    """IntegerMatMul; a constant operand is kept as narrow as its numbers allow."""
    dtype = node.output.dtype
    (element_a, a), (element_b, b) = narrow_operand(node, 0), narrow_operand(node, 1)
    kernel = _plan(node, f"matmul_{dtype}", Arithmetic(element_a, element_b, wrapping_dtype(dtype)), 0, None)
    return replace(kernel, arguments=(a, b, OutputArgument(0)))


def plan_qmatmul(node: Node) -> Kernel | Refusal:
    """QMatMul."""
    offset_a, offset_b = (zero_point_of(node, node.input(i)) for i in range(2))
    arithmetic = Arithmetic(node.input(0).dtype, node.input(1).dtype, "int32", offset_a, offset_b)
    return _plan(node, f"matmul_{type_suffix(node)}", arithmetic, node.int("multiplier"), Requantization.of(node))


def _plan(node: Node, name: str, arithmetic: Arithmetic, multiplier: int, to: Requantization | None) -> Kernel:
    a, b = node.input(0), node.input(1)
    left = a.shape if len(a.shape) > 1 else (1, *a.shape)
    right = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    (rows, depth), columns = left[-2:], right[-1]
    rank = max(len(left), len(right)) - 2
    batch = tuple(max(pair) for pair in zip(_batch(left, rank), _batch(right, rank), strict=True))
    steps = (
        [step * rows * depth for step in broadcast_strides(left[:-2], batch)],
        [step * depth * columns for step in broadcast_strides(right[:-2], batch)],
        [step * rows * columns for step in row_major(batch)],
    )
    elements = (a.type.elements, b.type.elements, node.output.type.elements)
    walk = Walk.collapsed(batch, *steps)
    spec = MatMulSpec(name, walk, rows, depth, columns, elements, arithmetic, node.output.dtype, multiplier, to)
    return Kernel(matmul, spec, name, (InputArgument(0), InputArgument(1), OutputArgument(0)))


def _batch(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape) + 2) + shape[:-2]


def matmul(spec: MatMulSpec) -> PrimFunc:
    """y = a b, for each pair of matrices of the broadcast batches."""
    arithmetic, accumulator = spec.arithmetic, spec.arithmetic.accumulator
    kernel = KernelBuilder(spec.name)
    with kernel.function():
        a = kernel.buffer("a", arithmetic.element_a, spec.elements[0])
        b = kernel.buffer("b", arithmetic.element_b, spec.elements[1])
        y = kernel.buffer("y", spec.dtype, spec.elements[2])
        total = kernel.local(accumulator, 1)
        with (
            walk_loops(kernel, spec.batches) as (a_start, b_start, y_start),
            kernel.loop(spec.rows) as row,
            kernel.loop(spec.columns) as column,
        ):
            total[0] = constant(0, accumulator)
            with kernel.loop(spec.depth) as k:
                left, right = a[a_start + row * spec.depth + k], b[b_start + k * spec.columns + column]
                total[0] = total[0] + arithmetic.product(left, right)
            y[y_start + row * spec.columns + column] = _finished(spec, total[0])
    return kernel.finish()


def _finished(spec: MatMulSpec, total: Expr) -> Expr:
    if spec.to is not None:
        total = requantize(total, constant(spec.multiplier, "int32"), spec.to)
    return cast(total, spec.dtype)
