"""Conv, 1-D, 2-D and 3-D, and ConvTranspose, 1-D and 2-D."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from tinyopt.ir import Value
from tinyopt.onnx_import.builder import UNCLAMPED, Builder
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.onnx_import.spatial import (
    Window,
    check_spatial_rank,
    lifted,
    lifted_weights,
    lowered,
    window_of,
    with_auto_pad,
)
from tinyopt.onnx_import.volumes import convolve_volume


def import_conv(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [convolution(builder, node, node.value(0), node.value(1), node.optional(2))]


def convolution(builder: Builder, node: OnnxNode, x: Value, weights: Value, bias: Value | None) -> Value:
    """A Conv with the attributes of `node`."""
    if x.type.rank == 5:
        return convolve_volume(builder, node, (x, weights, bias), partial(convolution, builder))
    rank = check_spatial_rank(node, x)
    window = window_of(node, _kernel(node, builder, x, weights, bias))
    image = lifted(builder, x)
    window = with_auto_pad(node, window, image.shape[2:])
    attributes = {**window.attributes(), "group": node.integer("group", 1), **UNCLAMPED}
    result = builder.emit("Conv", [image, lifted_weights(builder, weights), bias, None], attributes)
    return lowered(builder, result, rank)


def import_conv_transpose(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x, weights, bias = node.value(0), node.value(1), node.optional(2)
    rank = check_spatial_rank(node, x)
    window = window_of(node, _kernel(node, builder, x, weights, bias))
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


def _kernel(node: OnnxNode, builder: Builder, x: Value, weights: Value, bias: Value | None) -> tuple[int, ...]:
    if not builder.is_fixed(weights):
        raise Refusal(f"non-constant weights '{weights.name}'")
    if bias is not None and not builder.is_fixed(bias):
        raise Refusal(f"non-constant bias '{bias.name}'")
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
        return replace(window, pads=(0, 0, 0, 0)), extra
    if mode == "NOTSET" and not wanted:
        return window, extra
    sizes = [plane[i] * window.strides[i] for i in range(2)]
    if wanted:
        sizes = [*(1,) * (2 - len(wanted)), *wanted[-2:]]
    natural = [window.strides[i] * (plane[i] - 1) + extra[i] + window.extent(i) for i in range(2)]
    totals = [max(natural[i] - sizes[i], 0) for i in range(2)]
    smaller, larger = [total // 2 for total in totals], [total - total // 2 for total in totals]
    pads = (*smaller, *larger) if mode == "SAME_UPPER" else (*larger, *smaller)
    if wanted:  # auto_pad only ever crops: where the kernel is smaller than the stride, nothing is put behind it
        extra = tuple(extra[i] + max(sizes[i] - natural[i], 0) for i in range(2))
    return replace(window, pads=pads), extra
