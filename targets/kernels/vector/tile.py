"""The loop nest that float and int8 convolutions and dense layers share: tiles of pixels x channels, word by word.

    for each output row, tile of pixels, tile of channels:
        accumulators = bias
        for each run of the window, each word of the run:
            accumulators[pixel][channel] += weights[word][channel] * image[pixel][word]
        write the accumulators out

On Arm a vector of four words is loaded for each pixel, and its lanes multiply vectors of weights for four channels
each: FMLA by lane for floats (eight words and eight channels where they are float16), SDOT by lane for int8 (a word is
four of them), SMLAL by lane where there is no dot product. On x86 each word is broadcast to all lanes as it is loaded.
Weights are packed in the order in which they are read: [tile of channels][run][word][channel][element of the word],
with zeros where the run or the channels do not fill up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, broadcast, lanes
from tinyopt.targets.kernels.vector.rows import Rows
from tinyopt.targets.kernels.vector.tile_nest import TileNest
from tinyopt.targets.kernels.vector.tiling import TileSpec

UNROLLED_PRODUCTS = 256  # windows with up to so many vector products are written out without a loop over their rows
WORDS_FROM_MEMORY = 4  # of a run, in one turn of its loop, where they are broadcast as they are loaded
WORDS_IN_TURN = 8  # written out in one turn of a longer loop over floats that come from lanes


class Arithmetic(Protocol):
    """What differs between element types; a vector has one lane for each of as many channels."""

    @property
    def accumulator(self) -> str:
        """The accumulators' element type."""
        ...

    def load_words(self, data: Buffer, start: Expr, words: int) -> Expr:
        """1, 2, 4 or 8 words of the image, from element `start` on, as a vector."""
        ...

    def multiply_add(self, total: Expr, weights: Expr, word: Expr) -> Expr:
        """total + weights * word, the word being the same in all lanes."""
        ...


def pack_weights(weights: Array, spec: TileSpec) -> Array:
    """[O, KH, KW, I] weights in the order in which the tiles read them, as one flat array."""
    per_run = weights.reshape(spec.out_channels, -1, spec.run_elements)
    padded = np.zeros((spec.padded_channels, per_run.shape[1], spec.run_words * spec.word_elements), weights.dtype)
    padded[: spec.out_channels, :, : spec.run_elements] = per_run
    words = padded.reshape(spec.padded_channels, spec.words, spec.word_elements).transpose(1, 0, 2)
    starts = range(0, spec.padded_channels, spec.channels)
    tiles = [words[:, start : start + spec.channels].reshape(-1) for start in starts]
    return np.ascontiguousarray(np.concatenate(tiles))


def pad_channels(values: Array, spec: TileSpec) -> Array:
    """Numbers per output channel, with zeros up to whole vectors."""
    padded = np.zeros(spec.padded_channels, values.dtype)
    padded[: spec.out_channels] = values
    return padded


class TileLoops(TileNest):
    """Writes the loop nest with an element type's arithmetic."""

    def __init__(
        self, kernel: KernelBuilder, spec: TileSpec, arithmetic: Arithmetic, rows: Rows, weights: Buffer
    ) -> None:
        super().__init__(kernel, spec, rows, weights, arithmetic.accumulator)
        self._arithmetic = arithmetic

    def _window(self, accumulators: Buffer, out_row: Expr, column: Expr, channel: Expr, channels: int) -> None:
        """Add the products of one window for each pixel."""
        spec, window = self._spec, self._spec.rows.window
        rows, row_runs = spec.runs
        first_cell = column * (window.strides[1] * window.channels)
        first_weight = self._kernel.let(channel * (spec.words * spec.word_elements))

        def run(row: Expr, run_in_row: Expr) -> None:
            cell = first_cell + run_in_row * (window.dilations[1] * window.channels)
            start = self._kernel.let(self._rows.base(out_row, row) + cell)
            weight = (row * row_runs + run_in_row) * (spec.run_words * channels * spec.word_elements)
            self._run(accumulators, start, self._kernel.let(first_weight + weight), channels)

        if spec.words * spec.pixels * channels // self._lanes <= UNROLLED_PRODUCTS:
            for row in range(rows):
                for run_in_row in range(row_runs):
                    run(row, run_in_row)
            return
        with self._kernel.loop(rows) as row, self._kernel.loop(row_runs) as run_in_row:
            run(row, run_in_row)

    def _run(self, accumulators: Buffer, start: Expr, weight: Expr, channels: int) -> None:
        """Add the products of one run, whose elements begin at `start` for the tile's first pixel."""
        spec = self._spec
        whole, rest = divmod(spec.run_words, self._at_a_time)
        step_elements = self._at_a_time * spec.word_elements
        together = self._steps_together(whole)
        if whole:
            with self._kernel.loop(whole // together) as turn:
                for step in (turn * together + i for i in range(together)):
                    self._words(
                        accumulators,
                        start + step * step_elements,
                        weight + step * step_elements * channels,
                        channels,
                        self._at_a_time,
                    )
        done = whole * step_elements
        for words in self._pieces(rest):
            self._words(accumulators, start + done, weight + done * channels, channels, words)
            done += words * spec.word_elements

    def _steps_together(self, steps: int) -> int:
        """How many steps of `_at_a_time` floats are written out in a loop, which then takes fewer turns."""
        from_lanes = self._spec.machine.operands == "lane" and self._spec.word_elements == 1
        together = WORDS_IN_TURN // self._at_a_time
        return together if from_lanes and steps % together == 0 and steps > 4 else 1

    @property
    def _at_a_time(self) -> int:
        """Words that are loaded for each pixel at a time: a vector of them."""
        machine = self._spec.machine
        return machine.lanes if machine.operands == "lane" else WORDS_FROM_MEMORY

    def _pieces(self, words: int) -> tuple[int, ...]:
        """The loads for the last words of a run; in the ring, a load may reach over its end."""
        if self._spec.rows.is_in_place:
            return tuple(piece for piece in (4, 2, 1) if words & piece)
        return (words,) if words else ()

    def _words(self, accumulators: Buffer, start: Expr, weight: Expr, channels: int, words: int) -> None:
        """Add the products of 1 to `_at_a_time` words."""
        spec, width = self._spec, self._lanes
        word_of = self._from_lanes(start, words) if spec.machine.operands == "lane" else self._from_memory(start)
        for word in range(words):
            first = weight + word * (channels * spec.word_elements)
            vectors = [
                self._kernel.let(self._weights.vector(first + v * spec.word_elements, width * spec.word_elements))
                for v in range(0, channels, width)
            ]
            for pixel in range(spec.pixels):
                factor = broadcast(word_of(pixel, word), width)
                for v, vector in enumerate(vectors):
                    place = pixel * channels + v * width
                    total = self._arithmetic.multiply_add(accumulators.vector(place, width), vector, factor)
                    accumulators.store_vector(place, total, width)

    def _from_lanes(self, start: Expr, words: int) -> Callable[[int, int], Expr]:
        """(pixel, word): a lane of a vector that is loaded here for each pixel."""
        loaded = 1 << (words - 1).bit_length()
        vectors = [
            self._kernel.let(self._arithmetic.load_words(self._rows.data, start + pixel * self._apart, loaded))
            for pixel in range(self._spec.pixels)
        ]
        return lambda pixel, word: vectors[pixel] if loaded == 1 else lanes([vectors[pixel]], [word])

    def _from_memory(self, start: Expr) -> Callable[[int, int], Expr]:
        """(pixel, word): loaded where it is used."""
        elements = self._spec.word_elements
        return lambda pixel, word: self._kernel.let(
            self._arithmetic.load_words(self._rows.data, start + pixel * self._apart + word * elements, 1)
        )

    @property
    def _apart(self) -> int:
        """Elements from one pixel of the tile to the next, in the image."""
        window = self._spec.rows.window
        return window.strides[1] * window.channels
