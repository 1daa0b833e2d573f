"""Depthwise convolution on Helium: every channel on its own, all taps of a window in one VMLADAV.

Channels are taken in groups of up to 16. For each group the image's rows go, two at a time and with a border of the
input's zero point, into a few *slots* of scratch, halfword (row 2n, row 2n + 1) by halfword. A *band* of output rows
(two with stride 1, else one) needs the cells of two neighbouring slots; a block is as many bands as there are slots but
one. After a block its last slot becomes the first, so that no row is read twice and the output can take the input's
place. How the cells are multiplied is told in depthwise_tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import (
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Overlap,
    Refusal,
    ScratchArgument,
)
from tinyopt.targets.kernels.intrinsic import NAKED, Intrinsic
from tinyopt.targets.kernels.mve.depthwise_rows import PAIR_ROWS
from tinyopt.targets.kernels.mve.depthwise_tiles import PLACE, Ending, row_tiles, square_tiles
from tinyopt.targets.kernels.mve.memory import COPY_ROWS, FILL
from tinyopt.targets.kernels.requantize import INT8_HIGH, INT8_LOW, Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, minimum

ANY_SIZE = 1 << 24  # buffers whose extent is not known when the function is compiled
SCRATCH_BYTES = 1840  # what a block should not exceed
FILLER_BYTES = 16
PLACE_BYTES = 8
OUTPUTS = 4  # of a tile
LARGEST_OFFSET = (1 << 16) - 1
SETTING_BYTES = 128
PARAMETERS = (
    *("height", "width", "channels", "top", "first_cell", "slot_bytes", "filler", "block", "blocks", "bands"),
    *("whole_bands", "band_bytes", "tiles", "tile_columns", "last_column", "column_bytes"),
    *("zero_point", "tap_bytes", "left_shift"),
)


@dataclass(frozen=True)
class DepthwiseSpec:
    """group: channels at a time, 16 or 8. is_square: tiles are 2 x 2 outputs, else four of one row."""

    group: int
    is_square: bool
    ending: Ending

    @property
    def tiles(self) -> Intrinsic:
        return (square_tiles if self.is_square else row_tiles)(self.ending)

    @property
    def intrinsics(self) -> tuple[Intrinsic, ...]:
        return NAKED, FILL, COPY_ROWS, PAIR_ROWS[self.group], PLACE, self.tiles


@dataclass(frozen=True)
class _Layer:
    """The numbers of a depthwise QConv with batch 1 and no dilation."""

    node: Node
    height: int
    width: int
    channels: int
    rows: int
    columns: int
    output_height: int
    output_width: int

    @classmethod
    def of(cls, node: Node) -> _Layer:
        _, height, width, channels = node.input(0).shape
        _, rows, columns, _ = node.input(1).shape
        return cls(node, height, width, channels, rows, columns, *node.output.shape[1:3])

    @property
    def top(self) -> int:
        return self.node.ints("pads")[0]

    @property
    def left(self) -> int:
        return self.node.ints("pads")[1]

    @property
    def column_stride(self) -> int:
        return self.node.ints("strides")[1]

    @property
    def is_square(self) -> bool:
        return self.node.ints("strides") == (1, 1)

    @property
    def band_rows(self) -> int:
        return 2 if self.is_square else 1

    @property
    def bands(self) -> int:
        return -(-self.output_height // self.band_rows)

    @property
    def tile_columns(self) -> int:
        return 2 if self.is_square else OUTPUTS

    @property
    def tiles_in_band(self) -> int:
        return -(-self.output_width // self.tile_columns)

    @property
    def last_column(self) -> int:
        """Where the last tile begins, which may overlap the one before it."""
        return max(self.output_width - self.tile_columns, 0)

    @property
    def slot_columns(self) -> int:
        """As many as are filled, and as the last tile reads."""
        read = min(self.tile_columns, self.output_width) - 1 if not self.is_square else 0
        return max(self.left + self.width, (self.last_column + read) * self.column_stride + 4)


@dataclass(frozen=True)
class _Blocks:
    """How many channels and bands are worked on at a time."""

    layer: _Layer
    group: int
    bands: int

    @property
    def slot_bytes(self) -> int:
        return self.layer.slot_columns * 2 * self.group

    @property
    def scratch_bytes(self) -> int:
        slots = (self.bands + 1) * self.slot_bytes
        return FILLER_BYTES + slots + PLACE_BYTES * self.bands * self.layer.tiles_in_band

    @property
    def is_single_group(self) -> bool:
        return self.layer.channels <= self.group


def plan_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one input and one output channel in each group, stride 1 up to 3 x 3, row stride 2 up to 4 x 4."""
    if (refusal := _refusal(node)) is not None:
        return refusal
    layer = _Layer.of(node)
    blocks = _choose_blocks(layer)
    if blocks.slot_bytes + 7 * blocks.group + 2 * blocks.group > LARGEST_OFFSET:
        return Refusal("its rows are too long for offsets of 16 bits")
    to = Requantization.of(node)
    ending = Ending(to.shift < 32, (to.low, to.high) != (INT8_LOW, INT8_HIGH))
    spec = DepthwiseSpec(blocks.group, layer.is_square, ending)
    weights = node.input(1).data.reshape(layer.channels, -1)
    factors = np.stack([node.input(2).data, node.input(3).data], axis=-1)
    return Kernel(
        template=depthwise,
        spec=spec,
        name="depthwise_mve",
        arguments=(
            InputArgument(0),
            ConstantArgument("weight", np.pad(weights, ((0, 0), (1, 0)))),
            ConstantArgument("rescaling", np.ascontiguousarray(factors)),
            ConstantArgument("parameters", _settings(blocks, to)),
            ConstantArgument("parameters", _parameters(blocks, to)),
            ScratchArgument(blocks.scratch_bytes, 16),
            OutputArgument(0),
        ),
        intrinsics=spec.intrinsics,
        overlaps=_overlaps(blocks),
    )


def _refusal(node: Node) -> Refusal | None:
    x, weight = node.input(0), node.input(1)
    channels, rows, columns = weight.shape[:3]
    if node.int("group") != channels or x.shape[3] != channels or channels == 1:
        return Refusal("it is not depthwise with one output channel for each of several input channels")
    if x.shape[0] != 1:
        return Refusal("its batch is not 1")
    if node.optional_input(4) is not None:
        return Refusal("it adds a residual")
    if node.ints("dilations") != (1, 1):
        return Refusal("it is dilated")
    largest = 3 if node.ints("strides") == (1, 1) else 4
    if node.ints("strides")[0] > 2 or (largest == 4 and node.ints("strides")[0] != 2):
        return Refusal("its row stride is not 2, nor both of its strides 1")
    if max(rows, columns) > largest:
        return Refusal(f"its window is larger than {largest} x {largest}")
    return _overflow(node)


def _overflow(node: Node) -> Refusal | None:
    """Shifts below 32 are made up for by a shift to the left beforehand."""
    weights, bias = node.input(1).data.astype(np.int64), node.input(2).data.astype(np.int64)
    largest = int(np.max(np.abs(weights).reshape(len(weights), -1).sum(1) * 128 + np.abs(bias)))
    if largest << (32 - node.int("shift")) >= 1 << 31:
        return Refusal("its sums are too large for their shift")
    return None


def _choose_blocks(layer: _Layer) -> _Blocks:
    """As few blocks as the scratch allows, then as little scratch."""
    group = 16 if layer.channels > 8 and _Blocks(layer, 16, 1).scratch_bytes <= SCRATCH_BYTES else 8
    most = max(
        (n for n in range(1, layer.bands + 1) if _Blocks(layer, group, n).scratch_bytes <= SCRATCH_BYTES), default=1
    )
    return _Blocks(layer, group, -(-layer.bands // -(-layer.bands // most)))


def _overlaps(blocks: _Blocks) -> tuple[Overlap, ...]:
    """Which distances leave the rows alone that are not in the slots when a block's output is written."""
    layer = blocks.layer
    room: list[int] = []
    for done in range(blocks.bands, layer.bands, blocks.bands):
        unread = min(2 * (done + 1) - layer.top, layer.height) * layer.width
        room.append(unread - done * layer.band_rows * layer.output_width)
    least = min(room, default=layer.height * layer.width)
    if blocks.is_single_group:
        return (Overlap.forward(0, -least * layer.channels),) if room else (Overlap(0, None, None),)
    return (Overlap.in_place(0),) if least >= 0 else ()


def _settings(blocks: _Blocks, to: Requantization) -> Array:
    """The vectors of depthwise_tiles: for all bands, and once more for a last band of one row."""
    last_is_half = blocks.layer.is_square and blocks.layer.output_height % 2 == 1
    make = _square_setting if blocks.layer.is_square else _row_setting
    settings = [make(blocks, height) for height in ((2, 1) if last_is_half else (2,))]
    clamp = np.repeat(np.array([to.low, to.high], np.int32), 4).view(np.uint8)
    return np.concatenate([part for setting in settings for part in (setting, clamp)])


def _square_setting(blocks: _Blocks, height: int) -> Array:
    """Outputs beyond the image's border become those beside them, and are written to the same place."""
    layer = blocks.layer
    outputs = [(min(row, height - 1), min(column, layer.output_width - 1)) for row in (0, 1) for column in (0, 1)]
    cells = [(column, slot) for column in range(4) for slot in (0, 1)]
    gather = [column * 2 * blocks.group + slot * blocks.slot_bytes for column, slot in cells]
    scatter = [(row * layer.output_width + column) * layer.channels for row, column in outputs]
    patterns = [_pattern(layer, cells, output) for output in outputs]
    return _bytes(np.array(gather, np.uint16), np.array(scatter, np.int32), np.array(patterns, np.uint8))


def _row_setting(blocks: _Blocks, _height: int) -> Array:
    layer = blocks.layer
    outputs = [min(column, layer.output_width - 1) for column in range(OUTPUTS)]
    cells = [(column, slot) for column in range(4) for slot in (0, 1)]
    gathers = [
        (output * layer.column_stride + column) * 2 * blocks.group + slot * blocks.slot_bytes
        for output in outputs
        for column, slot in cells
    ]
    scatter = [output * layer.channels for output in outputs]
    pattern = _pattern(layer, cells, (0, 0))
    return _bytes(np.array(gathers, np.uint16), np.array(scatter, np.int32), np.array(pattern, np.uint8))


def _pattern(layer: _Layer, cells: list[tuple[int, int]], output: tuple[int, int]) -> list[int]:
    """For each lane the byte of the packed weights, 0 where the cell is not in the output's window."""
    pattern: list[int] = []
    for column, slot in cells:
        for row in (2 * slot, 2 * slot + 1):
            y, x = row - output[0], column - output[1]
            inside = 0 <= y < layer.rows and 0 <= x < layer.columns
            pattern.append(1 + y * layer.columns + x if inside else 0)
    return pattern


def _bytes(*arrays: Array) -> Array:
    return np.concatenate([array.reshape(-1).view(np.uint8) for array in arrays])


def _parameters(blocks: _Blocks, to: Requantization) -> Array:
    layer = blocks.layer
    numbers = {
        "height": layer.height,
        "width": layer.width,
        "channels": layer.channels,
        "top": layer.top,
        "first_cell": FILLER_BYTES + layer.left * 2 * blocks.group,
        "slot_bytes": blocks.slot_bytes,
        "filler": zero_point_of(layer.node, layer.node.input(0)),
        "block": blocks.bands,
        "blocks": -(-layer.bands // blocks.bands),
        "bands": layer.bands,
        "whole_bands": layer.output_height // layer.band_rows,
        "band_bytes": layer.band_rows * layer.output_width * layer.channels,
        "tiles": layer.tiles_in_band,
        "tile_columns": layer.tile_columns,
        "last_column": layer.last_column,
        "column_bytes": layer.column_stride * 2 * blocks.group,
        "zero_point": to.zero_point,
        "tap_bytes": 1 + layer.rows * layer.columns,
        "left_shift": 32 - to.shift,
    }
    return np.array([numbers[name] for name in PARAMETERS], np.int32)


@dataclass(frozen=True)
class _Arguments:
    """The template's parameters. numbers: those of `_parameters`, by name."""

    x: Buffer
    taps: Buffer
    factors: Buffer
    settings: Buffer
    scratch: Buffer
    y: Buffer
    numbers: Mapping[str, Expr]


def depthwise(spec: DepthwiseSpec) -> PrimFunc:
    """For each group of channels: its first rows into a slot; then for each block the other rows, and its tiles."""
    kernel = KernelBuilder("depthwise_mve")
    with kernel.function():
        arguments = _declare(kernel)
        n = arguments.numbers
        slots = kernel.let((n["block"] + 1) * n["slot_bytes"])
        kernel.run(FILL, arguments.scratch.address(), n["filler"], slots + FILLER_BYTES)
        _place_tiles(kernel, arguments, slots)
        with kernel.loop((n["channels"] + (spec.group - 1)) // spec.group) as group:
            first = kernel.let(group * spec.group)
            count = kernel.let(minimum(n["channels"] - first, spec.group))
            _load_rows(kernel, spec, arguments, n["first_cell"], -n["top"], first, count)
            with kernel.loop(n["blocks"]) as block:
                _block(kernel, spec, arguments, slots, block, first, count)
    return kernel.finish()


def _declare(kernel: KernelBuilder) -> _Arguments:
    x, taps = (kernel.buffer(name, "int8", ANY_SIZE) for name in ("x", "taps"))
    factors = kernel.buffer("factors", "int32", ANY_SIZE)
    settings = kernel.buffer("settings", "uint8", ANY_SIZE)
    parameters = kernel.buffer("parameters", "int32", ANY_SIZE)
    scratch, y = (kernel.buffer(name, "int8", ANY_SIZE) for name in ("scratch", "y"))
    numbers = {name: kernel.let(parameters[place]) for place, name in enumerate(PARAMETERS)}
    return _Arguments(x, taps, factors, settings, scratch, y, numbers)


def _place_tiles(kernel: KernelBuilder, arguments: _Arguments, slots: Expr) -> None:
    """For each tile of a block where its cells begin, and its output."""
    n = arguments.numbers
    with kernel.loop(n["block"]) as band, kernel.loop(n["tiles"]) as tile:
        column = kernel.let(minimum(tile * n["tile_columns"], n["last_column"]))
        place = kernel.let(FILLER_BYTES + slots + (band * n["tiles"] + tile) * PLACE_BYTES)
        cells = arguments.scratch.address(FILLER_BYTES + band * n["slot_bytes"] + column * n["column_bytes"])
        output = band * n["band_bytes"] + column * n["channels"]
        kernel.run(PLACE, arguments.scratch.address(place), cells, output)


def _load_rows(
    kernel: KernelBuilder,
    spec: DepthwiseSpec,
    arguments: _Arguments,
    cell: Expr,
    row: Expr,
    first: Expr,
    count: Expr,
) -> None:
    """`count` channels from `first` on of two image rows into a slot, whose column 0 of the image is at `cell`."""
    n = arguments.numbers
    image, filler, target = (
        b.address(i) for b, i in ((arguments.x, first), (arguments.scratch, 0), (arguments.scratch, cell))
    )
    shape = (n["height"], n["width"] * n["channels"], n["width"], n["channels"], count)
    kernel.run(PAIR_ROWS[spec.group], image, filler, target, row, *shape)


def _block(
    kernel: KernelBuilder,
    spec: DepthwiseSpec,
    arguments: _Arguments,
    slots: Expr,
    block: Expr,
    first: Expr,
    count: Expr,
) -> None:
    n = arguments.numbers
    first_band = kernel.let(block * n["block"])
    bands = kernel.let(minimum(n["block"], n["bands"] - first_band))
    with kernel.loop(bands) as band:
        cell = n["first_cell"] + (band + 1) * n["slot_bytes"]
        _load_rows(kernel, spec, arguments, cell, (first_band + band + 1) * 2 - n["top"], first, count)
    output = kernel.let(first_band * n["band_bytes"] + first)

    def compute(done: Expr, bands: Expr, setting: int) -> None:
        kernel.run(
            spec.tiles,
            arguments.scratch.address(FILLER_BYTES + slots + done * n["tiles"] * PLACE_BYTES),
            arguments.settings.address(setting * SETTING_BYTES),
            arguments.taps.address(first * n["tap_bytes"]),
            arguments.factors.address(first * 2),
            arguments.y.address(output),
            bands * n["tiles"],
            count,
            n["zero_point"],
            n["tap_bytes"],
            n["left_shift"],
        )

    whole = kernel.let(minimum(bands, n["whole_bands"] - first_band))
    with kernel.when(whole > 0):
        compute(0, whole, 0)
    if spec.is_square:
        with kernel.when(whole < bands):
            compute(whole, 1, 1)
    to, source = (arguments.scratch.address(FILLER_BYTES + slot * n["slot_bytes"]) for slot in (0, bands))
    kernel.run(COPY_ROWS, to, source, 1, n["slot_bytes"], 0, 0)
