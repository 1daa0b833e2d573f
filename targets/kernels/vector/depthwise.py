"""What the depthwise kernels have in common: when they apply, and how pixels of a row share the columns they load."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from tinyopt.ir import Node
from tinyopt.targets.kernel import Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, minimum
from tinyopt.targets.kernels.vector.channel_blocks import ChannelBlocks, channel_blocks
from tinyopt.targets.kernels.vector.rows import RowPlan, Rows, declare_rows, plan_rows
from tinyopt.targets.kernels.vector.window import Window, window_of


@dataclass(frozen=True)
class DepthwiseShape:
    """Where the rows are read, and which channels are worked on together."""

    rows: RowPlan
    blocks: ChannelBlocks

    @property
    def window(self) -> Window:
        return self.rows.window

    @property
    def outputs(self) -> int:
        return self.window.out_height * self.window.out_width * self.window.channels

    @property
    def taps(self) -> int:
        """Weights of all channels."""
        return self.window.kernel[0] * self.window.kernel[1] * self.window.channels


def plan_depthwise(node: Node, dtype: str, widest: int, narrowest: int) -> DepthwiseShape | Refusal:
    """The shape of a convolution with one group for each channel, in blocks of so many channels."""
    weights = node.input(1)
    if node.int("group") != node.input(0).shape[3] or weights.shape[0] != node.int("group"):
        return Refusal("not one group and one output for each channel")
    window = window_of(node, (weights.shape[1], weights.shape[2]))
    if isinstance(window, Refusal):
        return window
    blocks = channel_blocks(window.channels, widest, narrowest)
    if isinstance(blocks, Refusal):
        return blocks
    return DepthwiseShape(plan_rows(window, dtype, read_over_end=False), blocks)


@dataclass(frozen=True)
class FloatDepthwiseCode:
    """The parameters of a float kernel, and the rows that it reads."""

    kernel: KernelBuilder
    rows: Rows
    weights: Buffer
    bias: Buffer
    residual: Buffer | None
    y: Buffer


def float_depthwise_function(
    shape: DepthwiseShape, has_residual: bool, write: Callable[[FloatDepthwiseCode], None]
) -> PrimFunc:
    """The function whose loops `write` writes: image, weights [KH * KW, C], bias, residual, ring of rows, output."""
    element = shape.rows.dtype
    kernel = KernelBuilder("depthwise_vector")
    with kernel.function():
        x = kernel.buffer("x", element, shape.window.input_elements)
        weights = kernel.buffer("weights", element, shape.taps)
        bias = kernel.buffer("bias", element, shape.window.channels)
        residual = kernel.buffer("residual", element, shape.outputs) if has_residual else None
        rows = declare_rows(kernel, shape.rows, x, 0)
        y = kernel.buffer("y", element, shape.outputs)
        write(FloatDepthwiseCode(kernel, rows, weights, bias, residual, y))
    return kernel.finish()


class Taps(Protocol):
    """What a window or a record like it says of the cells that are multiplied."""

    @property
    def kernel(self) -> tuple[int, int]: ...
    @property
    def strides(self) -> tuple[int, int]: ...
    @property
    def dilations(self) -> tuple[int, int]: ...


def shared_columns(window: Taps, pixels: int) -> list[tuple[int, list[tuple[int, int]]]]:
    """The columns that neighbouring pixels read, counted from the first: (column, [(pixel, tap of its window row)])."""
    columns: list[tuple[int, list[tuple[int, int]]]] = []
    for column in range(_reach(window, pixels)):
        readers: list[tuple[int, int]] = []
        for pixel in range(pixels):
            tap, between = divmod(column - pixel * window.strides[1], window.dilations[1])
            if not between and 0 <= tap < window.kernel[1]:
                readers.append((pixel, tap))
        if readers:
            columns.append((column, readers))
    return columns


def _reach(window: Taps, pixels: int) -> int:
    """Columns from the first to the last that neighbouring pixels read."""
    return (pixels - 1) * window.strides[1] + (window.kernel[1] - 1) * window.dilations[1] + 1


@contextmanager
def pixel_groups(kernel: KernelBuilder, window: Window, pixels: int) -> Generator[Expr]:
    """A loop over a row in groups of `pixels`; yields a group's first pixel. The last may overlap the one before it."""
    with kernel.loop(-(-window.out_width // pixels)) as step:
        yield kernel.let(minimum(step * pixels, window.out_width - pixels))
