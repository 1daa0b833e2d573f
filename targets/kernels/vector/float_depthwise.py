"""Float depthwise convolutions: four channels to a vector, eight of float16; groups of neighbouring pixels at a time.

    for each cell that the group's windows reach:
        load it once; for each pixel p that it belongs to: accumulator[p] += cell * weights[its place in p's window]

The image is read in place, the padding being left out, or through padded rows where that takes fewer instructions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from tinyopt.ir import Node
from tinyopt.targets.kernel import ConstantArgument, Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, PrimFunc, both, minimum
from tinyopt.targets.kernels.vector.channel_blocks import goes_block_by_block, write_blocks
from tinyopt.targets.kernels.vector.depthwise import (
    DepthwiseShape,
    FloatDepthwiseCode,
    float_depthwise_function,
    plan_depthwise,
)
from tinyopt.targets.kernels.vector.depthwise_groups import (
    ColumnGroups,
    Readers,
    column_groups,
    reaches_over,
    shared_cells,
)
from tinyopt.targets.kernels.vector.float_convolution import bias_of, float_refusal, fused_multiply_add
from tinyopt.targets.kernels.vector.float_ending import Clamp, clamped
from tinyopt.targets.kernels.vector.machine import NARROW_HALF_VECTORS, Float, VectorMachine, float_vectors
from tinyopt.targets.kernels.vector.rows import RowPlan, row_arguments

UNROLLED_TAPS = 128  # groups with up to so many products are written out without a loop over the window's rows
MOST_PRODUCTS = 256  # written out for the different groups of a row together, so that the code stays small
MOST_PIXELS = 16  # whose accumulators stay in registers
KEPT_TAPS = 9  # weights of windows with up to so many stay in registers
COPIED = 1.6  # instructions to bring a vector into the padded rows
CONDITION = 2  # instructions to see whether a row is padding
MOST_ADDRESSES = 9  # of rows, which stay in registers
ADDRESS = 8  # instructions to make one that does not
GROUP_OVERHEAD = 6  # instructions to begin a group: addresses, loop counter
PIXEL = 4  # instructions to begin and end a pixel: bias, clamp, store
ROW_OVERHEAD = 16  # instructions to begin a row of groups
UNALIGNED = 0.6  # instructions for the address of a cell that is no whole number of vectors from its neighbours
SEVERAL_ROWS = 0.004  # of the count: what groups of several rows take more for each pixel, as measured


@dataclass(frozen=True)
class FloatDepthwiseSpec:
    """What the compiled function depends on. pixels: of a group, (vertical, horizontal)."""

    shape: DepthwiseShape
    pixels: tuple[int, int]
    clamp: Clamp
    has_residual: bool
    lanes: int

    @property
    def element(self) -> Float:
        return "float32" if self.shape.rows.dtype == "float32" else "float16"

    @property
    def groups(self) -> tuple[ColumnGroups, ...]:
        return column_groups(self.shape.window, self.pixels[1], not self.shape.rows.is_in_place)

    @property
    def row_cells(self) -> tuple[tuple[int, Readers], ...]:
        """Rows that a group reads, and (row of the group, row of its window) of the readers."""
        window = self.shape.window
        return shared_cells(self.pixels[0], window.strides[0], window.dilations[0], window.kernel[0])

    @property
    def column_cells(self) -> tuple[tuple[int, Readers], ...]:
        """The same for columns."""
        window = self.shape.window
        return shared_cells(self.pixels[1], window.strides[1], window.dilations[1], window.kernel[1])

    @property
    def strips(self) -> int:
        """Rows of groups; the last may overlap the one before it."""
        return -(-self.shape.window.out_height // self.pixels[0])

    def sides(self, cell: int) -> tuple[bool, bool]:
        """Whether row `cell` of a group can lie (above, below) what is read."""
        return reaches_over(self.shape.window, self.pixels[0], cell) if self.shape.rows.is_in_place else (False, False)

    def rows_inside(self, strip: int) -> list[Readers]:
        """The readers of each row that groups of this strip read."""
        window = self.shape.window
        first = min(strip * self.pixels[0], window.out_height - self.pixels[0]) * window.strides[0] - window.pads[0]
        is_all = not self.shape.rows.is_in_place
        return [readers for cell, readers in self.row_cells if is_all or 0 <= first + cell < window.height]

    @property
    def products(self) -> int:
        """Of a group, for one vector of channels."""
        return self.pixels[0] * self.pixels[1] * self.shape.window.kernel[0] * self.shape.window.kernel[1]


def plan_float_depthwise(node: Node) -> Kernel | Refusal:
    """Conv with one group for each channel; four to seven of float16 in half a vector."""
    machine = channel_vectors(node)
    weights, residual = node.input(1), node.optional_input(3)
    refusal = float_refusal(node, weights, node.optional_input(2), machine.element)
    if refusal is not None:
        return refusal
    shape = plan_depthwise(node, machine.element, machine.lanes, machine.lanes)
    if isinstance(shape, Refusal):
        return shape
    spec = min(depthwise_specs(shape, Clamp.of(node), residual is not None), key=depthwise_instructions)
    return depthwise_kernel(node, spec)


def channel_vectors(node: Node) -> VectorMachine:
    """The vectors for a depthwise convolution, which its channels must fill."""
    machine = float_vectors(node)
    is_narrow = machine.element == "float16" and node.input(0).shape[3] < machine.lanes
    return NARROW_HALF_VECTORS if is_narrow else machine


def depthwise_kernel(node: Node, spec: FloatDepthwiseSpec) -> Kernel:
    """The kernel for a convolution that is cut into the groups of `spec`."""
    weights, channels = node.input(1), spec.shape.window.channels
    constants = (
        ConstantArgument("weight", weights.data.reshape(channels, -1).T.reshape(-1).copy()),  # KH * KW, C
        ConstantArgument("bias", bias_of(node, channels)),
    )
    arguments = row_arguments(spec.shape.rows, constants, 3 if spec.has_residual else None)
    return Kernel(float_depthwise, spec, "depthwise_vector", arguments)


def depthwise_specs(shape: DepthwiseShape, clamp: Clamp, has_residual: bool) -> Iterator[FloatDepthwiseSpec]:
    """All groups whose accumulators stay in registers and whose code is small."""
    window = shape.window
    in_place = replace(shape, rows=RowPlan(window, shape.rows.dtype, 0))
    lanes = shape.blocks.width
    for columns in range(1, min(MOST_PIXELS, window.out_width) + 1):
        for rows in range(1, min(MOST_PIXELS // columns, window.out_height) + 1):
            spec = FloatDepthwiseSpec(in_place, (rows, columns), clamp, has_residual, lanes)
            is_small = spec.products <= UNROLLED_TAPS and len(spec.groups) * spec.products <= MOST_PRODUCTS
            if is_small or (rows, columns) == (1, 1):
                yield spec
        if not shape.rows.is_in_place:
            yield FloatDepthwiseSpec(shape, (1, columns), clamp, has_residual, lanes)


def depthwise_instructions(spec: FloatDepthwiseSpec) -> float:
    """The modelled count for the whole layer."""
    shape, window = spec.shape, spec.shape.window
    taps = window.kernel[0] * window.kernel[1]
    loaded = 0 if goes_block_by_block(shape.rows) else min(taps, KEPT_TAPS)
    rows = (_groups_instructions(spec, spec.rows_inside(strip)) for strip in range(spec.strips))
    count = sum(ROW_OVERHEAD + loaded + row for row in rows) * shape.blocks.count
    if spec.pixels[0] > 1:
        count *= 1 + SEVERAL_ROWS * spec.pixels[0] * spec.pixels[1]
    return count if shape.rows.is_in_place else count + COPIED * window.input_elements / spec.lanes


def _groups_instructions(spec: FloatDepthwiseSpec, rows: list[Readers]) -> float:
    """Of one row of groups, for one vector of channels. rows: the readers of each row of cells in the image."""
    window = spec.shape.window
    taps = window.kernel[0] * window.kernel[1]
    always = GROUP_OVERHEAD + PIXEL * spec.pixels[0] * spec.pixels[1] + (taps if taps > KEPT_TAPS else 0)
    always += sum(CONDITION for cell, _ in spec.row_cells if any(spec.sides(cell)))
    always += ADDRESS * max(len(spec.row_cells) - MOST_ADDRESSES, 0)
    count = 0.0
    for group in spec.groups:
        columns = [readers for cell, readers in spec.column_cells if cell not in group.padding]
        row = 1 + len(columns) + (UNALIGNED * max(len(columns) - 3, 0) if window.channels % spec.lanes else 0)
        count += group.count * (always + len(rows) * row + sum(map(len, rows)) * sum(map(len, columns)))
    return count


def float_depthwise(spec: FloatDepthwiseSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `depthwise_kernel`."""
    return float_depthwise_function(spec.shape, spec.has_residual, lambda code: _Writer(code, spec).write())


@dataclass(frozen=True)
class _Writer:
    """Writes the loops."""

    code: FloatDepthwiseCode
    spec: FloatDepthwiseSpec

    def write(self) -> None:
        plan = self.spec.shape.rows
        strips = replace(plan, window=replace(plan.window, out_height=self.spec.strips))
        write_blocks(self.code.kernel, self.code.rows, strips, self.spec.shape.blocks, self._strip)

    def _strip(self, strip: Expr, _number: Expr, channel: Expr, _width: int) -> None:
        """One row of groups of one vector of channels."""
        window, lanes, (rows, columns) = self.spec.shape.window, self.spec.lanes, self.spec.pixels
        out_row = self.code.kernel.let(minimum(strip * rows, window.out_height - rows))
        bias = self.code.kernel.let(self.code.bias.vector(channel, lanes))
        kept = [self._weights(row, channel) for row in range(window.kernel[0])] if self._is_kept else []
        for groups in self.spec.groups:
            with self.code.kernel.loop(groups.count) as number:
                column = self.code.kernel.let(minimum((groups.first + number) * columns, window.out_width - columns))
                totals = self.code.kernel.local(self.spec.element, rows * columns * lanes)
                for pixel in range(rows * columns):
                    totals.store_vector(pixel * lanes, bias, lanes)
                self._window(_Group(totals, out_row, column, channel, groups.padding), kept)
                self._finish(totals, out_row, column, channel)

    @property
    def _is_kept(self) -> bool:
        window = self.spec.shape.window
        return window.kernel[0] * window.kernel[1] <= KEPT_TAPS

    def _weights(self, row: Expr, channel: Expr) -> list[Expr]:
        """Those of one row of the window, for one vector of channels."""
        window = self.spec.shape.window
        first = row * (window.kernel[1] * window.channels) + channel
        return [
            self.code.kernel.let(self.code.weights.vector(first + tap * window.channels, self.spec.lanes))
            for tap in range(window.kernel[1])
        ]

    def _window(self, group: _Group, kept: list[list[Expr]]) -> None:
        """Add the products of the whole window for each pixel of the group."""
        window = self.spec.shape.window
        if self.spec.products > UNROLLED_TAPS:
            with self.code.kernel.loop(window.kernel[0]) as row:
                cell = row * window.dilations[0]
                sides = (window.pads[0] > 0, any(self.spec.sides(cell)[1] for cell, _ in self.spec.row_cells))
                with self._inside_image(group.out_row, cell, sides):
                    self._image_row(group, self._start(group, cell, row), {0: self._weights(row, group.channel)})
            return
        for cell, readers in self.spec.row_cells:
            with self._inside_image(group.out_row, cell, self.spec.sides(cell)):
                weights = {pixel: kept[tap] if kept else self._weights(tap, group.channel) for pixel, tap in readers}
                self._image_row(group, self._start(group, cell, readers[0][1]), weights)

    def _inside_image(self, out_row: Expr, cell: Expr, sides: tuple[bool, bool]) -> AbstractContextManager[None]:
        """What is inside runs only where row `cell` of the group at `out_row` is a row of the image."""
        window = self.spec.shape.window
        row = out_row * window.strides[0] + cell
        conditions = [row >= window.pads[0]] if sides[0] else []
        conditions += [row < window.pads[0] + window.height] if sides[1] else []
        return self.code.kernel.when(both(*conditions)) if conditions else nullcontext()

    def _start(self, group: _Group, cell: Expr, window_row: Expr) -> Expr:
        """Where the cells of the group begin in its row `cell`, which is row `window_row` of its first window."""
        window, plan = self.spec.shape.window, self.spec.shape.rows
        if plan.is_in_place:
            row = group.out_row * window.strides[0] + cell - window.pads[0]
            start = row * plan.row_elements - window.pads[1] * window.channels
        else:
            start = self.code.rows.base(group.out_row, window_row)
        return self.code.kernel.let(start + group.column * (window.strides[1] * window.channels) + group.channel)

    def _image_row(self, group: _Group, start: Expr, weights: Mapping[int, list[Expr]]) -> None:
        """Add the products with one row of cells. weights: for each row of the group that reads it."""
        channels, lanes, columns = self.spec.shape.window.channels, self.spec.lanes, self.spec.pixels[1]
        for cell, readers in self.spec.column_cells:
            if cell in group.padding:
                continue
            value = self.code.kernel.let(self.code.rows.data.vector(start + cell * channels, lanes))
            for row, taps in weights.items():
                for column, tap in readers:
                    place = (row * columns + column) * lanes
                    total = group.totals.vector(place, lanes)
                    total = fused_multiply_add(total, taps[tap], value, lanes, self.spec.element)
                    group.totals.store_vector(place, total, lanes)

    def _finish(self, totals: Buffer, out_row: Expr, column: Expr, channel: Expr) -> None:
        """Residual, clamp, and write all pixels of the group."""
        window, lanes, (rows, columns) = self.spec.shape.window, self.spec.lanes, self.spec.pixels
        first = self.code.kernel.let((out_row * window.out_width + column) * window.channels + channel)
        for pixel in range(rows * columns):
            row, along = divmod(pixel, columns)
            index = first + (row * window.out_width + along) * window.channels
            value = totals.vector(pixel * lanes, lanes)
            if self.code.residual is not None:
                value = value + self.code.residual.vector(index, lanes)
            self.code.y.store_vector(index, clamped(value, self.spec.clamp, lanes, self.spec.element), lanes)


@dataclass(frozen=True)
class _Group:
    """A group of pixels of one vector of channels. out_row, column: its first pixel."""

    totals: Buffer
    out_row: Expr
    column: Expr
    channel: Expr
    padding: frozenset[int]
