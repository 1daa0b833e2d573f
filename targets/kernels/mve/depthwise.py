"""Depthwise convolution on Helium: every channel on its own, many taps of a window in one VMLADAV.

Channels are taken in groups of up to 16. For each group the image's rows go, two at a time and with a border of the
input's zero point, into a few slots of scratch, halfword (row 2n, row 2n + 1) by halfword; from these the tiles gather
their cells. No row is read twice, so that the output can take the input's place. How rows and outputs are cut is told
in depthwise_layout, how the cells are multiplied in depthwise_tiles.
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
from tinyopt.targets.kernels.mve.depthwise_layout import (
    FILLER_BYTES,
    PLACE_BYTES,
    Blocks,
    Layer,
    choose_blocks,
    choose_tiling,
    settings,
)
from tinyopt.targets.kernels.mve.depthwise_rows import PAIR_ROWS
from tinyopt.targets.kernels.mve.depthwise_tiles import KINDS, PLACE, Ending, chunk_tiles, gather_tiles
from tinyopt.targets.kernels.mve.limits import ANY_SIZE
from tinyopt.targets.kernels.mve.memory import COPY_ROWS, FILL
from tinyopt.targets.kernels.requantize import INT8_HIGH, INT8_LOW, Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, minimum, select

LARGEST_TAPS = 255  # a pattern's numbers have 8 bits, and one of them stands for none
LARGEST_OFFSET = (1 << 16) - 1
PARAMETERS = (
    *("height", "row_bytes", "width", "channels", "slot_bytes", "group"),  # in the order of PAIR_ROWS
    *("zero_point", "tap_bytes", "left_shift", "kind"),  # in the order of depthwise_tiles
    *("top", "first_cell", "filler", "block", "blocks", "bands", "whole_bands", "band_bytes", "tiles", "tile_columns"),
    *("last_column", "column_bytes", "advance", "span", "kept", "alternates", "places", "sums", "chunks"),
    *("setting_bytes", "groups"),
)
TILES_NUMBERS = PARAMETERS.index("zero_point")


@dataclass(frozen=True)
class DepthwiseSpec:
    """has_chunks: windows larger than a gather."""

    has_chunks: bool
    ending: Ending

    @property
    def tiles(self) -> Intrinsic:
        return (chunk_tiles if self.has_chunks else gather_tiles)(self.ending)

    @property
    def intrinsics(self) -> tuple[Intrinsic, ...]:
        return NAKED, FILL, COPY_ROWS, PAIR_ROWS, PLACE, self.tiles


def plan_depthwise(node: Node) -> Kernel | Refusal:
    """QConv with one input and one output channel in each group."""
    if (refusal := _refusal(node)) is not None:
        return refusal
    blocks = choose_blocks(choose_tiling(Layer(node)))
    if blocks.largest_offset > LARGEST_OFFSET:
        return Refusal("its rows are too long for offsets of 16 bits")
    to = Requantization.of(node)
    ending = _ending(node, to)
    spec = DepthwiseSpec(blocks.tiling.kind == "chunks", ending)
    weights = node.input(1).data.reshape(node.input(1).shape[0], -1)
    factors = np.stack([node.input(2).data, node.input(3).data], axis=-1)
    vectors = settings(blocks, (to.low, to.high) if ending.is_clamped else None)
    return Kernel(
        template=depthwise,
        spec=spec,
        name="depthwise_mve",
        arguments=(
            InputArgument(0),
            ConstantArgument("weight", np.pad(weights, ((0, 0), (1, 0)))),
            ConstantArgument("rescaling", np.ascontiguousarray(factors)),
            ConstantArgument("parameters", np.concatenate(vectors)),
            ConstantArgument("parameters", _parameters(blocks, to, vectors[0].nbytes)),
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
    if rows * columns > LARGEST_TAPS:
        return Refusal(f"its window has more than {LARGEST_TAPS} cells")
    if int(_largest_sums(node).max()) << (32 - node.int("shift")) >= 1 << 31:
        return Refusal("its sums are too large for their shift")
    return None


def _largest_sums(node: Node) -> Array:
    """For each channel a bound of the accumulator's size."""
    weights, bias = node.input(1).data.astype(np.int64), node.input(2).data.astype(np.int64)
    return np.asarray(np.abs(weights).reshape(len(weights), -1).sum(1) * -INT8_LOW + np.abs(bias))


def _ending(node: Node, to: Requantization) -> Ending:
    levels = _largest_sums(node) * node.input(3).data.astype(np.int64) >> to.shift
    is_wide = int(levels.max()) + 1 - INT8_LOW >= 1 << 15
    return Ending(to.shift < 32, (to.low, to.high) != (INT8_LOW, INT8_HIGH), is_wide)


def _overlaps(blocks: Blocks) -> tuple[Overlap, ...]:
    """Which distances leave the rows alone that are not in the slots when a block's output is written."""
    channels, rooms = blocks.tiling.layer.image[2], blocks.rooms
    if channels > blocks.group:
        return (Overlap.in_place(0),) if all(room >= 0 for room in rooms) else ()
    return (Overlap.forward(0, -min(rooms) * channels),) if rooms else (Overlap(0, None, None),)


def _parameters(blocks: Blocks, to: Requantization, setting_bytes: int) -> Array:
    tiling, layer = blocks.tiling, blocks.tiling.layer
    height, width, channels = layer.image
    numbers = {
        "height": height,
        "row_bytes": width * channels,
        "width": width,
        "channels": channels,
        "top": layer.pads[0],
        "first_cell": FILLER_BYTES + layer.pads[1] * blocks.column_bytes,
        "slot_bytes": blocks.slot_bytes,
        "group": blocks.group,
        "filler": zero_point_of(layer.node, layer.node.input(0)),
        "block": blocks.bands,
        "blocks": -(-tiling.bands // blocks.bands),
        "bands": tiling.bands,
        "whole_bands": layer.output[0] // tiling.rows,
        "band_bytes": tiling.rows * layer.output[1] * channels,
        "tiles": tiling.tiles_in_band,
        "tile_columns": tiling.columns,
        "last_column": tiling.last_column,
        "column_bytes": layer.strides[1] * blocks.column_bytes,
        "advance": tiling.advance,
        "span": tiling.span,
        "kept": blocks.kept_slots,
        "alternates": int(blocks.alternates),
        "places": blocks.places_begin,
        "sums": blocks.sums_begin,
        "chunks": tiling.chunks,
        "setting_bytes": setting_bytes,
        "groups": -(-channels // blocks.group),
        "zero_point": to.zero_point,
        "tap_bytes": 1 + layer.window[0] * layer.window[1],
        "left_shift": 32 - to.shift,
        "kind": KINDS.index(tiling.kind),
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
    parameters: Buffer
    numbers: Mapping[str, Expr]


@dataclass(frozen=True)
class _Group:
    """The channels that are worked on."""

    first: Expr
    count: Expr


def depthwise(spec: DepthwiseSpec) -> PrimFunc:
    """For each group of channels and each block: the rows that are not there yet go into slots, then its tiles."""
    kernel = KernelBuilder("depthwise_mve")
    with kernel.function():
        arguments = _declare(kernel)
        n = arguments.numbers
        kernel.run(FILL, arguments.scratch.address(), n["filler"], n["places"])
        _place_tiles(kernel, arguments)
        with kernel.loop(n["groups"]) as number:
            first = kernel.let(number * n["group"])
            group = _Group(first, kernel.let(minimum(n["channels"] - first, n["group"])))
            with kernel.loop(n["blocks"]) as block:
                _block(kernel, spec, arguments, group, block)
    return kernel.finish()


def _declare(kernel: KernelBuilder) -> _Arguments:
    x, taps = (kernel.buffer(name, "int8", ANY_SIZE) for name in ("x", "taps"))
    factors = kernel.buffer("factors", "int32", ANY_SIZE)
    vectors = kernel.buffer("settings", "uint8", ANY_SIZE)
    parameters = kernel.buffer("parameters", "int32", ANY_SIZE)
    scratch, y = (kernel.buffer(name, "int8", ANY_SIZE) for name in ("scratch", "y"))
    numbers = {name: parameters[place] for place, name in enumerate(PARAMETERS)}
    return _Arguments(x, taps, factors, vectors, scratch, y, parameters, numbers)


def _place_tiles(kernel: KernelBuilder, arguments: _Arguments) -> None:
    """For each tile of a block where its cells begin, and its output."""
    n, scratch = arguments.numbers, arguments.scratch
    with kernel.loop(n["block"]) as band, kernel.loop(n["tiles"]) as tile:
        column = kernel.let(minimum(tile * n["tile_columns"], n["last_column"]))
        place = kernel.let(n["places"] + (band * n["tiles"] + tile) * PLACE_BYTES)
        cells = FILLER_BYTES + band * n["advance"] * n["slot_bytes"] + column * n["column_bytes"]
        output = band * n["band_bytes"] + column * n["channels"]
        kernel.run(PLACE, scratch.address(place), scratch.address(cells), output)


def _block(kernel: KernelBuilder, spec: DepthwiseSpec, arguments: _Arguments, group: _Group, block: Expr) -> None:
    n, scratch = arguments.numbers, arguments.scratch
    parity = kernel.let(block & n["alternates"])
    first_band = kernel.let(block * n["block"])
    bands = kernel.let(minimum(n["block"], n["bands"] - first_band))
    filled = kernel.let(select(block == 0, 0, n["kept"]))
    used = kernel.let((bands - 1) * n["advance"] + n["span"])
    row = kernel.let((first_band * n["advance"] + filled) * 2 - n["top"])
    cell = n["first_cell"] + (filled ^ parity) * n["slot_bytes"]
    image = (arguments.x.address(group.first), scratch.address(), scratch.address(cell))
    with kernel.when(used > filled):
        kernel.run(PAIR_ROWS, *image, row, used - filled, arguments.parameters.address(), group.count)
    whole = kernel.let(minimum(bands, n["whole_bands"] - first_band))
    with kernel.when(whole > 0):
        _tiles(kernel, spec, arguments, group, first_band, (0, whole), parity)
    with kernel.when(whole < bands):
        _tiles(kernel, spec, arguments, group, first_band, (whole, 1), parity + n["alternates"] + 1)
    with kernel.when(n["alternates"] == 0):
        source = scratch.address(FILLER_BYTES + bands * n["advance"] * n["slot_bytes"])
        kernel.run(COPY_ROWS, scratch.address(FILLER_BYTES), source, 1, n["kept"] * n["slot_bytes"], 0, 0)


def _tiles(
    kernel: KernelBuilder,
    spec: DepthwiseSpec,
    arguments: _Arguments,
    group: _Group,
    first_band: Expr,
    bands: tuple[Expr, Expr],
    setting: Expr,
) -> None:
    """The tiles of a block from a band on. bands: the number of the first one in the block, and how many."""
    n, scratch = arguments.numbers, arguments.scratch
    more = (scratch.address(n["sums"]), n["chunks"]) if spec.has_chunks else ()
    kernel.run(
        spec.tiles,
        scratch.address(n["places"] + bands[0] * n["tiles"] * PLACE_BYTES),
        arguments.settings.address(setting * n["setting_bytes"]),
        arguments.taps.address(group.first * n["tap_bytes"]),
        arguments.factors.address(group.first * 2),
        arguments.y.address(first_band * n["band_bytes"] + group.first),
        bands[1] * n["tiles"],
        group.count,
        arguments.parameters.address(TILES_NUMBERS),
        *more,
    )
