"""The outer loops that convolutions and dense layers share: tiles of pixels x channels whose sums stay in registers.

for each output row, tile of pixels, tile of channels:
    accumulators = bias
    add the products of one window for each pixel
    write the accumulators out
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, minimum
from tinyopt.targets.kernels.vector.rows import Rows
from tinyopt.targets.kernels.vector.tiling import TileSpec


@dataclass(frozen=True)
class Finished:
    """The accumulators of one pixel: `values[v]` is a vector of channels.

    channel: the first of them. index: its place in the output. valid: how many channels there really are.
    """

    values: tuple[Expr, ...]
    channel: Expr
    index: Expr
    valid: int


Begin: TypeAlias = Callable[[Expr], Expr]  # the first value of the accumulators of one vector of channels
WriteTile: TypeAlias = Callable[[list[Finished]], None]


class TileNest(ABC):
    """Writes the loops; how a window's products are added is for subclasses. accumulator: its element type."""

    def __init__(self, kernel: KernelBuilder, spec: TileSpec, rows: Rows, weights: Buffer, accumulator: str) -> None:
        self._kernel = kernel
        self._spec = spec
        self._lanes = spec.machine.lanes
        self._rows = rows
        self._weights = weights
        self._accumulator = accumulator

    def write(self, begin: Begin, end: WriteTile) -> None:
        """All loops. begin: how accumulators start. end: writes a finished tile to the output."""
        spec, window = self._spec, self._spec.rows.window
        self._rows.prepare()
        with self._kernel.loop(window.out_height) as out_row:
            self._rows.advance(out_row)
            with self._kernel.loop(-(-window.out_width // spec.pixels)) as step:
                column = self._kernel.let(minimum(step * spec.pixels, window.out_width - spec.pixels))
                if spec.whole_tiles:
                    with self._kernel.loop(spec.whole_tiles) as tile:
                        self._tile(out_row, column, tile * spec.channels, spec.channels, begin, end)
                if spec.last_channels:
                    start = spec.whole_tiles * spec.channels
                    self._tile(out_row, column, start, spec.last_channels, begin, end)

    def _tile(self, out_row: Expr, column: Expr, channel: Expr, channels: int, begin: Begin, end: WriteTile) -> None:
        spec, window = self._spec, self._spec.rows.window
        accumulators = self._kernel.local(self._accumulator, spec.pixels * channels)
        for start in range(0, channels, self._lanes):
            first = self._kernel.let(begin(channel + start))
            for pixel in range(spec.pixels):
                accumulators.store_vector(pixel * channels + start, first, self._lanes)
        self._window(accumulators, out_row, column, channel, channels)
        valid = min(channels, spec.out_channels - channel) if isinstance(channel, int) else channels
        first_index = self._kernel.let((out_row * window.out_width + column) * spec.out_channels + channel)
        starts = range(0, channels, self._lanes)
        end(
            [
                Finished(
                    tuple(accumulators.vector(pixel * channels + v, self._lanes) for v in starts),
                    channel,
                    first_index + pixel * spec.out_channels,
                    valid,
                )
                for pixel in range(spec.pixels)
            ]
        )

    @abstractmethod
    def _window(self, accumulators: Buffer, out_row: Expr, column: Expr, channel: Expr, channels: int) -> None:
        """Add the products of one window for each pixel."""
