"""Dense layer on one vector: eight output channels at a time over the whole depth."""

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
from tinyopt.targets.kernels.mve.micro_kernels import dense_tile
from tinyopt.targets.kernels.mve.pointwise import ANY_SIZE, plan_pointwise
from tinyopt.targets.kernels.mve.tile import (
    DENSE_CHANNELS,
    DENSE_ORDER,
    STEP,
    Tile,
    levels_of,
    rescaling_of,
    stream_of,
)
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc


@dataclass(frozen=True)
class DenseSpec:
    """is_padded: the depth is no multiple of a vector's lanes, so that the input is copied first."""

    tile: Tile
    is_padded: bool

    @property
    def has_residual(self) -> bool:
        return self.tile.finish.has_residual

    @property
    def intrinsics(self) -> tuple[Intrinsic, ...]:
        return (NAKED, dense_tile(self.tile), *((COPY_ROWS,) if self.is_padded else ()))


def plan_dense(node: Node) -> Kernel | Refusal:
    """QDense; over more than one row of the input it is a pointwise convolution."""
    depth = node.input(1).shape[1]
    return plan_pointwise(node) if node.input(0).type.elements != depth else plan_vector(node)


def plan_vector(node: Node) -> Kernel | Refusal:
    """A QDense of one row, to int8 or int16, or a QConv whose only window is the whole input."""
    if node.op == "QDense" and node.input(0).type.elements != node.input(1).shape[1]:
        return Refusal("it has more than one row")
    rescaling = rescaling_of(node)
    if isinstance(rescaling, Refusal):
        return rescaling
    channels = node.output.type.elements
    weights = node.input(1).data.reshape(channels, -1)
    depth = weights.shape[1]
    cut = contiguous(depth, rescaling.finish)
    spec = DenseSpec(cut.tile, depth % STEP != 0)
    padded = np.pad(weights, ((0, 0), (0, cut.places - depth)))
    arguments: list[Argument] = [
        InputArgument(0),
        ConstantArgument("weight", stream_of(padded, node.input(2).data, rescaling.multipliers, DENSE_ORDER)),
        ConstantArgument("levels", levels_of(node, rescaling, range(DENSE_CHANNELS))),
        OutputArgument(0),
        ScalarArgument(cut.repetitions),
    ]
    if spec.is_padded:
        arguments += [ScalarArgument(depth), ScratchArgument(cut.places, 4)]
    if spec.has_residual:
        arguments.append(InputArgument(4))
    return Kernel(
        template=dense,
        spec=spec,
        name="dense_mve",
        arguments=tuple(arguments),
        intrinsics=spec.intrinsics,
        overlaps=(Overlap.in_place(4),) if spec.has_residual and node.input(4) is not node.input(0) else (),
    )


def dense(spec: DenseSpec) -> PrimFunc:
    """The whole layer is one tile."""
    kernel = KernelBuilder("dense")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        stream = kernel.buffer("stream", "int32", ANY_SIZE)
        levels = kernel.buffer("levels", "int32", spec.tile.finish.levels_words)
        y = kernel.buffer("y", "int8", ANY_SIZE)
        walk = kernel.scalar("walk")
        depth_and_copy = (kernel.scalar("depth"), kernel.buffer("copy", "int8", ANY_SIZE)) if spec.is_padded else None
        residual = kernel.buffer("residual", "int8", ANY_SIZE) if spec.has_residual else y
        source = x
        if depth_and_copy is not None:
            depth, source = depth_and_copy
            kernel.run(COPY_ROWS, source.address(0), x.address(0), 1, depth, 0, 0)
        start = source.address(0)
        kernel.run(
            dense_tile(spec.tile),
            stream.address(0),
            levels.address(0),
            start,
            start,
            walk,
            y.address(0),
            residual.address(0),
            1,
        )
    return kernel.finish()
