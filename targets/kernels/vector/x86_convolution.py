"""int8 convolutions and dense layers on x86-64, in tiles of pixels x channels.

    vnni    AVX-512 VNNI: VPDPBUSD multiplies four unsigned bytes of the image with four weights to a lane. Rows are
            copied with 128 added to each level, which makes them unsigned; the bias takes -128 * sum(weights) for it.
    madd    AVX2: rows are copied as int16, weights are widened as they are loaded, and VPMADDWD multiplies two of each
            to a lane. (VPMADDUBSW, on bytes, would saturate.)

Weights are zero where a run of the window does not fill its last word, so that what is read there does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, cast, llvm_call, reinterpret
from tinyopt.targets.kernels.vector.integer_layer import IntegerLayer, integer_refusal, layer_arguments
from tinyopt.targets.kernels.vector.machine import AVX2_VECTORS, AVX512_VECTORS, VectorMachine
from tinyopt.targets.kernels.vector.rows import WHOLE_IMAGE_BYTES, Form, plan_ring
from tinyopt.targets.kernels.vector.tile import Arithmetic, TileLoops, pack_weights, pad_channels
from tinyopt.targets.kernels.vector.tiling import TileSpec, choose_tile
from tinyopt.targets.kernels.vector.window import Window, dense_window, ungrouped_window

X86Method = Literal["vnni", "madd"]
LEAST_ROW = 7  # pixels: images with narrower rows are taken as a single row where that is possible


class VnniArithmetic:
    """Four bytes to a word."""

    accumulator = "int32"

    def load_words(self, data: Buffer, start: Expr, words: int) -> Expr:
        assert words == 1
        return reinterpret(data.vector(start, 4), "int32")

    def multiply_add(self, total: Expr, weights: Expr, word: Expr) -> Expr:
        return vpdpbusd(total, reinterpret(word, "int8x64"), weights)


class MaddArithmetic:
    """Two int16 to a word."""

    accumulator = "int32"

    def load_words(self, data: Buffer, start: Expr, words: int) -> Expr:
        assert words == 1
        return reinterpret(data.vector(start, 2), "int32")

    def multiply_add(self, total: Expr, weights: Expr, word: Expr) -> Expr:
        return total + vpmaddwd(reinterpret(word, "int16x16"), cast(weights, "int16x16"))


def vpdpbusd(total: Expr, unsigned: Expr, signed: Expr) -> Expr:
    """int32x16 + the four-fold dot products of 64 unsigned bytes (in an int8x64) and 64 int8."""
    return llvm_call("llvm.x86.avx512.vpdpbusd.512", "int32x16", total, unsigned, signed)


def vpmaddwd(a: Expr, b: Expr) -> Expr:
    """The int32x8 two-fold dot products of two int16x16."""
    return llvm_call("llvm.x86.avx2.pmadd.wd", "int32x8", a, b)


@dataclass(frozen=True)
class _Products:
    """How int8 products are summed: what the image's rows are copied as, and the arithmetic on it."""

    machine: VectorMachine
    word_elements: int
    dtype: str
    form: Form
    arithmetic: Arithmetic
    offset: int  # what the copy adds to each level


_PRODUCTS: Mapping[X86Method, _Products] = {
    "vnni": _Products(AVX512_VECTORS, 4, "int8", "offset", VnniArithmetic(), 128),
    "madd": _Products(AVX2_VECTORS, 2, "int16", "as they are", MaddArithmetic(), 0),
}


@dataclass(frozen=True)
class X86TileSpec:
    """What the compiled function depends on."""

    tile: TileSpec
    layer: IntegerLayer


def plan_x86_convolution(node: Node, method: X86Method) -> Kernel | Refusal:
    """QConv without groups."""
    window = ungrouped_window(node)
    if isinstance(window, Refusal):
        return window
    if window.is_pointwise and (window.width < LEAST_ROW or window.input_elements <= WHOLE_IMAGE_BYTES):
        window = window.flattened()
    return _plan(node, window, method, f"conv_{method}")


def plan_x86_dense(node: Node, method: X86Method) -> Kernel | Refusal:
    """QDense."""
    return _plan(node, dense_window(node), method, f"dense_{method}")


def _plan(node: Node, window: Window, method: X86Method, name: str) -> Kernel | Refusal:
    refusal = integer_refusal(node)
    if refusal is not None:
        return refusal
    products = _PRODUCTS[method]
    weights, multiplier = node.input(1), node.input(3)
    rows = plan_ring(window, products.dtype, products.form, 4 * products.machine.lanes)
    layer = IntegerLayer.of(node, method)
    tile = choose_tile(rows, weights.shape[0], products.word_elements, layer.residual is not None, products.machine)
    arguments = layer_arguments(
        node,
        rows,
        pack_weights(weights.data, tile),
        pad_channels(offset_bias(node, products.offset), tile),
        pad_channels(multiplier.data, tile),
    )
    return Kernel(x86_convolution, X86TileSpec(tile, layer), name, arguments)


def offset_bias(node: Node, offset: int) -> Array:
    """The bias for an image with `offset` added to each level; it wraps round as the sums do."""
    sums = node.input(1).data.astype(np.int64).sum(axis=(*range(1, node.input(1).data.ndim),))
    return np.asarray(node.input(2).data.astype(np.int64) - offset * sums).astype(np.int32)


def x86_convolution(spec: X86TileSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `layer_arguments`."""
    tile, method = spec.tile, spec.layer.method
    window = tile.rows.window
    kernel = KernelBuilder(f"conv_{method}")
    with kernel.function():
        weights = tile.padded_channels * tile.words * tile.word_elements
        outputs = window.out_height * window.out_width * tile.out_channels
        code = spec.layer.declare(kernel, tile.rows, weights, tile.padded_channels, outputs)
        arithmetic = _PRODUCTS["vnni" if method == "vnni" else "madd"].arithmetic
        loops = TileLoops(kernel, tile, arithmetic, code.rows, code.weights)
        loops.write(lambda channel: code.bias.vector(channel, tile.machine.lanes), code.ending.write)
    return kernel.finish()
