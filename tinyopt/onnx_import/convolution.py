"""Conv and ConvTranspose of one to three dimensions, and plain forms for weights that are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from tinyopt.ir import Attribute, Value
from tinyopt.onnx_import.builder import UNCLAMPED, Builder
from tinyopt.onnx_import.dense import centred
from tinyopt.onnx_import.onnx_node import OnnxNode
from tinyopt.onnx_import.spatial import (
    Window,
    lifted,
    lifted_weights,
    lowered,
    nd_attributes,
    nd_window,
    spatial_rank,
    window_of,
    with_auto_pad,
)
from tinyopt.onnx_import.volumes import convolve_volume


def import_conv(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [convolution(builder, node, node.value(0), node.value(1), node.optional(2))]


def convolution(builder: Builder, node: OnnxNode, x: Value, weights: Value, bias: Value | None) -> Value:
    """A Conv with the attributes of `node`.

    Constant weights go to two-dimensional convolutions, those of three dimensions too: these have fast kernels, and are
    quantized. ConvNd, which is neither, takes weights that are computed.
    """
    if not _are_fixed(builder, weights, bias):
        spatial_rank(node, x)
        window = nd_window(node, _kernel(node, x, weights), x.shape[2:])
        plain: dict[str, Attribute] = {**nd_attributes(window), "group": node.integer("group", 1)}
        return builder.emit("ConvNd", [x, weights, bias], plain)
    if x.type.rank == 5:
        return convolve_volume(builder, node, (x, weights, bias), partial(convolution, builder))
    rank = spatial_rank(node, x)
    window = window_of(node, _kernel(node, x, weights))
    image = lifted(builder, x)
    window = with_auto_pad(node, window, image.shape[2:])
    attributes = {**window.attributes(), "group": node.integer("group", 1), **UNCLAMPED}
    result = builder.emit("Conv", [image, lifted_weights(builder, weights), bias, None], attributes)
    return lowered(builder, result, rank)


def import_conv_integer(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """A convolution in int32 of integers less their zero points; padding is what stands for zero."""
    x, weights = node.value(0), node.value(1)
    spatial_rank(node, x)
    window = nd_window(node, _kernel(node, x, weights), x.shape[2:])
    operands: list[Value | None] = [centred(builder, x, node.optional(2), 0)]
    zero_point = node.optional(3)
    if zero_point is not None and zero_point.type.elements > 1:
        zero_point = builder.reshape(zero_point, (zero_point.type.elements, *(1,) * (weights.type.rank - 1)))
    operands += [centred(builder, weights, zero_point, 0), None]
    attributes: dict[str, Attribute] = {**nd_attributes(window), "group": node.integer("group", 1)}
    return [builder.emit("IntegerConvNd", operands, attributes)]


def import_conv_transpose(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, weights, bias = node.value(0), node.value(1), node.optional(2)
    rank = spatial_rank(node, x)
    kernel = _kernel(node, x, weights)
    if rank > 2 or not _are_fixed(builder, weights, bias):
        return [_transposed_nd(builder, node, x, weights, bias)]
    window = window_of(node, kernel)
    image = lifted(builder, x)
    extra = (*(0,) * (2 - rank), *node.integers("output_padding", (0,) * rank))
    window, extra = _transposed_pads(node, window, image.shape[2:], extra)
    attributes = {
        **window.attributes(),
        "group": node.integer("group", 1),
        "output_padding": extra,
        **UNCLAMPED,
    }
    result = builder.emit("ConvTranspose", [image, lifted_weights(builder, weights), bias], attributes)
    return [lowered(builder, result, rank)]


def _transposed_nd(builder: Builder, node: OnnxNode, x: Value, weights: Value, bias: Value | None) -> Value:
    plane = x.shape[2:]
    mode, wanted = node.text("auto_pad", "NOTSET"), node.integers("output_shape", ())
    window = window_of(node, weights.shape[2:])
    if len(plane) == 1:
        window = Window(window.kernel[1:], window.strides[1:], window.dilations[1:], (window.pads[1], window.pads[3]))
    extra = node.integers("output_padding", (0,) * len(plane))
    if len(extra) != len(plane) or len(wanted) not in (0, len(plane)):
        raise node.invalid(f"output_padding {extra} or output_shape {wanted} do not fit shape {x.shape}")
    if mode != "NOTSET" or wanted:
        window, extra = _transposed_pads(node, window, plane, extra)
    attributes: dict[str, Attribute] = {**nd_attributes(window), "group": node.integer("group", 1)}
    return builder.emit("ConvTransposeNd", [x, weights, bias], {**attributes, "output_padding": extra})


def _are_fixed(builder: Builder, weights: Value, bias: Value | None) -> bool:
    return builder.is_fixed(weights) and (bias is None or builder.is_fixed(bias))


def _kernel(node: OnnxNode, x: Value, weights: Value) -> tuple[int, ...]:
    if weights.type.rank != x.type.rank:
        raise node.invalid(f"weights {weights.shape} do not fit input '{x.name}' of shape {x.shape}")
    kernel = weights.shape[2:]
    if node.integers("kernel_shape", kernel) != kernel:
        raise node.invalid(f"kernel_shape {node.integers('kernel_shape', kernel)} contradicts weights {weights.shape}")
    return kernel


def _transposed_pads(
    node: OnnxNode, window: Window, plane: Sequence[int], extra: tuple[int, ...]
) -> tuple[Window, tuple[int, ...]]:
    """The window with its pads, and output_padding, where auto_pad or output_shape says them."""
    mode = node.text("auto_pad", "NOTSET")
    wanted = node.integers("output_shape", ())
    if mode == "VALID" and not wanted:
        return replace(window, pads=(0,) * len(window.pads)), extra
    if mode == "NOTSET" and not wanted:
        return window, extra
    rank = len(plane)
    sizes = [plane[i] * window.strides[i] for i in range(rank)]
    if wanted:
        sizes = [*(1,) * (rank - len(wanted)), *wanted[-rank:]]
    natural = [window.strides[i] * (plane[i] - 1) + extra[i] + window.extent(i) for i in range(rank)]
    totals = [max(natural[i] - sizes[i], 0) for i in range(rank)]
    smaller, larger = [total // 2 for total in totals], [total - total // 2 for total in totals]
    pads = (*smaller, *larger) if mode == "SAME_UPPER" else (*larger, *smaller)
    if wanted:  # auto_pad only ever crops: where the kernel is smaller than the stride, nothing is put behind it
        extra = tuple(extra[i] + max(sizes[i] - natural[i], 0) for i in range(rank))
    return replace(window, pads=pads), extra
