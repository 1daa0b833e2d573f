"""Float convolutions and dense layers: fused multiply-add by lane in tiles of pixels x channels.

The same loop nest as the int8 one (`tile`), with one float to a word. Bias, residual and clamp are fused. Compared with
a plain sum, rounding differs by the fused multiply-add and by the order of the terms only. In float16 each product is
added in float16, as XNNPACK's f16-gemm kernels do: twice as many to an instruction as with sums in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Node, Value
from tinyopt.targets.kernel import ConstantArgument, Kernel, Refusal
from tinyopt.targets.kernels.tir import Buffer, Expr, KernelBuilder, PrimFunc, lanes, llvm_call
from tinyopt.targets.kernels.vector.float_ending import Clamp, clamped
from tinyopt.targets.kernels.vector.machine import Float, VectorMachine, float_vectors
from tinyopt.targets.kernels.vector.rows import declare_rows, plan_rows, row_arguments
from tinyopt.targets.kernels.vector.tile import TileLoops, pack_weights, pad_channels
from tinyopt.targets.kernels.vector.tile_nest import Finished
from tinyopt.targets.kernels.vector.tiling import TileSpec, choose_tile
from tinyopt.targets.kernels.vector.window import Window, dense_window, ungrouped_window


def fused_multiply_add(total: Expr, a: Expr, b: Expr, width: int, dtype: Float = "float32") -> Expr:
    """total + a * b for vectors of `width` floats, rounded once."""
    bits = {"float32": 32, "float16": 16}[dtype]
    return llvm_call(f"llvm.fma.v{width}f{bits}", f"{dtype}x{width}", b, a, total)


@dataclass(frozen=True)
class FloatArithmetic:
    """One float to a word."""

    machine: VectorMachine

    @property
    def accumulator(self) -> str:
        return self.machine.element

    def load_words(self, data: Buffer, start: Expr, words: int) -> Expr:
        return data.vector(start, words)

    def multiply_add(self, total: Expr, weights: Expr, word: Expr) -> Expr:
        if not self.machine.is_fused:
            return total + weights * word
        return fused_multiply_add(total, weights, word, self.machine.lanes, self.machine.element)


@dataclass(frozen=True)
class FloatTileSpec:
    """What the compiled function depends on."""

    tile: TileSpec
    clamp: Clamp


def plan_float_convolution(node: Node, machine: VectorMachine | None = None) -> Kernel | Refusal:
    """Conv without groups. machine: another one than Arm."""
    window = ungrouped_window(node)
    if isinstance(window, Refusal):
        return window
    return _plan(
        node, window.flattened() if window.is_pointwise else window, "conv_vector", machine or float_vectors(node)
    )


def plan_float_dense(node: Node, machine: VectorMachine | None = None) -> Kernel | Refusal:
    """Dense. machine: another one than Arm."""
    return _plan(node, dense_window(node), "dense_vector", machine or float_vectors(node))


def _plan(node: Node, window: Window, name: str, machine: VectorMachine) -> Kernel | Refusal:
    weights = node.input(1)
    refusal = float_refusal(node, weights, node.optional_input(2), machine.element)
    if refusal is not None:
        return refusal
    rows = plan_rows(window, machine.element, read_over_end=False)
    residual = node.optional_input(3)
    tile = choose_tile(rows, weights.shape[0], 1, residual is not None, machine)
    constants = (
        ConstantArgument("weight", pack_weights(weights.data, tile)),
        ConstantArgument("bias", pad_channels(bias_of(node, weights.shape[0]), tile)),
    )
    spec = FloatTileSpec(tile, Clamp.of(node))
    return Kernel(float_convolution, spec, name, row_arguments(rows, constants, None if residual is None else 3))


def float_refusal(node: Node, weights: Value, bias: Value | None, element: Float = "float32") -> Refusal | None:
    """Why the kernels for `element` cannot take these weights."""
    if not weights.is_constant or (bias is not None and not bias.is_constant):
        return Refusal("weights that are not constant")
    if weights.clusters is not None:
        return Refusal("clustered weights: the scalar kernel decodes them")
    if weights.dtype != element or node.input(0).dtype != element:
        return Refusal(f"elements of {node.input(0).dtype}, not {element}")
    return None


def bias_of(node: Node, channels: int) -> Array:
    """The node's bias, zeros where it has none."""
    bias = node.optional_input(2)
    return np.zeros(channels, node.output.dtype) if bias is None else bias.data.reshape(channels)


def float_convolution(spec: FloatTileSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `_plan`."""
    tile = spec.tile
    window = tile.rows.window
    outputs = window.out_height * window.out_width * tile.out_channels
    element = tile.machine.element
    kernel = KernelBuilder("conv_vector")
    with kernel.function():
        x = kernel.buffer("x", element, window.input_elements)
        weights = kernel.buffer("weights", element, tile.padded_channels * tile.words)
        bias = kernel.buffer("bias", element, tile.padded_channels)
        residual = kernel.buffer("residual", element, outputs) if tile.has_residual else None
        rows = declare_rows(kernel, tile.rows, x, 0)
        y = kernel.buffer("y", element, outputs)
        loops = TileLoops(kernel, tile, FloatArithmetic(tile.machine), rows, weights)
        end = _Ending(kernel, tile.machine.lanes, spec.clamp, residual, y)
        loops.write(lambda channel: bias.vector(channel, tile.machine.lanes), end.write)
    return kernel.finish()


@dataclass(frozen=True)
class _Ending:
    """Adds the residual, clamps, and writes finished tiles."""

    kernel: KernelBuilder
    width: int  # of a vector
    clamp: Clamp
    residual: Buffer | None
    y: Buffer

    def write(self, pixels: list[Finished]) -> None:
        for pixel in pixels:
            for v, value in enumerate(pixel.values):
                done = v * self.width
                self._write(pixel.index + done, value, min(pixel.valid - done, self.width))

    def _write(self, index: Expr, value: Expr, valid: int) -> None:
        """The first `valid` lanes, in pieces of powers of two."""
        if valid == self.width:
            self._write_piece(index, value, valid)
            return
        value = self.kernel.let(value)
        done = 0
        for piece in (8, 4, 2, 1):
            if valid - done >= piece:
                self._write_piece(index + done, lanes([value], range(done, done + piece)), piece)
                done += piece

    def _write_piece(self, index: Expr, value: Expr, count: int) -> None:
        if self.residual is not None:
            value = value + self.residual.vector(index, count)
        self.y.store_vector(index, clamped(value, self.clamp, count, self.y.dtype), count)
