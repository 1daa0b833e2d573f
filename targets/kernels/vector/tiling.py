"""How a convolution or a matrix product is cut into tiles of pixels x output channels that stay in registers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tinyopt.targets.kernels.vector.rows import RowPlan

LANES = 4  # 32-bit lanes of a vector
REGISTERS = 30  # of 32 vector registers, two are left to the compiler
TILE_OVERHEAD = 24  # instructions to begin a tile: addresses, loop counters
VECTOR_END = 9  # instructions to begin and end an accumulator vector: bias, requantization or clamp, store


@dataclass(frozen=True)
class TileSpec:
    """A convolution as a product of tiles.

    A *run* is a piece of an image row that meets consecutive weights: all of the window's cells in that row, or one
    cell where the window is dilated. A *word* is what one lane multiplies: an element, or four int8 for SDOT.
    pixels x channels: the tile; the last tile of channels is narrower where they do not divide.
    """

    rows: RowPlan
    out_channels: int
    word_elements: int
    pixels: int
    channels: int
    has_residual: bool

    @property
    def runs(self) -> tuple[int, int]:
        """Runs of one window: (rows, runs in a row)."""
        return runs_of(self.rows)

    @property
    def run_elements(self) -> int:
        window = self.rows.window
        return window.channels * window.kernel[1] // self.runs[1]

    @property
    def run_words(self) -> int:
        return -(-self.run_elements // self.word_elements)

    @property
    def words(self) -> int:
        """Of one whole window."""
        return self.runs[0] * self.runs[1] * self.run_words

    @property
    def padded_channels(self) -> int:
        return -(-self.out_channels // LANES) * LANES

    @property
    def whole_tiles(self) -> int:
        return self.out_channels // self.channels

    @property
    def last_channels(self) -> int:
        """Channels of the narrower last tile, a multiple of LANES; 0 where there is none."""
        return self.padded_channels - self.whole_tiles * self.channels


def runs_of(rows: RowPlan) -> tuple[int, int]:
    """(rows, runs in a row) of one window."""
    window = rows.window
    return window.kernel[0], window.kernel[1] if window.dilations[1] > 1 else 1


def choose_tile(rows: RowPlan, out_channels: int, word_elements: int, has_residual: bool) -> TileSpec:
    """The tile that takes the fewest instructions, by a simple count."""
    candidates = (
        TileSpec(rows, out_channels, word_elements, pixels, vectors * LANES, has_residual)
        for pixels, vectors in _shapes(rows, out_channels)
    )
    return min(candidates, key=tile_instructions)


def _shapes(rows: RowPlan, out_channels: int) -> Iterator[tuple[int, int]]:
    """(pixels, vectors of channels) whose accumulators and operands fit into the registers."""
    for vectors in range(1, min(8, -(-out_channels // LANES)) + 1):
        for pixels in range(1, min(10, rows.window.out_width) + 1):
            if pixels * vectors + pixels + min(vectors, 4) <= REGISTERS:
                yield pixels, vectors


def tile_instructions(spec: TileSpec) -> int:
    """The modelled count for the whole layer, but for the padding."""
    window = spec.rows.window
    pixel_tiles = window.out_height * -(-window.out_width // spec.pixels)
    tiles = [spec.channels] * spec.whole_tiles + ([spec.last_channels] if spec.last_channels else [])
    return pixel_tiles * sum(_tile_instructions(spec, channels // LANES) for channels in tiles)


def _tile_instructions(spec: TileSpec, vectors: int) -> int:
    run_loads = -(-spec.run_words // LANES)
    per_run = run_loads * (spec.pixels + 3) + spec.run_words * (spec.pixels * vectors + (vectors + 1) // 2)
    runs = spec.runs[0] * spec.runs[1]
    return TILE_OVERHEAD + runs * (per_run + 3) + spec.pixels * vectors * VECTOR_END
