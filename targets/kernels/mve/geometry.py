"""The sizes of a convolution's image and windows, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Node


@dataclass(frozen=True)
class Geometry:
    """The sizes of a convolution without dilation on one image."""

    height: int
    width: int
    input_channels: int
    rows: int
    columns: int
    row_stride: int
    column_stride: int
    top: int
    left: int
    output_height: int
    output_width: int
    channels: int

    @classmethod
    def of(cls, node: Node) -> Geometry:
        _, rows, columns, input_channels = node.input(1).shape
        _, height, width, _ = node.input(0).shape
        _, output_height, output_width, channels = node.output.shape
        top, left, _, _ = node.ints("pads")
        strides = node.ints("strides")
        return cls(
            height,
            width,
            input_channels,
            rows,
            columns,
            strides[0],
            strides[1],
            top,
            left,
            output_height,
            output_width,
            channels,
        )

    @property
    def run(self) -> int:
        """Bytes of one row of a window."""
        return self.columns * self.input_channels

    @property
    def pitch(self) -> int:
        """Bytes of one row of the image."""
        return self.width * self.input_channels

    @property
    def pixels(self) -> int:
        return self.output_height * self.output_width

    @property
    def is_whole_image(self) -> bool:
        return (
            self.pixels == 1 and (self.rows, self.columns) == (self.height, self.width) and self.top == self.left == 0
        )

    @property
    def inner_pixels(self) -> int:
        """How many windows lie inside the image."""

        def inside(outputs: int, stride: int, before: int, size: int, window: int) -> int:
            starts = np.arange(outputs) * stride - before
            return int(np.count_nonzero((starts >= 0) & (starts + window <= size)))

        return inside(self.output_height, self.row_stride, self.top, self.height, self.rows) * inside(
            self.output_width, self.column_stride, self.left, self.width, self.columns
        )

    @property
    def lead(self) -> int:
        """How far the output must run ahead, so that no pair's bytes lie on what it or a later one still reads."""
        pixel = np.arange(self.pixels)
        row, column = pixel // self.output_width, pixel % self.output_width
        top = np.maximum(row * self.row_stride - self.top, 0) * self.pitch
        starts = top + np.maximum(column * self.column_stride - self.left, 0) * self.input_channels
        needed = np.minimum.accumulate(starts[::-1])[::-1]
        written = (pixel + 2) * self.channels
        return int((written - needed)[::2].max())
