"""Lays an image out in pairs of pixels, as SMMLA multiplies them (`smmla_tiling` describes the two layouts)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from tinyopt.targets.kernel import ScratchArgument
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, both, broadcast, constant, lanes
from tinyopt.targets.kernels.vector.rows import Rows, in_vectors
from tinyopt.targets.kernels.vector.smmla_tiling import DEPTH, OPERAND, VECTOR, PairTileSpec, run_starts

UNROLLED_STEPS = 4  # up to so many steps are laid out without a loop


class PairedImage(ABC):
    """The image in pairs of pixels. Operand (pair i, step s) of a run that begins at `start` lies at
    start + i * pair_stride + s * step_stride."""

    data: Buffer
    pair_stride: int
    step_stride: int

    @abstractmethod
    def prepare(self) -> None:
        """Before the first output row."""

    @abstractmethod
    def advance(self, out_row: Expr) -> None:
        """Before output row `out_row`."""

    @abstractmethod
    def bring(self, out_row: Expr, column: Expr) -> None:
        """Before the tile of pixels that begins at `column`."""

    @abstractmethod
    def run_start(self, out_row: Expr, column: Expr, row: Expr, run_in_row: Expr) -> Expr:
        """Where a run of the tile's first pair begins."""


def image_scratch(spec: PairTileSpec) -> tuple[ScratchArgument, ...]:
    """Working memory: what is laid out, and what it is laid out from where that has to be collected first."""
    collected = _collected_bytes(spec)
    scratch = (ScratchArgument(spec.laid_out_bytes, VECTOR),)
    return (*scratch, ScratchArgument(collected, VECTOR)) if collected else scratch


def declare_image(kernel: KernelBuilder, spec: PairTileSpec, rows: Rows, padding: int) -> PairedImage:
    """Declare the parameters of `image_scratch`. padding: what padding cells hold."""
    laid_out = kernel.buffer("pairs", "int8", spec.laid_out_bytes)
    collected = kernel.buffer("collected", "int8", _collected_bytes(spec)) if _collected_bytes(spec) else None
    if spec.layout == "cells":
        return _Cells(kernel, spec, rows.data, laid_out, collected, padding)
    return _Block(kernel, spec, rows, laid_out, collected)


def _collected_bytes(spec: PairTileSpec) -> int:
    """block: the runs of the tile's pixels, one after the other. cells: an image row with padding around it."""
    window = spec.window
    if spec.layout == "cells":
        return 0 if _reads_image(spec) else (spec.row_cells + window.strides[1]) * window.channels
    return 0 if spec.is_single_run else spec.pixels * _pixel_bytes(spec)


def _reads_image(spec: PairTileSpec) -> bool:
    """No cell of a row is padding."""
    return spec.window.pads[1] == 0 and spec.window.padded_width <= spec.window.width


def _pixel_bytes(spec: PairTileSpec) -> int:
    """Of one pixel's runs, with slack for the last store."""
    return spec.steps * DEPTH // VECTOR * VECTOR + 2 * VECTOR


@dataclass(frozen=True)
class _Pairs:
    """Writes operands: steps of pairs of pixels, which begin `apart` elements behind one another in `source`."""

    kernel: KernelBuilder
    source: Buffer
    apart: int
    laid_out: Buffer
    step_stride: int

    def write(self, first: Sequence[Expr], targets: Sequence[Expr], elements: int) -> None:
        """All steps of `elements` values, for pairs whose first pixels begin at `first`."""
        starts = run_starts(elements)
        looped = len(starts) // 2 - 1 if len(starts) > UNROLLED_STEPS else 0  # the last steps may overlap
        if looped:
            with self.kernel.loop(looped) as i:
                self._steps(first, targets, i * VECTOR, i * (2 * self.step_stride), 2)
        step = 2 * looped
        while step < len(starts):
            count = 2 if starts[step : step + 2] == (starts[step], starts[step] + DEPTH) else 1
            self._steps(first, targets, starts[step], step * self.step_stride, count)
            step += count

    def _steps(
        self, first: Sequence[Expr], targets: Sequence[Expr], source_offset: Expr, target_offset: Expr, count: int
    ) -> None:
        """One step or two of all pairs."""
        for start, target in zip(first, targets, strict=True):
            places = (start + source_offset, start + source_offset + self.apart)
            a, b = (self.kernel.let(self.source.vector(place, count * DEPTH)) for place in places)
            for step in range(count):
                own = range(step * DEPTH, (step + 1) * DEPTH)
                operand = lanes([a, b], [*own, *(count * DEPTH + lane for lane in own)])
                self.laid_out.store_vector(target + target_offset + step * self.step_stride, operand, OPERAND)


class _Block(PairedImage):
    """The pixels of one tile, [step][pair]."""

    def __init__(
        self, kernel: KernelBuilder, spec: PairTileSpec, rows: Rows, laid_out: Buffer, collected: Buffer | None
    ) -> None:
        self._kernel = kernel
        self._spec = spec
        self._rows = rows
        self._collected = collected
        self.data = laid_out
        self.pair_stride = OPERAND
        self.step_stride = spec.pairs * OPERAND

    def prepare(self) -> None:
        self._rows.prepare()

    def advance(self, out_row: Expr) -> None:
        self._rows.advance(out_row)

    def run_start(self, out_row: Expr, column: Expr, row: Expr, run_in_row: Expr) -> Expr:
        return 0

    def bring(self, out_row: Expr, column: Expr) -> None:
        window = self._spec.window
        apart = window.strides[1] * window.channels
        if self._collected is None:
            start = self._kernel.let(self._rows.base(out_row, 0) + column * apart)
            elements = self._spec.run_elements
            self._lay_out(self._rows.data, start, apart, elements)
            return
        self._collect(self._collected, out_row, column)
        self._lay_out(self._collected, 0, _pixel_bytes(self._spec), self._spec.steps * DEPTH)

    def _lay_out(self, source: Buffer, start: Expr, apart: int, elements: int) -> None:
        pairs = range(self._spec.pairs)
        writer = _Pairs(self._kernel, source, apart, self.data, self.step_stride)
        writer.write([start + 2 * pair * apart for pair in pairs], [pair * OPERAND for pair in pairs], elements)

    def _collect(self, collected: Buffer, out_row: Expr, column: Expr) -> None:
        """The runs of each pixel, one after the other; what a store writes beyond its run the next one overwrites."""
        spec, window = self._spec, self._spec.window
        runs_in_row = window.kernel[1] if window.dilations[1] > 1 else 1
        starts = [self._kernel.let(self._rows.base(out_row, row)) for row in range(window.kernel[0])]
        with self._kernel.loop(spec.pixels) as pixel:
            cell = self._kernel.let((column + pixel) * (window.strides[1] * window.channels))
            target = pixel * _pixel_bytes(spec)
            for row, start in enumerate(starts):
                for run in range(runs_in_row):
                    source = start + cell + run * (window.dilations[1] * window.channels)
                    place = target + (row * runs_in_row + run) * spec.run_elements
                    for at in range(0, spec.run_elements, VECTOR):
                        width = DEPTH if spec.run_elements - at <= DEPTH else VECTOR
                        collected.store_vector(place + at, self._rows.data.vector(source + at, width), width)


class _Cells(PairedImage):
    """A ring of rows: [row][cell][step of the cell], each cell with the one that the next pixel reads in its place."""

    def __init__(
        self,
        kernel: KernelBuilder,
        spec: PairTileSpec,
        image: Buffer,
        laid_out: Buffer,
        collected: Buffer | None,
        padding: int,
    ) -> None:
        self._kernel = kernel
        self._spec = spec
        self._image = image
        self._collected = collected
        self._padding = constant(padding, "int8")
        self._cell_bytes = spec.cell_steps * OPERAND
        self._row_bytes = spec.row_cells * self._cell_bytes
        self.data = laid_out
        self.pair_stride = 2 * spec.window.strides[1] * self._cell_bytes
        self.step_stride = OPERAND

    def prepare(self) -> None:
        window = self._spec.window
        if self._collected is not None:
            self._fill(self._collected, 0, (self._spec.row_cells + window.strides[1]) * window.channels)
        if window.row_span > window.strides[0]:
            with self._kernel.loop(window.row_span - window.strides[0]) as row:
                self._bring_row(row)

    def advance(self, out_row: Expr) -> None:
        window = self._spec.window
        with self._kernel.loop(window.strides[0]) as i:
            row = self._kernel.let(out_row * window.strides[0] + (window.row_span - window.strides[0]) + i)
            if window.row_span >= window.strides[0]:
                self._bring_row(row)
            else:
                with self._kernel.when(row >= 0):
                    self._bring_row(row)

    def bring(self, out_row: Expr, column: Expr) -> None:
        pass  # the row is there already

    def run_start(self, out_row: Expr, column: Expr, row: Expr, run_in_row: Expr) -> Expr:
        window = self._spec.window
        slot = (out_row * window.strides[0] + row * window.dilations[0]) % window.row_span
        cell = column * window.strides[1] + run_in_row * window.dilations[1]
        return slot * self._row_bytes + cell * self._cell_bytes

    def _bring_row(self, row: Expr) -> None:
        """Lay out image row `row` (counted from the first padding row)."""
        window = self._spec.window
        target = self._kernel.let((row % window.row_span) * self._row_bytes)
        source = (row - window.pads[0]) * (window.width * window.channels)
        if window.pads[0] == 0 and window.padded_height <= window.height:
            self._lay_out(source, target)
            return
        is_inside = both(row >= window.pads[0], row < window.pads[0] + window.height)
        with self._kernel.when_else(is_inside) as (inside, outside):
            with inside:
                self._lay_out(source, target)
            with outside:
                self._fill(self.data, target, self._row_bytes)

    def _lay_out(self, source: Expr, target: Expr) -> None:
        """The row that begins at `source` of the image."""
        spec, window = self._spec, self._spec.window
        row, start = self._image, self._kernel.let(source)
        if self._collected is not None:
            self._copy_row(self._collected, start)
            row, start = self._collected, 0
        writer = _Pairs(self._kernel, row, window.strides[1] * window.channels, self.data, OPERAND)
        with self._kernel.loop(spec.row_cells) as cell:
            first = self._kernel.let(start + cell * window.channels)
            goal = self._kernel.let(target + cell * self._cell_bytes)
            writer.write([first], [goal], window.channels)

    def _copy_row(self, collected: Buffer, start: Expr) -> None:
        window = self._spec.window
        offset = window.pads[1] * window.channels
        cells = min(window.width, self._spec.row_cells + window.strides[1] - window.pads[1])
        in_vectors(
            self._kernel,
            cells * window.channels,
            VECTOR,
            lambda at, width: collected.store_vector(offset + at, self._image.vector(start + at, width), width),
        )

    def _fill(self, buffer: Buffer, start: Expr, count: int) -> None:
        in_vectors(
            self._kernel,
            count,
            VECTOR,
            lambda at, width: buffer.store_vector(start + at, broadcast(self._padding, width), width),
        )
