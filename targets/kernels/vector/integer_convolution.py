"""int8 convolutions and dense layers in tiles of pixels x channels, for machines with and without the dot product.

    SDOT      a word is four int8 along a run of the window, one instruction multiplies four words of weights with it
    widened   a word is one int8; it and the weights are widened to 16 bits
    neon      the same, SMLAL by lane, with NEON's requantization

Weights are zero where a run does not fill its last word, so that what is read there does not count. Images whose runs
do not fill words, and those with padding, are read from a copy of their rows in scratch memory (`rows`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, cast, lanes, reinterpret
from tinyopt.targets.kernels.vector.generic import vector_type
from tinyopt.targets.kernels.vector.integer_ending import ENDINGS, ResidualTerm
from tinyopt.targets.kernels.vector.neon import sdot
from tinyopt.targets.kernels.vector.rows import VECTOR_BYTES, Rows, plan_rows
from tinyopt.targets.kernels.vector.tile import Arithmetic, TileLoops, pack_weights, pad_channels
from tinyopt.targets.kernels.vector.tiling import LANES, TileSpec, choose_tile
from tinyopt.targets.kernels.vector.window import Window, pointwise_window, window_of

Method = Literal["sdot", "neon", "widened"]
WORD_ELEMENTS: dict[Method, int] = {"sdot": 4, "neon": 1, "widened": 1}


@dataclass(frozen=True)
class IntegerTileSpec:
    """What the compiled function depends on. `padding` is the level of padding cells: the input's zero point."""

    method: Method
    tile: TileSpec
    to: Requantization
    padding: int
    residual: ResidualTerm | None


class SdotArithmetic:
    """Four int8 to a word."""

    accumulator = "int32"

    def load_words(self, data: Buffer, start: Expr, words: int) -> Expr:
        return reinterpret(data.vector(start, 4 * words), vector_type("int32", words))

    def load_weights(self, kernel: KernelBuilder, weights: Buffer, start: Expr, vectors: int) -> list[Expr]:
        return [kernel.let(weights.vector(start + v * 16, 16)) for v in range(vectors)]

    def multiply_add(self, total: Expr, weights: Expr, word: Expr) -> Expr:
        return sdot(total, weights, reinterpret(word, "int8x16"))


class WidenedArithmetic:
    """One int8 to a word, widened to 16 bits; products of 32 bits."""

    accumulator = "int32"

    def load_words(self, data: Buffer, start: Expr, words: int) -> Expr:
        return cast(data.vector(start, words), vector_type("int16", words))

    def load_weights(self, kernel: KernelBuilder, weights: Buffer, start: Expr, vectors: int) -> list[Expr]:
        loaded: list[Expr] = []
        while len(loaded) < vectors:
            count = next(count for count in (4, 2, 1) if count <= vectors - len(loaded))
            bytes_read = weights.vector(start + len(loaded) * LANES, count * LANES)
            wide = kernel.let(cast(bytes_read, vector_type("int16", count * LANES)))
            loaded += [kernel.let(lanes([wide], range(v * LANES, (v + 1) * LANES))) for v in range(count)]
        return loaded

    def multiply_add(self, total: Expr, weights: Expr, word: Expr) -> Expr:
        return total + cast(weights, "int32x4") * cast(word, "int32x4")


_ARITHMETIC: dict[Method, Arithmetic] = {
    "sdot": SdotArithmetic(),
    "neon": WidenedArithmetic(),
    "widened": WidenedArithmetic(),
}


def plan_sdot_convolution(node: Node) -> Kernel | Refusal:
    """QConv without groups, on the dot product."""
    return _plan_convolution(node, "sdot")


def plan_sdot_dense(node: Node) -> Kernel | Refusal:
    """QDense on the dot product."""
    return _plan_dense(node, "sdot")


def plan_neon_convolution(node: Node) -> Kernel | Refusal:
    """QConv without groups, on 64-bit Arm without the dot product."""
    return _plan_convolution(node, "neon")


def plan_neon_dense(node: Node) -> Kernel | Refusal:
    """QDense on 64-bit Arm without the dot product."""
    return _plan_dense(node, "neon")


def plan_widened_convolution(node: Node) -> Kernel | Refusal:
    """QConv without groups, on any LLVM target."""
    return _plan_convolution(node, "widened")


def plan_widened_dense(node: Node) -> Kernel | Refusal:
    """QDense on any LLVM target."""
    return _plan_dense(node, "widened")


def _plan_convolution(node: Node, method: Method) -> Kernel | Refusal:
    weights = node.input(1)
    if node.int("group") != 1:
        return Refusal("groups: the vector tiles take one group")
    window = window_of(node, (weights.shape[1], weights.shape[2]))
    if isinstance(window, Refusal):
        return window
    if window.is_pointwise and window.channels % WORD_ELEMENTS[method] == 0:
        window = window.flattened()
    return _plan(node, window, method, f"conv_{method}")


def _plan_dense(node: Node, method: Method) -> Kernel | Refusal:
    """A pointwise convolution whose pixels are the rows of the input."""
    rows, depth = node.output.type.elements // node.output.shape[-1], node.input(0).shape[-1]
    return _plan(node, pointwise_window(rows, depth), method, f"dense_{method}")


def _plan(node: Node, window: Window, method: Method, name: str) -> Kernel | Refusal:
    refusal = integer_refusal(node)
    if refusal is not None:
        return refusal
    weights, bias, multiplier = node.input(1), node.input(2), node.input(3)
    run = window.channels * (window.kernel[1] if window.dilations[1] == 1 else 1)
    rows = plan_rows(window, "int8", read_over_end=run % WORD_ELEMENTS[method] != 0)
    term = residual_term(node)
    tile = choose_tile(rows, weights.shape[0], WORD_ELEMENTS[method], term is not None)
    spec = IntegerTileSpec(method, tile, Requantization.of(node), zero_point_of(node, node.input(0)), term)
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
    return Kernel(integer_convolution, spec, name, (*arguments, OutputArgument(0)))


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


def integer_convolution(spec: IntegerTileSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `_plan`."""
    tile = spec.tile
    window = tile.rows.window
    outputs = window.out_height * window.out_width * tile.out_channels
    kernel = KernelBuilder(f"conv_{spec.method}")
    with kernel.function():
        x = kernel.buffer("x", "int8", window.height * window.width * window.channels)
        weights = kernel.buffer("weights", "int8", tile.padded_channels * tile.words * tile.word_elements)
        bias = kernel.buffer("bias", "int32", tile.padded_channels)
        multiplier = kernel.buffer("multiplier", "int32", tile.padded_channels)
        residual = kernel.buffer("residual", "int8", outputs) if spec.residual is not None else None
        ring = None if tile.rows.is_in_place else kernel.buffer("ring", "int8", tile.rows.ring_elements)
        y = kernel.buffer("y", "int8", outputs)
        rows = Rows(kernel, tile.rows, x, ring, spec.padding)
        end = ENDINGS[spec.method](kernel, spec.to, spec.residual, multiplier, residual, y)
        loops = TileLoops(kernel, tile, _ARITHMETIC[spec.method], rows, weights)
        loops.write(lambda channel: bias.vector(channel, LANES), end.write)
    return kernel.finish()
