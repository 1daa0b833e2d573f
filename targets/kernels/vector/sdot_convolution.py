"""int8 convolutions and dense layers on the Arm dot product: SDOT by lane in tiles of pixels x channels.

A word is four int8 along a run of the window; the weights are zero where a run does not fill its last word, so that what
is read there does not count. Images whose runs do not fill words, and those with padding, are read from a copy of their
rows in scratch memory (`rows`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Node
from tinyopt.targets.kernel import (
    Argument,
    ConstantArgument,
    InputArgument,
    Kernel,
    OutputArgument,
    Refusal,
    ScratchArgument,
)
from tinyopt.targets.kernels.requantize import Requantization, zero_point_of
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc, reinterpret
from tinyopt.targets.kernels.vector.integer_ending import IntegerEnding
from tinyopt.targets.kernels.vector.neon import ResidualTerm, sdot
from tinyopt.targets.kernels.vector.rows import VECTOR_BYTES, Rows, plan_rows
from tinyopt.targets.kernels.vector.tile import Arithmetic, TileLoops, pack_weights, pad_channels
from tinyopt.targets.kernels.vector.tiling import LANES, TileSpec, choose_tile
from tinyopt.targets.kernels.vector.window import Window, pointwise_window, window_of

WORD = 4  # int8 in a word

SDOT = Arithmetic("int32", "int32", lambda total, weights, word: sdot(total, weights, reinterpret(word, "int8x16")))


@dataclass(frozen=True)
class SdotSpec:
    """What the compiled function depends on. `padding` is the level of padding cells: the input's zero point."""

    tile: TileSpec
    to: Requantization
    padding: int
    residual: ResidualTerm | None


def plan_sdot_convolution(node: Node) -> Kernel | Refusal:
    """QConv without groups."""
    weights = node.input(1)
    if node.int("group") != 1:
        return Refusal("groups: the SDOT tiles take one group")
    window = window_of(node, (weights.shape[1], weights.shape[2]))
    if isinstance(window, Refusal):
        return window
    if window.is_pointwise and window.channels % WORD == 0:
        window = window.flattened()
    return _plan(node, window, "conv_sdot")


def plan_sdot_dense(node: Node) -> Kernel | Refusal:
    """QDense: a pointwise convolution whose pixels are the rows of the input."""
    rows, depth = node.output.type.elements // node.output.shape[-1], node.input(0).shape[-1]
    return _plan(node, pointwise_window(rows, depth), "dense_sdot")


def _plan(node: Node, window: Window, name: str) -> Kernel | Refusal:
    weights, bias, multiplier = node.input(1), node.input(2), node.input(3)
    refusal = integer_refusal(node)
    if refusal is not None:
        return refusal
    run = window.channels * (window.kernel[1] if window.dilations[1] == 1 else 1)
    rows = plan_rows(window, "int8", read_over_end=run % WORD != 0)
    term = residual_term(node)
    tile = choose_tile(rows, weights.shape[0], term is not None)
    spec = SdotSpec(tile, Requantization.of(node), zero_point_of(node, node.input(0)), term)
    arguments: list[Argument] = [
        InputArgument(0),
        ConstantArgument("weight", pack_weights(weights.data, tile)),
        ConstantArgument("bias", pad_channels(bias.data.astype(np.int32), tile)),
        ConstantArgument("multiplier", pad_channels(multiplier.data.astype(np.int32), tile)),
    ]
    if term is not None:
        arguments.append(InputArgument(4))
    if not rows.is_in_place:
        arguments.append(ScratchArgument(rows.ring_bytes, VECTOR_BYTES))
    return Kernel(sdot_convolution, spec, name, (*arguments, OutputArgument(0)))


def integer_refusal(node: Node) -> Refusal | None:
    """Why the int8 kernels cannot take these weights."""
    if not all(node.input(index).is_constant for index in (1, 2, 3)):
        return Refusal("weights that are not constant")
    if node.input(1).clusters is not None:
        return Refusal("clustered weights: the scalar kernel decodes them")
    return None


def residual_term(node: Node) -> ResidualTerm | None:
    """What the fused addition of an integer node adds, None where it has none."""
    residual = node.optional_input(4)
    if residual is None:
        return None
    return ResidualTerm(zero_point_of(node, residual), node.int("residual_multiplier"))


def sdot_convolution(spec: SdotSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `_plan`."""
    tile = spec.tile
    window = tile.rows.window
    outputs = window.out_height * window.out_width * tile.out_channels
    kernel = KernelBuilder("conv_sdot")
    with kernel.function():
        x = kernel.buffer("x", "int8", window.height * window.width * window.channels)
        weights = kernel.buffer("weights", "int8", tile.padded_channels * tile.words * WORD)
        bias = kernel.buffer("bias", "int32", tile.padded_channels)
        multiplier = kernel.buffer("multiplier", "int32", tile.padded_channels)
        residual = kernel.buffer("residual", "int8", outputs) if spec.residual is not None else None
        ring = None if tile.rows.is_in_place else kernel.buffer("ring", "int8", tile.rows.ring_elements)
        y = kernel.buffer("y", "int8", outputs)
        rows = Rows(kernel, tile.rows, x, ring, spec.padding)
        end = IntegerEnding(kernel, spec.to, spec.residual, multiplier, residual, y)
        loops = TileLoops(kernel, tile, SDOT, rows, weights)
        loops.write(lambda channel: bias.vector(channel, LANES), end.write)
    return kernel.finish()
