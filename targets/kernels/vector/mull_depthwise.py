"""int8 depthwise convolutions of any size on 64-bit Arm without the dot product, as `widened_depthwise` does them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, cast, minimum
from tinyopt.targets.kernels.vector.channel_blocks import ChannelBlocks
from tinyopt.targets.kernels.vector.depthwise import plan_depthwise, shared_columns
from tinyopt.targets.kernels.vector.depthwise_any_size import (
    Block,
    DepthwiseCode,
    DepthwiseForm,
    depthwise_arguments,
    depthwise_function,
)
from tinyopt.targets.kernels.vector.generic import vector_type
from tinyopt.targets.kernels.vector.integer_layer import IntegerLayer, integer_refusal
from tinyopt.targets.kernels.vector.run_time import Known
from tinyopt.targets.kernels.vector.tile_nest import Finished
from tinyopt.targets.kernels.vector.tiling import LANES
from tinyopt.targets.kernels.vector.widened_depthwise import (
    ACCUMULATED,
    NARROWEST,
    SMALLEST_PAIRED,
    UNROLLED_TAPS,
    WIDEST,
    PairSums,
    pixels_at_a_time,
)


@dataclass(frozen=True)
class MullDepthwiseSpec:
    """What the compiled function depends on. pairs: products are added in pairs before they are widened."""

    form: DepthwiseForm
    pairs: bool
    known: Known = ()


def plan_neon_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one group for each channel."""
    refusal = integer_refusal(node)
    if refusal is not None:
        return refusal
    shape = plan_depthwise(node, "int8", WIDEST, NARROWEST)
    if isinstance(shape, Refusal):
        return shape
    weights, layer = node.input(1).data, IntegerLayer.of(node, "neon")
    form = DepthwiseForm.of(layer, shape, pixels_at_a_time(shape.window, ACCUMULATED // shape.blocks.width))
    spec = MullDepthwiseSpec(form, bool(weights.min() >= SMALLEST_PAIRED))
    arguments = depthwise_arguments(node, form, shape, layer, _pack(weights, shape.blocks))
    return Kernel(mull_depthwise, spec, "depthwise_neon", arguments, has_numbers=True)


def _pack(weights: Array, blocks: ChannelBlocks) -> list[Array]:
    """[C, KH, KW, 1] weights as [tap][channel] for each block, flat."""
    taps = weights.reshape(len(weights), -1).T  # KH * KW, C
    return [taps[:, start : start + width].reshape(-1) for start, width in blocks.starts()]


def mull_depthwise(spec: MullDepthwiseSpec) -> PrimFunc:
    """The convolutions of `spec`; parameters as in `depthwise_arguments`."""

    def write_row(code: DepthwiseCode, out_row: Expr, block: Block) -> None:
        _Row(spec, code, out_row, block).write()

    return depthwise_function("depthwise_neon", spec.form, spec.known, write_row)


@dataclass(frozen=True)
class _Row:
    """Writes one output row of one block of channels."""

    spec: MullDepthwiseSpec
    code: DepthwiseCode
    out_row: Expr
    block: Block

    @property
    def kernel(self) -> KernelBuilder:
        return self.code.kernel

    def write(self) -> None:
        form, code, width = self.spec.form, self.code, self.block.width
        row_index = self.kernel.let(self.out_row * code.sizes.out_row + self.block.channel)
        with self.kernel.loop(code.sizes.groups) as group:
            column = self.kernel.let(minimum(group * form.pixels, code.sizes.out_width - form.pixels))
            totals = self.kernel.local("int32", form.pixels * width)
            for pixel in range(form.pixels):
                totals.store_vector(pixel * width, code.bias.vector(self.block.channel, width), width)
            cell = self.kernel.let(column * code.cells[form.strides[1]] + self.block.channel)
            if form.kernel[0] * form.kernel[1] <= UNROLLED_TAPS:
                self._add_rows(totals, range(form.kernel[0]), cell)
            else:
                with self.kernel.loop(form.kernel[0]) as row:
                    self._add_rows(totals, [row], cell)
            index = self.kernel.let(row_index + column * code.sizes.channels)
            code.ending.write([self._finished(totals, pixel, index) for pixel in range(form.pixels)])

    def _finished(self, totals: Buffer, pixel: int, index: Expr) -> Finished:
        width = self.block.width
        values = tuple(self.kernel.let(totals.vector(pixel * width + v, LANES)) for v in range(0, width, LANES))
        return Finished(values, self.block.channel, index + self.code.cells[pixel], width)

    def _add_rows(self, totals: Buffer, rows: Sequence[Expr], cell: Expr) -> None:
        """Add the products of some rows of the windows, whose first cell is `cell` of a row."""
        form, code, width = self.spec.form, self.code, self.block.width
        sums = PairSums(self.kernel, totals, width, self.spec.pairs)
        for row in rows:
            first_tap = self.block.weight + row * (form.kernel[1] * width)
            weights = [self._widened(code.weights, first_tap + tap * width) for tap in range(form.kernel[1])]
            start = self.kernel.let(code.rows.base(self.out_row, row) + cell)
            for place, readers in shared_columns(form, form.pixels):
                value = self._widened(code.rows.data, start + code.cells[place])
                for pixel, tap in readers:
                    sums.add(pixel, value * weights[tap])
        sums.finish()

    def _widened(self, data: Buffer, start: Expr) -> Expr:
        """Levels or weights of all channels of the block, as int16."""
        width = self.block.width
        return self.kernel.let(cast(data.vector(start, width), vector_type("int16", width)))
