"""Convolutions and dense layers that read or give int16: SMLAD multiplies two activations at once.

Input channels are taken in quads, two words of activations and one of weights, for four output channels at a time.
int16 activations are read as they lie in memory: the weights w0 to w3 of a quad lie as the bytes [w0, w2, w1, w3], so
that SXTB16 gives (w0, w1), and with ROR #8 (w2, w3). int8 ones become such words by SXTAB16, which takes the zero point
off where the image is padded; then places 0 and 2 go together, and 1 and 3, as they do in weights that lie in order.
Loops are those of the scalar kernel, over quads in place of elements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import ConstantArgument, InputArgument, Kernel, Refusal
from tinyopt.targets.kernels.dsp.intrinsics import LOAD_WORD, MULTIPLY_QUAD, SXTAB16, SXTAB16_ROR8
from tinyopt.targets.kernels.requantize import type_suffix
from tinyopt.targets.kernels.scalar.convolution import (
    ConvolutionShape,
    ConvolutionSpec,
    Window,
    integer_convolution,
)
from tinyopt.targets.kernels.scalar.dense import integer_dense
from tinyopt.targets.kernels.scalar.epilogue import IntegerEpilogue, integer_arguments
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, call, constant, read

QUAD = 4
CHANNELS_AT_ONCE = 4
_WEIGHT_ORDER = [0, 2, 1, 3]


@dataclass(frozen=True)
class WideSpec:
    """quads: the shape, with quads of input channels in place of channels. dtype: the input's. offset: taken off it."""

    quads: ConvolutionShape
    dtype: str
    offset: int
    epilogue: IntegerEpilogue


def plan_wide_convolution(node: Node) -> Kernel | Refusal:
    """QConv from or to int16 without groups."""
    if node.int("group") != 1:
        return Refusal("it has more than one group")
    return _plan(node, *integer_convolution(node), f"conv_smlad_{type_suffix(node)}")


def plan_wide_dense(node: Node) -> Kernel | Refusal:
    """QDense from or to int16."""
    return _plan(node, integer_dense(node), node.input(2).data, f"dense_smlad_{type_suffix(node)}")


def _plan(node: Node, scalar: ConvolutionSpec, bias: Array, name: str) -> Kernel | Refusal:
    """scalar: the plan of the scalar kernel, with the bias that goes with it."""
    shape, dtype, weights = scalar.shape, node.input(0).dtype, node.input(1).data
    if (dtype, node.output.dtype) == ("int8", "int8"):
        return Refusal("it reads and gives int8")
    if shape.inputs % QUAD:
        return Refusal("its input channels are no multiple of 4")
    quads = replace(shape, inputs=shape.inputs // QUAD)
    spec = WideSpec(quads, dtype, scalar.arithmetic.offset_a, IntegerEpilogue.of(node))
    packed = weights if dtype == "int8" else _packed(weights)
    arguments = (InputArgument(0), ConstantArgument("weight", packed), *integer_arguments(node, bias))
    return Kernel(wide_convolution, spec, name, arguments, (LOAD_WORD, SXTAB16, SXTAB16_ROR8, MULTIPLY_QUAD))


def _packed(weights: Array) -> Array:
    """int8 [channels, ...], each quad in the order in which SXTB16 takes it apart."""
    return np.ascontiguousarray(weights.reshape(-1, QUAD)[:, _WEIGHT_ORDER]).reshape(weights.shape)


def wide_convolution(spec: WideSpec) -> PrimFunc:
    """Position by position, and for each position four channels at a time."""
    shape = spec.quads
    load = _widened if spec.dtype == "int8" else _as_they_lie
    kernel = KernelBuilder("wide_convolution")
    with kernel.function():
        x = kernel.buffer("x", spec.dtype, QUAD * shape.input_elements)
        weights = kernel.buffer("weights", "int8", QUAD * shape.output_channels * shape.channel_weights)
        finish = spec.epilogue.declare(kernel, shape.output_channels, shape.output_elements)
        totals = kernel.local("int32", CHANNELS_AT_ONCE)

        def channels(window: Window, first: Expr, count: int) -> None:
            def multiply(input_quad: Expr, weight_quad: Expr) -> None:
                pairs = load(kernel, spec.offset, x, QUAD * input_quad)
                for i in range(count):
                    word = read(LOAD_WORD, weights.address(QUAD * (weight_quad + i * shape.channel_weights)))
                    totals[i] = call(MULTIPLY_QUAD, totals[i], *pairs, kernel.let(word))

            for i in range(count):
                totals[i] = finish.start(first + i)
            window.each_product(kernel, 0, first * shape.channel_weights, multiply)
            for i in range(count):
                finish.store(first + i, window.output_index + first + i, totals[i])

        with (
            kernel.loop(shape.batch) as image,
            kernel.loop(shape.vertical.output) as row,
            kernel.loop(shape.horizontal.output) as column,
        ):
            window = Window.at(kernel, shape, image, row, column)
            tiles, rest = divmod(shape.outputs, CHANNELS_AT_ONCE)
            with kernel.loop(tiles) as tile:
                channels(window, tile * CHANNELS_AT_ONCE, CHANNELS_AT_ONCE)
            if rest:
                channels(window, tiles * CHANNELS_AT_ONCE, rest)
    return kernel.finish()


def _as_they_lie(kernel: KernelBuilder, _offset: int, x: Buffer, place: Expr) -> list[Expr]:
    """The four int16 from `place` on as two words."""
    return [kernel.let(read(LOAD_WORD, x.address(place + first))) for first in (0, 2)]


def _widened(kernel: KernelBuilder, offset: int, x: Buffer, place: Expr) -> list[Expr]:
    """The four int8 from `place` on, less the offset, as two words: places 0 and 2, 1 and 3."""
    word = kernel.let(read(LOAD_WORD, x.address(place)))
    halves = constant(int(np.array([-offset, -offset], np.int16).view(np.int32)[0]), "int32")
    return [kernel.let(call(widen, halves, word)) for widen in (SXTAB16, SXTAB16_ROR8)]
