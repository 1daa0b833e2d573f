"""MaxPool (any dtype) and AveragePool (float32 and float16)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyopt.ir import DTYPES, Array, Node, TensorType
from tinyopt.ops.conv import channels_of, image_type, plane_of
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import clamp, in_float32, present, require, require_float, require_rank
from tinyopt.ops.windows import (
    from_nhwc,
    output_plane,
    reduce_windows,
    sliding_windows,
    to_nhwc,
    window_cell_counts,
)


def lowest_value(dtype: str) -> float:
    """What the cells around an image hold in a MaxPool: no cell of the image is below it (-128 for int8)."""
    return -np.inf if DTYPES[dtype].kind == "f" else int(np.iinfo(DTYPES[dtype]).min)


def pool_type(node: Node, layout: str) -> TensorType:
    """The type of what a pool of `layout` gives."""
    x = node.input(0)
    require_rank(node, x, 4)
    kernel, strides, dilations = node.ints("kernel"), node.ints("strides"), node.ints("dilations")
    require(min(*kernel, *strides, *dilations) > 0, node, "kernel, strides and dilations must be positive")
    plane = output_plane(plane_of(x, layout), kernel, strides, node.ints("pads"), dilations)
    require(min(plane) > 0, node, f"the kernel {kernel} is larger than the padded image {x.shape}")
    return image_type(x.dtype, x.shape[0], plane, channels_of(x, layout), layout)


def pool_macs(node: Node) -> int:
    """One for each cell of each window."""
    kernel = node.ints("kernel")
    return node.output.type.elements * kernel[0] * kernel[1]


def _infer_max_pool(node: Node) -> list[TensorType]:
    return [pool_type(node, node.str("layout"))]


def _windows(node: Node, x: Array, pad_value: float) -> Array:
    x = to_nhwc(x, node.str("layout"))
    return sliding_windows(
        x, node.ints("kernel"), node.ints("strides"), node.ints("pads"), node.ints("dilations"), pad_value
    )


def _evaluate_max_pool(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x = present(arrays[0])
    windows = _windows(node, x, lowest_value(x.dtype.name))
    return [from_nhwc(reduce_windows(windows, np.maximum), node.str("layout"))]


def average_divisors(node: Node) -> Array:
    """int32 [OH, OW]: by what the sum of each window of an AveragePool is divided."""
    layout = node.str("layout")
    plane = plane_of(node.input(0), layout)
    pads, counted = node.ints("pads"), node.ints("counted_pads")
    counts = window_cell_counts(plane, node.ints("kernel"), node.ints("strides"), pads, counted, node.ints("dilations"))
    return np.maximum(counts, 1)


def _infer_average_pool(node: Node) -> list[TensorType]:
    require_float(node)
    counted, pads = node.ints("counted_pads"), node.ints("pads")
    require(
        all(0 <= counted[i] <= max(pads[i], 0) for i in range(4)), node, f"counted_pads {counted} exceed pads {pads}"
    )
    return [pool_type(node, node.str("layout"))]


@in_float32
def _evaluate_average_pool(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    sums = reduce_windows(_windows(node, present(arrays[0]), 0), np.add)
    averages = sums / average_divisors(node)[:, :, None].astype(np.float32)  # OH OW 1
    return [from_nhwc(clamp(node, averages), node.str("layout"))]


POOL_OPERATORS = (
    Operator(
        name="MaxPool",
        infer=_infer_max_pool,
        evaluate=_evaluate_max_pool,
        macs=pool_macs,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.SAME_AS_INPUT,
        is_elementwise=False,
    ),
    Operator(
        name="AveragePool",
        infer=_infer_average_pool,
        evaluate=_evaluate_average_pool,
        macs=pool_macs,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.OBSERVED,
        is_elementwise=False,
    ),
)
