"""Products of a matrix of pixels with all output channels: 1x1 convolutions, and dense layers over many rows.

Pairs of pixels are read where they lie. Where the channels are no multiple of a vector's lanes, what is read
behind a pixel meets weights of zero; the last pixels, behind which the image ends, are copied first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Node
from tinyopt.targets.kernel import (
    Argument,
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Overlap,
    Refusal,
    ScalarArgument,
    ScratchArgument,
)
from tinyopt.targets.kernels.intrinsic import NAKED, Intrinsic
from tinyopt.targets.kernels.mve.depth import contiguous
from tinyopt.targets.kernels.mve.memory import COPY_ROWS
from tinyopt.targets.kernels.mve.micro_kernels import pair_tile
from tinyopt.targets.kernels.mve.tile import (
    MAXIMUM_CHANNELS,
    PAIR_ORDER,
    STEP,
    Tile,
    levels_of,
    pair_offsets,
    rescaling_of,
    stream_of,
)
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc

ANY_SIZE = 1 << 16  # of a buffer whose size the compiled function does not know
RUN = ("pixel", "pairs", "is_copied", "is_single")  # of the numbers of one call of the tile


@dataclass(frozen=True)
class PointwiseSpec:
    """is_padded: the depth is no multiple of a vector's lanes."""

    tile: Tile
    is_padded: bool

    @property
    def has_residual(self) -> bool:
        return self.tile.finish.has_residual

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
    if node.output.shape[-1] > MAXIMUM_CHANNELS:
        return Refusal(f"it has more than {MAXIMUM_CHANNELS} output channels")
    rescaling = rescaling_of(node)
    if isinstance(rescaling, Refusal):
        return rescaling
    channels = node.output.shape[-1]
    pixels = node.output.type.elements // channels
    weights = node.input(1).data.reshape(channels, -1)
    depth = weights.shape[1]
    cut = contiguous(depth, rescaling.finish)
    spec = PointwiseSpec(cut.tile, depth % STEP != 0)
    padded = np.pad(weights, ((0, 0), (0, cut.places - depth)))
    runs = _runs(pixels, depth, cut.places, is_backward=channels > depth)
    step = -2 if channels > depth else 2
    levels = [
        levels_of(node, rescaling, pair_offsets(distance), step * depth, step * channels)
        for distance in ((channels, 0) if pixels % 2 else (channels,))
    ]
    arguments: list[Argument] = [
        InputArgument(0),
        ConstantArgument("weight", stream_of(padded, node.input(2).data, rescaling.multipliers, PAIR_ORDER)),
        ConstantArgument("levels", np.concatenate(levels)),
        OutputArgument(0),
        ConstantArgument("parameters", np.array(runs, np.int32)),
        *(ScalarArgument(number) for number in (len(runs), depth, channels, cut.repetitions)),
    ]
    if spec.is_padded:
        arguments += [ScalarArgument(cut.places), ScratchArgument(2 * cut.places, 4)]
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


def _runs(pixels: int, depth: int, places: int, is_backward: bool) -> list[tuple[int, ...]]:
    """What the tile is called for, each as `RUN` says: all pairs that are read where they lie, and the last pixels.

    Where there are more output channels than input channels everything runs backward.
    """
    readable = max((pixels * depth - places) // depth + 1, 0)  # pixels behind which there is room for the last step
    pairs = readable // 2
    runs: list[tuple[int, ...]] = []
    if pairs:
        runs.append((2 * pairs - 2 if is_backward else 0, pairs, 0, 0))
    for pixel in range(2 * pairs, pixels, 2):
        is_single = pixel + 1 == pixels
        runs.append((pixel, 1, int(readable <= pixel + 1 - is_single), int(is_single)))
    return runs[::-1] if is_backward else runs


def _overlaps(node: Node, depth: int, channels: int) -> tuple[Overlap, ...]:
    """A pair's outputs are written while its inputs, and those of the pairs that follow, must still be there."""
    shared = Overlap.forward(0, 2 * channels) if channels <= depth else Overlap.backward(0, 2 * depth)
    residual = node.optional_input(4)
    if residual is None:
        return (shared,)
    return () if residual is node.input(0) else (shared, Overlap.in_place(4))


def pointwise(spec: PointwiseSpec) -> PrimFunc:
    """Run after run of pixels."""
    kernel = KernelBuilder("pointwise")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        stream = kernel.buffer("stream", "int32", ANY_SIZE)
        levels = kernel.buffer("levels", "int32", 2 * spec.tile.finish.levels_words)
        y = kernel.buffer("y", "int8", ANY_SIZE)
        numbers = kernel.buffer("numbers", "int32", ANY_SIZE)
        runs, depth, channels, walk = (kernel.scalar(name) for name in ("runs", "depth", "channels", "walk"))
        places_and_copies = _declare_copies(kernel) if spec.is_padded else None
        residual = kernel.buffer("residual", "int8", ANY_SIZE) if spec.has_residual else y
        with kernel.loop(runs) as number:
            pixel, pairs, is_copied, is_single = (kernel.let(numbers[number * len(RUN) + n]) for n in range(len(RUN)))

            def run(source: Buffer, start: Expr, distance: Expr) -> None:
                kernel.run(
                    pair_tile(spec.tile),
                    stream.address(0),
                    levels.address(is_single * spec.tile.finish.levels_words),
                    source.address(start),
                    source.address(start + (1 - is_single) * distance),
                    walk,
                    y.address(pixel * channels),
                    residual.address(pixel * channels),
                    pairs,
                )

            if places_and_copies is None:
                run(x, pixel * depth, depth)
            else:
                places, copies = places_and_copies
                with kernel.when_else(is_copied == 0) as (then, other):
                    with then:
                        run(x, pixel * depth, depth)
                    with other:
                        last = x.address(pixel * depth)
                        kernel.run(COPY_ROWS, copies.address(0), last, 2 - is_single, depth, places, depth)
                        run(copies, 0, places)
    return kernel.finish()


def _declare_copies(kernel: KernelBuilder) -> tuple[Expr, Buffer]:
    return kernel.scalar("places"), kernel.buffer("copies", "int8", ANY_SIZE)
