"""Resize by linear interpolation, float32: positions and weights along each axis come from tables."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.ops.resize import linear_taps, resized_axes
from tinyopt.targets.kernel import ConstantArgument, InputArgument, Kernel, OutputArgument, Refusal
from tinyopt.targets.kernels.scalar.loops import row_major
from tinyopt.targets.kernels.scalar.movement import plan_resize_nearest
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, constant


@dataclass(frozen=True)
class LinearSpec:
    """Loops over `sizes`; the axes in `resized` read the tables one after the other."""

    x_elements: int
    sizes: tuple[int, ...]
    x_strides: tuple[int, ...]
    resized: tuple[int, ...]

    @property
    def table_elements(self) -> int:
        return sum(self.sizes[axis] for axis in self.resized)


def plan_resize(node: Node) -> Kernel | Refusal:
    """Resize, nearest (any type) or linear (float32)."""
    return plan_resize_nearest(node) if node.str("mode") == "nearest" else _plan_linear(node)


def _plan_linear(node: Node) -> Kernel | Refusal:
    x = node.input(0)
    strides, resized = row_major(x.shape), resized_axes(node)
    offsets, weights = [np.zeros((1, 2), np.int32)], [np.zeros(1, np.float32)]  # C has no empty arrays
    for axis in resized:
        low, high, weight = linear_taps(node, axis)
        offsets.append((np.stack([low, high], axis=1) * strides[axis]).astype(np.int32))
        weights.append(weight)
    spec = LinearSpec(x.type.elements, node.output.shape, strides, resized)
    arguments = (
        InputArgument(0),
        ConstantArgument("table", _joined(offsets)),
        ConstantArgument("weight", _joined(weights)),
        OutputArgument(0),
    )
    return Kernel(interpolate, spec, "resize_linear_f32", arguments)


def _joined(arrays: list[Array]) -> Array:
    return np.concatenate(arrays[1:] or arrays)


@dataclass(frozen=True)
class _Tap:
    """The two places that one output index lies between, and how near it is to the upper."""

    low: Expr
    high: Expr
    weight: Expr


def interpolate(spec: LinearSpec) -> PrimFunc:
    """Each element is the weighted mean of its two neighbours along every resized axis."""
    kernel = KernelBuilder("resize_linear_f32")
    with kernel.function():
        x = kernel.buffer("x", "float32", spec.x_elements)
        offsets = kernel.buffer("offsets", "int32", spec.table_elements * 2)
        weights = kernel.buffer("weights", "float32", spec.table_elements)
        y = kernel.buffer("y", "float32", prod(spec.sizes))
        y_strides = row_major(spec.sizes)

        def nest(axis: int, place: int, taps: tuple[_Tap, ...], x_index: Expr, y_index: Expr) -> None:
            if axis == len(spec.sizes):
                y[y_index] = _blend(x, x_index, taps)
                return
            with kernel.loop(spec.sizes[axis]) as i:
                y_next = y_index + i * y_strides[axis]
                if axis not in spec.resized:
                    nest(axis + 1, place, taps, x_index + i * spec.x_strides[axis], y_next)
                    return
                entry = place + i
                tap = _Tap(*(kernel.let(v) for v in (offsets[entry * 2], offsets[entry * 2 + 1], weights[entry])))
                nest(axis + 1, place + spec.sizes[axis], (*taps, tap), x_index, y_next)

        nest(0, 0, (), 0, 0)
    return kernel.finish()


def _blend(x: Buffer, index: Expr, taps: tuple[_Tap, ...]) -> Expr:
    """Interpolate along the axes of `taps`, the last one innermost."""
    if not taps:
        return x[index]
    first, rest = taps[0], taps[1:]
    low, high = _blend(x, index + first.low, rest), _blend(x, index + first.high, rest)
    return low * (constant(1, "float32") - first.weight) + high * first.weight
