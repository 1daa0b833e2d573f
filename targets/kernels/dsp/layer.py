"""A whole layer as a matrix product: blocks of pixels, pairs of channels, and clustered weights decoded on the way.

With plain weights each block is gathered once and meets all channels. Clustered weights are decoded for a few pairs of
channels at a time, which then go over all pixels, so that no copy of the layer's weights ever lies in RAM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import (
    Argument,
    ConstantArgument,
    InputArgument,
    OutputArgument,
    Overlap,
    ScalarArgument,
    ScratchArgument,
)
from tinyopt.targets.kernels.dsp.decoding import WORDS_AT_ONCE, cluster_arguments, decode_words, index_bits
from tinyopt.targets.kernels.dsp.intrinsics import LOAD_WORD, multiply_columns, store_columns
from tinyopt.targets.kernels.dsp.packing import Pair, as_words, pack_channel_pairs
from tinyopt.targets.kernels.dsp.product import (
    ANY_SIZE,
    PIXELS,
    PRODUCT_INTRINSICS,
    RESIDUAL_INTRINSICS,
    Residual,
    Shape,
    Tensors,
    tile,
)
from tinyopt.targets.kernels.intrinsic import Intrinsic
from tinyopt.targets.kernels.requantize import Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, minimum

DECODED_BYTES = 4096
DECODED_CHANNEL_PAIRS = 8


@dataclass(frozen=True)
class ClusterCode:
    """Weights as packed indices. channel_pairs: decoded at a time."""

    bits: int
    channel_pairs: int


@dataclass(frozen=True)
class LayerSpec:
    """pairs: words of the depth. rest: pixels of the last block, 0 where it is a full one."""

    pairs: int
    rest: int
    channels_are_odd: bool
    to: Requantization
    has_residual: bool
    clusters: ClusterCode | None

    @property
    def row_words(self) -> int:
        """Words of one pair of channels; decoding works on two at a time."""
        return self.pairs if self.clusters is None else self.pairs + self.pairs % 2

    @property
    def intrinsics(self) -> tuple[Intrinsic, ...]:
        lanes = 1 if self.channels_are_odd else 2
        sizes = [pixels for pixels in (PIXELS, self.rest) if pixels]
        stores = [store_columns(lanes, pixels) for pixels in sizes] + [multiply_columns(p) for p in sizes]
        return (*PRODUCT_INTRINSICS, LOAD_WORD, *stores, *(RESIDUAL_INTRINSICS if self.has_residual else ()))


def layer_spec(node: Node, pairs: int) -> LayerSpec:
    """The spec of a QConv (one group) or QDense whose depth takes `pairs` words."""
    channels = node.output.shape[-1]
    pixels = node.output.type.elements // channels
    clusters = None
    if bits := index_bits(node.input(1)):
        row_bytes = 4 * (pairs + pairs % 2)
        at_once = min(max(1, DECODED_BYTES // row_bytes), DECODED_CHANNEL_PAIRS, (channels + 1) // 2)
        clusters = ClusterCode(bits, at_once)
    has_residual = node.optional_input(4) is not None
    return LayerSpec(pairs, pixels % PIXELS, channels % 2 == 1, Requantization.of(node), has_residual, clusters)


def layer_arguments(node: Node, spec: LayerSpec, pairs: list[Pair]) -> tuple[Argument, ...]:
    """What `declare_layer` declares, in its order."""
    channels = node.output.shape[-1]
    arguments: list[Argument] = [
        *_weight_arguments(node, spec, pairs),
        ConstantArgument("bias", _rescaling(node)),
        ScratchArgument(4 * PIXELS * spec.pairs, 4),
        OutputArgument(0),
        ScalarArgument(node.output.type.elements // channels),
        ScalarArgument(channels),
    ]
    if spec.has_residual:
        residual = node.input(4)
        numbers = zero_point_of(node, residual), node.int("residual_multiplier")
        arguments += [InputArgument(4), *(ScalarArgument(number) for number in numbers)]
    return tuple(arguments)


def residual_overlap(node: Node) -> tuple[Overlap, ...]:
    """The residual as an input whose memory the output may take over: not where it is also the input proper."""
    residual = node.optional_input(4)
    return () if residual is None or residual is node.input(0) else (Overlap.in_place(4),)


def _weight_arguments(node: Node, spec: LayerSpec, pairs: list[Pair]) -> list[Argument]:
    weight = node.input(1)
    channels = weight.shape[0]
    if spec.clusters is None:
        return [ConstantArgument("weight", as_words(pack_channel_pairs(weight.data.reshape(channels, -1), pairs)))]
    coded = weight.clusters
    assert coded is not None
    indices = pack_channel_pairs(coded.indices.reshape(channels, -1), pairs)
    padded = np.pad(indices, ((0, 0), (0, spec.row_words - spec.pairs), (0, 0)))
    return [
        *cluster_arguments(weight, padded, spec.clusters.bits),
        ScratchArgument(4 * spec.row_words * spec.clusters.channel_pairs, 4),
    ]


def _rescaling(node: Node) -> Array:
    """[channel pairs, 4]: two biases, two multipliers."""
    both = np.stack([node.input(2).data, node.input(3).data])  # what, channel
    padded = np.pad(both, ((0, 0), (0, both.shape[1] % 2)))
    return np.ascontiguousarray(padded.reshape(2, -1, 2).transpose(1, 0, 2)).reshape(-1, 4)


@dataclass(frozen=True)
class Layer:
    """The parameters of the function. `tensors.weights` are words, in flash or decoded in scratch."""

    tensors: Tensors
    packed: Buffer | None
    codebook: Buffer | None
    pixels: Expr
    channels: Expr


def declare_layer(kernel: KernelBuilder, spec: LayerSpec) -> Layer:
    """Declare the parameters that convolutions share, in the order of their arguments."""
    packed = codebook = None
    if spec.clusters is None:
        weights = kernel.buffer("weights", "int32", ANY_SIZE)
    else:
        packed = kernel.buffer("packed", "uint8", ANY_SIZE)
        codebook = kernel.buffer("codebook", "uint8", 256)
        weights = kernel.buffer("decoded", "int32", spec.row_words * spec.clusters.channel_pairs)
    rescaling = kernel.buffer("rescaling", "int32", ANY_SIZE)
    block = kernel.buffer("block", "int32", PIXELS * spec.pairs)
    output = kernel.buffer("y", "int8", ANY_SIZE)
    pixels, channels = kernel.scalar("pixels"), kernel.scalar("channels")
    residual = None
    if spec.has_residual:
        values = kernel.buffer("residual", "int8", ANY_SIZE)
        residual = Residual(values, kernel.scalar("residual_zero_point"), kernel.scalar("residual_multiplier"))
    tensors = Tensors(block, weights, rescaling, output, residual)
    return Layer(tensors, packed, codebook, pixels, channels)


Gather = Callable[[Expr, Expr], None]  # widens a pixel, the first argument, into lane (the second) of the block


def run_layer(kernel: KernelBuilder, spec: LayerSpec, layer: Layer, rewind: Callable[[], None], gather: Gather) -> None:
    """All pixels and channels. `gather` is called for the pixels in order, after `rewind` from the first one on."""
    channel_pairs = kernel.let((layer.channels + 1) >> 1)
    if spec.clusters is None:
        rewind()
        _blocks(kernel, spec, layer, 0, channel_pairs, gather)
        return
    at_once = spec.clusters.channel_pairs
    with kernel.loop((channel_pairs + (at_once - 1)) // at_once) as part:
        first = kernel.let(part * at_once)
        count = kernel.let(minimum(at_once, channel_pairs - first))
        _decode(kernel, spec, spec.clusters.bits, layer, first, count)
        rewind()
        _blocks(kernel, spec, layer, first, count, gather)


def _blocks(
    kernel: KernelBuilder, spec: LayerSpec, layer: Layer, first: Expr, channel_pairs: Expr, gather: Gather
) -> None:
    """All blocks times `channel_pairs` pairs of channels, from pair `first` on."""
    with kernel.loop((layer.pixels + (PIXELS - 1)) >> 2) as block:
        pixel = kernel.let(block * PIXELS)
        if not spec.rest:
            with kernel.loop(PIXELS) as lane:
                gather(pixel + lane, lane)
            _channels(kernel, spec, layer, PIXELS, first, channel_pairs, pixel)
            return
        count = kernel.let(minimum(PIXELS, layer.pixels - pixel))
        with kernel.loop(count) as lane:
            gather(pixel + lane, lane)
        with kernel.when_else(count == PIXELS) as (then, other):
            with then:
                _channels(kernel, spec, layer, PIXELS, first, channel_pairs, pixel)
            with other:
                _channels(kernel, spec, layer, spec.rest, first, channel_pairs, pixel)


def _channels(
    kernel: KernelBuilder, spec: LayerSpec, layer: Layer, pixels: int, first: Expr, channel_pairs: Expr, pixel: Expr
) -> None:
    shape = Shape(spec.pairs, pixels, layer.channels, spec.channels_are_odd)
    with kernel.loop(channel_pairs) as pair:
        channel = kernel.let((first + pair) * 2)
        tile(kernel, shape, layer.tensors, spec.to, pair * spec.row_words, channel, pixel)


def _decode(kernel: KernelBuilder, spec: LayerSpec, bits: int, layer: Layer, first: Expr, count: Expr) -> None:
    """Look up the weights of `count` pairs of channels."""
    assert layer.packed is not None
    assert layer.codebook is not None
    words = spec.row_words // WORDS_AT_ONCE
    with kernel.loop(count * words) as word:
        decoded = decode_words(kernel, layer.packed, layer.codebook, bits, first * words + word)
        for half, value in enumerate(decoded):
            layer.tensors.weights[word * WORDS_AT_ONCE + half] = value
