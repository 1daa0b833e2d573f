"""Pointwise layers whose accumulators hold neighbouring channels of one pixel: SDOT by lane, and SMULL with rotations.

A step is 16 elements of the depth, one vector of each pixel.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.tir import Buffer, Expr, broadcast, lanes, reinterpret
from tinyopt.targets.kernels.vector.mull_steps import PIECES, WHOLE, StepShape, pack_step
from tinyopt.targets.kernels.vector.mull_tile import MullSteps
from tinyopt.targets.kernels.vector.neon import sdot
from tinyopt.targets.kernels.vector.pointwise_nest import PointwiseNest, PointwiseTile
from tinyopt.targets.kernels.vector.tile_nest import Finished
from tinyopt.targets.kernels.vector.tiling import LANES

STEP = 16  # elements
WORD = 4  # elements of a lane of SDOT
WORDS = STEP // WORD


class LanePointwise(PointwiseNest):
    """Accumulators are [pixel][channel]."""

    def begin_pixels(self, start: Expr) -> None:
        """They are read where they lie."""

    def write_tile(self, tile: PointwiseTile) -> None:
        kernel, spec, sizes = self.kernel, self.spec, self.sizes
        accumulators = kernel.local("int32", spec.pixels * spec.channels)
        for v in range(0, spec.channels, LANES):
            first = kernel.let(self.bias.vector(tile.channel + v, LANES))
            for pixel in range(spec.pixels):
                accumulators.store_vector(pixel * spec.channels + v, first, LANES)
        with kernel.loop(spec.written_steps or sizes.steps) as step:
            self.write_step(accumulators, tile.start + step * STEP, tile.weight + step * (STEP * spec.channels))
        done = (spec.written_steps or sizes.steps) * STEP
        self.write_rest(accumulators, tile.start, done, tile.weight + done * spec.channels)
        self.ending.write([self._finished(accumulators, tile, pixel) for pixel in range(spec.pixels)])

    def _finished(self, accumulators: Buffer, tile: PointwiseTile, pixel: int) -> Finished:
        channels = self.spec.channels
        values = (accumulators.vector(pixel * channels + v, LANES) for v in range(0, channels, LANES))
        return Finished(tuple(values), tile.channel, tile.index + self.offsets.output[pixel], channels)

    @abstractmethod
    def write_step(self, accumulators: Buffer, start: Expr, weight: Expr) -> None:
        """Add the products of STEP elements from `start` on, for the tile's first pixel."""

    @abstractmethod
    def write_rest(self, accumulators: Buffer, start: Expr, done: Expr, weight: Expr) -> None:
        """Add those of the elements after the first `done` from `start` on."""


class SdotPointwise(LanePointwise):
    """Rest: as many words, the last ones of the depth."""

    def write_step(self, accumulators: Buffer, start: Expr, weight: Expr) -> None:
        self._write_words(accumulators, start, weight, range(WORDS))

    def write_rest(self, accumulators: Buffer, start: Expr, done: Expr, weight: Expr) -> None:
        words = range(WORDS - self.spec.rest, WORDS)
        if words:
            self._write_words(accumulators, start + self.sizes.depth - STEP, weight, words)

    def _write_words(self, accumulators: Buffer, start: Expr, weight: Expr, words: Sequence[int]) -> None:
        """Add the products of some words of the vector that begins at `start`."""
        kernel, channels = self.kernel, self.spec.channels
        starts = (start + offset for offset in self.offsets.image)
        images = [kernel.let(reinterpret(self.image.vector(place, STEP), "int32x4")) for place in starts]
        for number, word in enumerate(words):
            first = weight + number * (channels * WORD)
            vectors = [
                kernel.let(self.weights.vector(first + v * WORD, LANES * WORD)) for v in range(0, channels, LANES)
            ]
            for pixel, image in enumerate(images):
                factor = reinterpret(broadcast(lanes([image], [word]), LANES), "int8x16")
                for v, vector in enumerate(vectors):
                    place = pixel * channels + v * LANES
                    accumulators.store_vector(place, sdot(accumulators.vector(place, LANES), vector, factor), LANES)


def sdot_rest(depth: int) -> int:
    """Words that remain after whole steps."""
    return -(-(depth % STEP) // WORD)


def pack_sdot_tile(weights: Array) -> Array:
    """[channels, depth] weights of a tile as [word][channel][WORD], flat."""
    channels, depth = weights.shape
    done = depth // STEP * STEP
    words = np.concatenate([weights[:, :done], last_elements(weights, done, sdot_rest(depth) * WORD)], axis=1)
    return words.reshape(channels, -1, WORD).transpose(1, 0, 2).reshape(-1)


def last_elements(weights: Array, done: int, count: int) -> Array:
    """The last `count` elements of [channels, depth], zeros where they belong to the first `done`."""
    depth = weights.shape[1]
    result = weights[:, depth - count :].copy()
    result[:, : max(done - (depth - count), 0)] = 0
    return result


class MullPointwise(LanePointwise):
    """Rest: the row of `PIECES` that says in which pieces it is multiplied."""

    def write_step(self, accumulators: Buffer, start: Expr, weight: Expr) -> None:
        self._write(accumulators, start, WHOLE, weight)

    def write_rest(self, accumulators: Buffer, start: Expr, done: Expr, weight: Expr) -> None:
        pieces = PIECES[self.spec.rest]
        for place, elements in enumerate(pieces):
            is_last = place == len(pieces) - 1
            shape = WHOLE if elements == STEP else StepShape(elements, 1)
            self._write(accumulators, start + (self.sizes.depth - elements if is_last else done), shape, weight)
            done, weight = done + elements, weight + elements * self.spec.channels

    def _write(self, accumulators: Buffer, start: Expr, shape: StepShape, weight: Expr) -> None:
        steps = MullSteps(self.kernel, self.image, self.weights, self.offsets.image)
        steps.write(accumulators, self.spec.channels, [start], shape, weight)


def mull_rest(depth: int) -> int:
    """Which of `PIECES` cover what remains after whole steps."""
    return next(place for place, pieces in enumerate(PIECES) if depth % STEP <= sum(pieces))


def pack_mull_tile(weights: Array) -> Array:
    """[channels, depth] weights of a tile, step by step as `mull_steps` orders them, flat."""
    done = weights.shape[1] // STEP * STEP
    parts = [_packed(weights[:, start : start + STEP]) for start in range(0, done, STEP)]
    pieces = PIECES[mull_rest(weights.shape[1])]
    for elements in pieces[:-1]:
        parts.append(_packed(weights[:, done : done + elements]))
        done += elements
    if pieces:
        parts.append(_packed(last_elements(weights, done, pieces[-1])))
    return np.concatenate(parts)


def _packed(step: Array) -> Array:
    """[channels, 4, 8 or STEP elements]."""
    channels, elements = step.shape
    return pack_step(step.reshape(channels, 2, STEP // 2) if elements == STEP else step.reshape(channels, 1, elements))
