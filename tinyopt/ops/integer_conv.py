"""Integer operators that multiply matrices: QConv, QDense, QConvTranspose, QMatMul. NHWC only.

QConv and QDense: acc = sum(x * w) + bias, where cells outside the image hold the input's zero point zx and bias already
contains -zx * sum(w). With a residual r, which is rescaled to the accumulator's scale by an integer of its own:

    y = clamp(((acc * M + (r - zr) * residual_multiplier + 2^(shift-1)) >> shift) + zy, low, high)

QConvTranspose: acc = sum((x - zx) * w) + bias. QMatMul: acc = sum((a - za) * (b - zb)).
Sums are formed in floating point, which numpy does fast, and exactly: below 2^24 in float32, below 2^53 in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyopt.ir import Array, Node, TensorType, Value
from tinyopt.ops.dense import matmul_type
from tinyopt.ops.integer_rules import (
    output_dtype,
    require_activation,
    require_constant,
    require_output,
    require_rounding,
    zero_point,
)
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.requantize import requantize, rounded_shift
from tinyopt.ops.rules import present, require, require_rank
from tinyopt.ops.windows import convolve, convolve_transposed, output_plane, transposed_output_plane


def _require_weights(node: Node, outputs: int) -> None:
    """Inputs 1, 2 and 3: symmetric int8 weights, int32 bias and multiplier for each output channel."""
    weights = node.input(1)
    require_constant(node, weights, "int8", weights.shape, "weight")
    require(
        weights.quantization is not None and weights.quantization.is_symmetric, node, "the weights are not symmetric"
    )
    require_constant(node, node.input(2), "int32", (outputs,), "bias")
    require_constant(node, node.input(3), "int32", (outputs,), "multiplier")


def _require_window(node: Node) -> None:
    require(min(*node.ints("strides"), *node.ints("dilations")) > 0, node, "strides and dilations must be positive")
    require(node.int("group") > 0, node, f"group is {node.int('group')}")


def _require_residual(node: Node, shape: tuple[int, ...]) -> None:
    residual = node.optional_input(4)
    if residual is None:
        return
    require_activation(node, residual)
    require(residual.shape == shape, node, f"the residual has shape {residual.shape}, not the output's {shape}")


def _finish(node: Node, acc: Array, inputs: Sequence[Array | None]) -> list[Array]:
    """Bias, residual, requantization."""
    acc = (acc.astype(np.int64) + present(inputs[2])).astype(np.int32)
    product = acc.astype(np.int64) * present(inputs[3])
    residual = node.optional_input(4)
    if residual is not None:
        product += (present(inputs[4]).astype(np.int64) - zero_point(residual)) * node.int("residual_multiplier")
    low, high = node.int("low"), node.int("high")
    return [rounded_shift(product, node.int("shift"), zero_point(node.output), low, high, node.output.dtype)]


def _infer_conv(node: Node) -> list[TensorType]:
    x, weights, group = node.input(0), node.input(1), node.int("group")
    require_activation(node, x)
    require_output(node)
    require_rounding(node)
    require(len(node.inputs) == 5, node, f"it has {len(node.inputs)} inputs, not 5")
    require_rank(node, x, 4)
    require_rank(node, weights, 4)
    _require_window(node)
    outputs, rows, columns, per_group = weights.shape
    require(x.shape[3] == per_group * group, node, f"{x.shape[3]} channels do not fit {group} groups of {per_group}")
    require(outputs % group == 0, node, f"{outputs} output channels do not fit {group} groups")
    _require_weights(node, outputs)
    plane = output_plane(x.shape[1:3], (rows, columns), node.ints("strides"), node.ints("pads"), node.ints("dilations"))
    require(min(plane) > 0, node, f"the image {x.shape[1:3]} is smaller than the kernel")
    shape = (x.shape[0], *plane, outputs)
    _require_residual(node, shape)
    return [TensorType(output_dtype(node), shape)]


def _exact_dtype(x: Value, terms: int) -> np.dtype[Any]:
    """In which sums of so many products of x and int8 are exact: each product is at most 2^14, for int16 2^22."""
    bits = 14 if x.dtype == "int8" else 22
    return np.dtype(np.float32 if terms << bits <= 1 << 24 else np.float64)


def _evaluate_conv(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    dtype = _exact_dtype(node.input(0), math.prod(node.input(1).shape[1:]))
    acc = convolve(
        present(inputs[0]).astype(dtype),
        present(inputs[1]).astype(dtype),
        node.ints("strides"),
        node.ints("pads"),
        node.ints("dilations"),
        node.int("group"),
        zero_point(node.input(0)),
    )
    return _finish(node, acc, inputs)


def _macs_of_weights(node: Node) -> int:
    """Every output element takes one multiplication for each weight of its channel."""
    return node.output.type.elements * math.prod(node.input(1).shape[1:])


def _infer_dense(node: Node) -> list[TensorType]:
    x, weights = node.input(0), node.input(1)
    require_activation(node, x)
    require_output(node)
    require_rounding(node)
    require(len(node.inputs) == 5, node, f"it has {len(node.inputs)} inputs, not 5")
    require(weights.type.rank == 2 and x.type.rank >= 1, node, "the weight needs two dimensions")
    outputs, depth = weights.shape
    require(x.shape[-1] == depth, node, f"the input's last dimension is {x.shape[-1]}, the weight's {depth}")
    _require_weights(node, outputs)
    shape = (*x.shape[:-1], outputs)
    _require_residual(node, shape)
    return [TensorType(output_dtype(node), shape)]


def _evaluate_dense(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    dtype = _exact_dtype(node.input(0), node.input(1).shape[1])
    acc = present(inputs[0]).astype(dtype) @ present(inputs[1]).astype(dtype).T
    return _finish(node, acc, inputs)


def _infer_conv_transpose(node: Node) -> list[TensorType]:
    x, weights, group = node.input(0), node.input(1), node.int("group")
    require_activation(node, x)
    require_output(node)
    require_rounding(node)
    require_rank(node, x, 4)
    require_rank(node, weights, 4)
    _require_window(node)
    channels, rows, columns, per_group = weights.shape
    require(x.shape[3] == channels, node, f"the input has {x.shape[3]} channels, the weight takes {channels}")
    require(channels % group == 0, node, f"{channels} channels do not fit {group} groups")
    _require_weights(node, per_group * group)
    plane = transposed_output_plane(
        x.shape[1:3],
        (rows, columns),
        node.ints("strides"),
        node.ints("pads"),
        node.ints("dilations"),
        node.ints("output_padding"),
    )
    require(min(plane) > 0, node, f"the padding leaves nothing of the image {x.shape[1:3]}")
    return [TensorType(output_dtype(node), (x.shape[0], *plane, per_group * group))]


def _evaluate_conv_transpose(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    acc = convolve_transposed(
        present(inputs[0]).astype(np.float64) - zero_point(node.input(0)),
        present(inputs[1]).astype(np.float64),
        node.ints("strides"),
        node.ints("pads"),
        node.ints("dilations"),
        node.int("group"),
        node.ints("output_padding"),
    )
    return _finish(node, acc, inputs)


def _macs_conv_transpose(node: Node) -> int:
    """Every input element is multiplied with each weight of its channel."""
    return node.input(0).type.elements * math.prod(node.input(1).shape[1:])


def _infer_matmul(node: Node) -> list[TensorType]:
    a, b = node.input(0), node.input(1)
    require_activation(node, a)
    require_activation(node, b)
    require_output(node)
    require_rounding(node)
    return [TensorType(output_dtype(node), matmul_type(node).shape)]


def _evaluate_matmul(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    a = present(inputs[0]).astype(np.float64) - zero_point(node.input(0))
    b = present(inputs[1]).astype(np.float64) - zero_point(node.input(1))
    acc = np.asarray(a @ b, np.int64)
    low, high = node.int("low"), node.int("high")
    multiplier, shift = node.int("multiplier"), node.int("shift")
    return [requantize(acc, multiplier, shift, zero_point(node.output), low, high, node.output.dtype)]


def _macs_matmul(node: Node) -> int:
    return node.output.type.elements * node.input(0).shape[-1]


INTEGER_CONV_OPERATORS = (
    Operator(
        name="QConv",
        infer=_infer_conv,
        evaluate=_evaluate_conv,
        macs=_macs_of_weights,
        channels=ChannelRelation.MIXING,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=False,
    ),
    Operator(
        name="QDense",
        infer=_infer_dense,
        evaluate=_evaluate_dense,
        macs=_macs_of_weights,
        channels=ChannelRelation.MIXING,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=False,
    ),
    Operator(
        name="QConvTranspose",
        infer=_infer_conv_transpose,
        evaluate=_evaluate_conv_transpose,
        macs=_macs_conv_transpose,
        channels=ChannelRelation.MIXING,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=False,
    ),
    Operator(
        name="QMatMul",
        infer=_infer_matmul,
        evaluate=_evaluate_matmul,
        macs=_macs_matmul,
        channels=ChannelRelation.OPAQUE,
        quantization=QuantizationRule.INTEGER,
        is_elementwise=False,
    ),
)
