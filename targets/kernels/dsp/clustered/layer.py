"""A layer of clustered weights as a product of blocks of pixels and channels that are decoded on the way.

The table of pairs is laid out in scratch once for the layer. Then blocks of six or three pixels are widened, each
before any of its outputs is written, and a micro-kernel multiplies the block with all channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.ops.integer_rules import level_limits
from tinyopt.ops.requantize import MULTIPLIER_BITS
from tinyopt.targets.kernel import Argument, ConstantArgument, InputArgument, OutputArgument, ScratchArgument
from tinyopt.targets.kernels.dsp.clustered.decode_steps import TABLE_BITS
from tinyopt.targets.kernels.dsp.clustered.pairs import (
    LARGEST_TABLE,
    MOST_BITS,
    pack_pairs,
    table_bytes,
)
from tinyopt.targets.kernels.dsp.clustered.tiles import NARROW, WIDE, multiply_block
from tinyopt.targets.kernels.dsp.clustered.widening import WIDEN_RUNS
from tinyopt.targets.kernels.dsp.packing import Pair, depth_pairs
from tinyopt.targets.kernels.intrinsic import NAKED, Intrinsic
from tinyopt.targets.kernels.packing import whole_words
from tinyopt.targets.kernels.requantize import Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, cast, constant, maximum, minimum

ANY_SIZE = 1 << 24  # buffers whose extent is not known when the function is compiled
RESCALING_BYTES = 8  # of a channel's bias and multiplier
FEWEST_WIDE = 4  # pixels that take the wide tile, which costs less than two narrow ones

# The int32 numbers of every layer, then those of its gathering
PIXELS, WIDE_BLOCKS, BLOCKS, CHANNELS, PAIRS, _VALUES, ZERO_POINT, LIMITS = range(8)
GATHERING = 12  # `LIMITS` are low, high, and the residual's multiplier and 64-bit start


@dataclass(frozen=True)
class LayerSpec:
    """bits: of an index. is_clamped: to less than all of `dtype`, the output's. residual_shift: `widening_shift`."""

    bits: int
    is_clamped: bool
    has_residual: bool
    residual_shift: int = 0
    dtype: str = "int8"

    @property
    def has_table(self) -> bool:
        return self.bits <= TABLE_BITS

    @property
    def intrinsics(self) -> tuple[Intrinsic, ...]:
        return NAKED, WIDEN_RUNS, self.multiply(WIDE), self.multiply(NARROW)

    def multiply(self, pixels: int) -> Intrinsic:
        return multiply_block(self.bits, pixels, self.is_clamped, self.has_residual, self.residual_shift)


@dataclass(frozen=True)
class Depth:
    """A dot product: `runs` runs of `run` neighbouring bytes."""

    run: int
    runs: int

    @property
    def pairs(self) -> list[Pair]:
        return depth_pairs(self.run, self.runs)


def refusal(node: Node) -> str | None:
    """Why the weights of a QConv or QDense are not decoded here."""
    clusters = node.input(1).clusters
    if clusters is None:
        return "its weights are not clustered"
    if clusters.index_bits > MOST_BITS:
        return f"{len(clusters.codebook)} clusters: indices of {clusters.index_bits} bits save too little"
    return _large_scales(node)


def _large_scales(node: Node) -> str | None:
    """The tiles shift by 32. A large residual makes the shift smaller, but multipliers mostly have bits to spare."""
    shift = widening_shift(node)
    largest = int(np.max(node.input(3).data, initial=0))
    if shift < 0 or largest << shift >= 1 << MULTIPLIER_BITS or (shift > 0 and node.optional_input(4) is None):
        return "its scales need another shift than 32"
    return None


def widening_shift(node: Node) -> int:
    """Multipliers and residuals are shifted by this much, so that the sum of their products is shifted down by 32."""
    return 32 - node.int("shift")


def layer_spec(node: Node) -> LayerSpec:
    clusters = node.input(1).clusters
    assert clusters is not None
    to = Requantization.of(node)
    is_clamped, has_residual = (to.low, to.high) != level_limits(to.dtype), node.optional_input(4) is not None
    return LayerSpec(clusters.index_bits, is_clamped, has_residual, widening_shift(node), to.dtype)


def block_pixels(pixels: int) -> list[int]:
    """The sizes of the blocks, in the order of their pixels."""
    wide = (pixels + WIDE - FEWEST_WIDE) // WIDE
    sizes = [min(WIDE, pixels - WIDE * block) for block in range(wide)]
    left = pixels - sum(sizes)
    return sizes + [min(NARROW, left - place) for place in range(0, left, NARROW)]


def layer_arguments(
    node: Node, spec: LayerSpec, depth: Depth, gathering: list[int], widest: int | None = None
) -> tuple[Argument, ...]:
    """What `declare_layer` declares, in its order.

    gathering: further numbers, for the gathering of pixels. widest: pixels of a block, where not as `run_layer` has it.
    """
    clusters = node.input(1).clusters
    assert clusters is not None
    pairs = depth.pairs
    pixels = node.output.type.elements // node.output.shape[-1]
    if widest is None:
        widest = WIDE if block_pixels(pixels)[0] > NARROW else NARROW
    residual = [InputArgument(4)] if spec.has_residual else []
    table = [ScratchArgument(table_bytes(clusters), 4)] if spec.has_table else []
    return (
        InputArgument(0),
        ConstantArgument("weight", whole_words(_stream(node, pairs))),
        ConstantArgument("codebook", whole_words(clusters.codebook)),
        ConstantArgument("parameters", _numbers(node, pixels, len(pairs), gathering)),
        *table,
        ScratchArgument(4 * widest * len(pairs), 4),
        OutputArgument(0),
        *residual,
    )


def _stream(node: Node, pairs: list[Pair]) -> Array:
    """For each channel its bias, its places and its multiplier, as bytes."""
    clusters = node.input(1).clusters
    assert clusters is not None
    columns = (node.input(2).data, node.input(3).data << widening_shift(node))
    bias, multiplier = (column.astype("<i4").reshape(-1, 1).view(np.uint8) for column in columns)
    return np.concatenate([bias, pack_pairs(clusters, pairs), multiplier], axis=1)


def _numbers(node: Node, pixels: int, pairs: int, gathering: list[int]) -> Array:
    clusters, residual = node.input(1).clusters, node.optional_input(4)
    assert clusters is not None
    to, sizes = Requantization.of(node), block_pixels(pixels)
    multiplier, start = 0, 0
    if residual is not None:
        multiplier = node.int("residual_multiplier")
        zero = zero_point_of(node, residual) << widening_shift(node)
        start = (to.zero_point << 32) + (1 << 31) - zero * multiplier
    numbers = [pixels, sum(size > NARROW for size in sizes), len(sizes)]
    numbers += [node.output.shape[-1], pairs, len(clusters.codebook)]
    numbers += [to.zero_point, to.low, to.high, multiplier, _signed(start), start >> 32]
    assert len(numbers) == GATHERING
    return np.array([*numbers, *gathering], np.int32)


def _signed(word: int) -> int:
    """The low 32 bits as a signed number."""
    return (word + (1 << 31)) % (1 << 32) - (1 << 31)


@dataclass(frozen=True)
class Layer:
    """The parameters of the function, and its numbers by name."""

    x: Buffer
    weights: Buffer
    codebook: Buffer
    numbers: Buffer
    table: Buffer
    block: Buffer
    y: Buffer
    residual: Buffer


def declare_layer(kernel: KernelBuilder, spec: LayerSpec, x: Buffer) -> Layer:
    """Declare what comes behind the input `x`."""
    weights = kernel.buffer("weights", "uint8", ANY_SIZE)
    codebook = kernel.buffer("codebook", "int8", 1 << MOST_BITS)
    numbers = kernel.buffer("numbers", "int32", ANY_SIZE)
    table = codebook
    if spec.has_table:
        table = kernel.buffer("table", "int16", LARGEST_TABLE**2 + 1)
    block = kernel.buffer("block", "int32", ANY_SIZE)
    y = kernel.buffer("y", spec.dtype, ANY_SIZE)
    residual = kernel.buffer("residual", "int8", ANY_SIZE) if spec.has_residual else y
    return Layer(x, weights, codebook, numbers, table, block, y, residual)


# Widens the pixels from `first` on, `count` of them, into the block, the words of a pixel `stride` words apart.
Gather = Callable[[Expr, Expr, Expr], None]


def run_layer(kernel: KernelBuilder, spec: LayerSpec, layer: Layer, is_backward: Expr, gather: Gather) -> None:
    """All blocks, from the first or (is_backward: 1) the last one on."""
    fill_table(kernel, spec, layer)
    wide, blocks = kernel.let(layer.numbers[WIDE_BLOCKS]), kernel.let(layer.numbers[BLOCKS])
    with kernel.loop(blocks) as number:
        block = kernel.let(number + is_backward * (blocks - 1 - 2 * number))
        first = kernel.let(block * WIDE - maximum(block - wide, 0) * (WIDE - NARROW))
        with kernel.when_else(block < wide) as (then, other):
            with then:
                _run_block(kernel, spec, layer, WIDE, first, gather)
            with other:
                _run_block(kernel, spec, layer, NARROW, first, gather)


def fill_table(kernel: KernelBuilder, spec: LayerSpec, layer: Layer) -> None:
    """Lay out the sequence of `pair_sequence`, of values, where there is a table."""
    if not spec.has_table:
        return
    values = kernel.let(layer.numbers[_VALUES])
    place = kernel.local("int32", 1)
    place[0] = constant(0, "int32")
    with kernel.loop(values) as first:
        low = kernel.let(cast(layer.codebook[first], "int16"))
        layer.table[place[0]] = low
        place[0] = place[0] + 1
        with kernel.loop(values - 1 - first) as further:
            layer.table[place[0]] = low
            layer.table[place[0] + 1] = cast(layer.codebook[first + 1 + further], "int16")
            place[0] = place[0] + 2
    layer.table[place[0]] = cast(layer.codebook[0], "int16")


def _run_block(kernel: KernelBuilder, spec: LayerSpec, layer: Layer, width: int, first: Expr, gather: Gather) -> None:
    """Up to `width` pixels from `first` on."""
    numbers = layer.numbers
    count = kernel.let(minimum(numbers[PIXELS] - first, width))
    gather(first, count, constant(width, "int32"))
    output = kernel.let(first * numbers[CHANNELS])
    kernel.run(
        spec.multiply(width),
        layer.block.address(),
        layer.table.address(),
        layer.weights.address(),
        layer.y.address(output),
        numbers[CHANNELS],
        numbers[PAIRS],
        count,
        numbers[ZERO_POINT],
        numbers.address(LIMITS),
        layer.residual.address(output),
    )
