"""How a Winograd convolution is cut into blocks of tiles, and how many instructions that takes.

A *tile* is a square of m x m output pixels; n = m + 2 input cells reach it each way. A *block* is a rectangle of tiles
that are transformed together and then multiplied, position by position, as n * n matrix products:
[tiles, channels in] x [channels in, channels out].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tinyopt.targets.kernels.vector.machine import ARM_FLOAT_VECTORS, Float, VectorMachine
from tinyopt.targets.kernels.vector.rows import RowPlan, plan_rows
from tinyopt.targets.kernels.vector.tiling import REGISTERS
from tinyopt.targets.kernels.vector.window import Window
from tinyopt.targets.kernels.vector.winograd_transforms import TAPS, TRANSFORMS

SCRATCH_BYTES = 128 * 1024  # the most that transformed inputs and products may take
MOST_TILES = 32  # of a block
TRANSFORMS_OF_FLOAT16 = (2,)  # F(4x4, 3x3) is off by 3 to 5 % of the largest output
PRODUCT_OVERHEAD = 16  # instructions to begin a tile of a product: addresses, loop counters
TRANSFORM_OVERHEAD = 14  # instructions to begin a transform: addresses, loop counters
SPILLED = 24  # instructions that move vectors out of the registers and back, in the transform of 6 x 6 cells


@dataclass(frozen=True)
class WinogradSpec:
    """F(outputs x outputs, 3 x 3) over an image.

    window: of the convolution. rows: where the input is read, a strip of blocks being one row of a window.
    tiles: of a block, (vertical, horizontal). pixels x channels: the tile of the matrix products that stays in
    registers, pixels being tiles of the image. lanes: floats of a vector.
    """

    window: Window
    rows: RowPlan
    out_channels: int
    outputs: int
    tiles: tuple[int, int]
    pixels: int
    channels: int
    lanes: int
    has_residual: bool

    @property
    def element(self) -> Float:
        return "float32" if self.rows.dtype == "float32" else "float16"

    @property
    def cells(self) -> int:
        """n, the cells of a transformed tile each way."""
        return self.outputs + TAPS - 1

    @property
    def positions(self) -> int:
        return self.cells * self.cells

    @property
    def block_tiles(self) -> int:
        return self.tiles[0] * self.tiles[1]

    @property
    def strips(self) -> int:
        """Rows of blocks."""
        return -(-self.window.out_height // (self.tiles[0] * self.outputs))

    @property
    def blocks_in_strip(self) -> int:
        return -(-self.window.out_width // (self.tiles[1] * self.outputs))

    @property
    def padded_depth(self) -> int:
        """Channels of a transformed tile, up to whole vectors."""
        return -(-self.window.channels // self.lanes) * self.lanes

    @property
    def input_elements(self) -> int:
        """Transformed inputs of a block: [position][tile][channel]."""
        return self.positions * self.block_tiles * self.padded_depth

    @property
    def product_elements(self) -> int:
        """Products of a block for one tile of channels: [position][tile][channel]."""
        return self.positions * self.block_tiles * self.channels

    @property
    def scratch_bytes(self) -> int:
        return self.rows.element_bytes * (self.input_elements + self.product_elements)

    @property
    def weight_elements(self) -> int:
        """[tile of channels][position][channel in][channel out]."""
        return self.positions * self.window.channels * sum(width for _, width in self.channel_tiles)

    @property
    def channel_tiles(self) -> list[tuple[int, int]]:
        """(first channel, width) of the tiles of output channels; the last may overlap the one before it."""
        whole, rest = divmod(self.out_channels, self.channels)
        tiles = [(i * self.channels, self.channels) for i in range(whole)]
        last = -(-rest // self.lanes) * self.lanes
        return [*tiles, (self.out_channels - last, last)] if last else tiles


def winograd_specs(
    window: Window, out_channels: int, has_residual: bool, machine: VectorMachine = ARM_FLOAT_VECTORS
) -> Iterator[WinogradSpec]:
    """All ways to cut a convolution of 3 x 3 windows whose registers and scratch memory suffice."""
    for outputs in TRANSFORMS if machine.element == "float32" else TRANSFORMS_OF_FLOAT16:
        if window.out_width >= outputs:
            for tiles in _blocks(window, outputs):
                for spec in _specs(window, out_channels, outputs, tiles, has_residual, machine):
                    if spec.scratch_bytes <= SCRATCH_BYTES:
                        yield spec


def _blocks(window: Window, outputs: int) -> Iterator[tuple[int, int]]:
    """Shapes of blocks: parts of one row of tiles, or several whole rows."""
    high, wide = -(-window.out_height // outputs), -(-window.out_width // outputs)
    yield from ((1, columns) for columns in range(1, min(wide, MOST_TILES) + 1))
    yield from ((rows, wide) for rows in range(2, min(high, MOST_TILES // wide) + 1))


def _specs(
    window: Window, out_channels: int, outputs: int, tiles: tuple[int, int], has_residual: bool, machine: VectorMachine
) -> Iterator[WinogradSpec]:
    rows = plan_rows(_strip_window(window, outputs, tiles[0]), machine.element, read_over_end=False)
    lanes = machine.lanes
    for vectors in range(1, min(8, out_channels // lanes) + 1):
        for pixels in range(1, min(10, tiles[0] * tiles[1]) + 1):
            if pixels * vectors + pixels + min(vectors, 4) <= REGISTERS:
                yield WinogradSpec(
                    window, rows, out_channels, outputs, tiles, pixels, vectors * lanes, lanes, has_residual
                )


def _strip_window(window: Window, outputs: int, tile_rows: int) -> Window:
    """A window that covers all cells that a strip of so many rows of tiles reads, and goes from strip to strip."""
    return Window(
        height=window.height,
        width=window.width,
        channels=window.channels,
        out_height=-(-window.out_height // (tile_rows * outputs)),
        out_width=1,
        kernel=(tile_rows * outputs + TAPS - 1, window.out_width + TAPS - 1),
        strides=(tile_rows * outputs, 1),
        dilations=(1, 1),
        pads=window.pads,
    )


def winograd_instructions(spec: WinogradSpec) -> int:
    """The modelled count for the whole layer, but for the padding."""
    transform = TRANSFORMS[spec.outputs]
    depth_vectors = spec.padded_depth // spec.lanes
    spilled = SPILLED if spec.positions > REGISTERS else 0
    pixels_out = spec.outputs * spec.outputs
    per_input = 2 * spec.cells * transform.input_operations + 2 * spec.positions + TRANSFORM_OVERHEAD + spilled
    applied = (spec.cells + spec.outputs) * transform.output_operations
    per_output = applied + spec.positions + (5 if spec.has_residual else 3) * pixels_out + TRANSFORM_OVERHEAD
    block = spec.block_tiles * depth_vectors * per_input
    for _, width in spec.channel_tiles:
        vectors = width // spec.lanes
        products = -(-spec.block_tiles // spec.pixels) * spec.positions
        block += products * _product_instructions(spec, vectors) + spec.block_tiles * vectors * per_output
    return spec.strips * spec.blocks_in_strip * block


def _product_instructions(spec: WinogradSpec, vectors: int) -> int:
    """Of one tile of a matrix product, over all channels in."""
    depth, accumulators = spec.window.channels, spec.pixels * vectors
    loads = -(-depth // spec.lanes) * (spec.pixels + 3) + depth * ((vectors + 1) // 2)
    return PRODUCT_OVERHEAD + loads + depth * accumulators + accumulators
