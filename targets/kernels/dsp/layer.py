"""What convolutions have in common: the arguments of the product of gathered pixels with all channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import (
    Argument,
    ConstantArgument,
    InputArgument,
    OutputArgument,
    Overlap,
    Refusal,
    ScratchArgument,
)
from tinyopt.targets.kernels.dsp.block_product import entry, multiply_blocks
from tinyopt.targets.kernels.dsp.endings import LARGEST_JOINED_SHIFT
from tinyopt.targets.kernels.dsp.micro_kernels import (
    BLOCK_BYTES,
    CHANNELS,
    ENTRY,
    FAST_BYTES,
    GATHER_ONE,
    HIGH,
    IS_ODD,
    LOW,
    OUTPUT_STEP,
    PIXELS,
    RESIDUAL_MULTIPLIER,
    START_HIGH,
    START_LOW,
    WEIGHT_BYTES,
    ZERO_POINT,
)
from tinyopt.targets.kernels.dsp.packing import Pair, as_words, pack_channel_pairs
from tinyopt.targets.kernels.dsp.product import ANY_SIZE
from tinyopt.targets.kernels.intrinsic import NAKED, Intrinsic
from tinyopt.targets.kernels.requantize import INT8_HIGH, INT8_LOW, Requantization, zero_point_of
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder

INT32_MAX = 2**31 - 1
LARGEST_RESIDUAL_SHIFT = 22  # so that the sums of products have 64 bits
_IS_FIRST = np.array([True, False, True, False])  # of the bytes of a word


@dataclass(frozen=True)
class LayerSpec:
    """shift: of the accumulators before they are multiplied, to high words. is_joined: see block_product."""

    shift: int
    has_residual: bool
    is_joined: bool

    @property
    def product(self) -> Intrinsic:
        return multiply_blocks(self.shift, self.has_residual, self.is_joined)

    @property
    def intrinsics(self) -> tuple[Intrinsic, ...]:
        return (NAKED, self.product, GATHER_ONE)


def layer_spec(node: Node) -> LayerSpec | Refusal:
    """The spec for a QConv (one group) or QDense, as far as its sums leave room for their shift."""
    shift = 32 - node.int("shift")
    low, high = _sums(node)
    largest = int(np.maximum(-low, high).max())
    if largest << shift > INT32_MAX:
        return Refusal(f"its sums reach {largest}, too much to be shifted left by {shift}")
    has_residual = node.optional_input(4) is not None
    if has_residual and shift > LARGEST_RESIDUAL_SHIFT:
        return Refusal(f"its residual would be shifted left by {shift}")
    is_joined = shift <= LARGEST_JOINED_SHIFT and _can_be_joined(node, low, high)
    return LayerSpec(shift, has_residual, is_joined)


def _sums(node: Node) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The least and the largest value that each channel's accumulator can have, whatever the input."""
    weights = node.input(1).data.reshape(len(node.input(1).data), -1).astype(np.int64)
    bias = node.input(2).data.astype(np.int64)
    positive, negative = np.maximum(weights, 0).sum(1), np.minimum(weights, 0).sum(1)
    return bias - 128 * positive + 127 * negative, bias + 127 * positive - 128 * negative


def _can_be_joined(node: Node, low: NDArray[np.int64], high: NDArray[np.int64]) -> bool:
    """Whether the sums of each second channel have 24 bits, and its weights of -128 meet no negative first one."""
    weights = node.input(1).data.reshape(len(low), -1)
    seconds = weights[1::2]
    overflows = (seconds == -128) & (weights[::2][: len(seconds)] < 0)
    return bool((low[1::2] >= -(2**23)).all() and (high[1::2] < 2**23).all() and not overflows.any())


def layer_arguments(node: Node, spec: LayerSpec, pairs: list[Pair], numbers: Mapping[int, int]) -> tuple[Argument, ...]:
    """What `declare_layer` declares, in its order. numbers: further parameters, by their places."""
    channels = node.output.shape[-1]
    row_bytes = 4 * (len(pairs) + 4)
    to = Requantization.of(node)
    channel_pairs = (channels + 1) // 2
    is_clamped = (to.low, to.high) != (INT8_LOW, INT8_HIGH)
    parameters = {
        BLOCK_BYTES: 4 * PIXELS * len(pairs),
        WEIGHT_BYTES: row_bytes * channel_pairs,
        FAST_BYTES: 0 if is_clamped else row_bytes * (channels // 2),
        IS_ODD: channels % 2,
        ENTRY: entry(len(pairs), spec.is_joined),
        ZERO_POINT: to.zero_point,
        CHANNELS: channels,
        LOW: to.low,
        HIGH: to.high,
        OUTPUT_STEP: PIXELS * channels,
        **_residual_numbers(node, spec, to),
        **numbers,
    }
    array = np.zeros(max(parameters) + 1, np.int32)
    array[list(parameters)] = list(parameters.values())
    arguments: list[Argument] = [
        ConstantArgument("weight", _weights(node, pairs, spec.is_joined)),
        ConstantArgument("parameters", array),
        ScratchArgument(4 * PIXELS * len(pairs), 4),
        OutputArgument(0),
    ]
    return (*arguments, InputArgument(4)) if spec.has_residual else tuple(arguments)


def _residual_numbers(node: Node, spec: LayerSpec, to: Requantization) -> dict[int, int]:
    """(acc << s) * M + (r << s) * R + start, whose high word is the level."""
    if not spec.has_residual:
        return {}
    multiplier = node.int("residual_multiplier")
    zero = zero_point_of(node, node.input(4))
    start = (1 << 31) + (to.zero_point << 32) - ((zero * multiplier) << spec.shift)
    low = start & 0xFFFFFFFF
    return {RESIDUAL_MULTIPLIER: multiplier, START_LOW: low - (low >> 31 << 32), START_HIGH: start >> 32}


def _weights(node: Node, pairs: list[Pair], is_joined: bool) -> Array:
    """For each pair of channels two biases, the words of the depth, two multipliers."""
    weight = node.input(1).data
    packed = pack_channel_pairs(weight.reshape(len(weight), -1), pairs)
    absent = (0, len(weight) % 2)
    bias, multiplier = (np.pad(node.input(index).data, absent).reshape(-1, 2) for index in (2, 3))
    if is_joined:
        packed = packed - ((packed < 0) & _IS_FIRST)[..., [3, 0, 1, 2]]  # what a negative first weight borrows
        bias = np.stack([bias[:, 0], bias[:, 0] + (bias[:, 1] << 8)], axis=1)
    words = as_words(packed).reshape(-1, len(pairs))
    return np.ascontiguousarray(np.concatenate([bias, words, multiplier], axis=1), np.int32)


@dataclass(frozen=True)
class Layer:
    """The parameters of the function."""

    weights: Buffer
    parameters: Buffer
    block: Buffer
    output: Buffer
    residual: Buffer | None


def declare_layer(kernel: KernelBuilder, spec: LayerSpec) -> Layer:
    """Declare the parameters that convolutions share."""
    weights = kernel.buffer("weights", "int32", ANY_SIZE)
    parameters = kernel.buffer("parameters", "int32", ANY_SIZE)
    block = kernel.buffer("block", "int32", ANY_SIZE)
    output = kernel.buffer("y", "int8", ANY_SIZE)
    residual = kernel.buffer("residual", "int8", ANY_SIZE) if spec.has_residual else None
    return Layer(weights, parameters, block, output, residual)


def multiply(kernel: KernelBuilder, spec: LayerSpec, layer: Layer, place: Expr, count: Expr) -> None:
    """The block's `count` pixels times all channels, written from byte `place` of the output on."""
    _run(kernel, spec, layer, place, count, 0, layer.output.address())


def gather_and_multiply(
    kernel: KernelBuilder, spec: LayerSpec, layer: Layer, place: Expr, blocks: Expr, source: Expr
) -> None:
    """`blocks` full blocks from the address `source` on times all channels; there is at least one."""
    _run(kernel, spec, layer, place, PIXELS, blocks, source)


def _run(
    kernel: KernelBuilder, spec: LayerSpec, layer: Layer, place: Expr, count: Expr, blocks: Expr, source: Expr
) -> None:
    residual = () if layer.residual is None else (layer.residual.address(place),)
    pointers = (layer.block.address(), layer.weights.address(), layer.output.address(place), layer.parameters.address())
    kernel.run(spec.product, *pointers, count, blocks, source, *residual)


def overlaps(node: Node, of_input: Overlap, *of_residual: Overlap) -> tuple[Overlap, ...]:
    """Both as the kernel allows them, and a residual in place too: each element is read just before it is written.

    Where input and residual are one tensor, both must be content.
    """
    residual = node.optional_input(4)
    if residual is None:
        return (of_input,)
    if residual is not node.input(0):
        return of_input, Overlap.in_place(4), *of_residual
    is_in_place_safe = (of_input.first or 0) <= 0 <= (of_input.last or 0)
    return (Overlap.in_place(0),) if is_in_place_safe else ()
