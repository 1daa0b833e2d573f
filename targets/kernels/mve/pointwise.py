"""Products of a matrix of pixels with all output channels: 1x1 convolutions, and dense layers over many rows.

Two pixels at a time are read where they lie. Where the channels are no multiple of a vector's lanes, what is read
behind a pixel meets weights of zero; the last pixels, behind which the image ends, are copied first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import (
    Argument,
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Overlap,
    Refusal,
    ScratchArgument,
)
from tinyopt.targets.kernels.intrinsic import NAKED, Intrinsic
from tinyopt.targets.kernels.mve.depth import Cut, contiguous
from tinyopt.targets.kernels.mve.memory import COPY_ROWS
from tinyopt.targets.kernels.mve.micro_kernels import pair_tile
from tinyopt.targets.kernels.mve.tile import LEVELS, PAIR_ORDER, Tile, levels_of, pair_offsets, rescaling_of, stream_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, minimum

ANY_SIZE = 1 << 16  # of a buffer whose size the compiled function does not know
PARAMETERS = ("pixels", "depth", "channels", "first", "stride", "walk", "places")


@dataclass(frozen=True)
class PointwiseSpec:
    """is_padded: the depth is no multiple of a vector's lanes."""

    tile: Tile
    is_padded: bool

    @property
    def has_residual(self) -> bool:
        return self.tile.ending == "residual"

    @property
    def intrinsics(self) -> tuple[Intrinsic, ...]:
        return (NAKED, pair_tile(self.tile), *((COPY_ROWS,) if self.is_padded else ()))


def plan_pointwise(node: Node) -> Kernel | Refusal:
    """QConv with a 1x1 window that takes every pixel as it is, and QDense over more than one row."""
    if node.op == "QConv":
        if node.int("group") != 1:
            return Refusal("it has more than one group")
        if node.input(1).shape[1:3] != (1, 1) or node.ints("strides") != (1, 1) or any(node.ints("pads")):
            return Refusal("it is not pointwise")
    rescaling = rescaling_of(node)
    if isinstance(rescaling, Refusal):
        return rescaling
    channels = node.output.shape[-1]
    pixels = node.output.type.elements // channels
    weights = node.input(1).data.reshape(channels, -1)
    depth = weights.shape[1]
    cut = contiguous(depth, rescaling.ending)
    spec = PointwiseSpec(cut.tile, depth % 16 != 0)
    padded = np.pad(weights, ((0, 0), (0, cut.places - depth)))
    levels = [
        levels_of(node, rescaling, pair_offsets(distance))
        for distance in ((channels, 0) if pixels % 2 else (channels,))
    ]
    arguments: list[Argument] = [
        InputArgument(0),
        ConstantArgument("weight", stream_of(padded, node.input(2).data, rescaling.multipliers, PAIR_ORDER)),
        ConstantArgument("levels", np.concatenate(levels)),
        OutputArgument(0),
        ConstantArgument("parameters", _parameters(pixels, depth, channels, cut)),
    ]
    if spec.is_padded:
        arguments.append(ScratchArgument(2 * cut.places, 4))
    if spec.has_residual:
        arguments.append(InputArgument(4))
    return Kernel(
        template=pointwise,
        spec=spec,
        name="pointwise_mve",
        arguments=tuple(arguments),
        intrinsics=spec.intrinsics,
        overlaps=_overlaps(node, depth, channels),
    )


def _parameters(pixels: int, depth: int, channels: int, cut: Cut) -> Array:
    """Pairs of pixels run backward where there are more output channels than input channels."""
    pairs = (pixels + 1) // 2
    first, stride = (0, 2) if channels <= depth else (2 * pairs - 2, -2)
    return np.array([pixels, depth, channels, first, stride, cut.repetitions, cut.places], np.int32)


def _overlaps(node: Node, depth: int, channels: int) -> tuple[Overlap, ...]:
    """A pair's outputs are written while its inputs, and those of the pairs that follow, must still be there."""
    shared = Overlap.forward(0, 2 * channels) if channels <= depth else Overlap.backward(0, 2 * depth)
    residual = node.optional_input(4)
    if residual is None:
        return (shared,)
    return () if residual is node.input(0) else (shared, Overlap.in_place(4))


def pointwise(spec: PointwiseSpec) -> PrimFunc:
    """Pair after pair of pixels, forward or backward."""
    kernel = KernelBuilder("pointwise")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        stream = kernel.buffer("stream", "int32", ANY_SIZE)
        levels = kernel.buffer("levels", "int32", 2 * LEVELS)
        y = kernel.buffer("y", "int8", ANY_SIZE)
        parameters = kernel.buffer("parameters", "int32", len(PARAMETERS))
        copies = kernel.buffer("copies", "int8", ANY_SIZE) if spec.is_padded else None
        residual = kernel.buffer("residual", "int8", ANY_SIZE) if spec.has_residual else y
        pixels, depth, channels, first, stride, walk, places = (
            kernel.let(parameters[n]) for n in range(len(PARAMETERS))
        )
        with kernel.loop((pixels + 1) >> 1) as pair:
            pixel = kernel.let(first + pair * stride)
            second = kernel.let(minimum(pixel + 1, pixels - 1))
            ending = kernel.let((1 - second + pixel) * LEVELS)

            def run(source: Buffer, start: Expr, next_start: Expr) -> None:
                kernel.run(
                    pair_tile(spec.tile),
                    stream.address(0),
                    levels.address(ending),
                    source.address(start),
                    source.address(next_start),
                    walk,
                    y.address(pixel * channels),
                    channels,
                    residual.address(pixel * channels),
                )

            if copies is None:
                run(x, pixel * depth, second * depth)
            else:
                with kernel.when_else(second * depth + places <= pixels * depth) as (then, other):
                    with then:
                        run(x, pixel * depth, second * depth)
                    with other:
                        last = x.address(pixel * depth)
                        kernel.run(COPY_ROWS, copies.address(0), last, 1 + second - pixel, depth, places, depth)
                        run(copies, 0, (second - pixel) * places)
    return kernel.finish()
