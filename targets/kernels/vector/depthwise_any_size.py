"""What int8 depthwise convolutions on 64-bit Arm have in common that read the image's size and channels at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Argument
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, minimum
from tinyopt.targets.kernels.vector.channel_blocks import goes_block_by_block
from tinyopt.targets.kernels.vector.depthwise import DepthwiseShape
from tinyopt.targets.kernels.vector.integer_ending import IntegerEnding
from tinyopt.targets.kernels.vector.integer_layer import IntegerLayer, LayerForm, LayerNumbers, layer_arguments
from tinyopt.targets.kernels.vector.run_time import Known, Numbers, numbers_argument
from tinyopt.targets.kernels.vector.run_time_rows import RowForm, RowSizes, RunTimeRows

Pair = tuple[int, int]


@dataclass(frozen=True)
class DepthwiseForm:
    """What the code depends on.

    width: channels of a block. last_width: of a narrower last one, 0 where there is none. pixels: of a group.
    goes_block_by_block: the loop over blocks of channels is the outer one.
    """

    layer: LayerForm
    rows: RowForm
    kernel: Pair
    strides: Pair
    dilations: Pair
    width: int
    last_width: int
    pixels: int
    goes_block_by_block: bool

    @classmethod
    def of(cls, layer: IntegerLayer, shape: DepthwiseShape, pixels: int) -> DepthwiseForm:
        """That of a layer."""
        window, plan, blocks = shape.window, shape.rows, shape.blocks
        return cls(
            layer.form,
            RowForm.of(plan),
            window.kernel,
            window.strides,
            window.dilations,
            blocks.width,
            0 if blocks.last_width == blocks.width else blocks.last_width,
            pixels,
            goes_block_by_block(plan),
        )

    @property
    def cells(self) -> int:
        """From the first cell of a group's windows to the last, and to the first of the next group's."""
        return max(self.pixels * self.strides[1], (self.pixels - 1) * self.strides[1] + self.reach) + 1

    @property
    def reach(self) -> int:
        """From the first cell of a window's row to the last."""
        return (self.kernel[1] - 1) * self.dilations[1]


@dataclass(frozen=True)
class DepthwiseSizes:
    """What is read at run time.

    blocks: as wide as the first, of which the last begins at channel last_start. narrow_start: where the narrower one
    does. block_weights: of a block. out_row: elements of a row of the output. groups: of pixels in a row.
    all_bits: set: what is masked with it stays as it is, but LLVM does not know.
    """

    channels: int
    blocks: int
    last_start: int
    narrow_start: int
    block_weights: int
    out_height: int
    out_width: int
    out_row: int
    groups: int
    all_bits: int


@dataclass(frozen=True)
class DepthwiseCode:
    """The parameters of the kernel.

    cells: elements from a cell to the one so many further in its row. groups_with: how many groups of a row have that
    pixel of theirs.
    """

    kernel: KernelBuilder
    sizes: DepthwiseSizes
    cells: list[Expr]
    groups_with: list[Expr]
    rows: RunTimeRows
    weights: Buffer
    bias: Buffer
    ending: IntegerEnding


def depthwise_arguments(
    node: Node, form: DepthwiseForm, shape: DepthwiseShape, layer: IntegerLayer, weights: Sequence[Array]
) -> tuple[Argument, ...]:
    """What `depthwise_function` declares. weights: of each block, flat."""
    window, blocks = shape.window, shape.blocks
    sizes = DepthwiseSizes(
        channels=window.channels,
        blocks=blocks.whole + (1 if blocks.last_width and not form.last_width else 0),
        last_start=window.channels - form.width,
        narrow_start=blocks.last_start,
        block_weights=weights[0].size,
        out_height=window.out_height,
        out_width=window.out_width,
        out_row=window.out_width * window.channels,
        groups=-(-window.out_width // form.pixels),
        all_bits=-1,
    )
    cells = tuple(cell * window.channels for cell in range(1, form.cells))
    groups_with = tuple(-(-(window.out_width - pixel) // form.pixels) for pixel in range(1, form.pixels))
    numbers = numbers_argument(sizes, cells, groups_with, RowSizes.of(shape.rows), layer.numbers)
    return numbers, *layer_arguments(node, shape.rows, np.concatenate(weights), node.input(2).data, node.input(3).data)


@dataclass(frozen=True)
class Block:
    """One block of channels: its first weight, its first channel, and how many there are."""

    weight: Expr
    channel: Expr
    width: int


WriteRow = Callable[[DepthwiseCode, Expr, Block], None]  # (code, output row, block)


def depthwise_function(name: str, form: DepthwiseForm, known: Known, write: WriteRow) -> PrimFunc:
    """The loops over output rows and blocks of channels, in which `write` writes one row of one block."""
    kernel = KernelBuilder(name)
    with kernel.function():
        numbers = Numbers(kernel, known)
        sizes = numbers.read(DepthwiseSizes, "int64")
        cells = [0, *numbers.read_list(form.cells - 1, "int64")]
        groups_with = [sizes.groups, *numbers.read_list(form.pixels - 1, "int64")]
        row_sizes = numbers.read(RowSizes, "int64")
        layer = form.layer.layer(numbers.read(LayerNumbers))
        code = layer.declare_any_size(kernel, has_ring=not form.rows.is_in_place)
        rows = RunTimeRows.declare(kernel, form.rows, row_sizes, code.image, code.ring, layer.padding)
        arrays = code.weights, code.bias, code.ending
        _write_blocks(form, DepthwiseCode(kernel, sizes, cells, groups_with, rows, *arrays), write)
    return kernel.finish()


def _write_blocks(form: DepthwiseForm, code: DepthwiseCode, write: WriteRow) -> None:
    kernel, sizes = code.kernel, code.sizes

    def each_block(body: Callable[[Block], None]) -> None:
        with kernel.loop(sizes.blocks) as number:
            channel = kernel.let(minimum(number * form.width, sizes.last_start))
            body(Block(kernel.let(number * sizes.block_weights), channel, form.width))
        if form.last_width:
            body(Block(kernel.let(sizes.blocks * sizes.block_weights), sizes.narrow_start, form.last_width))

    def all_rows(block: Block) -> None:
        with kernel.loop(sizes.out_height) as out_row:
            write(code, out_row, block)

    code.rows.prepare()
    if form.goes_block_by_block:
        each_block(all_rows)
        return
    with kernel.loop(sizes.out_height) as out_row:
        code.rows.advance(out_row)
        each_block(lambda block: write(code, out_row, block))
