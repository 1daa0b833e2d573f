"""int8 pointwise convolutions and dense layers on 64-bit Arm, of any size: SMMLA, SDOT, or SMULL, SMLAL2 and SADALP.

Layers that differ only in how many pixels and channels they have, in zero points, clamps and the multiplier of a
residual share one function (`pointwise_nest`). Tiles are taken from a short list, so that there are few functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Kernel, Refusal, ScratchArgument
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc
from tinyopt.targets.kernels.vector.integer_ending import Method
from tinyopt.targets.kernels.vector.integer_layer import IntegerLayer, LayerNumbers, integer_refusal, layer_arguments
from tinyopt.targets.kernels.vector.lane_pointwise import (
    STEP,
    MullPointwise,
    SdotPointwise,
    mull_rest,
    pack_mull_tile,
    pack_sdot_tile,
    sdot_rest,
)
from tinyopt.targets.kernels.vector.mull_tile import mull_instructions
from tinyopt.targets.kernels.vector.pair_pointwise import MOST_WRITTEN, PairPointwise, pair_rest
from tinyopt.targets.kernels.vector.pointwise_nest import PixelOffsets, PointwiseNest, PointwiseSizes, PointwiseSpec
from tinyopt.targets.kernels.vector.rows import RowPlan
from tinyopt.targets.kernels.vector.run_time import ANY_SIZE, Numbers, numbers_argument
from tinyopt.targets.kernels.vector.smmla_tiling import (
    DEPTH,
    OPERAND,
    VECTOR,
    PairTileSpec,
    pack_pair_tile,
    pair_instructions,
)
from tinyopt.targets.kernels.vector.tiling import TileSpec, tile_instructions
from tinyopt.targets.kernels.vector.window import Window, pointwise_window

MOST_WRITTEN_SDOT, MOST_WRITTEN_MULL = 2, 1  # steps that are written out
"""Beyond, the loop costs less than one instruction in a hundred."""

Shape = tuple[int, int]  # (pixels, channels) of a tile


@dataclass(frozen=True)
class _Arithmetic:
    """step: elements. tiles: to choose from. count: instructions of a layer. rest: see `PointwiseSpec`.
    written: as many steps are written out. pack: [channels, depth] weights of a tile."""

    nest: type[PointwiseNest]
    step: int
    tiles: tuple[Shape, ...]
    count: Callable[[Window, int, Shape, bool], float]
    rest: Callable[[int], int]
    written: Callable[[int], int]
    pack: Callable[[Array], Array]


def _sdot_count(window: Window, outputs: int, shape: Shape, has_residual: bool) -> float:
    return tile_instructions(TileSpec(RowPlan(window, "int8", 0), outputs, 4, *shape, has_residual))


def _mull_count(window: Window, outputs: int, shape: Shape, has_residual: bool) -> float:
    return mull_instructions(TileSpec(RowPlan(window, "int8", 0), outputs, 1, *shape, has_residual))


def _pair_count(window: Window, outputs: int, shape: Shape, has_residual: bool) -> float:
    return pair_instructions(PairTileSpec(RowPlan(window, "int8", 0), "block", outputs, *shape, True, has_residual))


_ARITHMETIC: Mapping[Method, _Arithmetic] = {
    "smmla": _Arithmetic(
        PairPointwise,
        DEPTH,
        ((2, 16), (4, 16), (6, 16), (10, 8), (12, 8)),
        _pair_count,
        lambda depth: pair_rest(depth) if -(-depth // DEPTH) <= MOST_WRITTEN else 0,
        lambda depth: -(-depth // DEPTH) if -(-depth // DEPTH) <= MOST_WRITTEN else 0,
        pack_pair_tile,
    ),
    "sdot": _Arithmetic(
        SdotPointwise,
        STEP,
        ((1, 8), (1, 32), (2, 16), (5, 16), (9, 8)),
        _sdot_count,
        sdot_rest,
        lambda depth: depth // STEP if depth // STEP <= MOST_WRITTEN_SDOT else 0,
        pack_sdot_tile,
    ),
    "neon": _Arithmetic(
        MullPointwise,
        STEP,
        ((1, 8), (1, 32), (1, 40), (2, 16), (4, 16), (3, 24), (5, 12), (7, 8)),
        _mull_count,
        mull_rest,
        lambda depth: depth // STEP if depth // STEP <= MOST_WRITTEN_MULL else 0,
        pack_mull_tile,
    ),
}


@dataclass(frozen=True)
class PointwisePlan:
    """The tile of a layer, and about how many instructions it takes."""

    layer: IntegerLayer
    spec: PointwiseSpec
    sizes: PointwiseSizes
    instructions: float

    def kernel(self, node: Node, name: str) -> Kernel:
        """What computes `node`."""
        spec, weights = self.spec, node.input(1).data
        rows = RowPlan(pointwise_window(1, self.sizes.depth), "int8", 0)
        pack = _ARITHMETIC[spec.form.method].pack
        tiles = _tiles(weights.reshape(len(weights), -1), spec)
        packed = np.concatenate([pack(tile) for tile in tiles])
        bias, multiplier = (np.concatenate(_tiles(node.input(index).data, spec)) for index in (2, 3))
        arguments = layer_arguments(node, rows, packed, bias, multiplier)
        scratch: tuple[ScratchArgument, ...] = ()
        if spec.form.method == "smmla":
            scratch = (ScratchArgument(self.sizes.steps * spec.pixels // 2 * OPERAND, VECTOR),)
        offsets = PixelOffsets.of(spec.pixels, self.sizes)
        numbers = numbers_argument(self.sizes, offsets.image, offsets.output, self.layer.numbers)
        return Kernel(pointwise, spec, name, (numbers, *arguments, *scratch), has_numbers=True)


def plan_pointwise(node: Node, window: Window, method: Method) -> PointwisePlan | Refusal:
    """A layer whose window is that of one row of pixels, each read on its own."""
    refusal = integer_refusal(node)
    if refusal is not None:
        return refusal
    arithmetic, outputs, depth = _ARITHMETIC[method], node.input(1).shape[0], window.channels
    if depth < arithmetic.step:
        return Refusal(f"less than {arithmetic.step} input channels")
    tiles = [(p, c) for p, c in arithmetic.tiles if p <= window.out_width and c <= outputs]
    if not tiles:
        return Refusal("fewer pixels or channels than in a tile")
    layer = IntegerLayer.of(node, method)

    def instructions(tile: Shape) -> float:
        return arithmetic.count(window, -(-outputs // tile[1]) * tile[1], tile, layer.residual is not None)

    best = min(tiles, key=instructions)
    spec = PointwiseSpec(layer.form, *best, best[1] == outputs, arithmetic.written(depth), arithmetic.rest(depth))
    return PointwisePlan(layer, spec, _sizes(window, outputs, spec), instructions(best))


def _sizes(window: Window, outputs: int, spec: PointwiseSpec) -> PointwiseSizes:
    arithmetic, depth, cells = _ARITHMETIC[spec.form.method], window.channels, window.out_width
    tile_weights = arithmetic.pack(np.zeros((spec.channels, depth), np.int8)).size
    is_pair = spec.form.method == "smmla"
    return PointwiseSizes(
        pixel_tiles=-(-cells // spec.pixels),
        last_pixel=cells - spec.pixels,
        channel_tiles=-(-outputs // spec.channels),
        last_channel=outputs - spec.channels,
        depth=depth,
        outputs=outputs,
        steps=-(-depth // arithmetic.step) if is_pair else depth // arithmetic.step,
        whole_vectors=depth // VECTOR,
        tile_weights=tile_weights,
        tile_channels=spec.channels,
    )


def _tiles(values: Array, spec: PointwiseSpec) -> list[Array]:
    """What each tile takes of an array whose first axis are the output channels."""
    last = len(values) - spec.channels
    starts = (min(start, last) for start in range(0, len(values), spec.channels))
    return [values[start : start + spec.channels] for start in starts]


def pointwise(spec: PointwiseSpec) -> PrimFunc:
    """The layers of `spec`.

    Parameters: what is not known of `PointwiseSizes`, `PixelOffsets` and `LayerNumbers`, then as in `layer_arguments`,
    then scratch for the image in pairs if it is laid out.
    """
    kernel = KernelBuilder("pointwise")
    with kernel.function():
        numbers = Numbers(kernel, spec.known)
        sizes, offsets = numbers.read(PointwiseSizes, "int64"), PixelOffsets.read(spec.pixels, numbers)
        layer = spec.form.layer(numbers.read(LayerNumbers))
        code = layer.declare_any_size(kernel, has_ring=False)
        common = kernel, spec, sizes, offsets, code.image, code.weights, code.bias, code.ending
        if spec.form.method == "smmla":
            PairPointwise(*common, kernel.buffer("pairs", "int8", ANY_SIZE)).write()
        else:
            _ARITHMETIC[spec.form.method].nest(*common).write()
    return kernel.finish()
