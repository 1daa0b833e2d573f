"""int8 depthwise convolutions on the Arm dot product: four window rows make the four products of a lane.

The cells of one column in up to four rows are zipped so that each 32-bit lane holds one channel's four cells; one SDOT
then adds four taps for four channels. A column serves all windows that it belongs to. With three window rows the fourth
weight is zero. Sixteen channels or eight are worked on at a time, and as many pixels one after the other as have begun
at any time, so that no sums are moved.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, lanes, reinterpret
from tinyopt.targets.kernels.vector.channel_blocks import ChannelBlocks
from tinyopt.targets.kernels.vector.depthwise import Taps, plan_depthwise
from tinyopt.targets.kernels.vector.depthwise_any_size import (
    Block,
    DepthwiseCode,
    DepthwiseForm,
    depthwise_arguments,
    depthwise_function,
)
from tinyopt.targets.kernels.vector.integer_layer import IntegerLayer, integer_refusal
from tinyopt.targets.kernels.vector.neon import sdot
from tinyopt.targets.kernels.vector.run_time import Known
from tinyopt.targets.kernels.vector.tile_nest import Finished
from tinyopt.targets.kernels.vector.tiling import LANES

TAPS = 4  # products of one lane of SDOT
BLOCK = 8  # channels
WIDE_BLOCK = 16  # of small windows, and where channels do not fill blocks of eight
SMALL_WINDOW = 3  # columns of at most TAPS rows


@dataclass(frozen=True)
class SdotDepthwiseSpec:
    """What the compiled function depends on."""

    form: DepthwiseForm
    known: Known = ()


def _first_fresh_tap(window: Taps) -> int:
    """Columns from here on are new to each next pixel of a row; it shares those before with the last one."""
    return max(window.kernel[1] - window.strides[1], 0) if window.dilations[1] == 1 else 0


def _pixels(window: Taps) -> int:
    """Pixels that have begun at any time."""
    return -(-window.kernel[1] // window.strides[1]) if _first_fresh_tap(window) else 1


def plan_sdot_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one group for each channel."""
    refusal = integer_refusal(node)
    if refusal is not None:
        return refusal
    _, rows, columns, _ = node.input(1).shape
    is_small = rows <= TAPS and columns <= SMALL_WINDOW
    widest = WIDE_BLOCK if is_small or node.input(0).shape[-1] % BLOCK else BLOCK
    shape = plan_depthwise(node, "int8", widest, BLOCK)
    if isinstance(shape, Refusal):
        return shape
    layer = IntegerLayer.of(node, "sdot")
    form = DepthwiseForm.of(layer, shape, _pixels(shape.window))
    weights = _pack(node.input(1).data, shape.blocks)
    arguments = depthwise_arguments(node, form, shape, layer, weights)
    return Kernel(sdot_depthwise, SdotDepthwiseSpec(form), "depthwise_sdot", arguments, has_numbers=True)


def _pack(weights: Array, blocks: ChannelBlocks) -> list[Array]:
    """[C, KH, KW, 1] weights as [column][group of rows][channel][row of the group] for each block, flat."""
    channels, rows, columns, _ = weights.shape
    groups = -(-rows // TAPS)
    padded = np.zeros((channels, groups * TAPS, columns), np.int8)
    padded[:, :rows] = weights[..., 0]
    by_group = padded.reshape(channels, groups, TAPS, columns).transpose(3, 1, 0, 2)  # KW, groups, C, TAPS
    return [by_group[:, :, start : start + width].reshape(-1) for start, width in blocks.starts()]


def sdot_depthwise(spec: SdotDepthwiseSpec) -> PrimFunc:
    """The convolutions of `spec`; parameters as in `depthwise_arguments`."""

    def write_row(code: DepthwiseCode, out_row: Expr, block: Block) -> None:
        _Row(spec.form, code, out_row, block).write()

    return depthwise_function("depthwise_sdot", spec.form, spec.known, write_row)


@dataclass(frozen=True)
class _BlockConstants:
    """Vectors for a block of channels: weights as `_pack` orders them, LANES biases and multipliers each."""

    weights: list[Expr]
    bias: list[Expr]
    multipliers: list[Expr]


@dataclass(frozen=True)
class _Row:
    """Writes one output row of one block of channels; the sums of the next pixels are carried along."""

    form: DepthwiseForm
    code: DepthwiseCode
    out_row: Expr
    block: Block

    @property
    def kernel(self) -> KernelBuilder:
        return self.code.kernel

    def write(self) -> None:
        form, code, width, phases = self.form, self.code, self.block.width, self.form.pixels
        fresh, stride = _first_fresh_tap(form), form.strides[1]
        sums = self.kernel.local("int32", phases * width)
        constants = self._constants()
        columns, outputs = self._columns(), self._outputs()

        def add_column(ahead: Expr, column: int, tap: int, phase: int) -> None:
            """The column that is window column `tap` of the first unfinished pixel, and earlier ones of the next."""
            groups = self._column([start + ahead for start in columns[column]], width)
            for later in range(phases):
                if tap - later * stride >= 0:
                    place = (phase + later) % phases * width
                    self._add(sums, place, tap - later * stride, groups, constants)

        def pixel(ahead: Expr, index: Expr, phase: int) -> None:
            for tap in range(fresh, form.kernel[1]):
                add_column(ahead, phase * stride + tap * form.dilations[1], tap, phase)
            done = tuple(self.kernel.let(sums.vector(phase * width + v, LANES)) for v in range(0, width, LANES))
            finished = Finished(done, self.block.channel, outputs[phase] + index, width)
            code.ending.write_with(constants.multipliers, [finished])

        for tap in range(fresh):
            add_column(self.block.channel, tap, tap, 0)
        with self.kernel.loop(code.sizes.groups) as group:
            # masked, so that LLVM adds it to addresses: it would advance the address of each cell on its own
            ahead = self.kernel.let((group * code.cells[phases * stride] + self.block.channel) & code.sizes.all_bits)
            index = ahead if stride == 1 else self.kernel.let(group * code.cells[phases] + self.block.channel)
            with ExitStack() as inside_row:
                for phase in range(phases):
                    if phase:
                        inside_row.enter_context(self.kernel.when(group < code.groups_with[phase]))
                    pixel(ahead, index, phase)

    def _columns(self) -> list[list[Expr]]:
        """Where each column of a row's first group begins, in each row of its windows."""
        form, rows = self.form, range(self.form.kernel[0])
        bases = [self.kernel.let(self.code.rows.base(self.out_row, row)) for row in rows]
        return [[self.kernel.let(base + self.code.cells[cell]) for base in bases] for cell in range(form.cells)]

    def _outputs(self) -> list[Expr]:
        """Where each pixel of a row's first group begins."""
        row = self.kernel.let(self.out_row * self.code.sizes.out_row)
        return [self.kernel.let(row + self.code.cells[pixel]) for pixel in range(self.form.pixels)]

    def _constants(self) -> _BlockConstants:
        """Those of a block, loaded here: LLVM takes no load out of a loop from behind a condition."""
        code, vectors = self.code, self.block.width // LANES
        count = self.form.kernel[1] * -(-self.form.kernel[0] // TAPS) * vectors
        places = (self.block.weight + place * LANES * TAPS for place in range(count))
        weights = [self.kernel.let(code.weights.vector(place, LANES * TAPS)) for place in places]
        channel = self.block.channel
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

    def _column(self, places: list[Expr], width: int) -> list[list[Expr]]:
        """For each group of rows, vectors of four channels; lanes hold a channel's cells, which lie at `places`."""
        cells = [self.kernel.let(self.code.rows.data.vector(place, width)) for place in places]
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
