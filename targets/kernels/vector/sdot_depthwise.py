"""int8 depthwise convolutions on the Arm dot product: four window rows make the four products of a lane.

The cells of one column in up to four rows are zipped so that each 32-bit lane holds one channel's four cells; one SDOT
then adds four taps for four channels. A column serves all windows that it belongs to. With three window rows the fourth
weight is zero. Sixteen channels (or eight) are worked on at a time, and a row pixel by pixel: several pixels in one
stretch of code would share columns as well, but LLVM then zips all columns first and spills them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, lanes, reinterpret
from tinyopt.targets.kernels.vector.channel_blocks import write_blocks
from tinyopt.targets.kernels.vector.depthwise import DepthwiseShape, plan_depthwise
from tinyopt.targets.kernels.vector.integer_layer import IntegerLayer, LayerCode, integer_refusal, layer_arguments
from tinyopt.targets.kernels.vector.neon import sdot
from tinyopt.targets.kernels.vector.tile import Finished
from tinyopt.targets.kernels.vector.tiling import LANES

TAPS = 4  # products of one lane of SDOT
WIDEST, NARROWEST = 16, 8  # channels of a block


@dataclass(frozen=True)
class SdotDepthwiseSpec:
    """What the compiled function depends on."""

    shape: DepthwiseShape
    layer: IntegerLayer

    @property
    def first_fresh_tap(self) -> int:
        """Columns from here on are new to each next pixel of a row; it shares those before with the last one."""
        window = self.shape.window
        return max(window.kernel[1] - window.strides[1], 0) if window.dilations[1] == 1 else 0

    @property
    def pending_pixels(self) -> int:
        """Pixels that have begun when one is finished."""
        window = self.shape.window
        return -(-window.kernel[1] // window.strides[1]) - 1 if self.first_fresh_tap else 0

    @property
    def row_groups(self) -> int:
        """Groups of TAPS window rows."""
        return -(-self.shape.window.kernel[0] // TAPS)

    @property
    def channel_weights(self) -> int:
        """Packed weights of one channel."""
        return self.shape.window.kernel[1] * self.row_groups * TAPS


def plan_sdot_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one group for each channel."""
    refusal = integer_refusal(node)
    if refusal is not None:
        return refusal
    shape = plan_depthwise(node, "int8", WIDEST, NARROWEST)
    if isinstance(shape, Refusal):
        return shape
    spec = SdotDepthwiseSpec(shape, IntegerLayer.of(node, "sdot"))
    weights = _pack(node.input(1).data, spec)
    arguments = layer_arguments(node, shape.rows, weights, node.input(2).data, node.input(3).data)
    return Kernel(sdot_depthwise, spec, "depthwise_sdot", arguments)


def _pack(weights: Array, spec: SdotDepthwiseSpec) -> Array:
    """[C, KH, KW, 1] weights as [block][column][group of rows][channel][row of the group], flat."""
    channels, rows, columns, _ = weights.shape
    padded = np.zeros((channels, spec.row_groups * TAPS, columns), np.int8)
    padded[:, :rows] = weights[..., 0]
    by_group = padded.reshape(channels, spec.row_groups, TAPS, columns).transpose(3, 1, 0, 2)  # KW, groups, C, TAPS
    blocks = [by_group[:, :, start : start + width].reshape(-1) for start, width in spec.shape.blocks.starts()]
    return np.ascontiguousarray(np.concatenate(blocks))


def sdot_depthwise(spec: SdotDepthwiseSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `layer_arguments`."""
    shape = spec.shape
    kernel = KernelBuilder("depthwise_sdot")
    with kernel.function():
        weights = sum(width for _, width in shape.blocks.starts()) * spec.channel_weights
        code = spec.layer.declare(kernel, shape.rows, weights, shape.window.channels, shape.outputs)
        _Writer(kernel, spec, code).write()
    return kernel.finish()


@dataclass(frozen=True)
class _Writer:
    """Writes the loops."""

    kernel: KernelBuilder
    spec: SdotDepthwiseSpec
    code: LayerCode

    def write(self) -> None:
        write_blocks(self.kernel, self.code.rows, self.spec.shape.rows, self.spec.shape.blocks, self._row)

    def _row(self, out_row: Expr, number: Expr, channel: Expr, width: int) -> None:
        """One output row of one block of channels, pixel by pixel; the sums of the next ones are carried along."""
        spec, window = self.spec, self.spec.shape.window
        first_weight = self.kernel.let(number * (spec.shape.blocks.width * spec.channel_weights))
        starts = [self.kernel.let(self.code.rows.base(out_row, row) + channel) for row in range(window.kernel[0])]
        index = self.kernel.let(out_row * (window.out_width * window.channels) + channel)
        sums = self.kernel.local("int32", (spec.pending_pixels + 1) * width)

        def add_column(cell: Expr, tap: int) -> None:
            """The column that is window column `tap` of the first unfinished pixel, and earlier ones of the next."""
            groups = self._column(starts, cell, width)
            for ahead in range(spec.pending_pixels + 1):
                if tap - ahead * window.strides[1] >= 0:
                    self._add(sums, ahead, tap - ahead * window.strides[1], groups, channel, first_weight, width)

        for tap in range(spec.first_fresh_tap):
            add_column(tap * window.channels, tap)
        with self.kernel.loop(window.out_width) as column:
            cell = column * (window.strides[1] * window.channels)
            for tap in range(spec.first_fresh_tap, window.kernel[1]):
                add_column(cell + tap * window.dilations[1] * window.channels, tap)
            done = tuple(self.kernel.let(sums.vector(v, LANES)) for v in range(0, width, LANES))
            self.code.ending.write([Finished(done, channel, index + column * window.channels, width)])
            for place in range(0, spec.pending_pixels * width, LANES):
                sums.store_vector(place, sums.vector(place + width, LANES), LANES)

    def _add(
        self,
        sums: Buffer,
        ahead: int,
        tap: int,
        groups: list[list[Expr]],
        channel: Expr,
        first_weight: Expr,
        width: int,
    ) -> None:
        """Add one column to the pixel `ahead` of the first unfinished one; sums begin with the bias."""
        for v in range(width // LANES):
            place = ahead * width + v * LANES
            total = self.code.bias.vector(channel + v * LANES, LANES) if tap == 0 else sums.vector(place, LANES)
            for group, zipped in enumerate(groups):
                weight = first_weight + ((tap * len(groups) + group) * width + v * LANES) * TAPS
                total = sdot(total, self.code.weights.vector(weight, LANES * TAPS), zipped[v])
            sums.store_vector(place, total, LANES)

    def _column(self, starts: list[Expr], cell: Expr, width: int) -> list[list[Expr]]:
        """For each group of rows, vectors of four channels whose lanes hold a channel's cells."""
        cells = [self.kernel.let(self.code.rows.data.vector(start + cell, width)) for start in starts]
        groups: list[list[Expr]] = []
        for first in range(0, len(cells), TAPS):
            rows = cells[first : first + TAPS]
            rows += [rows[-1]] * (TAPS - len(rows))  # meets zero weights
            groups.append([self.kernel.let(vector) for vector in self._zipped(rows, width)])
        return groups

    def _zipped(self, rows: list[Expr], width: int) -> list[Expr]:
        """The transpose of four vectors of `width` cells: channel by channel the four cells."""
        upper, lower = self._interleaved(rows[0], rows[1], width, 16), self._interleaved(rows[2], rows[3], width, 16)
        result: list[Expr] = []
        for above, below in zip(upper, lower, strict=True):
            pairs = [self.kernel.let(reinterpret(vector, "int16x8")) for vector in (above, below)]
            result += [reinterpret(half, "int8x16") for half in self._interleaved(pairs[0], pairs[1], 8, 8)]
        return result

    def _interleaved(self, a: Expr, b: Expr, width: int, size: int) -> list[Expr]:
        """a0 b0 a1 b1 ... of two vectors of `width` lanes, in vectors of `size` lanes."""
        order = [lane + source * width for lane in range(width) for source in range(2)]
        return [lanes([a, b], order[start : start + size]) for start in range(0, 2 * width, size)]
