"""int8 depthwise convolutions on the Arm dot product: four window rows make the four products of a lane.

The cells of one column in up to four rows are zipped so that each 32-bit lane holds one channel's four cells; one SDOT
then adds four taps for four channels. A column serves all windows that it belongs to. With three window rows the fourth
weight is zero. Eight channels are worked on at a time, so that what 3x3 windows need stays in registers, and as many
pixels one after the other as have begun at any time, so that no sums are moved.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, lanes, reinterpret
from tinyopt.targets.kernels.vector.channel_blocks import write_blocks
from tinyopt.targets.kernels.vector.depthwise import DepthwiseShape, plan_depthwise
from tinyopt.targets.kernels.vector.integer_layer import IntegerLayer, LayerCode, integer_refusal, layer_arguments
from tinyopt.targets.kernels.vector.neon import sdot
from tinyopt.targets.kernels.vector.tile_nest import Finished
from tinyopt.targets.kernels.vector.tiling import LANES

TAPS = 4  # products of one lane of SDOT
BLOCK = 8  # channels
WIDE_BLOCK = 16  # where channels do not fill blocks: rows of cells are not aligned then, and loads cost additions


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
    widest = WIDE_BLOCK if node.input(0).shape[-1] % BLOCK else BLOCK
    shape = plan_depthwise(node, "int8", widest, BLOCK)
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
class _BlockConstants:
    """Vectors for a block of channels: weights as `_pack` orders them, LANES biases and multipliers each."""

    weights: list[Expr]
    bias: list[Expr]
    multipliers: list[Expr]


@dataclass(frozen=True)
class _Writer:
    """Writes the loops."""

    kernel: KernelBuilder
    spec: SdotDepthwiseSpec
    code: LayerCode

    def write(self) -> None:
        write_blocks(self.kernel, self.code.rows, self.spec.shape.rows, self.spec.shape.blocks, self._row)

    def _row(self, out_row: Expr, number: Expr, channel: Expr, width: int) -> None:
        """One output row of one block of channels; the sums of the next pixels are carried along."""
        spec, window = self.spec, self.spec.shape.window
        first_weight = self.kernel.let(number * (spec.shape.blocks.width * spec.channel_weights))
        starts = [self.kernel.let(self.code.rows.base(out_row, row) + channel) for row in range(window.kernel[0])]
        index = self.kernel.let(out_row * (window.out_width * window.channels) + channel)
        phases = spec.pending_pixels + 1
        sums = self.kernel.local("int32", phases * width)
        constants = self._constants(channel, first_weight, width)

        def add_column(cell: Expr, tap: int, phase: int) -> None:
            """The column that is window column `tap` of the first unfinished pixel, and earlier ones of the next."""
            groups = self._column(starts, cell, width)
            for ahead in range(phases):
                if tap - ahead * window.strides[1] >= 0:
                    place = (phase + ahead) % phases * width
                    self._add(sums, place, tap - ahead * window.strides[1], groups, constants)

        def pixel(column: Expr, phase: int) -> None:
            cell = column * (window.strides[1] * window.channels)
            for tap in range(spec.first_fresh_tap, window.kernel[1]):
                add_column(cell + tap * window.dilations[1] * window.channels, tap, phase)
            done = tuple(self.kernel.let(sums.vector(phase * width + v, LANES)) for v in range(0, width, LANES))
            finished = Finished(done, channel, index + column * window.channels, width)
            self.code.ending.write_with(constants.multipliers, [finished])

        for tap in range(spec.first_fresh_tap):
            add_column(tap * window.channels, tap, 0)
        with self.kernel.loop(-(-window.out_width // phases)) as group:
            first = self.kernel.let(group * phases)
            with ExitStack() as inside_row:
                for phase in range(phases):
                    if phase:
                        inside_row.enter_context(self.kernel.when(first + phase < window.out_width))
                    pixel(first + phase, phase)

    def _constants(self, channel: Expr, first_weight: Expr, width: int) -> _BlockConstants:
        """Those of a block, loaded here: LLVM takes no load out of a loop from behind a condition."""
        code, vectors = self.code, width // LANES
        weights = [
            self.kernel.let(code.weights.vector(first_weight + place * LANES * TAPS, LANES * TAPS))
            for place in range(self.spec.channel_weights // TAPS * vectors)
        ]
        bias = [self.kernel.let(code.bias.vector(channel + v * LANES, LANES)) for v in range(vectors)]
        return _BlockConstants(weights, bias, code.ending.multipliers(channel, vectors))

    def _add(
        self, sums: Buffer, first_place: int, tap: int, groups: list[list[Expr]], constants: _BlockConstants
    ) -> None:
        """Add one column to the pixel whose sums begin at `first_place`; they begin with the bias."""
        vectors = len(constants.bias)
        for v in range(vectors):
            place = first_place + v * LANES
            total = constants.bias[v] if tap == 0 else sums.vector(place, LANES)
            for group, zipped in enumerate(groups):
                total = sdot(total, constants.weights[(tap * len(groups) + group) * vectors + v], zipped[v])
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
