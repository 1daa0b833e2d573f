"""Convolutions and pools over any number of spatial dimensions, channels first, in plain loops."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod

from tinyopt.ir import Node
from tinyopt.ops.nd import place_strides
from tinyopt.targets.kernel import Argument, InputArgument, Kernel, OutputArgument, Refusal
from tinyopt.targets.kernels.narrow import narrow_operand, wrapping_dtype
from tinyopt.targets.kernels.scalar.loops import row_major
from tinyopt.targets.kernels.scalar.pool import lowest
from tinyopt.targets.kernels.tir import (
    Expr,
    KernelBuilder,
    PrimFunc,
    both,
    cast,
    constant,
    math_call,
    maximum,
    truncated_quotient,
)


@dataclass(frozen=True)
class WindowSpec:
    """Windows over [outer, size...] that give [outer, outputs...]; all lists are one number for each dimension."""

    sizes: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    @classmethod
    def of(cls, node: Node, kernel: tuple[int, ...]) -> WindowSpec:
        x, y = node.input(0).shape[2:], node.outputs[0].shape[2:]
        return cls(x, y, kernel, node.ints("strides"), node.ints("pads")[: len(x)], node.ints("dilations"))

    @property
    def cells(self) -> int:
        return prod(self.sizes)

    @property
    def positions(self) -> int:
        return prod(self.outputs)


@dataclass(frozen=True)
class ConvolutionSpec:
    """is_transposed: every input cell spreads over a window of the output, which is what is looked up backwards."""

    window: WindowSpec
    dtype: str
    weights_dtype: str
    batch: int
    group: int
    inputs: int  # of each group
    outputs: int  # of each group
    has_bias: bool
    is_transposed: bool


@dataclass(frozen=True)
class PoolSpec:
    """function: max or lp. outer: images times channels. p: of lp. place_strides: where places are wanted."""

    window: WindowSpec
    function: str
    dtype: str
    outer: int
    p: int = 1
    place_strides: tuple[int, ...] = ()


def plan_conv_nd(node: Node) -> Kernel | Refusal:
    """ConvNd, IntegerConvNd and ConvTransposeNd; constant weights of integers are kept as narrow as they allow."""
    x, weights, group = node.input(0), node.input(1), node.int("group")
    is_transposed = node.op == "ConvTransposeNd"
    weights_dtype, weights_argument = narrow_operand(node, 1)
    spec = ConvolutionSpec(
        WindowSpec.of(node, weights.shape[2:]),
        x.dtype,
        weights_dtype,
        x.shape[0],
        group,
        x.shape[1] // group,
        node.output.shape[1] // group,
        node.optional_input(2) is not None,
        is_transposed,
    )
    bias: tuple[Argument, ...] = (InputArgument(2),) if spec.has_bias else ()
    name = f"convolution_{'transposed_' if is_transposed else ''}nd_{x.dtype}"
    return Kernel(convolve, spec, name, (InputArgument(0), weights_argument, *bias, OutputArgument(0)))


def plan_pool_nd(node: Node) -> Kernel | Refusal:
    """MaxPoolNd and LpPoolNd."""
    x, window = node.input(0), WindowSpec.of(node, node.ints("kernel"))
    outer = prod(x.shape[:2])
    outputs = tuple(OutputArgument(i) for i in range(len(node.outputs)))
    arguments: tuple[Argument, ...] = (InputArgument(0), *outputs)
    if node.op == "MaxPoolNd":
        places = place_strides(node) if len(node.outputs) > 1 else ()
        spec = PoolSpec(window, "max", x.dtype, outer, place_strides=places)
    else:
        spec = PoolSpec(window, "lp", x.dtype, outer, p=node.int("p"))
    return Kernel(pool, spec, f"{spec.function}_pool_nd_{x.dtype}", arguments)


@contextmanager
def _positions(kernel: KernelBuilder, sizes: Sequence[int]) -> Generator[list[Expr]]:
    """Loops over all positions of a box."""
    with ExitStack() as stack:
        yield [stack.enter_context(kernel.loop(size)) for size in sizes]


@contextmanager
def _cells(kernel: KernelBuilder, spec: WindowSpec, position: Sequence[Expr]) -> Generator[tuple[list[Expr], Expr]]:
    """Loops over the taps of the window at `position` that lie inside the image: (cell's position, tap's index)."""
    with ExitStack() as stack:
        cell: list[Expr] = []
        index: Expr = 0
        for i, tap_count in enumerate(spec.kernel):
            tap = stack.enter_context(kernel.loop(tap_count))
            place = kernel.let(position[i] * spec.strides[i] + tap * spec.dilations[i] - spec.pads[i])
            stack.enter_context(kernel.when(both(place >= 0, place < spec.sizes[i])))
            cell.append(place)
            index = index * tap_count + tap
        yield cell, index


@contextmanager
def _sources(kernel: KernelBuilder, spec: WindowSpec, position: Sequence[Expr]) -> Generator[tuple[list[Expr], Expr]]:
    """Loops over the taps by which an input cell reaches the output at `position`: (cell's position, tap's index)."""
    with ExitStack() as stack:
        cell: list[Expr] = []
        index: Expr = 0
        for i, tap_count in enumerate(spec.kernel):
            tap = stack.enter_context(kernel.loop(tap_count))
            distance = kernel.let(position[i] + spec.pads[i] - tap * spec.dilations[i])
            place = kernel.let(truncated_quotient(distance, constant(spec.strides[i], "int32")))
            is_hit = both(distance >= 0, place * spec.strides[i] == distance, place < spec.sizes[i])
            stack.enter_context(kernel.when(is_hit))
            cell.append(place)
            index = index * tap_count + tap
        yield cell, index


def _offset(position: Sequence[Expr], strides: Sequence[int]) -> Expr:
    return sum((place * stride for place, stride in zip(position, strides, strict=True)), start=0)


def convolve(spec: ConvolutionSpec) -> PrimFunc:
    """y[n, o, p] = b[o] + the sum of x[n, i, cell] * w over the channels of o's group and the cells of p's window."""
    window, taps = spec.window, prod(spec.window.kernel)
    x_image = spec.group * spec.inputs * window.cells
    y_image = spec.group * spec.outputs * window.positions
    kernel = KernelBuilder("convolution_nd")
    with kernel.function():
        x = kernel.buffer("x", spec.dtype, spec.batch * x_image)
        w = kernel.buffer("w", spec.weights_dtype, spec.group * spec.inputs * spec.outputs * taps)
        b = kernel.buffer("b", spec.dtype, spec.group * spec.outputs) if spec.has_bias else None
        y = kernel.buffer("y", spec.dtype, spec.batch * y_image)
        wide = wrapping_dtype(spec.dtype)
        total = kernel.local(wide, 1)
        with (
            kernel.loop(spec.batch) as image,
            kernel.loop(spec.group) as group,
            kernel.loop(spec.outputs) as output,
            _positions(kernel, window.outputs) as position,
        ):
            channel = kernel.let(group * spec.outputs + output)
            total[0] = constant(0, wide) if b is None else cast(b[channel], wide)
            with kernel.loop(spec.inputs) as i:
                source = kernel.let(group * spec.inputs + i)
                start = kernel.let(image * x_image + source * window.cells)
                first = source * spec.outputs + output if spec.is_transposed else channel * spec.inputs + i
                weights = kernel.let(first * taps)
                visited = _sources if spec.is_transposed else _cells
                with visited(kernel, window, position) as (cell, tap):
                    element = x[start + _offset(cell, row_major(window.sizes))]
                    total[0] = total[0] + cast(element, wide) * cast(w[weights + tap], wide)
            place = image * y_image + channel * window.positions + _offset(position, row_major(window.outputs))
            y[place] = cast(total[0], spec.dtype)
    return kernel.finish()


def pool(spec: PoolSpec) -> PrimFunc:
    """The largest or the p-norm of each window's cells inside the image."""
    window, dtype = spec.window, spec.dtype
    kernel = KernelBuilder(f"{spec.function}_pool_nd")
    with kernel.function():
        x = kernel.buffer("x", dtype, spec.outer * window.cells)
        y = kernel.buffer("y", dtype, spec.outer * window.positions)
        places = kernel.buffer("places", "int64", spec.outer * window.positions) if spec.place_strides else None
        total, place = kernel.local(dtype, 1), kernel.local("int32", 1) if spec.place_strides else None
        with kernel.loop(spec.outer) as channel, _positions(kernel, window.outputs) as position:
            total[0] = constant(lowest(dtype) if spec.function == "max" else 0, dtype)
            if place is not None:
                place[0] = constant(-1, "int32")
            with _cells(kernel, window, position) as (cell, _):
                element = kernel.let(x[channel * window.cells + _offset(cell, row_major(window.sizes))])
                if place is None:
                    total[0] = _COMBINED[spec.function](total[0], element, spec.p)
                else:
                    own = channel * window.cells + _offset(cell, spec.place_strides)
                    for is_better in (place[0] < 0, element > total[0]):
                        with kernel.when(is_better):
                            total[0] = element
                            place[0] = own
            index = kernel.let(_offset(position, row_major(window.outputs)))
            result = total[0]
            if spec.function == "lp" and spec.p > 1:
                result = math_call("powf", result, constant(1 / spec.p, dtype))
            y[channel * window.positions + index] = result
            if places is not None and place is not None:
                places[channel * window.positions + index] = cast(place[0], "int64")
    return kernel.finish()


def _larger(total: Expr, element: Expr, _p: int) -> Expr:
    return maximum(total, element)


def _power_sum(total: Expr, element: Expr, p: int) -> Expr:
    magnitude = maximum(element, 0 - element)
    if p <= 2:
        return total + (magnitude if p == 1 else element * element)
    return total + math_call("powf", magnitude, constant(p, "float32"))


_COMBINED: dict[str, Callable[[Expr, Expr, int], Expr]] = {"max": _larger, "lp": _power_sum}
