"""GridSample, float32: for each position the taps along every axis, then a sum of their products for each channel."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from math import prod

from tinyopt.ir import Node
from tinyopt.ops.grid_sample import CUBIC_A, FAR, GRID_MODES, borders
from tinyopt.targets.kernel import InputArgument, Kernel, OutputArgument, Refusal
from tinyopt.targets.kernels.scalar.loops import row_major
from tinyopt.targets.kernels.tir import (
    Expr,
    KernelBuilder,
    PrimFunc,
    both,
    cast,
    clamp,
    constant,
    math_call,
    maximum,
    minimum,
    select,
)


@dataclass(frozen=True)
class GridSpec:
    """Images [batch, channels, *sizes], positions [batch, points, len(sizes)], the last axis' first."""

    batch: int
    channels: int
    sizes: tuple[int, ...]
    points: int
    mode: str
    padding: str
    is_aligned: bool


@dataclass(frozen=True)
class _Tap:
    """offset: of the element inside the image. counts: None where it always does."""

    offset: Expr
    counts: Expr | None
    weight: Expr | None


def plan_grid_sample(node: Node) -> Kernel | Refusal:
    """GridSample."""
    x, grid = node.input(0), node.input(1)
    spec = GridSpec(
        x.shape[0],
        x.shape[1],
        x.shape[2:],
        prod(grid.shape[1:-1]),
        node.str("mode"),
        node.str("padding"),
        bool(node.int("align_corners")),
    )
    arguments = (InputArgument(0), InputArgument(1), OutputArgument(0))
    return Kernel(sample, spec, f"grid_sample_{spec.mode}_f32", arguments)


def _number(value: float) -> Expr:
    return constant(value, "float32")


def sample(spec: GridSpec) -> PrimFunc:
    """y[n, c, p] = the image x[n, c] at grid[n, p]."""
    kernel = KernelBuilder(f"grid_sample_{spec.mode}_f32")
    with kernel.function():
        dims, plane = len(spec.sizes), prod(spec.sizes)
        x = kernel.buffer("x", "float32", spec.batch * spec.channels * plane)
        grid = kernel.buffer("grid", "float32", spec.batch * spec.points * dims)
        y = kernel.buffer("y", "float32", spec.batch * spec.channels * spec.points)
        strides = row_major(spec.sizes)
        with kernel.loop(spec.batch) as n, kernel.loop(spec.points) as p:
            at = kernel.let((n * spec.points + p) * dims)
            axes = [
                _taps(kernel, spec, grid[at + (dims - 1 - axis)], size, strides[axis])
                for axis, size in enumerate(spec.sizes)
            ]
            with kernel.loop(spec.channels) as c:
                image = kernel.let((n * spec.channels + c) * plane)
                total: Expr = _number(0)
                for taps in itertools.product(*axes):
                    total = total + _product(x[image + sum(tap.offset for tap in taps)], taps)
                y[(n * spec.channels + c) * spec.points + p] = total
    return kernel.finish()


def _product(element: Expr, taps: tuple[_Tap, ...]) -> Expr:
    conditions = [tap.counts for tap in taps if tap.counts is not None]
    value = select(both(*conditions), element, _number(0)) if conditions else element
    weights = [tap.weight for tap in taps if tap.weight is not None]
    if not weights:
        return value
    weight = weights[0]
    for other in weights[1:]:
        weight = weight * other
    return value * weight


def _kept(kernel: KernelBuilder, value: Expr) -> Expr:
    """The float32 `value` in a variable; TVM would write the whole expression of a `let` wherever it is used."""
    variable = kernel.local("float32", 1)
    variable[0] = value
    return variable[0]


def _taps(kernel: KernelBuilder, spec: GridSpec, given: Expr, size: int, stride: int) -> list[_Tap]:
    """What is read along one axis for the position `given`."""
    if spec.is_aligned:
        position = (_kept(kernel, given) + _number(1)) * _number(0.5) * _number(size - 1)
    else:
        position = ((_kept(kernel, given) + _number(1)) * _number(size) - _number(1)) * _number(0.5)
    if spec.mode == "nearest":
        position = math_call("rintf", _kept(kernel, position))
    position = _kept(kernel, _placed(kernel, spec, _kept(kernel, position), size))
    left = _kept(kernel, math_call("truncf" if spec.mode == "nearest" else "floorf", position))
    first, end = GRID_MODES[spec.mode]
    weights = _weights(kernel, spec.mode, _kept(kernel, position - left))
    return [
        _tap(kernel, spec, _kept(kernel, left + _number(step)), size, stride, weight)
        for step, weight in zip(range(first, end), weights, strict=True)
    ]


def _tap(kernel: KernelBuilder, spec: GridSpec, index: Expr, size: int, stride: int, weight: Expr | None) -> _Tap:
    counts = None
    if spec.padding == "zeros":
        counts = kernel.let(both(index >= _number(0), index <= _number(size - 1)))
    elif spec.padding == "reflection":
        low, high = borders(size, spec.is_aligned)
        back = math_call("truncf", _kept(kernel, _reflected(kernel, index, size, spec.is_aligned)))
        index = _kept(kernel, select(index < _number(low), back, select(index > _number(high), back, index)))
    inside = cast(clamp(index, _number(0), _number(size - 1)), "int32")
    return _Tap(kernel.keep(inside * stride), counts, weight)


def _placed(kernel: KernelBuilder, spec: GridSpec, position: Expr, size: int) -> Expr:
    """The position inside of the image, or for zeros not farther outside than `FAR`."""
    low, high = (_number(border) for border in borders(size, spec.is_aligned))
    if spec.padding != "zeros":
        is_reflected = spec.padding == "reflection"
        inside = (
            _reflected(kernel, position, size, spec.is_aligned)
            if is_reflected
            else clamp(position, _number(0), _number(size - 1))
        )
        inside = _kept(kernel, inside)
        position = _kept(kernel, select(position < low, inside, select(position > high, inside, position)))
    return minimum(maximum(position, _number(-FAR)), _number(size - 1 + FAR))


def _reflected(kernel: KernelBuilder, position: Expr, size: int, is_aligned: bool) -> Expr:
    low, high = borders(size, is_aligned)
    if low == high:
        return _number(0)
    distance = _kept(kernel, math_call("fabsf", _kept(kernel, position - _number(low))))
    turns = _kept(kernel, math_call("floorf", _kept(kernel, distance / _number(high - low))))
    rest = _kept(kernel, distance - turns * _number(high - low))
    pairs = _kept(kernel, math_call("floorf", _kept(kernel, turns * _number(0.5))))
    return select(turns - _number(2) * pairs == _number(0), _number(low) + rest, _number(high) - rest)


def _weights(kernel: KernelBuilder, mode: str, rest: Expr) -> list[Expr | None]:
    if mode == "nearest":
        return [None]
    if mode == "linear":
        return [_kept(kernel, _number(1) - rest), rest]
    a = CUBIC_A

    def far(x: Expr) -> Expr:
        return _kept(kernel, ((_number(a) * x - _number(5 * a)) * x + _number(8 * a)) * x - _number(4 * a))

    def near(x: Expr) -> Expr:
        return _kept(kernel, (_number(a + 2) * x - _number(a + 3)) * x * x + _number(1))

    return [
        far(_kept(kernel, rest + _number(1))),
        near(rest),
        near(_kept(kernel, _number(1) - rest)),
        far(_kept(kernel, _number(2) - rest)),
    ]
