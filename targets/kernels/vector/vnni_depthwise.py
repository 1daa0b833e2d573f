"""int8 depthwise convolutions with AVX-512 VNNI: four window rows make the four products of a lane.

The cells of one column in up to four rows are interleaved (VPUNPCK), so that each 32-bit lane holds one channel's four
cells; one VPDPBUSD then adds four taps for a lane's channel. With three window rows the fourth weight is zero. A block
of 64, 32 or 16 channels becomes four vectors, whose channels lie in the order that the interleaving leaves (`_ORDER`);
packing the levels to bytes brings them back into the image's order. Weights, bias and multipliers are stored likewise.

Images with fewer channels than a block, whose windows step by one pixel, are worked on several pixels to a block: a row
is then one long run of channels, for which weights repeat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, lanes, llvm_call, minimum, reinterpret
from tinyopt.targets.kernels.vector.channel_blocks import ChannelBlocks, channel_blocks, write_blocks
from tinyopt.targets.kernels.vector.depthwise import shared_columns
from tinyopt.targets.kernels.vector.integer_layer import IntegerLayer, LayerCode, integer_refusal, layer_arguments
from tinyopt.targets.kernels.vector.rows import RowPlan, plan_ring
from tinyopt.targets.kernels.vector.window import Window, window_of
from tinyopt.targets.kernels.vector.x86_convolution import offset_bias
from tinyopt.targets.kernels.vector.x86_ending import X86Ending

TAPS = 4  # products of one lane
VECTORS = 4  # of a block
WIDEST, NARROWEST = 64, 16  # channels of a block
MOST_STEPS = 6  # blocks of a row whose accumulators are kept in registers


@dataclass(frozen=True)
class VnniDepthwiseSpec:
    """What the compiled function depends on.

    copies: pixels to a block; more than one only where all channels of several pixels fill it.
    steps: blocks along a row that are worked on at a time.
    """

    rows: RowPlan
    blocks: ChannelBlocks
    copies: int
    steps: int
    layer: IntegerLayer

    @property
    def window(self) -> Window:
        return self.rows.window

    @property
    def row_groups(self) -> int:
        """Groups of TAPS window rows."""
        return -(-self.window.kernel[0] // TAPS)

    @property
    def lane_weights(self) -> int:
        """Packed weights of one channel of a block."""
        return self.window.kernel[1] * self.row_groups * TAPS

    @property
    def stored_channels(self) -> int:
        """Channels of all blocks; where blocks overlap, some twice."""
        return sum(width for _, width in self.blocks.starts())


def plan_vnni_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one group for each channel."""
    weights = node.input(1)
    refusal = integer_refusal(node)
    if refusal is not None:
        return refusal
    if node.int("group") != node.input(0).shape[3] or weights.shape[0] != node.int("group"):
        return Refusal("not one group and one output for each channel")
    if node.optional_input(4) is not None or node.output.dtype != "int8":
        return Refusal("a residual, or levels that are not int8")
    window = window_of(node, (weights.shape[1], weights.shape[2]))
    if isinstance(window, Refusal):
        return window
    copies = _copies(window)
    blocks = channel_blocks(window.channels * copies, WIDEST, NARROWEST)
    if isinstance(blocks, Refusal):
        return blocks
    rows = plan_ring(window, "int8", "offset", WIDEST)
    spec = VnniDepthwiseSpec(rows, blocks, copies, _steps(window.out_width // copies), IntegerLayer.of(node, "vnni"))
    order = stored_order(spec)
    arguments = layer_arguments(
        node, rows, _pack(weights.data, spec), offset_bias(node, 128)[order], node.input(3).data[order]
    )
    return Kernel(vnni_depthwise, spec, "depthwise_vnni", arguments)


def _copies(window: Window) -> int:
    """Pixels whose channels together fill the widest block that a row has room for; 1 where they do not."""
    if window.strides[1] != 1 or window.channels >= WIDEST:
        return 1
    for width in (64, 32, 16):
        copies, rest = divmod(width, window.channels)
        if not rest and copies <= window.out_width:
            return copies
    return 1


def _steps(blocks: int) -> int:
    """The fewest groups of blocks for a row, and the smallest groups that need no more."""
    groups = -(-blocks // MOST_STEPS)
    return -(-blocks // groups)


def _lane_order(width: int) -> list[int]:
    """Which of a block's channels the lanes of its four vectors hold, one vector after the other."""
    return [16 * half + 4 * vector + lane for vector in range(4) for half in range(width // 16) for lane in range(4)]


def stored_order(spec: VnniDepthwiseSpec) -> list[int]:
    """The channel of each stored bias, multiplier and column of weights."""
    channels = spec.window.channels
    return [(start + c) % channels for start, width in spec.blocks.starts() for c in _lane_order(width)]


def _pack(weights: Array, spec: VnniDepthwiseSpec) -> Array:
    """[C, KH, KW, 1] weights as [block][column][group of rows][channel in `stored_order`][row of the group], flat."""
    channels, rows, columns, _ = weights.shape
    padded = np.zeros((channels, spec.row_groups * TAPS, columns), np.int8)
    padded[:, :rows] = weights[..., 0]
    by_group = padded.reshape(channels, spec.row_groups, TAPS, columns).transpose(3, 1, 0, 2)  # KW, groups, C, TAPS
    order, done, blocks = stored_order(spec), 0, list[Array]()
    for _, width in spec.blocks.starts():
        blocks.append(by_group[:, :, order[done : done + width]].reshape(-1))
        done += width
    return np.ascontiguousarray(np.concatenate(blocks))


def vnni_depthwise(spec: VnniDepthwiseSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `layer_arguments`."""
    window = spec.window
    kernel = KernelBuilder("depthwise_vnni")
    with kernel.function():
        outputs = window.out_height * window.out_width * window.channels
        weights = spec.stored_channels * spec.lane_weights
        code = spec.layer.declare(kernel, spec.rows, weights, spec.stored_channels, outputs)
        _Writer(kernel, spec, code).write()
    return kernel.finish()


@dataclass(frozen=True)
class _Writer:
    """Writes the loops."""

    kernel: KernelBuilder
    spec: VnniDepthwiseSpec
    code: LayerCode

    def write(self) -> None:
        write_blocks(self.kernel, self.code.rows, self.spec.rows, self.spec.blocks, self._row)

    def _row(self, out_row: Expr, number: Expr, channel: Expr, width: int) -> None:
        """One output row of one block of channels."""
        spec, window, size = self.spec, self.spec.window, width // VECTORS
        stored = self.kernel.let(number * spec.blocks.width)  # the block's first stored channel
        pixels = spec.steps * spec.copies
        with self.kernel.loop(-(-window.out_width // pixels)) as step:
            column = self.kernel.let(minimum(step * pixels, window.out_width - pixels))
            totals = self.kernel.local("int32", spec.steps * width)
            for place in range(0, width, size):
                first = self.kernel.let(self.code.bias.vector(stored + place, size))
                for block in range(spec.steps):
                    totals.store_vector(block * width + place, first, size)
            self._columns(totals, out_row, column, channel, stored, width)
            index = self.kernel.let((out_row * window.out_width + column) * window.channels + channel)
            self._finish(totals, index, stored, width)

    def _columns(self, totals: Buffer, out_row: Expr, column: Expr, channel: Expr, stored: Expr, width: int) -> None:
        """Add all products; a column of the image serves all windows that it belongs to."""
        spec, window = self.spec, self.spec.window
        first = column * (window.strides[1] * window.channels) + channel
        starts = [self.kernel.let(self.code.rows.base(out_row, row) + first) for row in range(window.kernel[0])]
        weights = self.kernel.let(stored * spec.lane_weights)
        steps = replace(window, strides=(window.strides[0], window.strides[1] * spec.copies))
        for cell, readers in shared_columns(steps, spec.steps):
            groups = self._column(starts, cell * window.channels, width)
            for block, tap in readers:
                self._add(totals, block, groups, weights + tap * (spec.row_groups * width * TAPS), width)

    def _add(self, totals: Buffer, block: int, groups: list[list[Expr]], weight: Expr, width: int) -> None:
        """Add one column to the sums of one block."""
        size = width // VECTORS
        for v in range(VECTORS):
            place = block * width + v * size
            total = totals.vector(place, size)
            for group, interleaved in enumerate(groups):
                taps = self.code.weights.vector(weight + (group * width + v * size) * TAPS, width)
                total = _dot(total, interleaved[v], taps, size)
            totals.store_vector(place, total, size)

    def _column(self, starts: list[Expr], cell: int, width: int) -> list[list[Expr]]:
        """For each group of rows, the four vectors whose lanes hold a channel's cells."""
        cells = [self.kernel.let(self.code.rows.data.vector(start + cell, width)) for start in starts]
        groups: list[list[Expr]] = []
        for first in range(0, len(cells), TAPS):
            rows = cells[first : first + TAPS]
            rows += [rows[-1]] * (TAPS - len(rows))  # meets zero weights
            groups.append(self._interleaved(rows, width))
        return groups

    def _interleaved(self, rows: list[Expr], width: int) -> list[Expr]:
        """Four vectors of `width` cells, interleaved cell by cell within 128 bits, as VPUNPCK does it."""
        result: list[Expr] = []
        for upper in (0, 1):
            pairs = [self._unpacked(rows[i], rows[i + 1], width, upper, "int8") for i in (0, 2)]
            words = [self.kernel.let(reinterpret(pair, f"int16x{width // 2}")) for pair in pairs]
            for half in (0, 1):
                quads = self._unpacked(words[0], words[1], width // 2, half, "int16")
                result.append(self.kernel.let(reinterpret(quads, f"int8x{width}")))
        return result

    def _unpacked(self, a: Expr, b: Expr, count: int, upper: int, dtype: str) -> Expr:
        """a0 b0 a1 b1 ... of the lower or upper halves of each 128 bits of two vectors of `count` elements."""
        part = 16 if dtype == "int8" else 8
        order = [
            start + upper * part // 2 + i + source * count
            for start in range(0, count, part)
            for i in range(part // 2)
            for source in (0, 1)
        ]
        return self.kernel.let(lanes([a, b], order))

    def _finish(self, totals: Buffer, index: Expr, stored: Expr, width: int) -> None:
        """Requantize and write the sums of all blocks."""
        spec, size, ending = self.spec, width // VECTORS, self.code.ending
        assert isinstance(ending, X86Ending)
        places = range(0, width, size)
        multipliers = [self.kernel.let(ending.multiplier.vector(stored + place, size)) for place in places]
        for block in range(spec.steps):
            values = [self.kernel.let(totals.vector(block * width + place, size)) for place in places]
            levels = ending.packed_levels(values, multipliers, size)
            ending.y.store_vector(index + block * (spec.copies * spec.window.channels), levels, width)


def _dot(total: Expr, cells: Expr, weights: Expr, size: int) -> Expr:
    """int32 x size + the four-fold dot products of unsigned cells and weights."""
    return llvm_call(f"llvm.x86.avx512.vpdpbusd.{32 * size}", f"int32x{size}", total, cells, weights)
