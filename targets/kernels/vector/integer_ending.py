"""What fused integer kernels do last: residual, requantization, clamp, store; with NEON, or for any LLVM target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tinyopt.targets.kernels.requantize import Requantization
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, broadcast, cast, lanes
from tinyopt.targets.kernels.vector import neon
from tinyopt.targets.kernels.vector.generic import levels_of_products, splat, vector_type
from tinyopt.targets.kernels.vector.tile_nest import Finished
from tinyopt.targets.kernels.vector.tiling import LANES

Method = Literal["smmla", "sdot", "neon", "vnni", "madd", "widened"]  # how int8 products are summed


@dataclass(frozen=True)
class ResidualTerm:
    """What a fused addition adds to the 64-bit product: (r - zero_point) * multiplier; expressions at run time."""

    zero_point: int
    multiplier: int


@dataclass(frozen=True)
class IntegerEnding(ABC):
    """Requantizes finished pixels and writes them."""

    kernel: KernelBuilder
    to: Requantization
    term: ResidualTerm | None
    multiplier: Buffer
    residual: Buffer | None
    y: Buffer

    def write(self, pixels: list[Finished]) -> None:
        """Pixels of the same channels, in pieces of 16, 8 and 4 channels."""
        self.write_with(self.multipliers(pixels[0].channel, len(pixels[0].values)), pixels)

    def multipliers(self, channel: Expr, vectors: int) -> list[Expr]:
        """Those of the channels from `channel` on, LANES to a vector."""
        return [self.kernel.let(self.multiplier.vector(channel + v * LANES, LANES)) for v in range(vectors)]

    def write_with(self, multipliers: Sequence[Expr], pixels: list[Finished]) -> None:
        """`write` with multipliers that are there already."""
        vectors = len(multipliers)
        for pixel in pixels:
            done = 0
            while done < vectors:
                count = next(count for count in (4, 2, 1) if count <= vectors - done)
                self._write_piece(pixel, multipliers[done : done + count], done)
                done += count

    def _write_piece(self, pixel: Finished, multipliers: Sequence[Expr], done: int) -> None:
        width = len(multipliers) * LANES
        index, valid = pixel.index + done * LANES, min(pixel.valid - done * LANES, width)
        values = [self.kernel.let(value) for value in pixel.values[done : done + len(multipliers)]]
        centred = self._centred_residual(index, valid, len(multipliers))
        self.store(index, self._levels(values, multipliers, centred), width, valid)

    @abstractmethod
    def _levels(self, values: Sequence[Expr], multipliers: Sequence[Expr], residuals: Sequence[Expr]) -> Expr:
        """The levels of int32x4 values, side by side. residuals: int32x4 less their zero point, or none."""

    def _centred_residual(self, index: Expr, valid: int, vectors: int) -> list[Expr]:
        """The residual's levels less their zero point, int32x4; of the lanes beyond `valid` nothing is read."""
        if self.residual is None or self.term is None:
            return []
        width = vectors * LANES
        levels = cast(self.load_residual(index, valid, width), vector_type("int16", width))
        centred = self.kernel.let(levels - broadcast(neon.number(self.term.zero_point, "int16"), width))
        return [cast(lanes([centred], range(v * LANES, (v + 1) * LANES)), "int32x4") for v in range(vectors)]

    def load_residual(self, index: Expr, valid: int, width: int) -> Expr:
        """`width` levels of the residual; those beyond `valid` are others of the same, for nothing is read there."""
        assert self.residual is not None
        if valid == width:
            return self.residual.vector(index, width)
        return lanes([self.residual[index + min(lane, valid - 1)] for lane in range(width)], range(width))

    def store(self, index: Expr, levels: Expr, width: int, valid: int) -> None:
        """The first `valid` of `width` levels."""
        if valid == width:
            self.y.store_vector(index, levels, width)
            return
        levels = self.kernel.let(levels)
        done = 0
        for part in (8, 4, 2, 1):
            if valid - done >= part:
                self.y.store_vector(index + done, lanes([levels], range(done, done + part)), part)
                done += part


class NeonEnding(IntegerEnding):
    """With NEON's saturating and narrowing instructions."""

    def _levels(self, values: Sequence[Expr], multipliers: Sequence[Expr], residuals: Sequence[Expr]) -> Expr:
        factor = self.term.multiplier if self.term is not None else 0
        narrow = [
            neon.narrowed(value, multiplier, residuals[v] if residuals else None, factor, self.to.shift)
            for v, (value, multiplier) in enumerate(zip(values, multipliers, strict=True))
        ]
        to_levels = neon.levels if self.to.dtype == "int8" else neon.levels_int16
        return to_levels(narrow, self.to)


class PlainEnding(IntegerEnding):
    """With 64-bit arithmetic written out."""

    def _levels(self, values: Sequence[Expr], multipliers: Sequence[Expr], residuals: Sequence[Expr]) -> Expr:
        width = len(values) * LANES
        products = self._joined(values) * self._joined(multipliers)
        if residuals and self.term is not None:
            products = products + self._joined(residuals) * splat(self.term.multiplier, "int64", width)
        return levels_of_products(products, self.to, width)

    def _joined(self, vectors: Sequence[Expr]) -> Expr:
        """int32x4 vectors side by side, as int64."""
        width = len(vectors) * LANES
        return cast(lanes(vectors, range(width)) if len(vectors) > 1 else vectors[0], vector_type("int64", width))


ENDINGS: Mapping[Method, type[IntegerEnding]] = {
    "smmla": NeonEnding,
    "sdot": NeonEnding,
    "neon": NeonEnding,
    "widened": PlainEnding,
}
