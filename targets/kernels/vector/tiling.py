"""How a convolution or a matrix product is cut into tiles of pixels x output channels that stay in registers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tinyopt.targets.kernels.vector.machine import ARM_VECTORS, VectorMachine
from tinyopt.targets.kernels.vector.rows import RowPlan

LANES = ARM_VECTORS.lanes  # 32-bit lanes of a vector, where a machine's own width is not asked for
REGISTERS = ARM_VECTORS.registers
TILE_OVERHEAD = 24  # instructions to begin a tile: addresses, loop counters
VECTOR_END = 9  # instructions to begin and end an accumulator vector: bias, requantization or clamp, store
CHAIN_CYCLES = 4  # from one product to the next that adds to the same accumulator


@dataclass(frozen=True)
class TileSpec:
    """A convolution as a product of tiles.

    A *run* is a piece of an image row that meets consecutive weights: all of the window's cells in that row, or one
    cell where the window is dilated. A *word* is what one lane multiplies: an element, or four int8 for SDOT.
    pixels x channels: the tile; the last tile of channels is narrower where they do not divide.
    machine: whose vectors the tile is made of.
    """

    rows: RowPlan
    out_channels: int
    word_elements: int
    pixels: int
    channels: int
    has_residual: bool
    machine: VectorMachine = ARM_VECTORS

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
        lanes = self.machine.lanes
        return -(-self.out_channels // lanes) * lanes

    @property
    def whole_tiles(self) -> int:
        return self.out_channels // self.channels

    @property
    def last_channels(self) -> int:
        """Channels of the narrower last tile, whole vectors; 0 where there is none."""
        return self.padded_channels - self.whole_tiles * self.channels


def runs_of(rows: RowPlan) -> tuple[int, int]:
    """(rows, runs in a row) of one window."""
    window = rows.window
    return window.kernel[0], window.kernel[1] if window.dilations[1] > 1 else 1


def choose_tile(
    rows: RowPlan, out_channels: int, word_elements: int, has_residual: bool, machine: VectorMachine = ARM_VECTORS
) -> TileSpec:
    """The tile that takes the least, by a simple count."""
    candidates = (
        TileSpec(rows, out_channels, word_elements, pixels, vectors * machine.lanes, has_residual, machine)
        for pixels, vectors in _shapes(rows, out_channels, machine)
    )
    return min(candidates, key=tile_instructions)


def tile_instructions(spec: TileSpec) -> int:
    """The modelled count for the whole layer, but for the padding; half cycles where operands come from memory."""
    window, lanes = spec.rows.window, spec.machine.lanes
    tile = _tile_instructions if spec.machine.operands == "lane" else _tile_half_cycles
    pixel_tiles = window.out_height * -(-window.out_width // spec.pixels)
    tiles = [spec.channels] * spec.whole_tiles + ([spec.last_channels] if spec.last_channels else [])
    return pixel_tiles * sum(tile(spec, channels // lanes) for channels in tiles)


def _shapes(rows: RowPlan, out_channels: int, machine: VectorMachine) -> Iterator[tuple[int, int]]:
    """(pixels, vectors of channels) whose accumulators and operands fit into the registers."""
    most_pixels = 10 if machine.operands == "lane" else machine.registers
    for vectors in range(1, min(8, -(-out_channels // machine.lanes)) + 1):
        for pixels in range(1, min(most_pixels, rows.window.out_width) + 1):
            if pixels * vectors + _operand_registers(pixels, vectors, machine) <= machine.registers:
                yield pixels, vectors


def _operand_registers(pixels: int, vectors: int, machine: VectorMachine) -> int:
    """Registers that a tile's operands take next to its accumulators."""
    if machine.operands == "lane":
        return pixels + min(vectors, 4)
    return 2 if pixels == 1 else vectors + 1  # one pixel takes its weights from memory


def _tile_instructions(spec: TileSpec, vectors: int) -> int:
    run_loads = -(-spec.run_words // spec.machine.lanes)
    products = spec.run_words * spec.pixels * vectors
    per_run = run_loads * (spec.pixels + 3) + products + _weight_loads(spec, vectors)
    runs = spec.runs[0] * spec.runs[1]
    return TILE_OVERHEAD + runs * (per_run + 3) + spec.pixels * vectors * VECTOR_END


def _weight_loads(spec: TileSpec, vectors: int) -> int:
    """Instructions that load a run's weights: two vectors each, floats also across the words."""
    if spec.word_elements == 1:
        return (spec.run_words * vectors + 1) // 2
    return spec.run_words * ((vectors + 1) // 2)


def _tile_half_cycles(spec: TileSpec, vectors: int) -> int:
    """Two products and two loads begin in a cycle, and each accumulator waits for its last product."""
    products, loads = spec.pixels * vectors, spec.pixels + vectors
    per_word = max(products, loads, 2 * CHAIN_CYCLES)
    return TILE_OVERHEAD + spec.words * per_word + spec.runs[0] * spec.runs[1] * 2 + products * VECTOR_END
