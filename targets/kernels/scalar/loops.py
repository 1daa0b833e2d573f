"""What the scalar kernels have in common: nested loops over strided dimensions, and loops over the taps of a window."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import isfinite, prod

from tinyopt.ir import Node
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, both, constant, maximum, minimum

# Elements that a mover copies; an exact type for floats, because C forbids to read a float through an integer pointer.
CONTAINERS: dict[str, str] = {
    "bool": "int8", "uint8": "int8", "int8": "int8", "int16": "int16", "uint16": "int16", "float16": "int16",
    "int32": "int32", "uint32": "int32", "int64": "int64", "float32": "float32", "float64": "float64",
}  # fmt: skip


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The stride of each dimension, in elements."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def broadcast_strides(shape: Sequence[int], to: Sequence[int]) -> tuple[int, ...]:
    """The strides that walk an array of `shape` as if it had the shape `to`: 0 along the dimensions repeated."""
    padded = (1,) * (len(to) - len(shape)) + tuple(shape)
    return tuple(0 if size == 1 else step for size, step in zip(padded, row_major(padded), strict=True))


@dataclass(frozen=True)
class Walk:
    """Nested loops over `sizes`; `strides[i]` are the strides of operand i."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @classmethod
    def collapsed(cls, sizes: Sequence[int], *strides: Sequence[int]) -> Walk:
        """Without dimensions of size 1, and with neighbours that all operands run through in one go made one."""
        merged: list[tuple[int, tuple[int, ...]]] = []
        for size, *steps in zip(sizes, *strides, strict=True):
            if size == 1:
                continue
            if merged and all(outer == step * size for outer, step in zip(merged[-1][1], steps, strict=True)):
                merged[-1] = (merged[-1][0] * size, tuple(steps))
            else:
                merged.append((size, tuple(steps)))
        merged = merged or [(1, (0,) * len(strides))]
        return cls(
            tuple(size for size, _ in merged),
            tuple(tuple(steps[operand] for _, steps in merged) for operand in range(len(strides))),
        )


@contextmanager
def walk_loops(kernel: KernelBuilder, walk: Walk, starts: Sequence[Expr] | None = None) -> Generator[list[Expr]]:
    """The nested loops of `walk`; yields each operand's offset. Offsets are carried from loop to loop."""
    offsets: list[Expr] = list(starts) if starts is not None else [0] * len(walk.strides)
    with ExitStack() as stack:
        for level, size in enumerate(walk.sizes):
            index = stack.enter_context(kernel.loop(size))
            is_last = level == len(walk.sizes) - 1
            offsets = [
                _advanced(kernel, offset, index, strides[level], named=not is_last)
                for offset, strides in zip(offsets, walk.strides, strict=True)
            ]
        yield offsets


def _advanced(kernel: KernelBuilder, offset: Expr, index: Expr, stride: int, *, named: bool) -> Expr:
    if stride == 0:
        return offset
    advanced = offset + index * stride
    return kernel.let(advanced) if named else advanced


@dataclass(frozen=True)
class Axis:
    """One spatial dimension of a sliding window."""

    input: int
    output: int
    taps: int
    stride: int
    pad: int
    dilation: int

    @property
    def is_padded(self) -> bool:
        """Whether some window reaches outside the image."""
        last = (self.output - 1) * self.stride - self.pad + (self.taps - 1) * self.dilation
        return self.pad > 0 or last >= self.input


def window_axes(node: Node, kernel: Sequence[int]) -> tuple[Axis, Axis]:
    """(vertical, horizontal) of an NHWC node with strides, pads and dilations."""
    x, y = node.input(0).shape, node.output.shape
    strides, pads, dilations = node.ints("strides"), node.ints("pads"), node.ints("dilations")
    vertical, horizontal = (Axis(x[1 + i], y[1 + i], kernel[i], strides[i], pads[i], dilations[i]) for i in range(2))
    return vertical, horizontal


@dataclass(frozen=True)
class Taps:
    """The taps of one window along one axis: the input position of the first, and which lie inside the image.

    `first` and `end` are None where this has to be asked of each tap (dilated and padded).
    """

    axis: Axis
    origin: Expr
    first: Expr | None
    end: Expr | None


def taps_at(kernel: KernelBuilder, axis: Axis, output: Expr) -> Taps:
    """The window of output position `output`; its bounds are computed here, once."""
    origin = kernel.let(output * axis.stride - axis.pad)
    if not axis.is_padded:
        return Taps(axis, origin, 0, axis.taps)
    if axis.dilation > 1 and axis.taps > 1:
        return Taps(axis, origin, None, None)
    first = kernel.keep(maximum(0 - origin, 0))
    return Taps(axis, origin, first, kernel.keep(minimum(axis.input - origin, axis.taps)))


@contextmanager
def tap_loop(kernel: KernelBuilder, taps: Taps) -> Generator[tuple[Expr, Expr]]:
    """A loop over the taps inside the image; yields (tap, input position)."""
    if taps.first is not None and taps.end is not None:
        with kernel.loop(taps.end - taps.first, taps.first) as tap:
            yield tap, taps.origin + tap * taps.axis.dilation
        return
    with kernel.loop(taps.axis.taps) as tap:
        position = kernel.let(taps.origin + tap * taps.axis.dilation)
        with kernel.when(both(position >= 0, position < taps.axis.input)):
            yield tap, position


def clamp_float(value: Expr, low: float, high: float) -> Expr:
    """clip(value, low, high) for float32; an infinite bound costs nothing."""
    if isfinite(low):
        value = maximum(value, constant(low, "float32"))
    return minimum(value, constant(high, "float32")) if isfinite(high) else value
