"""The loop nest of convolutions and dense layers on SMULL, SMLAL2 and SADALP: tiles of pixels x channels, step by step.

for each output row, tile of pixels, tile of channels:
    accumulators = bias
    for each run of the window, each step of the run (`mull_steps`), each of its rotations:
        accumulators[pixel][channel] += weights[rotation][channel] * rotated image[pixel]
    write the accumulators out
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, broadcast, lanes, reinterpret
from tinyopt.targets.kernels.vector.mull_steps import STEP, WHOLE, StepShape, pieces_of, runs_together, shapes_of
from tinyopt.targets.kernels.vector.neon import add_neighbours, multiply_long
from tinyopt.targets.kernels.vector.rows import RowPlan, Rows
from tinyopt.targets.kernels.vector.tile_nest import TileNest
from tinyopt.targets.kernels.vector.tiling import LANES, TILE_OVERHEAD, VECTOR_END, TileSpec

REGISTERS = 31  # of 32: accumulators, each pixel's image vector as it was loaded and rotated, and those below
OPERANDS = 3  # registers for weights and for products that wait to be added
MOST_ACCUMULATORS = 18  # beyond, LLVM loads operands too early and keeps accumulators in memory
UNROLLED_INSTRUCTIONS = 330  # windows of up to so many vector instructions are written out without loops,
UNROLLED_PIECES = 500  # or so many where no run has a whole step
SECOND_TILE = 1.02  # what the code of a narrower last tile must be worth
LOOP_OVERHEAD = 3


def choose_mull_tile(rows: RowPlan, out_channels: int, has_residual: bool) -> TileSpec:
    """The tile that takes the fewest instructions, by a simple count."""
    candidates = (
        TileSpec(rows, out_channels, 1, pixels, vectors * LANES, has_residual)
        for pixels, vectors in _tile_shapes(rows, out_channels)
    )
    return min(candidates, key=lambda spec: mull_instructions(spec) * (SECOND_TILE if spec.last_channels else 1))


def _tile_shapes(rows: RowPlan, out_channels: int) -> Iterator[tuple[int, int]]:
    """(pixels, vectors of channels) whose accumulators and operands fit into the registers."""
    for vectors in range(1, min(MOST_ACCUMULATORS, -(-out_channels // LANES)) + 1):
        for pixels in range(1, min(10, rows.window.out_width) + 1):
            accumulators = pixels * vectors
            if accumulators <= MOST_ACCUMULATORS and accumulators + 2 * pixels + OPERANDS <= REGISTERS:
                yield pixels, vectors


def mull_instructions(spec: TileSpec) -> int:
    """Instructions of the whole layer, by a simple count."""
    window = spec.rows.window
    pixel_tiles = window.out_height * -(-window.out_width // spec.pixels)
    tiles = [spec.channels] * spec.whole_tiles + ([spec.last_channels] if spec.last_channels else [])
    return pixel_tiles * sum(_tile_instructions(spec, channels // LANES) for channels in tiles)


def _tile_instructions(spec: TileSpec, vectors: int) -> int:
    end = spec.pixels * vectors * VECTOR_END
    return TILE_OVERHEAD + end + sum(_step_instructions(shape, spec.pixels, vectors) for shape in steps_of_window(spec))


def steps_of_window(spec: TileSpec) -> list[StepShape]:
    """All steps of a window."""
    runs = spec.runs[0] * spec.runs[1]
    pairs, single = divmod(runs, runs_together(spec.run_elements))
    together = shapes_of(runs_together(spec.run_elements), spec.run_elements)
    return together * pairs + shapes_of(1, spec.run_elements) * single


def _step_instructions(shape: StepShape, pixels: int, vectors: int) -> int:
    loads = shape.pieces if shape != WHOLE else 1
    image = pixels * (loads + shape.rotations - 1)
    weights = shape.rotations * vectors  # not all CPUs' code loads them in pairs
    return image + weights + pixels * vectors * shape.vector_instructions + LOOP_OVERHEAD


@dataclass(frozen=True)
class _Tile:
    """The accumulators [pixel][channel] of a tile, and whether its window is written out without loops."""

    accumulators: Buffer
    channels: int
    is_unrolled: bool


class MullLoops(TileNest):
    """Writes the loop nest."""

    def __init__(self, kernel: KernelBuilder, spec: TileSpec, rows: Rows, weights: Buffer) -> None:
        super().__init__(kernel, spec, rows, weights, "int32")
        apart = spec.rows.window.strides[1] * spec.rows.window.channels
        self._steps = MullSteps(kernel, rows.data, weights, [pixel * apart for pixel in range(spec.pixels)])

    def _window(self, accumulators: Buffer, out_row: Expr, column: Expr, channel: Expr, channels: int) -> None:
        """Add the products of one window for each pixel."""
        spec = self._spec
        rows, row_runs = spec.runs
        together = runs_together(spec.run_elements)
        pairs, single = divmod(rows * row_runs, together)
        pair_bytes, single_bytes = (
            sum(shape.channel_bytes for shape in shapes_of(runs, spec.run_elements)) for runs in (together, 1)
        )
        first_weight = self._kernel.let(channel * (pairs * pair_bytes + single * single_bytes))
        most = UNROLLED_INSTRUCTIONS if pieces_of(spec.run_elements)[0] else UNROLLED_PIECES
        is_unrolled = self._window_instructions(channels) <= most
        tile = _Tile(accumulators, channels, is_unrolled)

        def runs(first: Expr, count: int, weight: Expr) -> None:
            starts = [self._kernel.let(self._run_start(out_row, column, first, i)) for i in range(count)]
            self._runs(tile, starts, self._kernel.let(weight))

        if is_unrolled:
            for number in range(pairs):
                runs(number * together, together, first_weight + number * (pair_bytes * channels))
        elif pairs:
            with self._kernel.loop(pairs) as number:
                runs(number * together, together, first_weight + number * (pair_bytes * channels))
        if single:
            runs(pairs * together, 1, first_weight + pairs * pair_bytes * channels)

    def _window_instructions(self, channels: int) -> int:
        products = self._spec.pixels * channels // LANES
        return sum(shape.vector_instructions for shape in steps_of_window(self._spec)) * products

    def _run_start(self, out_row: Expr, column: Expr, first: Expr, ahead: int) -> Expr:
        """The element at which the run `ahead` of run `first` begins for the tile's first pixel."""
        window, (_, row_runs) = self._spec.rows.window, self._spec.runs
        run = first + ahead
        row, run_in_row = (run, 0) if row_runs == 1 else (run // row_runs, run % row_runs)
        cell = column * window.strides[1] + run_in_row * window.dilations[1]
        return self._rows.base(out_row, row) + cell * window.channels

    def _runs(self, tile: _Tile, starts: list[Expr], weight: Expr) -> None:
        """Add the products of one or two neighbouring runs."""
        whole, pieces = pieces_of(self._spec.run_elements)
        step_bytes = STEP * tile.channels
        for start in starts:
            if tile.is_unrolled or whole == 1:
                for step in range(whole):
                    self._steps.write(
                        tile.accumulators, tile.channels, [start + step * STEP], WHOLE, weight + step * step_bytes
                    )
            elif whole:
                with self._kernel.loop(whole) as step:
                    self._steps.write(
                        tile.accumulators, tile.channels, [start + step * STEP], WHOLE, weight + step * step_bytes
                    )
            weight = weight + whole * step_bytes
        done = whole * STEP
        for elements in pieces:
            shape = StepShape(elements, len(starts))
            self._steps.write(tile.accumulators, tile.channels, [start + done for start in starts], shape, weight)
            weight = weight + shape.channel_bytes * tile.channels
            done += elements


@dataclass(frozen=True)
class MullSteps:
    """Writes steps of a tile. offsets: from the image's first pixel to each, in elements of `data`."""

    kernel: KernelBuilder
    data: Buffer
    weights: Buffer
    offsets: Sequence[Expr]

    def write(
        self, accumulators: Buffer, channels: int, places: Sequence[Expr], shape: StepShape, weight: Expr
    ) -> None:
        """Add the products of one step, whose pieces begin at `places`, to the accumulators [pixel][channel]."""
        width = shape.vector_bytes
        images = [self.kernel.let(self._image([place + offset for place in places], shape)) for offset in self.offsets]
        for rotation in range(shape.rotations):
            if rotation:
                images = [self.kernel.let(_rotated(image, shape)) for image in images]
            for v in range(channels // LANES):
                place = weight + (rotation * channels // LANES + v) * width
                vector = self.kernel.let(self.weights.vector(place, width))
                for pixel, image in enumerate(images):
                    total = pixel * channels + v * LANES
                    products = _products(vector, reinterpret(image, f"int8x{width}"), shape)
                    accumulators.store_vector(total, add_neighbours(accumulators.vector(total, LANES), products), LANES)

    def _image(self, places: Sequence[Expr], shape: StepShape) -> Expr:
        """The pieces at `places` as a vector of pairs (int16); pieces of 4 elements twice each."""
        data = self.data
        if shape == WHOLE and len(places) == 1:
            return reinterpret(data.vector(places[0], STEP), "int16x8")
        if shape.elements == STEP // 2:
            pieces = [reinterpret(data.vector(place, shape.elements), "int16x4") for place in places]
        else:
            words = [reinterpret(data.vector(place, shape.elements), "int32") for place in places]
            pieces = [reinterpret(broadcast(word, 2), "int16x4") for word in words]
        return lanes(pieces, range(2 * LANES)) if len(pieces) == 2 else pieces[0]


def _rotated(image: Expr, shape: StepShape) -> Expr:
    """The pairs of an image moved on by one: around the whole vector, or within words where pieces have 4 elements."""
    pairs = shape.pieces * LANES
    around = shape.rotations if shape.elements < STEP // 2 else pairs
    return lanes([image], [pair // around * around + (pair + 1) % around for pair in range(pairs)])


def _products(weights: Expr, image: Expr, shape: StepShape) -> Expr:
    """int16x8 products, those of the second half of the vectors added to those of the first."""
    if shape.pieces == 1:
        return multiply_long(weights, image)
    low, high = range(STEP // 2), range(STEP // 2, STEP)
    first = multiply_long(lanes([weights], low), lanes([image], low))
    return first + multiply_long(lanes([weights], high), lanes([image], high))
