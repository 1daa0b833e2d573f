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

from dataclasses import replace

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import (
    Argument,
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Overlap,
    Refusal,
    ScalarArgument,
    ScratchArgument,
)
from tinyopt.targets.kernels.dsp.intrinsics import SMLABB, SMLABT, SMLAD, SMLATB
from tinyopt.targets.kernels.dsp.planes import (
    GROUP,
    PLANE_INTRINSICS,
    DepthwiseSpec,
    Parameters,
    declare,
    fill_planes,
    widen_taps,
)
from tinyopt.targets.kernels.dsp.product import RESIDUAL_INTRINSICS, finish
from tinyopt.targets.kernels.intrinsic import Intrinsic
from tinyopt.targets.kernels.requantize import SMMLAR_INTRINSICS, Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc, call, cast, minimum

PLANE_BYTES = 4096  # what the four planes of a strip may take
ACCUMULATORS = 8  # pixels computed at a time

DEPTHWISE_INTRINSICS: tuple[Intrinsic, ...] = (*PLANE_INTRINSICS, SMLAD, SMLABB, SMLABT, SMLATB, *SMMLAR_INTRINSICS)


def plan_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one input and one output channel in each group, without dilation."""
    x, weight = node.input(0), node.input(1)
    channels, rows = weight.shape[:2]
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
        overlaps=(Overlap.in_place(0),) if _can_run_in_place(node) else (),
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
    return all((y + 1) * output_width <= min(max(y * stride + below, 0), height) * width for y in range(output_height))


def depthwise(spec: DepthwiseSpec) -> PrimFunc:
    """In groups of four channels: widen weights and a strip of rows into planes, then each channel on its own."""
    kernel = KernelBuilder("depthwise")
    with kernel.function():
        parameters = declare(kernel, spec)
        with kernel.loop(GROUP * spec.plane_words) as word:
            parameters.scratch[word] = parameters.filler
        with kernel.loop(spec.groups) as group:
            first_channel = kernel.let(minimum(group * GROUP, spec.last_first_channel))
            widen_taps(kernel, parameters, group)
            with kernel.loop((parameters.output_height + (spec.strip - 1)) // spec.strip) as strip:
                count = kernel.let(minimum(spec.strip, parameters.output_height - strip * spec.strip))
                fill_planes(kernel, parameters, first_channel, strip, count)
                done = kernel.let(group * GROUP - first_channel)
                with kernel.loop(min(GROUP, spec.channels) - done, start=done) as plane:
                    _channel(kernel, parameters, first_channel, plane, strip * spec.strip, count)
    return kernel.finish()


def _channel(
    kernel: KernelBuilder, parameters: Parameters, first_channel: Expr, plane: Expr, first_row: Expr, count: Expr
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
            _pixels(
                kernel,
                parameters,
                pixels,
                source + words,
                taps,
                bias,
                multiplier,
                target + block * (pixels * spec.channels),
            )
        if rest := spec.output_width % pixels:
            words = whole * pixels * spec.column_stride // 2
            _pixels(
                kernel,
                parameters,
                rest,
                source + words,
                taps,
                bias,
                multiplier,
                target + whole * pixels * spec.channels,
            )


def _pixels_at_a_time(spec: DepthwiseSpec) -> int:
    """Even, so that each block begins with a whole word, unless one block takes the row."""
    if spec.output_width <= ACCUMULATORS:
        return spec.output_width
    return next((pixels for pixels in (8, 6) if spec.output_width % pixels == 0), ACCUMULATORS)


def _pixels(
    kernel: KernelBuilder,
    parameters: Parameters,
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
        weights = [kernel.let(parameters.scratch[taps + row * spec.tap_words + word]) for word in range(spec.tap_words)]
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
