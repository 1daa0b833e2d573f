"""Convolutions and pools over any number of spatial dimensions, channels first: [N, C, D1, ...].

What the two-dimensional operators do not take: three dimensions, integers, computed weights, pools with places or
norms. Attributes strides, dilations, pads (begins, then ends); kernel of pools.
ConvNd [x, w[O, C/group, K1, ...], b[O]|None] group; IntegerConvNd, the same in int32, which wraps around;
ConvTransposeNd [x, w[C, O/group, K1, ...], b|None] group, output_padding; MaxPoolNd [x] storage_order: with a second
output the places of the maxima in the flattened input, spatial dimensions in column-major order where storage_order
is 1; LpPoolNd [x] p.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.pool import lowest_value
from tinyopt.ops.record import QuantizationRule, opaque_float_operator
from tinyopt.ops.rules import present, require, require_float32, require_shape
from tinyopt.ops.windows import output_size

POOLED = ("float32", "float64", "int8", "uint8", "int16", "int32", "int64")


def _spatial(node: Node, kernel: Sequence[int]) -> tuple[int, ...]:
    """The spatial sizes of the output."""
    plane = node.input(0).shape[2:]
    strides, pads, dilations = node.ints("strides"), node.ints("pads"), node.ints("dilations")
    rank = len(plane)
    lengths = {rank, len(kernel), len(strides), len(dilations), len(pads) - rank}
    require(rank > 0 and len(lengths) == 1, node, f"kernel {tuple(kernel)} does not fit {node.input(0).shape}")
    require(min(*kernel, *strides, *dilations) > 0, node, "kernel, strides and dilations must be positive")
    require(min(pads) >= 0, node, f"pads {pads} are negative")
    sizes = tuple(
        output_size(plane[i], kernel[i], strides[i], pads[i], pads[i + rank], dilations[i]) for i in range(rank)
    )
    require(min(sizes) > 0, node, f"the kernel {tuple(kernel)} is larger than the padded image {node.input(0).shape}")
    return sizes


def _at_tap(weights: Array, tap: tuple[int, ...]) -> Array:
    """Without the last dimensions, which are the kernel's."""
    index: tuple[Any, ...] = (..., *tap)
    return np.asarray(weights[index])


def _infer_conv(node: Node) -> list[TensorType]:
    x, weights, group = node.input(0), node.input(1), node.int("group")
    dtype = "int32" if node.op == "IntegerConvNd" else "float32"
    for value in node.present_inputs:
        require(value.dtype == dtype, node, f"input '{value.name}' is {value.dtype}, not {dtype}")
    require(x.type.rank == weights.type.rank >= 3, node, f"weights {weights.shape} do not fit {x.shape}")
    fits = group > 0 and x.shape[1] == weights.shape[1] * group and weights.shape[0] % group == 0
    require(fits, node, f"weights {weights.shape} with group {group} do not fit {x.shape}")
    require_shape(node, node.optional_input(2), (weights.shape[0],))
    return [TensorType(x.dtype, (x.shape[0], weights.shape[0], *_spatial(node, weights.shape[2:])))]


def _taps(node: Node, x: Array, kernel: Sequence[int], fill: float) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Each tap of the kernel, and what all windows have there: [N, C, O1, ...]."""
    rank, pads, strides, dilations = len(kernel), node.ints("pads"), node.ints("strides"), node.ints("dilations")
    widths = [(0, 0), (0, 0), *((pads[i], pads[i + rank]) for i in range(rank))]
    padded = np.pad(x, widths, constant_values=x.dtype.type(fill))
    sizes = node.outputs[0].shape[2:]
    for tap in itertools.product(*map(range, kernel)):
        starts = [tap[i] * dilations[i] for i in range(rank)]
        window = (slice(starts[i], starts[i] + (sizes[i] - 1) * strides[i] + 1, strides[i]) for i in range(rank))
        yield tap, padded[(slice(None), slice(None), *window)]


def _evaluate_conv(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, weights, bias, group = present(arrays[0]), present(arrays[1]), arrays[2], node.int("group")
    outputs = weights.shape[0]
    grouped = weights.reshape(group, outputs // group, *weights.shape[1:])
    result = np.zeros(node.output.shape, x.dtype)
    for tap, cells in _taps(node, x, weights.shape[2:], 0):
        by_group = cells.reshape(cells.shape[0], group, -1, *cells.shape[2:])
        products = np.einsum("ngi...,goi->ngo...", by_group, _at_tap(grouped, tap))
        result += products.reshape(result.shape)
    if bias is not None:
        result += bias.reshape(-1, *(1,) * (x.ndim - 2))
    return [result]


def _infer_conv_transpose(node: Node) -> list[TensorType]:
    require_float32(node)
    x, weights, group, extra = node.input(0), node.input(1), node.int("group"), node.ints("output_padding")
    require(x.type.rank == weights.type.rank >= 3, node, f"weights {weights.shape} do not fit {x.shape}")
    fits = group > 0 and x.shape[1] == weights.shape[0] and x.shape[1] % group == 0
    require(fits, node, f"weights {weights.shape} with group {group} do not fit {x.shape}")
    outputs, rank = weights.shape[1] * group, x.type.rank - 2
    require_shape(node, node.optional_input(2), (outputs,))
    strides, pads, dilations = node.ints("strides"), node.ints("pads"), node.ints("dilations")
    require(len(extra) == len(strides) == len(dilations) == len(pads) - rank == rank, node, "attributes do not fit")
    require(min(pads) >= 0, node, f"pads {pads} are negative")
    sizes = tuple(
        strides[i] * (x.shape[i + 2] - 1) + extra[i] + dilations[i] * (weights.shape[i + 2] - 1) + 1
        - pads[i] - pads[i + rank]
        for i in range(rank)
    )  # fmt: skip
    require(min(sizes) > 0, node, f"pads {pads} leave nothing of the output")
    return [TensorType("float32", (x.shape[0], outputs, *sizes))]


def _evaluate_conv_transpose(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, weights, bias, group = present(arrays[0]), present(arrays[1]), arrays[2], node.int("group")
    rank, strides, pads, dilations = x.ndim - 2, node.ints("strides"), node.ints("pads"), node.ints("dilations")
    y = node.output.shape
    full = np.zeros((*y[:2], *(y[i + 2] + pads[i] + pads[i + rank] for i in range(rank))), np.float32)
    by_group = x.reshape(x.shape[0], group, -1, *x.shape[2:])
    grouped = weights.reshape(group, -1, *weights.shape[1:])
    for tap in itertools.product(*map(range, weights.shape[2:])):
        products = np.einsum("ngi...,gio->ngo...", by_group, _at_tap(grouped, tap))
        places = tuple(
            slice(tap[i] * dilations[i], tap[i] * dilations[i] + (x.shape[i + 2] - 1) * strides[i] + 1, strides[i])
            for i in range(rank)
        )
        full[(slice(None), slice(None), *places)] += products.reshape(*y[:2], *x.shape[2:])
    inside = tuple(slice(pads[i], pads[i] + y[i + 2]) for i in range(rank))
    result = full[(slice(None), slice(None), *inside)]
    return [np.ascontiguousarray(result if bias is None else result + bias.reshape(-1, *(1,) * rank))]


def _pool_type(node: Node, taken: Sequence[str]) -> TensorType:
    x = node.input(0)
    require(x.dtype in taken, node, f"input '{x.name}' is {x.dtype}, none of {', '.join(taken)}")
    return TensorType(x.dtype, (*x.shape[:2], *_spatial(node, node.ints("kernel"))))


def _infer_max_pool(node: Node) -> list[TensorType]:
    pooled = _pool_type(node, POOLED)
    return [pooled, TensorType("int64", pooled.shape)][: len(node.outputs)]


def place_strides(node: Node) -> tuple[int, ...]:
    """For each spatial dimension of the input how far apart neighbours are in the places that MaxPoolNd gives."""
    plane = node.input(0).shape[2:]
    if node.int("storage_order"):
        return tuple(math.prod(plane[:i]) for i in range(len(plane)))
    return tuple(math.prod(plane[i + 1 :]) for i in range(len(plane)))


def _evaluate_max_pool(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, kernel = present(arrays[0]), node.ints("kernel")
    result = np.full(node.outputs[0].shape, lowest_value(x.dtype.name), x.dtype)
    steps = np.meshgrid(*map(np.arange, x.shape[2:]), indexing="ij")
    inside = np.asarray(sum(step * stride for step, stride in zip(steps, place_strides(node), strict=True)))
    first = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *(1,) * inside.ndim) * inside.size
    places = np.full(result.shape, -1, np.int64)
    all_places = _taps(node, first + inside, kernel, -1)
    for (_, cells), (_, own) in zip(_taps(node, x, kernel, lowest_value(x.dtype.name)), all_places, strict=True):
        is_better = (own >= 0) & ((cells > result) | (places < 0))
        result, places = np.where(is_better, cells, result), np.where(is_better, own, places)
    return [result, places][: len(node.outputs)]


def _infer_lp_pool(node: Node) -> list[TensorType]:
    return [_pool_type(node, ("float32",))]


def _evaluate_lp_pool(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    total, p = np.zeros(node.output.shape, np.float32), np.float32(node.int("p"))
    for _, cells in _taps(node, present(arrays[0]), node.ints("kernel"), 0):
        total += np.abs(cells) ** p
    return [np.asarray(total ** np.float32(1 / p), np.float32)]


def _pool_macs(node: Node) -> int:
    return node.outputs[0].type.elements * math.prod(node.ints("kernel"))


def _conv_macs(node: Node) -> int:
    weights = node.input(1)
    of_transposed = node.op == "ConvTransposeNd"
    return (node.input(0) if of_transposed else node.output).type.elements * math.prod(weights.shape[1:])


_CONV = opaque_float_operator("ConvNd", _infer_conv, _evaluate_conv, _conv_macs)

ND_OPERATORS = (
    _CONV,
    # onnxruntime has no convolution of int32: such graphs run in the reference interpreter, as integer ones do
    replace(_CONV, name="IntegerConvNd", quantization=QuantizationRule.INTEGER),
    opaque_float_operator("ConvTransposeNd", _infer_conv_transpose, _evaluate_conv_transpose, _conv_macs),
    opaque_float_operator("MaxPoolNd", _infer_max_pool, _evaluate_max_pool, _pool_macs),
    opaque_float_operator("LpPoolNd", _infer_lp_pool, _evaluate_lp_pool, _pool_macs),
)
