"""Depthwise convolution over planes of int16 pairs: which blocks, which strips, and their numbers.

The planes (see `depthwise_micro_kernels`) hold a strip of a few output rows of four channels; the rows that two strips
share are moved, not read again, so that the output can take the input's place. A row is computed in blocks of equal
length; where they do not fit, a last block overlaps the one before, or a shorter one follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Node
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
from tinyopt.targets.kernels.dsp.depthwise_micro_kernels import CELL_BYTES, MOST_PIXELS, Window
from tinyopt.targets.kernels.dsp.plane_micro_kernels import GROUP
from tinyopt.targets.kernels.dsp.planes import DepthwiseSpec, PlaneFields, depthwise, parameter_words
from tinyopt.targets.kernels.requantize import INT8_HIGH, INT8_LOW, Requantization, zero_point_of

PLANE_BYTES = 2048  # what the planes of a strip may take, where they need not more for one row of outputs
LARGEST_WINDOW = 128  # taps, which lie on the stack while they are in use
CODE_WEIGHT = 1.03  # a second micro-kernel must save this factor


def plan_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one input and one output channel in each group, without dilation."""
    x, weight = node.input(0), node.input(1)
    channels, rows, columns = weight.shape[:3]
    if node.int("group") != channels or x.shape[3] != channels or channels == 1:
        return Refusal("it is not depthwise with one output channel for each of several input channels")
    if node.ints("dilations") != (1, 1):
        return Refusal("it is dilated")
    if x.shape[0] != 1:
        return Refusal("its batch is not 1")
    if rows * columns > LARGEST_WINDOW:
        return Refusal(f"its window has more than {LARGEST_WINDOW} taps")
    to, has_residual = Requantization.of(node), node.optional_input(4) is not None
    is_raw = has_residual or (to.shift, to.low, to.high) != (32, INT8_LOW, INT8_HIGH)
    layout = _layout(node, is_raw)
    fields = _fields(node, layout)
    spec = DepthwiseSpec(layout.window, layout.tail, channels < GROUP, to if is_raw else None, has_residual)
    arguments: list[Argument] = [
        InputArgument(0),
        ConstantArgument("weight", weight.data),
        ConstantArgument("bias", np.stack([node.input(2).data, node.input(3).data], 1)),  # and multiplier
        ConstantArgument("parameters", parameter_words(spec, fields)),
        ScratchArgument(4 * fields["all_words"], 4),
        OutputArgument(0),
    ]
    if is_raw:
        arguments.append(ScratchArgument(4 * node.output.shape[2], 4))
    if has_residual:
        numbers = zero_point_of(node, node.input(4)), node.int("residual_multiplier")
        arguments += [InputArgument(4), *(ScalarArgument(number) for number in numbers)]
    return Kernel(
        template=depthwise,
        spec=spec,
        name="depthwise_smlad",
        arguments=tuple(arguments),
        intrinsics=spec.intrinsics,
        overlaps=(Overlap.in_place(0),) if _can_run_in_place(node) else (),
    )


@dataclass(frozen=True)
class _Layout:
    """How a row of outputs is cut: `blocks` blocks of `window`, and one of `tail` that ends with the row."""

    window: Window
    blocks: int
    tail: Window | None

    @property
    def instructions(self) -> int:
        tail = 0 if self.tail is None else self.tail.block_instructions
        return self.blocks * self.window.block_instructions + tail


def _layout(node: Node, is_raw: bool) -> _Layout:
    """The cheapest one."""
    rows, columns = node.input(1).shape[1:3]
    stride, width = node.ints("strides")[1], node.output.shape[2]
    sizes = range(1, min(width, MOST_PIXELS) + 1)
    windows = [Window(rows, columns, stride, pixels, is_raw) for pixels in sizes]
    return min(_layouts(windows, stride, width), key=_weighted_cost)


def _layouts(windows: list[Window], stride: int, width: int) -> Iterator[_Layout]:
    """Every block begins at a whole word of the planes."""
    for window in windows:
        blocks, rest = divmod(width, window.pixels)
        if blocks > 1 and window.pixels * stride % 2:
            continue
        if not rest:
            yield _Layout(window, blocks, None)
            continue
        for tail in windows:
            if tail.pixels >= rest and (width - tail.pixels) * stride % 2 == 0:
                yield _Layout(window, blocks, tail)


def _weighted_cost(layout: _Layout) -> float:
    return layout.instructions * (CODE_WEIGHT if layout.tail not in (None, layout.window) else 1.0)


def _plane_rows(node: Node, strip: int) -> int:
    """Rows that a strip of so many output rows needs."""
    return (strip - 1) * node.ints("strides")[0] + node.input(1).shape[1]


def _fields(node: Node, layout: _Layout) -> PlaneFields:
    """The numbers that the kernel reads at run time, by name."""
    (_, height, width, channels), (_, output_height, output_width, _) = node.input(0).shape, node.output.shape
    rows, columns = node.input(1).shape[1:3]
    row_stride, column_stride = node.ints("strides")
    top, left, _, _ = node.ints("pads")
    row_words = ((output_width - 1) * column_stride + columns + 1) // 2
    pitch = 4 * GROUP * row_words
    fitting = (PLANE_BYTES // pitch - rows) // row_stride + 1
    strips = -(-output_height // max(1, min(fitting, output_height)))
    strip = -(-output_height // strips)
    zero_point = zero_point_of(node, node.input(0))
    fields = {
        "channels": channels,
        "plane_bytes": 4 * row_words,
        **_row_fields(width, channels, left, row_words),
        "filler": (zero_point & 0xFF) * 0x01010101,
        "zero_point": 0 if layout.window.is_raw else zero_point_of(node, node.output),
        "all_words": _plane_rows(node, strip) * GROUP * row_words,
        "border": (zero_point & 0xFFFF) * 0x00010001,
        "groups": -(-channels // GROUP),
        "strips": strips,
        "last_group": max(channels - GROUP, 0),
        "group_channels": min(channels, GROUP),
        "strip": strip,
        "output_height": output_height,
        "strip_rows": strip * row_stride,
        "top": top,
        "kept_rows": max(rows - row_stride, 0),
        "row_stride": row_stride,
        "height": height,
        "moved_words": strip * row_stride * GROUP * row_words,
        "row_words": GROUP * row_words,
        "row_bytes": width * channels,
        "output_row": output_width * channels,
        "blocks": layout.blocks,
        "rows_are_inner": int(strip >= layout.blocks and not layout.window.is_raw),
        "plane_words": row_words,
        "output_width": output_width,
        "left": left,
    }
    fields |= _window_fields(fields, "", layout.window, column_stride)
    if layout.tail is not None:
        start = output_width - layout.tail.pixels
        fields |= {"tail_start": start, "tail_words": start * column_stride // 2}
        fields |= _window_fields(fields | {"rows_are_inner": 1}, "tail_", layout.tail, column_stride)
    return fields


def _window_fields(fields: PlaneFields, prefix: str, window: Window, column_stride: int) -> PlaneFields:
    """How the blocks' sources and outputs lie to one another; steps from a block to the next, and to the next row."""
    pitch, channels = 4 * fields["row_words"], fields["channels"]
    sources = window.pixels * column_stride * CELL_BYTES, fields["row_stride"] * pitch
    outputs = window.pixels * channels, fields["output_row"]
    inner = fields["rows_are_inner"]
    outer = 1 - inner
    moved = (window.rows - 1) * pitch + window.row_writeback
    return {
        f"{prefix}back": sources[inner] - moved,
        f"{prefix}step": outputs[inner] - window.last_stop * channels,
        f"{prefix}advance": pitch - window.row_writeback,
        f"{prefix}outer_source": sources[outer],
        f"{prefix}outer_output": outputs[outer],
    }


def _row_fields(width: int, channels: int, left: int, row_words: int) -> PlaneFields:
    """How a row of the image lies in the words of its plane, and the bytes from its end to the next row."""
    first = left // 2
    has_left_edge = left % 2 == 1 and first < row_words
    pairs_begin = first + has_left_edge
    inside = max(min((left + width) // 2, row_words) - pairs_begin, 0)
    behind = pairs_begin + inside
    has_right_edge = (left + width) % 2 == 1 and behind < row_words and left + width > 2 * behind
    words = has_left_edge + inside + has_right_edge
    columns = has_left_edge + 2 * inside + has_right_edge
    return {
        "row_skip": (width - columns) * channels,
        "plane_skip": 4 * (GROUP * row_words - words),
        "first_word": first,
        "left_edge": int(has_left_edge),
        "quads": inside // 2,
        "pair": inside % 2,
        "right_edge": int(has_right_edge),
    }


def _can_run_in_place(node: Node) -> bool:
    """Whether each output row ends before the first input row that is not in the planes by then."""
    _, height, width, _ = node.input(0).shape
    _, output_height, output_width, _ = node.output.shape
    below = node.input(1).shape[1] - node.ints("pads")[0]
    stride = node.ints("strides")[0]
    return all((y + 1) * output_width <= min(max(y * stride + below, 0), height) * width for y in range(output_height))
