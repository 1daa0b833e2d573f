"""1x1 convolution, and dense layers over several rows: a matrix product over pixels that lie side by side.

For each block of four pixels the input is widened once, then every pair of channels takes its tile. All of a block is
read before its outputs are written, so that the output can lie in the input's place where it has no more channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, Overlap, Refusal
from tinyopt.targets.kernels.dsp.layer import (
    LayerSpec,
    declare_layer,
    layer_arguments,
    layer_spec,
    residual_overlap,
    run_layer,
)
from tinyopt.targets.kernels.dsp.packing import depth_pairs
from tinyopt.targets.kernels.dsp.product import ANY_SIZE
from tinyopt.targets.kernels.dsp.widening import widen_run
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc


@dataclass(frozen=True)
class PointwiseSpec:
    """depth: input channels."""

    depth: int
    layer: LayerSpec


def plan_pointwise(node: Node) -> Kernel | Refusal:
    """QConv 1x1 with stride 1, one group and no padding."""
    if node.int("group") != 1:
        return Refusal("it has more than one group")
    if node.input(1).shape[1:3] != (1, 1) or node.ints("strides") != (1, 1) or any(node.ints("pads")):
        return Refusal("it is not 1x1 with stride 1 and without padding")
    return plan_rows(node)


def plan_rows(node: Node) -> Kernel | Refusal:
    """The product of the input's rows, each a pixel's channels, with the weights."""
    depth = node.input(0).shape[-1]
    pairs = depth_pairs(depth, 1)
    spec = PointwiseSpec(depth, layer_spec(node, len(pairs)))
    return Kernel(
        template=pointwise,
        spec=spec,
        name="pointwise_smlad" if spec.layer.clusters is None else "pointwise_clustered_smlad",
        arguments=(InputArgument(0), *layer_arguments(node, spec.layer, pairs)),
        intrinsics=spec.layer.intrinsics,
        overlaps=_overlaps(node, spec),
    )


def _overlaps(node: Node, spec: PointwiseSpec) -> tuple[Overlap, ...]:
    if spec.layer.clusters is None and node.output.shape[-1] <= spec.depth:
        return (Overlap.in_place(0),)
    return residual_overlap(node)


def pointwise(spec: PointwiseSpec) -> PrimFunc:
    """Widens the cells of each pixel into a block of int16 pairs, which all output channels are multiplied with."""
    kernel = KernelBuilder("pointwise")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        layer = declare_layer(kernel, spec.layer)
        run_layer(
            kernel,
            spec.layer,
            layer,
            rewind=lambda: None,
            gather=lambda pixel, lane: widen_run(kernel, x, pixel * spec.depth, spec.depth, layer.tensors.block, lane),
        )
    return kernel.finish()
