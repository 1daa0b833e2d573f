"""Depthwise convolution over planes of int16 pairs.

Four channels at a time are widened from NHWC into four planes of rows, two neighbouring pixels in a word, the border
filled with the input's zero point. A row of the window then takes one SMLAD for each two taps. With weights w0, w1, w2
and stride 1, output pixels 0 and 1 share the words (p0, p1), (p2, p3):

    y0 = SMLAD((p0, p1), (w0, w1)) + SMLABT((p2, p3), (w1, w2))        p0 w0 + p1 w1 + p2 w2
    y1 = SMLATB((p0, p1), (w0, w1)) + SMLAD((p2, p3), (w1, w2))        p1 w0 + p2 w1 + p3 w2

A window of `columns` taps has the *even* words (w0, w1), (w2, w3), ... and the *odd* words (w1, w2), (w3, w4), ...
The planes hold a strip of a few output rows; the rows that two strips share are moved, not read again, so that the
output can take the input's place. Weights are int8 in flash and widened once for each four channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import (
    Argument,
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Refusal,
    ScalarArgument,
    ScratchArgument,
)
from tinyopt.targets.kernels.dsp.intrinsics import (
    LOAD_WORD,
    OPAQUE,
    PACK_HIGH,
    PACK_LOW,
    SMLABB,
    SMLABT,
    SMLAD,
    SMLATB,
    SXTB16,
    SXTB16_ROR8,
)
from tinyopt.targets.kernels.dsp.product import ANY_SIZE, RESIDUAL_INTRINSICS, Residual, finish
from tinyopt.targets.kernels.intrinsic import Intrinsic
from tinyopt.targets.kernels.requantize import SMMLAR_INTRINSICS, Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, both, call, cast, minimum, read

GROUP = 4  # channels of one word
PLANE_BYTES = 4096  # what the four planes of a strip may take
ACCUMULATORS = 8  # pixels computed at a time

DEPTHWISE_INTRINSICS: tuple[Intrinsic, ...] = (
    LOAD_WORD,
    OPAQUE,
    SXTB16,
    SXTB16_ROR8,
    PACK_LOW,
    PACK_HIGH,
    SMLAD,
    SMLABB,
    SMLABT,
    SMLATB,
    *SMMLAR_INTRINSICS,
)


@dataclass(frozen=True)
class DepthwiseSpec:
    """rows, columns: of the window. strip: output rows computed from one filling of the planes."""

    channels: int
    rows: int
    columns: int
    row_stride: int
    column_stride: int
    width: int
    output_width: int
    left: int
    strip: int
    to: Requantization
    has_residual: bool

    @property
    def row_words(self) -> int:
        """Words of one row of a plane: as many as the last output pixel reaches."""
        return ((self.output_width - 1) * self.column_stride + self.columns + 1) // 2

    @property
    def plane_words(self) -> int:
        return ((self.strip - 1) * self.row_stride + self.rows) * self.row_words

    @property
    def kept_rows(self) -> int:
        """Rows that a strip shares with the next one."""
        return max(self.rows - self.row_stride, 0)

    @property
    def even_words(self) -> int:
        return max(self.columns // 2, 1)

    @property
    def tap_words(self) -> int:
        """Even and odd words of one row of the window."""
        return self.even_words + (self.columns - 1) // 2

    @property
    def groups(self) -> int:
        return -(-self.channels // GROUP)

    @property
    def last_first_channel(self) -> int:
        """Where the last group begins: it overlaps the one before it where channels are not a multiple of four."""
        return max(self.channels - GROUP, 0)


def plan_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one input and one output channel in each group, without dilation."""
    x, weight = node.input(0), node.input(1)
    channels, rows, columns, _ = weight.shape
    if node.int("group") != channels or x.shape[3] != channels or channels == 1:
        return Refusal("it is not depthwise with one output channel for each of several input channels")
    if node.ints("dilations") != (1, 1):
        return Refusal("it is dilated")
    if x.shape[0] != 1:
        return Refusal("its batch is not 1")
    spec = _spec(node)
    scratch = 4 * GROUP * (spec.plane_words + rows * spec.tap_words)
    arguments: list[Argument] = [
        InputArgument(0),
        ConstantArgument("weight", _pack(spec, weight.data)),
        ConstantArgument("bias", node.input(2).data),
        ConstantArgument("multiplier", node.input(3).data),
        ScratchArgument(scratch, 4),
        OutputArgument(0),
        *(ScalarArgument(n) for n in (x.shape[1], node.output.shape[1], node.ints("pads")[0])),
        ScalarArgument(zero_point_of(node, x)),
    ]
    if spec.has_residual:
        numbers = zero_point_of(node, node.input(4)), node.int("residual_multiplier")
        arguments += [InputArgument(4), *(ScalarArgument(number) for number in numbers)]
    return Kernel(
        template=depthwise,
        spec=spec,
        name="depthwise_smlad",
        arguments=tuple(arguments),
        intrinsics=(*DEPTHWISE_INTRINSICS, *(RESIDUAL_INTRINSICS if spec.has_residual else ())),
        in_place=0 if _can_run_in_place(node) else None,
    )


def _spec(node: Node) -> DepthwiseSpec:
    channels, rows, columns, _ = node.input(1).shape
    row_stride, column_stride = node.ints("strides")
    one_row = DepthwiseSpec(
        channels=channels,
        rows=rows,
        columns=columns,
        row_stride=row_stride,
        column_stride=column_stride,
        width=node.input(0).shape[2],
        output_width=node.output.shape[2],
        left=node.ints("pads")[1],
        strip=1,
        to=Requantization.of(node),
        has_residual=node.optional_input(4) is not None,
    )
    plane_rows = PLANE_BYTES // (4 * GROUP * one_row.row_words)
    strip = (plane_rows - rows) // row_stride + 1
    return replace(one_row, strip=max(1, min(strip, node.output.shape[1])))


def _pack(spec: DepthwiseSpec, weights: Array) -> Array:
    """[channels, rows, columns, 1] -> [groups, rows, columns, 4]."""
    padded = np.pad(weights, ((0, max(GROUP - spec.channels, 0)), (0, 0), (0, 0), (0, 0)))
    starts = [min(GROUP * group, spec.last_first_channel) for group in range(spec.groups)]
    return np.stack([padded[start : start + GROUP, :, :, 0].transpose(1, 2, 0) for start in starts])


def _can_run_in_place(node: Node) -> bool:
    """Whether each output row ends before the first input row that is not in the planes by then."""
    _, height, width, _ = node.input(0).shape
    _, output_height, output_width, _ = node.output.shape
    below = node.input(1).shape[1] - node.ints("pads")[0]
    stride = node.ints("strides")[0]
    return all(
        (y + 1) * output_width <= min(max(y * stride + below, 0), height) * width for y in range(output_height)
    )


@dataclass(frozen=True)
class _Parameters:
    spec: DepthwiseSpec
    x: Buffer
    weights: Buffer
    bias: Buffer
    multiplier: Buffer
    scratch: Buffer  # planes [4][rows][words], then taps [4][rows][words]
    y: Buffer
    height: Expr
    output_height: Expr
    top: Expr
    filler: Expr
    residual: Residual | None

    @property
    def taps(self) -> int:
        """Where the widened weights begin in the scratch memory."""
        return GROUP * self.spec.plane_words


def depthwise(spec: DepthwiseSpec) -> PrimFunc:
    kernel = KernelBuilder("depthwise")
    with kernel.function():
        parameters = _declare(kernel, spec)
        with kernel.loop(GROUP * spec.plane_words) as word:
            parameters.scratch[word] = parameters.filler
        with kernel.loop(spec.groups) as group:
            first_channel = kernel.let(minimum(group * GROUP, spec.last_first_channel))
            _widen_taps(kernel, parameters, group)
            with kernel.loop((parameters.output_height + (spec.strip - 1)) // spec.strip) as strip:
                count = kernel.let(minimum(spec.strip, parameters.output_height - strip * spec.strip))
                _fill_planes(kernel, parameters, first_channel, strip, count)
                done = kernel.let(group * GROUP - first_channel)
                with kernel.loop(min(GROUP, spec.channels) - done, start=done) as plane:
                    _channel(kernel, parameters, first_channel, plane, strip * spec.strip, count)
    return kernel.finish()


def _declare(kernel: KernelBuilder, spec: DepthwiseSpec) -> _Parameters:
    buffers = [
        kernel.buffer("x", "int8", ANY_SIZE),
        kernel.buffer("weights", "int8", GROUP * spec.groups * spec.rows * spec.columns),
        kernel.buffer("bias", "int32", spec.channels),
        kernel.buffer("multiplier", "int32", spec.channels),
        kernel.buffer("scratch", "int32", GROUP * (spec.plane_words + spec.rows * spec.tap_words)),
        kernel.buffer("y", "int8", ANY_SIZE),
    ]
    scalars = [kernel.scalar(name) for name in ("height", "output_height", "top", "zero_point")]
    residual = None
    if spec.has_residual:
        values = kernel.buffer("residual", "int8", ANY_SIZE)
        residual = Residual(values, kernel.scalar("residual_zero_point"), kernel.scalar("residual_multiplier"))
    filler = kernel.let((scalars[3] & 0xFFFF) | (scalars[3] << 16))
    return _Parameters(spec, *buffers, *scalars[:3], filler, residual)


def _load(kernel: KernelBuilder, source: Buffer, place: Expr, channels: int) -> tuple[Expr, Expr]:
    """Four channels of one pixel as int16: (c0, c2) and (c1, c3)."""
    if channels >= GROUP:
        word = kernel.let(read(LOAD_WORD, source.address(place)))
    else:
        word = 0
        for channel in range(channels):
            word = word | ((cast(source[place + channel], "int32") & 0xFF) << 8 * channel)
        word = kernel.let(word)
    return kernel.let(call(SXTB16, word)), kernel.let(call(SXTB16_ROR8, word))


def _scatter(
    scratch: Buffer, place: Expr, plane_words: int, left: tuple[Expr, Expr], right: tuple[Expr, Expr]
) -> None:
    """Two pixels' four channels, side by side, to the same place of the four planes."""
    for odd in range(2):
        scratch[place + odd * plane_words] = call(PACK_LOW, left[odd], right[odd])
        scratch[place + (odd + 2) * plane_words] = call(PACK_HIGH, left[odd], right[odd])


def _widen_taps(kernel: KernelBuilder, parameters: _Parameters, group: Expr) -> None:
    spec = parameters.spec
    plane_words = spec.rows * spec.tap_words
    with kernel.loop(spec.rows) as row:
        start = kernel.let((group * spec.rows + row) * (spec.columns * GROUP))
        place = kernel.let(parameters.taps + row * spec.tap_words)
        taps = [_load(kernel, parameters.weights, start + GROUP * tap, GROUP) for tap in range(spec.columns)]
        nothing = (0, 0)
        for word in range(spec.even_words):
            right = taps[2 * word + 1] if spec.columns > 1 else nothing
            _scatter(parameters.scratch, place + word, plane_words, taps[2 * word], right)
        for word in range(spec.tap_words - spec.even_words):
            odd_place = place + spec.even_words + word
            _scatter(parameters.scratch, odd_place, plane_words, taps[2 * word + 1], taps[2 * word + 2])


def _fill_planes(
    kernel: KernelBuilder, parameters: _Parameters, first_channel: Expr, strip: Expr, count: Expr
) -> None:
    """Bring the rows that `count` output rows need into the planes."""
    spec, scratch = parameters.spec, parameters.scratch
    kept = kernel.let(minimum(strip, 1) * spec.kept_rows)
    with kernel.loop(kept * spec.row_words) as word:
        place = kernel.let(read(OPAQUE, word))  # else the compiler calls memmove for each plane
        for plane in range(GROUP):
            target = place + plane * spec.plane_words
            scratch[target] = scratch[target + spec.strip * spec.row_stride * spec.row_words]
    rows = kernel.let((count - 1) * spec.row_stride + spec.rows)
    with kernel.loop(rows - kept, start=kept) as row:
        y = kernel.let(strip * (spec.strip * spec.row_stride) + row - parameters.top)
        place = kernel.let(row * spec.row_words)
        with kernel.when_else(both(y >= 0, y < parameters.height)) as (then, other):
            with then:
                start = kernel.let(y * (spec.width * spec.channels) + first_channel)
                _widen_row(kernel, parameters, start, place)
            with other, kernel.loop(spec.row_words) as word:
                for plane in range(GROUP):
                    scratch[place + plane * spec.plane_words + word] = parameters.filler


def _widen_row(kernel: KernelBuilder, parameters: _Parameters, start: Expr, place: Expr) -> None:
    """One row of the image. Words that lie wholly in the border hold the filler since the beginning."""
    spec = parameters.spec

    def pixel(column: Expr) -> tuple[Expr, Expr]:
        return _load(kernel, parameters.x, start + column * spec.channels, spec.channels)

    def is_inside(column: int) -> bool:
        return 0 <= column < spec.width

    first_whole = -(-spec.left // 2)
    whole = max(min((spec.left + spec.width) // 2, spec.row_words) - first_whole, 0)
    unrolled = 2 if whole % 2 == 0 else 1
    with kernel.loop(whole // unrolled) as outer:
        for inner in range(unrolled):
            word = outer * unrolled + inner + first_whole
            column = word * 2 - spec.left
            _scatter(parameters.scratch, place + word, spec.plane_words, pixel(column), pixel(column + 1))
    for word in range(spec.row_words):
        column = 2 * word - spec.left
        if is_inside(column) == is_inside(column + 1):
            continue
        border = (parameters.filler, parameters.filler)
        left, right = (pixel(c) if is_inside(c) else border for c in (column, column + 1))
        _scatter(parameters.scratch, place + word, spec.plane_words, left, right)


def _channel(
    kernel: KernelBuilder, parameters: _Parameters, first_channel: Expr, plane: Expr, first_row: Expr, count: Expr
) -> None:
    """One channel of a strip: `count` output rows from `first_row` on."""
    spec = parameters.spec
    channel = kernel.let(first_channel + plane)
    bias, multiplier = kernel.let(parameters.bias[channel]), kernel.let(parameters.multiplier[channel])
    taps = kernel.let(parameters.taps + plane * (spec.rows * spec.tap_words))
    pixels = _pixels_at_a_time(spec)
    with kernel.loop(count) as row:
        source = kernel.let(plane * spec.plane_words + row * (spec.row_stride * spec.row_words))
        target = kernel.let((first_row + row) * (spec.output_width * spec.channels) + channel)
        whole = spec.output_width // pixels
        with kernel.loop(whole) as block:
            words = block * (pixels * spec.column_stride // 2)
            _pixels(kernel, parameters, pixels, source + words, taps, bias, multiplier, target + block * (pixels * spec.channels))
        if rest := spec.output_width % pixels:
            words = whole * pixels * spec.column_stride // 2
            _pixels(kernel, parameters, rest, source + words, taps, bias, multiplier, target + whole * pixels * spec.channels)


def _pixels_at_a_time(spec: DepthwiseSpec) -> int:
    """Even, so that each block begins with a whole word, unless one block takes the row."""
    if spec.output_width <= ACCUMULATORS:
        return spec.output_width
    return next((pixels for pixels in (8, 6) if spec.output_width % pixels == 0), ACCUMULATORS)


def _pixels(
    kernel: KernelBuilder,
    parameters: _Parameters,
    pixels: int,
    source: Expr,
    taps: Expr,
    bias: Expr,
    multiplier: Expr,
    target: Expr,
) -> None:
    """Neighbouring output pixels of one channel. source: word of the planes where the first one's window begins."""
    spec = parameters.spec
    acc = kernel.local("int32", pixels)
    for n in range(pixels):
        acc[n] = bias
    words = ((pixels - 1) * spec.column_stride + spec.columns + 1) // 2
    for row in range(spec.rows):
        weights = [
            kernel.let(parameters.scratch[taps + row * spec.tap_words + word]) for word in range(spec.tap_words)
        ]
        for word in range(words):
            x = kernel.let(parameters.scratch[source + row * spec.row_words + word])
            for n in range(pixels):
                product = _product(spec, weights, x, 2 * word - n * spec.column_stride, acc[n])
                if product is not None:
                    acc[n] = product
    for n in range(pixels):
        place = target + n * spec.channels
        level = finish(acc[n], multiplier, spec.to, parameters.residual, place)
        parameters.y[place] = cast(level, "int8")


def _product(spec: DepthwiseSpec, weights: list[Expr], x: Expr, tap: int, acc: Expr) -> Expr | None:
    """acc + the word x times the taps that it meets: `tap` with its low half, `tap` + 1 with its high half."""
    last = spec.columns - 1
    even, odd = weights[: spec.even_words], weights[spec.even_words :]
    if tap == -1:
        return call(SMLATB, x, even[0], acc)
    if 0 <= tap < last:
        return call(SMLAD, x, odd[tap // 2] if tap % 2 else even[tap // 2], acc)
    if tap == last:
        if last == 0:
            return call(SMLABB, x, even[0], acc)
        return call(SMLABT, x, odd[-1] if last % 2 == 0 else even[-1], acc)
    return None
