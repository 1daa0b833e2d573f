"""Convolutions and dense layers that read int16: SMLAD multiplies activations as they lie in memory.

Input channels are taken in quads, two words of activations and one of weights, for four output channels at a time. The
weights w0 to w3 of a quad lie as the bytes [w0, w2, w1, w3], so that SXTB16 gives (w0, w1), and with ROR #8 (w2, w3).
Loops are those of the scalar kernel, over quads in place of elements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import ConstantArgument, InputArgument, Kernel, Refusal
from tinyopt.targets.kernels.dsp.intrinsics import LOAD_WORD, MULTIPLY_QUAD
from tinyopt.targets.kernels.requantize import type_suffix
from tinyopt.targets.kernels.scalar.convolution import ConvolutionShape, Window
from tinyopt.targets.kernels.scalar.dense import dense_shape
from tinyopt.targets.kernels.scalar.epilogue import IntegerEpilogue, integer_arguments
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc, call, read

QUAD = 4
CHANNELS_AT_ONCE = 4
_WEIGHT_ORDER = [0, 2, 1, 3]


@dataclass(frozen=True)
class WideSpec:
    """quads: the shape, with quads of input channels in place of channels."""

    quads: ConvolutionShape
    epilogue: IntegerEpilogue


def plan_wide_convolution(node: Node) -> Kernel | Refusal:
    """QConv of int16 without groups."""
    if node.int("group") != 1:
        return Refusal("it has more than one group")
    return _plan(node, ConvolutionShape.of(node), f"conv_smlad_{type_suffix(node)}")


def plan_wide_dense(node: Node) -> Kernel | Refusal:
    """QDense of int16."""
    return _plan(node, dense_shape(node), f"dense_smlad_{type_suffix(node)}")


def _plan(node: Node, shape: ConvolutionShape, name: str) -> Kernel | Refusal:
    if node.input(0).dtype != "int16":
        return Refusal("it reads int8")
    if shape.inputs % QUAD:
        return Refusal("its input channels are no multiple of 4")
    spec = WideSpec(replace(shape, inputs=shape.inputs // QUAD), IntegerEpilogue.of(node))
    arguments = (
        InputArgument(0),
        ConstantArgument("weight", _packed(node.input(1).data)),
        *integer_arguments(node, node.input(2).data),
    )
    return Kernel(wide_convolution, spec, name, arguments, (LOAD_WORD, MULTIPLY_QUAD))


def _packed(weights: Array) -> Array:
    """int8 [channels, ...], each quad in the order in which SXTB16 takes it apart."""
    return np.ascontiguousarray(weights.reshape(-1, QUAD)[:, _WEIGHT_ORDER]).reshape(weights.shape)


def wide_convolution(spec: WideSpec) -> PrimFunc:
    """Position by position, and for each position four channels at a time."""
    shape = spec.quads
    kernel = KernelBuilder("wide_convolution")
    with kernel.function():
        x = kernel.buffer("x", "int16", QUAD * shape.input_elements)
        weights = kernel.buffer("weights", "int8", QUAD * shape.output_channels * shape.channel_weights)
        finish = spec.epilogue.declare(kernel, shape.output_channels, shape.output_elements)
        totals = kernel.local("int32", CHANNELS_AT_ONCE)

        def channels(window: Window, first: Expr, count: int) -> None:
            def multiply(input_quad: Expr, weight_quad: Expr) -> None:
                pairs = [kernel.let(read(LOAD_WORD, x.address(QUAD * input_quad + place))) for place in (0, 2)]
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
