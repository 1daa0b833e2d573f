"""MaxPool, QAveragePool and sums over an image on Helium: one call of a micro-kernel for each output pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import ConstantArgument, InputArgument, Kernel, OutputArgument, Overlap, Refusal
from tinyopt.targets.kernels.intrinsic import NAKED
from tinyopt.targets.kernels.mve.limits import ANY_SIZE
from tinyopt.targets.kernels.mve.pool_windows import AVERAGE, LARGEST
from tinyopt.targets.kernels.requantize import Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc, maximum, minimum

CELLS_IN_INT16 = 255  # |sum| <= 255 * 128 < 2^15
IMAGE = (
    *("height", "width", "channels", "output_height", "output_width"),
    *("rows", "columns", "row_stride", "column_stride", "top", "left"),
)


@dataclass(frozen=True)
class PoolSpec:
    """Everything is a run-time argument."""


@dataclass(frozen=True)
class _Image:
    """The numbers of `IMAGE`, in its order."""

    height: int
    width: int
    channels: int
    output_height: int
    output_width: int
    rows: int
    columns: int
    row_stride: int
    column_stride: int
    top: int
    left: int

    @classmethod
    def of(cls, node: Node) -> _Image:
        _, height, width, channels = node.input(0).shape
        window = (*node.ints("kernel"), *node.ints("strides"), *node.ints("pads")[:2])
        return _Image(height, width, channels, *node.output.shape[1:3], *window).flat()

    def flat(self) -> _Image:
        """One window of whole rows of the image is one row of cells, if these are not too many."""
        is_single = (self.output_height, self.output_width, self.top, self.left) == (1, 1, 0, 0)
        cells = self.rows * self.columns
        if not is_single or self.columns != self.width or self.rows > self.height or cells > CELLS_IN_INT16:
            return self
        return replace(self, height=1, width=cells, rows=1, columns=cells)

    @property
    def numbers(self) -> list[int]:
        return [getattr(self, name) for name in IMAGE]

    @property
    def overlaps(self) -> tuple[Overlap, ...]:
        """In or before the input's place, where no window begins before the pixel of its own number."""
        y = np.maximum(np.arange(self.output_height) * self.row_stride - self.top, 0)
        x = np.maximum(np.arange(self.output_width) * self.column_stride - self.left, 0)
        first = (y[:, None] * self.width + x).reshape(-1)
        return (Overlap.forward(0),) if bool(np.all(first >= np.arange(first.size))) else ()


def plan_average_pool(node: Node) -> Kernel | Refusal:
    """QAveragePool without dilation."""
    if (refusal := _refusal(node)) is not None:
        return refusal
    return _average_kernel(node, _Image.of(node), node.input(1).data, "average_pool_mve")


def plan_reduce_sum(node: Node) -> Kernel | Refusal:
    """QReduceSum over the whole image, which is a window then."""
    shape = node.input(0).shape
    if len(shape) != 4 or shape[0] != 1 or node.ints("axes") != (1, 2):
        return Refusal("it does not add up an image")
    _, height, width, channels = shape
    image = _Image(height, width, channels, 1, 1, height, width, 1, 1, 0, 0).flat()
    return _average_kernel(node, image, np.array([node.int("multiplier")], np.int32), "reduce_sum_mve")


def _average_kernel(node: Node, image: _Image, multiplier: Array, name: str) -> Kernel | Refusal:
    to = Requantization.of(node)
    if image.columns > CELLS_IN_INT16:
        return Refusal("a row of its window is too long for sums in 16 bits")
    if image.rows * image.columns * 255 << (32 - to.shift) >= 1 << 31:
        return Refusal("its sums are too large for their shift")
    numbers = [to.zero_point, 32 - to.shift, to.low, to.high, zero_point_of(node, node.input(0))]
    return Kernel(
        template=average_pool,
        spec=PoolSpec(),
        name=name,
        arguments=(
            InputArgument(0),
            ConstantArgument("multiplier", multiplier),
            ConstantArgument("parameters", np.array([*image.numbers, int(multiplier.size > 1), *numbers], np.int32)),
            OutputArgument(0),
        ),
        intrinsics=(NAKED, AVERAGE),
        overlaps=image.overlaps,
    )


def plan_max_pool(node: Node) -> Kernel | Refusal:
    """MaxPool of int8 without dilation."""
    if node.input(0).dtype != "int8":
        return Refusal("its elements are not int8")
    if (refusal := _refusal(node)) is not None:
        return refusal
    image = _Image.of(node)
    return Kernel(
        template=max_pool,
        spec=PoolSpec(),
        name="max_pool_mve",
        arguments=(
            InputArgument(0),
            ConstantArgument("parameters", np.array(image.numbers, np.int32)),
            OutputArgument(0),
        ),
        intrinsics=(NAKED, LARGEST),
        overlaps=image.overlaps,
    )


def _refusal(node: Node) -> Refusal | None:
    if node.ints("dilations") != (1, 1):
        return Refusal("it is dilated")
    if node.input(0).shape[0] != 1:
        return Refusal("its batch is not 1")
    return None


@dataclass(frozen=True)
class _Window:
    """The cells of one output position that lie in the image; begin: index of the first one in x."""

    begin: Expr
    rows: Expr
    columns: Expr
    position: Expr


def max_pool(_spec: PoolSpec) -> PrimFunc:
    """MaxPool of int8, 16 channels at a time."""
    kernel = KernelBuilder("max_pool_mve")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        parameters = kernel.buffer("parameters", "int32", ANY_SIZE)
        y = kernel.buffer("y", "int8", ANY_SIZE)
        image = {name: parameters[place] for place, name in enumerate(IMAGE)}
        channels = image["channels"]

        def pool(window: _Window) -> None:
            source, target = x.address(window.begin), y.address(window.position * channels)
            kernel.run(LARGEST, source, target, window.rows, window.columns, channels, image["width"] * channels)

        _for_windows(kernel, image, pool)
    return kernel.finish()


def average_pool(_spec: PoolSpec) -> PrimFunc:
    """QAveragePool, 8 channels at a time.

    Behind the image's numbers: whether each position has a multiplier, AVERAGE's setting, and x's zero point.
    """
    kernel = KernelBuilder("average_pool_mve")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        multiplier = kernel.buffer("multiplier", "int32", ANY_SIZE)
        parameters = kernel.buffer("parameters", "int32", ANY_SIZE)
        y = kernel.buffer("y", "int8", ANY_SIZE)
        image = {name: parameters[place] for place, name in enumerate(IMAGE)}
        channels = image["channels"]
        setting = len(IMAGE) + 1

        def pool(window: _Window) -> None:
            source, target = x.address(window.begin), y.address(window.position * channels)
            shape = (window.rows, window.columns, channels, image["width"] * channels)
            factor = multiplier[window.position * parameters[len(IMAGE)]]
            offset = 0 - parameters[setting + 4] * (window.rows * window.columns)
            kernel.run(AVERAGE, source, target, *shape, factor, offset, parameters.address(setting))

        _for_windows(kernel, image, pool)
    return kernel.finish()


def _for_windows(kernel: KernelBuilder, image: dict[str, Expr], pool: Callable[[_Window], None]) -> None:
    with kernel.loop(image["output_height"]) as row, kernel.loop(image["output_width"]) as column:
        y = kernel.let(row * image["row_stride"] - image["top"])
        x = kernel.let(column * image["column_stride"] - image["left"])
        first_row, first_column = kernel.let(maximum(y, 0)), kernel.let(maximum(x, 0))
        rows = kernel.let(minimum(y + image["rows"], image["height"]) - first_row)
        columns = kernel.let(minimum(x + image["columns"], image["width"]) - first_column)
        begin = kernel.let((first_row * image["width"] + first_column) * image["channels"])
        pool(_Window(begin, rows, columns, kernel.let(row * image["output_width"] + column)))
