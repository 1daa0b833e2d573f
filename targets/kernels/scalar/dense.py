"""Dense layers in plain loops, float32 and int8: one output channel after the other, with a residual."""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, Refusal
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


@dataclass(frozen=True)
class DenseSpec:
    """y[rows, outputs] = x[rows, depth] times the transposed weights[outputs, depth]."""

    name: str
    rows: int
    depth: int
    outputs: int
    arithmetic: Arithmetic
    epilogue: Epilogue


def plan_dense(node: Node) -> Kernel | Refusal:
    """Dense in float32."""
    outputs, depth = node.input(1).shape
    spec = DenseSpec("dense_f32", dense_rows(node), depth, outputs, FLOAT, FloatEpilogue.of(node))
    return Kernel(dense, spec, spec.name, (InputArgument(0), InputArgument(1), *float_arguments(node)))


def plan_qdense(node: Node) -> Kernel | Refusal:
    """QDense with its weights as they are; the bias accounts for the input's zero point."""
    outputs, depth = node.input(1).shape
    arithmetic = Arithmetic("int8", "int32")
    spec = DenseSpec("dense_s8", dense_rows(node), depth, outputs, arithmetic, IntegerEpilogue.of(node))
    arguments = (InputArgument(0), InputArgument(1), *integer_arguments(node, node.input(2).data))
    return Kernel(dense, spec, spec.name, arguments)


def dense_rows(node: Node) -> int:
    """How many vectors are multiplied with the weights."""
    return node.input(0).type.elements // node.input(1).shape[1]


def dense(spec: DenseSpec) -> PrimFunc:
    kernel = KernelBuilder(spec.name)
    with kernel.function():
        x = kernel.buffer("x", spec.arithmetic.element, spec.rows * spec.depth)
        weights = kernel.buffer("weights", spec.arithmetic.element, spec.outputs * spec.depth)
        finish = spec.epilogue.declare(kernel, spec.outputs, spec.rows * spec.outputs)
        total = kernel.local(spec.arithmetic.accumulator, 1)
        with kernel.loop(spec.rows) as row, kernel.loop(spec.outputs) as channel:
            total[0] = finish.start(channel)
            with kernel.loop(spec.depth) as k:
                product = spec.arithmetic.product(x[row * spec.depth + k], weights[channel * spec.depth + k])
                total[0] = total[0] + product
            finish.store(channel, row * spec.outputs + channel, total[0])
    return kernel.finish()
