"""Depthwise convolution, channel by channel and two output rows at a time, without dilation.

For a pair of output rows the input rows that meet are packed into words: word (column, tap row) holds the cell that the
upper output row multiplies and, times 2^16, the one for the lower. The words of a window then lie side by side, column
after column, and a micro-kernel multiplies them with the taps, two products by one multiplication. Words that the next
pair of rows needs again are moved, not read again, so that the output can take the input's place.
"""

from __future__ import annotations

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
from tinyopt.targets.kernels.intrinsic import NAKED
from tinyopt.targets.kernels.requantize import zero_point_of
from tinyopt.targets.kernels.thumb.core import CORES
from tinyopt.targets.kernels.thumb.limits import ANY_SIZE, has_too_large_pairs
from tinyopt.targets.kernels.thumb.rescaling import Rescaling
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, both, cast, select

_NUMBERS = (
    "height", "width", "channels", "output_rows", "output_row_bytes", "rows", "taps", "stride_down", "top", "left",
    "words", "kept", "filler",
)  # fmt: skip


@dataclass(frozen=True)
class DepthwiseSpec:
    """core: a key of CORES."""

    core: str


@dataclass(frozen=True)
class _Shape:
    """(down, right) each; columns: of packed words, padding included."""

    image: tuple[int, int]
    output: tuple[int, int]
    size: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    channels: int

    @property
    def columns(self) -> int:
        return max(self.pads[1] + self.image[1], (self.output[1] - 1) * self.strides[1] + self.size[1])

    @property
    def words(self) -> int:
        """Of packed columns; one more may be read, as taps come in pairs."""
        return self.columns * self.size[0] + 1

    @property
    def taps(self) -> int:
        """Of a channel, made even."""
        return (self.size[0] * self.size[1] + 1) // 2 * 2

    @property
    def kept(self) -> int:
        """Rows of words that the next pair of output rows needs again."""
        return max(self.size[0] - 2 * self.strides[0], 0)


def plan_depthwise(core: str, node: Node) -> Kernel | Refusal:
    """QConv with one input and one output channel in each group."""
    x, weight = node.input(0), node.input(1)
    channels = weight.shape[0]
    if node.int("group") != channels or x.shape[3] != channels:
        return Refusal("it is not depthwise with one output channel for each input channel")
    if node.ints("dilations") != (1, 1) or x.shape[0] != 1 or node.optional_input(4) is not None:
        return Refusal("it is dilated, adds a residual, or its batch is not 1")
    strides, pads = node.ints("strides"), node.ints("pads")
    shape = _Shape(
        image=(x.shape[1], x.shape[2]),
        output=(node.output.shape[1], node.output.shape[2]),
        size=(weight.shape[1], weight.shape[2]),
        strides=(strides[0], strides[1]),
        pads=(pads[0], pads[1]),
        channels=channels,
    )
    taps = weight.data[:, :, :, 0].transpose(0, 2, 1).reshape(channels, -1)  # channel, column, row
    taps = np.ascontiguousarray(np.pad(taps, ((0, 0), (0, taps.shape[1] % 2))))
    if has_too_large_pairs(taps):
        return Refusal("two of its weights are too large for one multiplication")
    rescaling = Rescaling.of(node)
    refusal = CORES[core].residual_numbers(rescaling)
    if isinstance(refusal, Refusal):
        return refusal
    numbers = (*_numbers(core, shape, zero_point_of(node, x)), *rescaling.clamp)
    return Kernel(
        template=depthwise,
        spec=DepthwiseSpec(core),
        name=f"depthwise_{core}",
        arguments=(
            InputArgument(0),
            ConstantArgument("weight", taps),
            ConstantArgument("bias", _starts(core, rescaling, shape.taps)),
            ConstantArgument("parameters", np.array(numbers, np.int64).astype(np.int32)),
            ScratchArgument(4 * shape.words, 4),
            ScratchArgument(4 * shape.taps, 4),
            OutputArgument(0),
        ),
        intrinsics=(NAKED, CORES[core].interleave_rows, CORES[core].taps),
        overlaps=(Overlap.in_place(0),) if _can_run_in_place(shape) else (),
    )


def _starts(core: str, rescaling: Rescaling, taps: int) -> Array:
    """int32 [channels, 3]: bias, what the lower pixel's sum begins with, multiplier."""
    both_halves = rescaling.bias + (rescaling.bias << 16) - taps // 2 * CORES[core].rounding
    return np.stack([rescaling.bias, both_halves, rescaling.multiplier], axis=1).astype(np.int32)


def _numbers(core: str, shape: _Shape, zero_point: int) -> tuple[int, ...]:
    """`_NUMBERS`, then those of the micro-kernel but for the clamp."""
    return (
        *shape.image, shape.channels, shape.output[0], shape.output[1] * shape.channels, shape.size[0], shape.taps,
        shape.strides[0], *shape.pads, shape.words, shape.kept, zero_point,
        4 * shape.taps, CORES[core].tap_entry(shape.taps),
        4 * shape.size[0] * shape.strides[1], shape.output[1], shape.channels,
    )  # fmt: skip


def _can_run_in_place(shape: _Shape) -> bool:
    """Whether each pair of output rows ends before the first input row that is not packed by then."""
    for pair in range(1, (shape.output[0] + 1) // 2):
        unread = pair * 2 * shape.strides[0] - shape.pads[0] + shape.kept
        if 2 * pair * shape.output[1] > min(max(unread, 0), shape.image[0]) * shape.image[1]:
            return False
    return True


def depthwise(spec: DepthwiseSpec) -> PrimFunc:
    """For each channel: widen its taps; for each pair of output rows pack what is new and multiply."""
    core = CORES[spec.core]
    kernel = KernelBuilder("depthwise")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        weights = kernel.buffer("weights", "int8", ANY_SIZE)
        rescaling = kernel.buffer("rescaling", "int32", ANY_SIZE)
        numbers = kernel.buffer("numbers", "int32", ANY_SIZE)
        words = kernel.buffer("words", "int32", ANY_SIZE)
        taps = kernel.buffer("taps", "int32", ANY_SIZE)
        y = kernel.buffer("y", "int8", ANY_SIZE)
        of = {name: kernel.let(numbers[place]) for place, name in enumerate(_NUMBERS)}
        with kernel.loop(of["words"]) as word:
            words[word] = of["filler"] * 0x10001
        with kernel.loop(of["channels"]) as channel:
            with kernel.loop(of["taps"]) as tap:
                taps[tap] = cast(weights[channel * of["taps"] + tap], "int32")
            with kernel.loop((of["output_rows"] + 1) >> 1) as pair:
                first = kernel.let(pair * 2 * of["stride_down"] - of["top"])
                known = kernel.let(select(pair == 0, 0, of["kept"]))
                _move(kernel, of, words, known)
                with kernel.loop(of["rows"] - known) as row:
                    _pack_row(kernel, spec, of, x, words, first, known + row, channel)
                lower = kernel.let(select(pair * 2 + 1 < of["output_rows"], of["output_row_bytes"], 0))
                kernel.run(
                    core.taps,
                    words.address(0),
                    taps.address(0),
                    rescaling.address(channel * 3),
                    y.address(pair * 2 * of["output_row_bytes"] + channel),
                    numbers.address(len(_NUMBERS)),
                    lower,
                )
    return kernel.finish()


def _move(kernel: KernelBuilder, of: dict[str, Expr], words: Buffer, known: Expr) -> None:
    """The last `known` words of each column inside the image become its first."""
    with kernel.when(known > 0):
        distance = kernel.let(of["rows"] - known)
        begin = kernel.let(of["left"] * of["rows"])
        with kernel.loop(of["width"]) as column, kernel.loop(known) as row:
            target = kernel.let(begin + column * of["rows"] + row)
            words[target] = words[target + distance]


def _pack_row(
    kernel: KernelBuilder,
    spec: DepthwiseSpec,
    of: dict[str, Expr],
    x: Buffer,
    words: Buffer,
    first: Expr,
    row: Expr,
    channel: Expr,
) -> None:
    """Word `row` of all columns inside the image. first: the input row of the windows' first."""
    upper = kernel.let(first + row)
    lower = kernel.let(upper + of["stride_down"])
    target = kernel.let(of["left"] * of["rows"] + row)
    starts = [kernel.let(y * (of["width"] * of["channels"]) + channel) for y in (upper, lower)]
    with kernel.when_else(both(upper >= 0, lower < of["height"])) as (then, other):
        with then:
            kernel.run(
                CORES[spec.core].interleave_rows,
                *(x.address(start) for start in starts),
                words.address(target),
                of["width"],
                of["channels"],
                of["rows"] * 4,
            )
        with other, kernel.loop(of["width"]) as column:
            words[target + column * of["rows"]] = of["filler"] * 0x10001
            for half, y, start in zip((0, 1), (upper, lower), starts, strict=True):
                with kernel.when(both(y >= 0, y < of["height"])):
                    change = cast(x[start + column * of["channels"]], "int32") - of["filler"]
                    place = target + column * of["rows"]
                    words[place] = words[place] + (change << 16 if half else change)
