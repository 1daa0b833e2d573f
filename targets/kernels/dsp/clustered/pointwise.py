"""1x1 convolution with clustered weights, and dense layers over several rows: the pixels lie side by side."""

from __future__ import annotations

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel, Overlap, Refusal
from tinyopt.targets.kernels.dsp.clustered.costs import with_costs
from tinyopt.targets.kernels.dsp.clustered.layer import (
    ANY_SIZE,
    GATHERING,
    Depth,
    LayerSpec,
    block_pixels,
    declare_layer,
    layer_arguments,
    layer_spec,
    refusal,
    run_layer,
)
from tinyopt.targets.kernels.dsp.clustered.widening import WIDEN_RUNS
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, PrimFunc

_DEPTH, _IS_BACKWARD = GATHERING, GATHERING + 1


def is_pointwise(node: Node) -> bool:
    """Whether a QConv is 1x1 with stride 1, one group and no padding."""
    is_whole = node.int("group") == 1 and node.ints("strides") == (1, 1) and not any(node.ints("pads"))
    return is_whole and node.input(1).shape[1:3] == (1, 1)


def pointwise_kernel(node: Node) -> Kernel | Refusal:
    """A pointwise QConv."""
    reason = refusal(node)
    return Refusal(reason) if reason else rows_kernel(node)


def rows_kernel(node: Node) -> Kernel:
    """The product of the input's rows, each a pixel's channels, with the weights."""
    spec, depth = layer_spec(node), Depth(node.input(0).shape[-1], 1)
    is_backward = int(node.output.shape[-1] > depth.run)
    kernel = Kernel(
        template=pointwise,
        spec=spec,
        name="pointwise_clustered",
        arguments=layer_arguments(node, spec, depth, [depth.run, is_backward]),
        intrinsics=spec.intrinsics,
        overlaps=_overlaps(node),
    )
    return with_costs(node, kernel, spec, depth)


def _overlaps(node: Node) -> tuple[Overlap, ...]:
    """More channels than depth: from the last block to the first, so that what is overwritten has been read."""
    depth, channels = node.input(0).shape[-1], node.output.shape[-1]
    pixels = node.output.type.elements // channels
    slack = block_pixels(pixels)[0] * abs(depth - channels)
    own = Overlap.backward(0, -slack) if channels > depth else Overlap.forward(0, -slack)
    residual = node.optional_input(4)
    if residual is None:
        return (own,)
    if residual is node.input(0):  # read while outputs are written: each byte just before its own place is
        return (Overlap.in_place(0),)
    return own, Overlap.in_place(4)


def pointwise(spec: LayerSpec) -> PrimFunc:
    """Widens the cells of each pixel into a block of int16 pairs, which all output channels are multiplied with."""
    kernel = KernelBuilder("pointwise_clustered")
    with kernel.function():
        layer = declare_layer(kernel, spec, kernel.buffer("x", "int8", ANY_SIZE))
        depth = kernel.let(layer.numbers[_DEPTH])

        def gather(first: Expr, count: Expr, stride: Expr) -> None:
            start = layer.x.address(first * depth)
            kernel.run(WIDEN_RUNS, start, layer.block.address(), depth, count, depth, 4, stride * 4)

        run_layer(kernel, spec, layer, layer.numbers[_IS_BACKWARD], gather)
    return kernel.finish()
