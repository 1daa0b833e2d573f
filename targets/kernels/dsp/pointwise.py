"""1x1 convolution, and dense layers over several rows: a matrix product over pixels that lie side by side.

All of a block of four pixels is read before any of its outputs is written. Where the output has more channels, blocks
are taken from the last to the first, so that it can grow over the input from its end.
"""

from __future__ import annotations

from tinyopt.ir import Node
from tinyopt.targets.kernel import InputArgument, Kernel, Overlap, Refusal
from tinyopt.targets.kernels.dsp.layer import (
    LayerSpec,
    declare_layer,
    gather_and_multiply,
    layer_arguments,
    layer_spec,
    multiply,
    overlaps,
)
from tinyopt.targets.kernels.dsp.micro_kernels import (
    CHANNELS,
    DISTANCE,
    FIRST_FREE,
    GATHER_ONE,
    OUTPUT_STEP,
    PIXELS,
    QUAD_BYTES,
    ROWS,
    SOURCE_STEP,
    TAIL,
)
from tinyopt.targets.kernels.dsp.packing import depth_pairs
from tinyopt.targets.kernels.dsp.product import ANY_SIZE
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc, both

# The pixel at which the first block begins, how many blocks are full, pixels beside them, and whether these come first.
_FIRST_BLOCK, _BLOCKS, _REST, _REST_COMES_FIRST = range(FIRST_FREE, FIRST_FREE + 4)


def plan_pointwise(node: Node) -> Kernel | Refusal:
    """QConv 1x1 with stride 1, one group and no padding."""
    if node.int("group") != 1:
        return Refusal("it has more than one group")
    if node.input(1).shape[1:3] != (1, 1) or node.ints("strides") != (1, 1) or any(node.ints("pads")):
        return Refusal("it is not 1x1 with stride 1 and without padding")
    return plan_rows(node)


def plan_rows(node: Node) -> Kernel | Refusal:
    """The product of the input's rows, each a pixel's channels, with the weights."""
    spec = layer_spec(node)
    if isinstance(spec, Refusal):
        return spec
    depth, channels = node.input(0).shape[-1], node.output.shape[-1]
    pixels = node.output.type.elements // channels
    blocks, rest = divmod(pixels, PIXELS)
    is_backward = channels > depth
    step = -PIXELS if is_backward else PIXELS
    numbers = {
        DISTANCE: depth,
        QUAD_BYTES: depth - depth % 4,
        TAIL: depth % 4,
        ROWS: 1,
        SOURCE_STEP: step * depth,
        OUTPUT_STEP: step * channels,
        _FIRST_BLOCK: PIXELS * (blocks - 1) if is_backward else 0,
        _BLOCKS: blocks,
        _REST: rest,
        _REST_COMES_FIRST: int(is_backward),
    }
    return Kernel(
        template=pointwise,
        spec=spec,
        name="pointwise_smlad",
        arguments=(InputArgument(0), *layer_arguments(node, spec, depth_pairs(depth, 1), numbers)),
        intrinsics=spec.intrinsics,
        overlaps=overlaps(node, *_overlaps(pixels, depth, channels)),
    )


def _overlaps(pixels: int, depth: int, channels: int) -> tuple[Overlap, Overlap]:
    """Of the input and of a residual: blocks of what is written lie beside what is still to be read.

    Where one block is all there is, everything is read before.
    """
    if channels > depth:
        of_input, of_residual = Overlap.backward(0, PIXELS * (depth - channels)), Overlap.backward(4, PIXELS * channels)
    else:
        of_input, of_residual = Overlap.forward(0, PIXELS * (channels - depth)), Overlap.forward(4, PIXELS * channels)
    return of_input if pixels > PIXELS else Overlap(0, None, None), of_residual


def pointwise(spec: LayerSpec) -> PrimFunc:
    """Full blocks, and before or after them the pixels that are left over."""
    kernel = KernelBuilder("pointwise")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        layer = declare_layer(kernel, spec)
        depth, channels, first, blocks, rest, rest_comes_first = (
            kernel.let(layer.parameters[place])
            for place in (DISTANCE, CHANNELS, _FIRST_BLOCK, _BLOCKS, _REST, _REST_COMES_FIRST)
        )
        with kernel.loop(2) as part:
            with kernel.when(both(part == rest_comes_first, blocks > 0)):
                gather_and_multiply(kernel, spec, layer, first * channels, blocks, x.address(first * depth))
            with kernel.when(both(part != rest_comes_first, rest > 0)):
                pixel = kernel.let(blocks * PIXELS)
                with kernel.loop(rest) as lane:
                    source = x.address((pixel + lane) * depth)
                    kernel.run(GATHER_ONE, source, layer.block.address(lane), layer.parameters.address())
                multiply(kernel, spec, layer, pixel * channels, rest)
    return kernel.finish()
