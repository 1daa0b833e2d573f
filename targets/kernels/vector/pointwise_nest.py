"""The loop nest of pointwise convolutions and dense layers on 64-bit Arm, for layers of any size.

for each tile of pixels, tile of channels:
    accumulators = bias
    for each step along the depth, and what remains of it:
        accumulators[pixel][channel] += weights[step][channel] * image[pixel][step]
    requantize, store

All pixels lie in one row. How many there are, the depth and the output channels are read at run time. The last tile of
pixels and the last of channels begin early enough to be whole: what two tiles give is the same. What remains of the
depth is read from its end, where weights of elements that were multiplied already are zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, minimum
from tinyopt.targets.kernels.vector.integer_ending import IntegerEnding
from tinyopt.targets.kernels.vector.integer_layer import LayerForm
from tinyopt.targets.kernels.vector.run_time import Known, Numbers


@dataclass(frozen=True)
class PointwiseSpec:
    """What the compiled function depends on.

    pixels x channels: the tile. written_steps: as many steps as appear in the code, 0 where they are a loop.
    rest: how much remains of the depth after its steps, as the arithmetic counts it. is_one_tile: all channels are one
    tile, so that what belongs to them is loaded once.
    """

    form: LayerForm
    pixels: int
    channels: int
    is_one_tile: bool
    written_steps: int
    rest: int
    known: Known = ()


@dataclass(frozen=True)
class PointwiseSizes:
    """What it reads at run time.

    last_pixel, last_channel: where the last tiles begin. steps: along the depth. whole_vectors: of 16 elements of the
    depth. tile_weights: of a tile of channels.
    tile_channels: those of a tile, which the code knows; but LLVM adds to what it knows to be even bit by bit.
    """

    pixel_tiles: int
    last_pixel: int
    channel_tiles: int
    last_channel: int
    depth: int
    outputs: int
    steps: int
    whole_vectors: int
    tile_weights: int
    tile_channels: int


@dataclass(frozen=True)
class PixelOffsets:
    """From the first pixel of a tile to each: elements in the image and in the output.

    They are passed as they are: LLVM would make sums in the inner loop of products that it knows.
    """

    image: Sequence[Expr]
    output: Sequence[Expr]

    @classmethod
    def of(cls, pixels: int, sizes: PointwiseSizes) -> PixelOffsets:
        """Those of a layer."""
        return cls(*(tuple(pixel * apart for pixel in range(1, pixels)) for apart in (sizes.depth, sizes.outputs)))

    @classmethod
    def read(cls, pixels: int, numbers: Numbers) -> PixelOffsets:
        """Those that are passed at run time."""
        return cls(*([0, *numbers.read_list(pixels - 1, "int64")] for _ in range(2)))


@dataclass(frozen=True)
class PointwiseTile:
    """One tile: where its image, its weights, its biases and multipliers, and its levels begin."""

    start: Expr
    weight: Expr
    channel: Expr
    index: Expr


@dataclass(frozen=True)
class PointwiseNest(ABC):
    """Writes the loops; the arithmetic is for subclasses."""

    kernel: KernelBuilder
    spec: PointwiseSpec
    sizes: PointwiseSizes
    offsets: PixelOffsets
    image: Buffer
    weights: Buffer
    bias: Buffer
    ending: IntegerEnding

    def write(self) -> None:
        """All loops."""
        kernel, spec, sizes = self.kernel, self.spec, self.sizes
        with kernel.loop(sizes.pixel_tiles) as turn:
            pixel = kernel.let(minimum(turn * spec.pixels, sizes.last_pixel))
            start = kernel.let(pixel * sizes.depth)
            self.begin_pixels(start)
            with kernel.loop(1 if spec.is_one_tile else sizes.channel_tiles) as number:
                channel = 0 if spec.is_one_tile else minimum(number * spec.channels, sizes.last_channel)
                index = kernel.let(pixel * sizes.outputs + channel)
                weight = kernel.let(number * sizes.tile_weights)
                self.write_tile(PointwiseTile(start, weight, kernel.let(number * sizes.tile_channels), index))

    @abstractmethod
    def begin_pixels(self, start: Expr) -> None:
        """Before the tiles of the pixels that begin at element `start` of the image."""

    @abstractmethod
    def write_tile(self, tile: PointwiseTile) -> None:
        """Compute and store one tile."""
