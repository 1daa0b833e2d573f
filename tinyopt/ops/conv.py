"""Conv (float32 and float16) and ConvTranspose (float32)."""

from __future__ import annotations

from collections.abc import Sequence

from tinyopt.ir import Array, Node, TensorType, Value
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import (
    clamp,
    in_float32,
    invalid,
    present,
    require,
    require_float,
    require_float32,
    require_rank,
    require_shape,
)
from tinyopt.ops.windows import (
    NHWC,
    convolve,
    convolve_transposed,
    from_nhwc,
    output_plane,
    to_nhwc,
    transposed_output_plane,
)


def image_type(dtype: str, batch: int, plane: tuple[int, int], channels: int, layout: str) -> TensorType:
    """The type of a batch of images in `layout`."""
    shape = (batch, *plane, channels) if layout == NHWC else (batch, channels, *plane)
    return TensorType(dtype, shape)


def plane_of(value: Value, layout: str) -> tuple[int, int]:
    """(height, width) of an image."""
    return value.shape[1:3] if layout == NHWC else value.shape[2:4]  # type: ignore[return-value]


def channels_of(value: Value, layout: str) -> int:
    """The number of channels of an image."""
    return value.shape[3 if layout == NHWC else 1]


def weight_kernel(weights: Value, layout: str) -> tuple[int, int]:
    """(height, width) of the kernel; both layouts keep it where they keep an image's."""
    return plane_of(weights, layout)


def _check_image(node: Node) -> None:
    if node.str("layout") not in ("NCHW", NHWC):
        raise invalid(node, f"layout {node.str('layout')!r} is neither NCHW nor NHWC")
    require_rank(node, node.input(0), 4)
    require_rank(node, node.input(1), 4)
    require(min(*node.ints("strides"), *node.ints("dilations")) > 0, node, "strides and dilations must be positive")
    if node.int("group") <= 0:
        raise invalid(node, f"group is {node.int('group')}")


def _infer_conv(node: Node) -> list[TensorType]:
    require_float(node)
    _check_image(node)
    x, weights, layout, group = node.input(0), node.input(1), node.str("layout"), node.int("group")
    channels, outputs = channels_of(x, layout), weights.shape[0]
    if channels != channels_of(weights, layout) * group or outputs % group:
        raise invalid(node, f"weights {weights.shape} with group {group} do not fit {channels} input channels")
    plane = output_plane(
        plane_of(x, layout),
        weight_kernel(weights, layout),
        node.ints("strides"),
        node.ints("pads"),
        node.ints("dilations"),
    )
    if min(plane) <= 0:
        kernel = weight_kernel(weights, layout)
        raise invalid(node, f"the kernel {kernel} is larger than the padded image {x.shape}")
    output = image_type(x.dtype, x.shape[0], plane, outputs, layout)
    require_shape(node, node.optional_input(2), (outputs,))
    require_shape(node, node.optional_input(3), output.shape)
    return [output]


@in_float32
def _evaluate_conv(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    layout = node.str("layout")
    x, weights, bias, residual = to_nhwc(present(arrays[0]), layout), present(arrays[1]), arrays[2], arrays[3]
    weights_ohwi = to_nhwc(weights, layout)
    result = convolve(
        x, weights_ohwi, node.ints("strides"), node.ints("pads"), node.ints("dilations"), node.int("group"), 0
    )
    if bias is not None:
        result += bias
    if residual is not None:
        result += to_nhwc(residual, layout)
    return [from_nhwc(clamp(node, result), layout)]


def _conv_macs(node: Node) -> int:
    weights = node.input(1)
    return node.output.type.elements * (weights.type.elements // weights.shape[0])


def _infer_conv_transpose(node: Node) -> list[TensorType]:
    require_float32(node)
    _check_image(node)
    x, weights, layout, group = node.input(0), node.input(1), node.str("layout"), node.int("group")
    channels, outputs = channels_of(x, layout), channels_of(weights, layout) * group
    require(
        channels == weights.shape[0] and channels % group == 0,
        node,
        f"weights {weights.shape} with group {group} do not fit {channels} input channels",
    )
    plane = transposed_output_plane(
        plane_of(x, layout),
        weight_kernel(weights, layout),
        node.ints("strides"),
        node.ints("pads"),
        node.ints("dilations"),
        node.ints("output_padding"),
    )
    require(min(plane) > 0, node, f"pads {node.ints('pads')} leave nothing of the output")
    require_shape(node, node.optional_input(2), (outputs,))
    return [image_type(x.dtype, x.shape[0], plane, outputs, layout)]


def _evaluate_conv_transpose(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    layout = node.str("layout")
    x, weights, bias = to_nhwc(present(arrays[0]), layout), present(arrays[1]), arrays[2]
    result = convolve_transposed(
        x,
        to_nhwc(weights, layout),
        node.ints("strides"),
        node.ints("pads"),
        node.ints("dilations"),
        node.int("group"),
        node.ints("output_padding"),
    )
    if bias is not None:
        result = result + bias
    return [from_nhwc(clamp(node, result), layout)]


def _conv_transpose_macs(node: Node) -> int:
    weights = node.input(1)
    return node.input(0).type.elements * (weights.type.elements // weights.shape[0])


CONV_OPERATORS = (
    Operator(
        name="Conv",
        infer=_infer_conv,
        evaluate=_evaluate_conv,
        macs=_conv_macs,
        channels=ChannelRelation.MIXING,
        quantization=QuantizationRule.OBSERVED,
        is_elementwise=False,
    ),
    Operator(
        name="ConvTranspose",
        infer=_infer_conv_transpose,
        evaluate=_evaluate_conv_transpose,
        macs=_conv_transpose_macs,
        channels=ChannelRelation.MIXING,
        quantization=QuantizationRule.OBSERVED,
        is_elementwise=False,
    ),
)
