"""int8 convolutions and dense layers in tiles of pixels x channels, for machines with and without the dot product.

    SDOT      a word is four int8 along a run of the window, one instruction multiplies four words of weights with it
    widened   a word is one int8; it and the weights are widened to 16 bits
    neon      the same, SMLAL by lane, with NEON's requantization

Weights are zero where a run does not fill its last word, so that what is read there does not count. Images whose runs
do not fill words, and those with padding, are read from a copy of their rows in scratch memory (`rows`).
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, cast, reinterpret
from tinyopt.targets.kernels.vector.generic import vector_type
from tinyopt.targets.kernels.vector.integer_ending import Method
from tinyopt.targets.kernels.vector.integer_layer import IntegerLayer, integer_refusal, layer_arguments
from tinyopt.targets.kernels.vector.neon import sdot
from tinyopt.targets.kernels.vector.pointwise import PointwisePlan, plan_pointwise
from tinyopt.targets.kernels.vector.rows import plan_rows
from tinyopt.targets.kernels.vector.tile import Arithmetic, TileLoops, pack_weights, pad_channels
from tinyopt.targets.kernels.vector.tiling import LANES, TileSpec, choose_tile
from tinyopt.targets.kernels.vector.window import Window, dense_window, ungrouped_window

WORD_ELEMENTS: dict[Method, int] = {"sdot": 4, "neon": 1, "widened": 1}


@dataclass(frozen=True)
class IntegerTileSpec:
    """What the compiled function depends on."""

    tile: TileSpec
    layer: IntegerLayer


class SdotArithmetic:
    """Four int8 to a word."""

    accumulator = "int32"

    def load_words(self, data: Buffer, start: Expr, words: int) -> Expr:
        return reinterpret(data.vector(start, 4 * words), vector_type("int32", words))

    def multiply_add(self, total: Expr, weights: Expr, word: Expr) -> Expr:
        return sdot(total, weights, reinterpret(word, "int8x16"))


class WidenedArithmetic:
    """One int8 to a word, widened to 16 bits; products of 32 bits."""

    accumulator = "int32"

    def load_words(self, data: Buffer, start: Expr, words: int) -> Expr:
        return cast(data.vector(start, words), vector_type("int16", words))

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
    window = ungrouped_window(node)
    if isinstance(window, Refusal):
        return window
    if window.is_pointwise and method == "sdot":
        plan = plan_pointwise(node, window.flattened(), "sdot")
        if isinstance(plan, PointwisePlan):
            return plan.kernel(node, "conv_sdot")
    if window.is_pointwise and window.channels % WORD_ELEMENTS[method] == 0:
        window = window.flattened()
    return _plan(node, window, method, f"conv_{method}")


def _plan_dense(node: Node, method: Method) -> Kernel | Refusal:
    """A pointwise convolution whose pixels are the rows of the input."""
    plan = plan_pointwise(node, dense_window(node), "sdot") if method == "sdot" else None
    if isinstance(plan, PointwisePlan):
        return plan.kernel(node, "dense_sdot")
    return _plan(node, dense_window(node), method, f"dense_{method}")


def _plan(node: Node, window: Window, method: Method, name: str) -> Kernel | Refusal:
    refusal = integer_refusal(node)
    if refusal is not None:
        return refusal
    weights, bias, multiplier = node.input(1), node.input(2), node.input(3)
    run = window.channels * (window.kernel[1] if window.dilations[1] == 1 else 1)
    rows = plan_rows(window, "int8", read_over_end=run % WORD_ELEMENTS[method] != 0)
    layer = IntegerLayer.of(node, method)
    tile = choose_tile(rows, weights.shape[0], WORD_ELEMENTS[method], layer.residual is not None)
    arguments = layer_arguments(
        node,
        rows,
        pack_weights(weights.data, tile),
        pad_channels(bias.data, tile),
        pad_channels(multiplier.data, tile),
    )
    return Kernel(integer_convolution, IntegerTileSpec(tile, layer), name, arguments)


def integer_convolution(spec: IntegerTileSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `layer_arguments`."""
    tile, method = spec.tile, spec.layer.method
    window = tile.rows.window
    kernel = KernelBuilder(f"conv_{method}")
    with kernel.function():
        weights = tile.padded_channels * tile.words * tile.word_elements
        outputs = window.out_height * window.out_width * tile.out_channels
        code = spec.layer.declare(kernel, tile.rows, weights, tile.padded_channels, outputs)
        loops = TileLoops(kernel, tile, _ARITHMETIC[method], code.rows, code.weights)
        loops.write(lambda channel: code.bias.vector(channel, LANES), code.ending.write)
    return kernel.finish()
