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
    layer_arguments,
    layer_spec,
    multiply,
    overlaps,
)
from tinyopt.targets.kernels.dsp.micro_kernels import (
    CHANNELS,
    DISTANCE,
    FIRST_FREE,
    GATHER_FOUR,
    GATHER_ONE,
    PIXELS,
    QUAD_BYTES,
    ROWS,
    TAIL,
)
from tinyopt.targets.kernels.dsp.packing import depth_pairs
from tinyopt.targets.kernels.dsp.product import ANY_SIZE
from tinyopt.targets.kernels.tir import KernelBuilder, PrimFunc, minimum

_ALL_PIXELS, _FIRST, _STEP = range(FIRST_FREE, FIRST_FREE + 3)  # the pixel at which the first block begins, the next


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
    is_backward = channels > depth
    first, step = (_last_block(pixels), -PIXELS) if is_backward else (0, PIXELS)
    gathering = {DISTANCE: depth, QUAD_BYTES: depth - depth % 4, TAIL: depth % 4, ROWS: 1}
    numbers = {**gathering, _ALL_PIXELS: pixels, _FIRST: first, _STEP: step}
    return Kernel(
        template=pointwise,
        spec=spec,
        name="pointwise_smlad",
        arguments=(InputArgument(0), *layer_arguments(node, spec, depth_pairs(depth, 1), numbers)),
        intrinsics=spec.intrinsics,
        overlaps=overlaps(node, _input_overlap(pixels, depth, channels)),
    )


def _last_block(pixels: int) -> int:
    return (pixels - 1) // PIXELS * PIXELS


def _input_overlap(pixels: int, depth: int, channels: int) -> Overlap:
    """What is written lies beside what is still to be read. Where one block is all there is, nothing is."""
    if pixels <= PIXELS:
        return Overlap(0, None, None)
    if channels > depth:
        return Overlap.backward(0, PIXELS * (depth - channels))
    return Overlap.forward(0, PIXELS * (channels - depth))


def pointwise(spec: LayerSpec) -> PrimFunc:
    """Widens each block's pixels into int16 pairs, which all output channels are multiplied with."""
    kernel = KernelBuilder("pointwise")
    with kernel.function():
        x = kernel.buffer("x", "int8", ANY_SIZE)
        layer = declare_layer(kernel, spec)
        pixels, first, step, depth, channels = (
            kernel.let(layer.parameters[place]) for place in (_ALL_PIXELS, _FIRST, _STEP, DISTANCE, CHANNELS)
        )
        with kernel.loop((pixels + (PIXELS - 1)) >> 2) as block:
            pixel = kernel.let(first + block * step)
            count = kernel.let(minimum(pixels - pixel, PIXELS))
            source = kernel.let(pixel * depth)
            with kernel.when_else(count == PIXELS) as (then, other):
                with then:
                    kernel.run(GATHER_FOUR, x.address(source), layer.block.address(), layer.parameters.address())
                with other, kernel.loop(count) as lane:
                    at = x.address(source + lane * depth)
                    kernel.run(GATHER_ONE, at, layer.block.address(lane), layer.parameters.address())
            multiply(kernel, spec, layer, pixel * channels, count)
    return kernel.finish()
