"""What fused NEON int8 kernels do last: residual, requantization, clamp, store."""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.targets.kernels.requantize import Requantization
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, cast, lanes
from tinyopt.targets.kernels.vector.neon import ResidualTerm, rescaled, rescaled_with_residual, store_levels
from tinyopt.targets.kernels.vector.tile import Finished
from tinyopt.targets.kernels.vector.tiling import LANES


@dataclass(frozen=True)
class IntegerEnding:
    """Requantizes finished pixels and writes them."""

    kernel: KernelBuilder
    to: Requantization
    term: ResidualTerm | None
    multiplier: Buffer
    residual: Buffer | None
    y: Buffer

    def write(self, pixels: list[Finished]) -> None:
        """Pixels of the same channels."""
        first = pixels[0]
        multipliers = [
            self.kernel.let(self.multiplier.vector(first.channel + v * LANES, LANES)) for v in range(len(first.values))
        ]
        for pixel in pixels:
            values = [self._value(pixel, v, multipliers[v]) for v in range(len(multipliers))]
            store_levels(self.kernel, self.y, pixel.index, values, pixel.valid, self.to)

    def _value(self, pixel: Finished, v: int, multiplier: Expr) -> Expr:
        accumulator = self.kernel.let(pixel.values[v])
        if self.residual is None or self.term is None:
            return rescaled(accumulator, multiplier, self.to.shift)
        added = self._residual(self.residual, pixel.index + v * LANES, min(pixel.valid - v * LANES, LANES))
        return rescaled_with_residual(accumulator, multiplier, added, self.term, self.to.shift)

    def _residual(self, residual: Buffer, index: Expr, valid: int) -> Expr:
        """LANES residual levels as int16, of which only the `valid` first may be read."""
        if valid == LANES:
            return cast(residual.vector(index, LANES), "int16x4")
        levels = [cast(residual[index + min(lane, valid - 1)], "int16") for lane in range(LANES)]
        return lanes(levels, range(LANES))
