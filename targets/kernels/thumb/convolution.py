"""Convolution of any window, and dense layers over several rows: blocks of four pixels against every channel.

The window of each of four neighbouring output pixels is a column of int8. Two columns at a time are packed into words,
row of the window after row, and a micro-kernel multiplies the block with the weights of all channels and finishes them.
Rows inside the image are packed from where they lie; those that touch its border are put together apart first.

A block is read before its outputs are written, and blocks follow one another from the first pixel to the last or, where
the output is the larger, from the last to the first. So the output may share the input's memory, a little before or
behind it: `distances` says how far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import (
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Overlap,
    Refusal,
    ScratchArgument,
)
from tinyopt.targets.kernels.intrinsic import NAKED, Intrinsic
from tinyopt.targets.kernels.requantize import zero_point_of
from tinyopt.targets.kernels.thumb.core import CORES
from tinyopt.targets.kernels.thumb.limits import ANY_SIZE, has_too_large_pairs
from tinyopt.targets.kernels.thumb.rescaling import Rescaling
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, both, cast, minimum

PIXELS = 4  # in a block

_NUMBERS = (
    "pixels", "height", "width", "channels", "rows", "columns", "row_step", "column_step", "first_top", "first_left",
    "stride_down", "stride_right", "last_left", "next_left", "filler", "first_output", "output_step",
)  # fmt: skip


@dataclass(frozen=True)
class ConvolutionSpec:
    """core: a key of CORES."""

    core: str
    has_residual: bool


@dataclass(frozen=True)
class Window:
    """A convolution's geometry: (down, right) each; first_pad: (top, left)."""

    image: tuple[int, int]
    output: tuple[int, int]
    size: tuple[int, int]
    strides: tuple[int, int]
    first_pad: tuple[int, int]
    dilations: tuple[int, int]
    channels: int
    output_channels: int

    @property
    def run(self) -> int:
        """Bytes of one row of the window."""
        return self.size[1] * self.channels

    @property
    def places(self) -> int:
        """Of a packed column: each row of the window takes an even number."""
        return self.size[0] * (self.run + self.run % 2)


def plan_convolution(core: str, node: Node) -> Kernel | Refusal:
    """QConv of one group."""
    if node.int("group") != 1:
        return Refusal("it has more than one group")
    x, weight = node.input(0), node.input(1)
    if x.shape[0] != 1:
        return Refusal("its batch is not 1")
    pads, strides, dilations = node.ints("pads"), node.ints("strides"), node.ints("dilations")
    window = Window(
        image=(x.shape[1], x.shape[2]),
        output=(node.output.shape[1], node.output.shape[2]),
        size=(weight.shape[1], weight.shape[2]),
        strides=(strides[0], strides[1]),
        first_pad=(pads[0], pads[1]),
        dilations=(dilations[0], dilations[1]),
        channels=x.shape[3],
        output_channels=weight.shape[0],
    )
    return plan_window(core, node, window)


def plan_window(core: str, node: Node, window: Window) -> Kernel | Refusal:
    """The kernel of a QConv, or of a QDense over rows, that `window` describes."""
    weights = _even_rows(node.input(1).data.reshape(window.output_channels, window.size[0], window.run))
    if has_too_large_pairs(weights):
        return Refusal("two of its weights are too large for one multiplication")
    rescaling = Rescaling.of(node)
    residual = CORES[core].residual_numbers(rescaling)
    if isinstance(residual, Refusal):
        return residual
    spec = ConvolutionSpec(core, rescaling.residual is not None)
    is_backward = window.output_channels > window.channels * window.strides[0] * window.strides[1]
    numbers = _numbers(window, zero_point_of(node, node.input(0)), is_backward)
    step = -1 if is_backward else 1
    tile = (8 * window.places, CORES[core].entry(window.places), window.output_channels, step * window.output_channels)
    return Kernel(
        template=convolution,
        spec=spec,
        name=f"convolution_{core}",
        arguments=(
            InputArgument(0),
            ConstantArgument("weight", CORES[core].pack_weights(weights)),
            ConstantArgument("bias", rescaling.pairs),
            ConstantArgument(
                "parameters", np.array([*numbers, *tile, *rescaling.clamp, *residual], np.int64).astype(np.int32)
            ),
            ScratchArgument(8 * window.places, 4),
            ScratchArgument(2 * window.run, 4),
            OutputArgument(0),
            *((InputArgument(4),) if spec.has_residual else ()),
        ),
        intrinsics=(NAKED, *_micro_kernels(spec)),
        overlaps=_overlaps(node, window, is_backward),
    )


def _micro_kernels(spec: ConvolutionSpec) -> tuple[Intrinsic, Intrinsic]:
    core = CORES[spec.core]
    return core.pack_pair, core.columns_with_residual if spec.has_residual else core.columns


def _even_rows(weights: Array) -> Array:
    """int8 [channels, rows, run] -> [channels, places], with a zero behind each row of odd length."""
    return np.pad(weights, ((0, 0), (0, 0), (0, weights.shape[2] % 2))).reshape(len(weights), -1)


def _numbers(window: Window, filler: int, is_backward: bool) -> Sequence[int]:
    """`_NUMBERS`; backward, positions run from the last one up."""
    rows, columns = window.output
    top, left = -window.first_pad[0], -window.first_pad[1]
    down, right = window.strides
    last_left = left + (columns - 1) * right
    step = -1 if is_backward else 1
    begin = (top + (rows - 1) * down, last_left) if is_backward else (top, left)
    border = (left, last_left) if is_backward else (last_left, left)
    first_output = (rows * columns - 1) * window.output_channels if is_backward else 0
    return (
        rows * columns, *window.image, window.channels, *window.size, *window.dilations, *begin,
        step * down, step * right, *border, filler, first_output, step * PIXELS * window.output_channels,
    )  # fmt: skip


def _overlaps(node: Node, window: Window, is_backward: bool) -> tuple[Overlap, ...]:
    first, last = _reads(window)
    ends = np.arange(1, len(first) + 1) * window.output_channels
    residual = node.optional_input(4)
    kept = () if residual is None or residual is node.input(0) else (Overlap.in_place(4),)
    if residual is node.input(0):
        return ()
    if is_backward:
        blocks = np.arange(len(first) - PIXELS, 0, -PIXELS)  # the first pixel of each block but the last one run
        distance = max((int(last[:begin].max() - begin * window.output_channels) for begin in blocks), default=0)
        return (Overlap.backward(0, distance), *kept)
    blocks = np.arange(PIXELS, len(first), PIXELS)  # the first pixel of each block but the first
    lead = max((int(ends[begin - 1] - first[begin:].min()) for begin in blocks), default=0)
    return (Overlap.forward(0, lead), *kept)


def _reads(window: Window) -> tuple[Array, Array]:
    """For each output pixel the first byte of the input that it reads, and the one behind the last."""
    spans: list[tuple[Array, Array]] = []
    for axis in (0, 1):
        origin = np.arange(window.output[axis]) * window.strides[axis] - window.first_pad[axis]
        reach = (window.size[axis] - 1) * window.dilations[axis]
        spans.append((np.clip(origin, 0, window.image[axis] - 1), np.clip(origin + reach, 0, window.image[axis] - 1)))
    (top, bottom), (left, right) = spans
    first = (top[:, None] * window.image[1] + left[None, :]) * window.channels
    last = (bottom[:, None] * window.image[1] + right[None, :] + 1) * window.channels
    return first.reshape(-1), last.reshape(-1)


@dataclass(frozen=True)
class _Parameters:
    """Those of the function. columns: the packed block; apart: a row of the window for each of two pixels."""

    x: Buffer
    columns: Buffer
    apart: Buffer
    numbers: dict[str, Expr]
    run: Expr
    pack_pair: Intrinsic

    def __getitem__(self, name: str) -> Expr:
        return self.numbers[name]


def convolution(spec: ConvolutionSpec) -> PrimFunc:
    """Block by block: pack two pairs of pixels, multiply with all channels."""
    kernel = KernelBuilder("convolution")
    pack_pair, multiply = _micro_kernels(spec)
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        weights = kernel.buffer("weights", "int8", ANY_SIZE)
        rescaling = kernel.buffer("rescaling", "int32", ANY_SIZE)
        numbers = kernel.buffer("numbers", "int32", ANY_SIZE)
        columns = kernel.buffer("packed", "int32", ANY_SIZE)
        apart = kernel.buffer("apart", "int8", ANY_SIZE)
        y = kernel.buffer("y", "int8", ANY_SIZE)
        residual = [kernel.buffer("residual", "int8", ANY_SIZE)] if spec.has_residual else []
        named = {name: kernel.let(numbers[place]) for place, name in enumerate(_NUMBERS)}
        parameters = _Parameters(x, columns, apart, named, kernel.let(named["columns"] * named["channels"]), pack_pair)
        top, left = kernel.local("int32", 3), kernel.local("int32", 3)  # of two pixels and of the next one
        place = kernel.local("int32", 1)
        top[2], left[2], place[0] = named["first_top"], named["first_left"], named["first_output"]
        with kernel.loop((named["pixels"] + (PIXELS - 1)) >> 2) as block:
            count = kernel.let(minimum(PIXELS, named["pixels"] - block * PIXELS))
            with kernel.loop((count + 1) >> 1) as pair:
                for lane in range(2):
                    _next_pixel(kernel, parameters, top, left, lane)
                _pack_pair(kernel, parameters, top, left, pair)
            kernel.run(
                multiply,
                columns.address(0),
                weights.address(0),
                rescaling.address(0),
                y.address(place[0]),
                numbers.address(len(_NUMBERS)),
                count,
                *(values.address(place[0]) for values in residual),
            )
            place[0] = place[0] + named["output_step"]
    return kernel.finish()


def _next_pixel(kernel: KernelBuilder, of: _Parameters, top: Buffer, left: Buffer, lane: int) -> None:
    """The next pixel becomes pixel `lane` of the pair."""
    top[lane], left[lane] = top[2], left[2]
    with kernel.when_else(left[2] == of["last_left"]) as (then, other):
        with then:
            left[2] = of["next_left"]
            top[2] = top[2] + of["stride_down"]
        with other:
            left[2] = left[2] + of["stride_right"]


def _pack_pair(kernel: KernelBuilder, of: _Parameters, top: Buffer, left: Buffer, pair: Expr) -> None:
    """Two pixels' windows, row by row, into their half of the block."""
    words = kernel.let((of.run + 1) >> 1 << 2)  # of a row of all four pixels
    with kernel.loop(of["rows"]) as row:
        y = [kernel.let(top[lane] + row * of["row_step"]) for lane in range(2)]
        target = of.columns.address(row * words + pair * 2)
        inside = [
            both(y[lane] >= 0, y[lane] < of["height"], left[lane] >= 0, left[lane] + of["columns"] <= of["width"])
            for lane in range(2)
        ]
        with kernel.when_else(both(of["column_step"] == 1, *inside)) as (then, other):
            with then:
                runs = [of.x.address((y[lane] * of["width"] + left[lane]) * of["channels"]) for lane in range(2)]
                kernel.run(of.pack_pair, *runs, of.run, target)
            with other:
                for lane in range(2):
                    _put_together(kernel, of, y[lane], left[lane], lane)
                kernel.run(of.pack_pair, of.apart.address(0), of.apart.address(of.run), of.run, target)


def _put_together(kernel: KernelBuilder, of: _Parameters, y: Expr, left: Expr, lane: int) -> None:
    """One pixel's row of the window, its padding filled, where it can be packed from."""
    with kernel.loop(of["columns"]) as column:
        x = kernel.let(left + column * of["column_step"])
        target = kernel.let(lane * of.run + column * of["channels"])
        source = kernel.let((y * of["width"] + x) * of["channels"])
        is_inside = both(y >= 0, y < of["height"], x >= 0, x < of["width"])
        with kernel.when_else(is_inside) as (then, other):
            with then, kernel.loop(of["channels"]) as channel:
                of.apart[target + channel] = of.x[source + channel]
            with other, kernel.loop(of["channels"]) as channel:
                of.apart[target + channel] = cast(of["filler"], "int8")
