"""Interpolate, float32: weighted sums of a few elements along one axis."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from tinyopt.ir import Node
from tinyopt.targets.kernel import ConstantArgument, InputArgument, Kernel, OutputArgument, Refusal
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc, constant

_MOST_UNROLLED = 4  # taps whose weights and places stay in registers: those of cubic interpolation


@dataclass(frozen=True)
class InterpolateSpec:
    """Input [outer, size, inner], output [outer, result, inner], `taps` for each of `result`."""

    outer: int
    size: int
    result: int
    inner: int
    taps: int


def plan_interpolate(node: Node) -> Kernel | Refusal:
    """Interpolate."""
    x, indices, weights, axis = node.input(0), node.input(1).data, node.input(2).data, node.int("axis")
    inner = prod(x.shape[axis + 1 :])
    spec = InterpolateSpec(prod(x.shape[:axis]), x.shape[axis], indices.shape[0], inner, indices.shape[1])
    arguments = (
        InputArgument(0),
        ConstantArgument("table", (indices * inner).astype(np.int32)),
        ConstantArgument("weight", weights),
        OutputArgument(0),
    )
    template = weigh_unrolled if spec.taps <= _MOST_UNROLLED else weigh
    return Kernel(template, spec, "interpolate_f32", arguments)


def weigh_unrolled(spec: InterpolateSpec) -> PrimFunc:
    """One sum of a few products for each element."""
    kernel = KernelBuilder("interpolate_f32")
    with kernel.function():
        x = kernel.buffer("x", "float32", spec.outer * spec.size * spec.inner)
        table = kernel.buffer("table", "int32", spec.result * spec.taps)
        weights = kernel.buffer("weights", "float32", spec.result * spec.taps)
        y = kernel.buffer("y", "float32", spec.outer * spec.result * spec.inner)
        with kernel.loop(spec.outer) as o, kernel.loop(spec.result) as j:
            starts = [kernel.let(o * (spec.size * spec.inner) + table[j * spec.taps + k]) for k in range(spec.taps)]
            factors = [kernel.let(weights[j * spec.taps + k]) for k in range(spec.taps)]
            target = kernel.let((o * spec.result + j) * spec.inner)
            with kernel.loop(spec.inner) as i:
                total = x[starts[0] + i] * factors[0]
                for start, factor in zip(starts[1:], factors[1:], strict=True):
                    total = total + x[start + i] * factor
                y[target + i] = total
    return kernel.finish()


def weigh(spec: InterpolateSpec) -> PrimFunc:
    """Sums of many products, as antialiased shrinking takes them."""
    kernel = KernelBuilder("interpolate_f32")
    with kernel.function():
        x = kernel.buffer("x", "float32", spec.outer * spec.size * spec.inner)
        table = kernel.buffer("table", "int32", spec.result * spec.taps)
        weights = kernel.buffer("weights", "float32", spec.result * spec.taps)
        y = kernel.buffer("y", "float32", spec.outer * spec.result * spec.inner)
        total = kernel.local("float32", 1)
        with kernel.loop(spec.outer) as o, kernel.loop(spec.result) as j, kernel.loop(spec.inner) as i:
            total[0] = constant(0, "float32")
            with kernel.loop(spec.taps) as k:
                entry = kernel.let(j * spec.taps + k)
                total[0] = total[0] + x[o * (spec.size * spec.inner) + table[entry] + i] * weights[entry]
            y[(o * spec.result + j) * spec.inner + i] = total[0]
    return kernel.finish()
