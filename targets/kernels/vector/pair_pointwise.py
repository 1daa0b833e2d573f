"""Pointwise layers on SMMLA: the pixels of a tile are laid out in pairs, then its channels are gone through."""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.targets.kernels.tir import Buffer, Expr, lanes, minimum
from tinyopt.targets.kernels.vector.neon import smmla
from tinyopt.targets.kernels.vector.pointwise_nest import PointwiseNest, PointwiseTile
from tinyopt.targets.kernels.vector.smmla_ending import FinishedPair, twice, write_pairs
from tinyopt.targets.kernels.vector.smmla_tiling import DEPTH, OPERAND

STEPS_AT_A_TIME = 4
MOST_WRITTEN = 2 * STEPS_AT_A_TIME - 1  # up to so many steps are written out


def pair_rest(depth: int) -> int:
    """Steps that remain when two at a time are laid out: 0, 1 or 2, of which the last ends with the depth."""
    return -(-(depth % (2 * DEPTH)) // DEPTH)


@dataclass(frozen=True)
class PairPointwise(PointwiseNest):
    """Accumulators are [pair of pixels][couple of channels]; rest: as `pair_rest` says, of steps that are written."""

    laid_out: Buffer

    @property
    def _pairs(self) -> int:
        return self.spec.pixels // 2

    def begin_pixels(self, start: Expr) -> None:
        """Lay the pixels out as [step][pair][pixel][DEPTH]: two steps at a time, then those that `pair_rest` counts."""
        kernel, depth = self.kernel, self.sizes.depth
        twos = (self.spec.written_steps - self.spec.rest) // 2 if self.spec.written_steps else self.sizes.whole_vectors
        with kernel.loop(twos) as two:
            self._lay_out(start + two * (2 * DEPTH), two * 2, 2)
        if self.spec.written_steps:
            for step in range(2 * twos, self.spec.written_steps):
                is_last = step == self.spec.written_steps - 1
                self._lay_out(start + (depth - DEPTH if is_last else step * DEPTH), step, 1)
            return
        with kernel.loop(self.sizes.steps - 2 * twos) as step:
            offset = minimum(twos * (2 * DEPTH) + step * DEPTH, depth - DEPTH)
            self._lay_out(kernel.let(start + offset), twos * 2 + step, 1)

    def _lay_out(self, start: Expr, first_step: Expr, count: int) -> None:
        """One step or two of all pairs, from element `start` of the first pixel on."""
        for pair in range(self._pairs):
            places = (start + offset for offset in self.offsets.image[2 * pair : 2 * pair + 2])
            a, b = (self.kernel.let(self.image.vector(place, count * DEPTH)) for place in places)
            for step in range(count):
                own = range(step * DEPTH, (step + 1) * DEPTH)
                operand = lanes([a, b], [*own, *(count * DEPTH + lane for lane in own)])
                target = ((first_step + step) * self._pairs + pair) * OPERAND
                self.laid_out.store_vector(target, operand, OPERAND)

    def write_tile(self, tile: PointwiseTile) -> None:
        spec, kernel = self.spec, self.kernel
        couples = spec.channels // 2
        accumulators = kernel.local("int32", self._pairs * couples * 4)
        for couple, first in enumerate(twice(self.ending, self.bias, tile.channel, spec.channels)):
            for pair in range(self._pairs):
                accumulators.store_vector((pair * couples + couple) * 4, first, 4)
        self._write_steps(accumulators, tile.weight)
        pairs = [
            FinishedPair(
                tuple(accumulators.vector((pair * couples + couple) * 4, 4) for couple in range(couples)),
                (tile.index + self.offsets.output[2 * pair], tile.index + self.offsets.output[2 * pair + 1]),
                spec.channels,
            )
            for pair in range(self._pairs)
        ]
        write_pairs(self.ending, pairs, tile.channel, spec.channels)

    def _write_steps(self, accumulators: Buffer, weight: Expr) -> None:
        if self.spec.written_steps:
            for step in range(self.spec.written_steps):
                self._write_step(accumulators, step, weight)
            return
        groups = self.kernel.let(self.sizes.steps >> 2)
        with self.kernel.loop(groups) as group:
            for step in range(STEPS_AT_A_TIME):
                self._write_step(accumulators, group * STEPS_AT_A_TIME + step, weight)
        done = groups * STEPS_AT_A_TIME
        with self.kernel.loop(self.sizes.steps - done) as step:
            self._write_step(accumulators, done + step, weight)

    def _write_step(self, accumulators: Buffer, step: Expr, weight: Expr) -> None:
        """Add the products of DEPTH elements, for all pairs of pixels and of channels."""
        kernel, couples = self.kernel, self.spec.channels // 2
        first_pair, first_couple = step * (self._pairs * OPERAND), weight + step * (self.spec.channels * DEPTH)
        images = [kernel.let(self.laid_out.vector(first_pair + i * OPERAND, OPERAND)) for i in range(self._pairs)]
        for couple in range(couples):
            vector = kernel.let(self.weights.vector(first_couple + couple * OPERAND, OPERAND))
            for pair, image in enumerate(images):
                place = (pair * couples + couple) * 4
                accumulators.store_vector(place, smmla(accumulators.vector(place, 4), image, vector), 4)
