"""int8 convolutions and dense layers for 64-bit Arm without the dot product, on SMULL, SMLAL2 and SADALP (`mull_tile`).

Products are added in pairs as 16-bit numbers: weights of -128, of which two could overflow, are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc
from tinyopt.targets.kernels.vector.integer_layer import IntegerLayer, integer_refusal, layer_arguments
from tinyopt.targets.kernels.vector.mull_steps import SMALLEST_WEIGHT, covered_elements, pack_rotated
from tinyopt.targets.kernels.vector.mull_tile import MullLoops, choose_mull_tile
from tinyopt.targets.kernels.vector.pointwise import plan_pointwise
from tinyopt.targets.kernels.vector.rows import plan_rows
from tinyopt.targets.kernels.vector.tile import pad_channels
from tinyopt.targets.kernels.vector.tiling import LANES, TileSpec
from tinyopt.targets.kernels.vector.window import Window, dense_window, ungrouped_window


@dataclass(frozen=True)
class MullSpec:
    """What the compiled function depends on."""

    tile: TileSpec
    layer: IntegerLayer

    @property
    def weight_bytes(self) -> int:
        runs = self.tile.runs[0] * self.tile.runs[1]
        return self.tile.padded_channels * runs * covered_elements(self.tile.run_elements)


def plan_mull_convolution(node: Node) -> Kernel | Refusal:
    """QConv without groups."""
    window = ungrouped_window(node)
    if isinstance(window, Refusal):
        return window
    if window.is_pointwise:
        plan = _plan_pointwise(node, window.flattened(), "conv_mull")
        if isinstance(plan, Kernel):
            return plan
    if window.is_pointwise and covered_elements(window.channels) == window.channels:
        window = window.flattened()
    return _plan(node, window, "conv_mull")


def plan_mull_dense(node: Node) -> Kernel | Refusal:
    """QDense."""
    plan = _plan_pointwise(node, dense_window(node), "dense_mull")
    return plan if isinstance(plan, Kernel) else _plan(node, dense_window(node), "dense_mull")


def _plan_pointwise(node: Node, window: Window, name: str) -> Kernel | Refusal:
    plan = plan_pointwise(node, window, "neon")
    return plan if isinstance(plan, Refusal) else _weight_refusal(node) or plan.kernel(node, name)


def _weight_refusal(node: Node) -> Refusal | None:
    if int(node.input(1).data.min()) >= SMALLEST_WEIGHT:
        return None
    return Refusal(f"weights below {SMALLEST_WEIGHT}: two products may not fit 16 bits")


def _plan(node: Node, window: Window, name: str) -> Kernel | Refusal:
    refusal = integer_refusal(node) or _weight_refusal(node)
    if refusal is not None:
        return refusal
    weights, bias, multiplier = node.input(1), node.input(2), node.input(3)
    run = window.channels * (window.kernel[1] if window.dilations[1] == 1 else 1)
    rows = plan_rows(window, "int8", read_over_end=covered_elements(run) != run)
    layer = IntegerLayer.of(node, "neon")
    tile = choose_mull_tile(rows, weights.shape[0], layer.residual is not None)
    packed = pack_rotated(weights.data, tile)
    bias_and_multiplier = (pad_channels(values.data, tile) for values in (bias, multiplier))
    return Kernel(
        mull_convolution, MullSpec(tile, layer), name, layer_arguments(node, rows, packed, *bias_and_multiplier)
    )


def mull_convolution(spec: MullSpec) -> PrimFunc:
    """The convolution of `spec`; parameters as in `layer_arguments`."""
    tile = spec.tile
    window = tile.rows.window
    kernel = KernelBuilder("conv_mull")
    with kernel.function():
        outputs = window.out_height * window.out_width * tile.out_channels
        code = spec.layer.declare(kernel, tile.rows, spec.weight_bytes, tile.padded_channels, outputs)
        loops = MullLoops(kernel, tile, code.rows, code.weights)
        loops.write(lambda channel: code.bias.vector(channel, LANES), code.ending.write)
    return kernel.finish()
