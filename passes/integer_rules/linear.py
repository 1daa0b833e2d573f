"""Conv, Dense, ConvTranspose and MatMul on int8 and int16 with weights of int8.

The accumulator counts in units of sx * sw, so the bias becomes round(b / (sx * sw)), and one multiplier for each output
channel, sx * sw / sy, leads to the output's scale. Conv and Dense take the input's zero point into the bias:
sum((x - zx) * w) + b = sum(x * w) + (b - zx * sum(w)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Attribute, Node, Quantization, Value
from tinyopt.ops.integer_rules import largest_magnitude
from tinyopt.ops.requantize import MULTIPLIER_BITS
from tinyopt.passes.integer_rules.site import (
    ACCUMULATOR_LIMIT,
    Refusal,
    Site,
    activations,
    multipliers,
    quantization_of,
    real_data,
    scale_of,
    zero_point_of,
)

RESIDUAL_FRACTION_BITS = 16  # so that vectors of 32 bits can hold a sum with its residual


@dataclass(frozen=True)
class _Accumulator:
    """What the sum of products needs: its scale for each output channel and the bias in its units.

    sums: for each output channel the sum of its weights. largest: the largest sum of absolute weights.
    """

    scale: NDArray[np.float64]
    bias: NDArray[np.int64]
    sums: NDArray[np.int64]
    largest: NDArray[np.int64]


def lower_conv(site: Site) -> Node | Refusal:
    """Conv in NHWC."""
    if site.node.str("layout") != "NHWC":
        return Refusal("its layout is NCHW, the integer kernels want NHWC")
    attributes = site.kept("strides", "pads", "dilations", "group")
    return _lower_folded(site, "QConv", site.operand(1), attributes)


def lower_dense(site: Site) -> Node | Refusal:
    """Dense."""
    return _lower_folded(site, "QDense", site.operand(1), {})


def lower_matmul(site: Site) -> Node | Refusal:
    """MatMul: with constant weights a QDense, of two activations a QMatMul."""
    b = site.operand(1)
    if b.is_constant and b.type.rank == 2 and is_quantized_int8(b) and quantization_of(b).is_symmetric:
        return _lower_folded(site, "QDense", _transposed(site, b), {})
    if refusal := activations(site, 0, 1):
        return refusal
    a = site.operand(0)
    if a.shape[-1] * largest_magnitude(a) * largest_magnitude(b) > ACCUMULATOR_LIMIT:
        return Refusal(f"a sum over {a.shape[-1]} products of {a.dtype} and {b.dtype} does not fit 32 bits")
    found = multipliers([scale_of(a) * scale_of(b) / scale_of(site.output)])
    if isinstance(found, Refusal):
        return found
    attributes: dict[str, Attribute] = {"multiplier": int(found[0][0]), "shift": found[1], **site.levels()}
    return site.replaced_by("QMatMul", [a, b], attributes)


def lower_conv_transpose(site: Site) -> Node | Refusal:
    """ConvTranspose in NHWC. The input's zero point is no part of the bias: output cells see different taps."""
    if site.node.str("layout") != "NHWC":
        return Refusal("its layout is NCHW, the integer kernels want NHWC")
    weights, group = site.operand(1), site.node.int("group")
    if refusal := activations(site, 0) or _unusable_weights(weights):
        return refusal
    inputs, rows, columns, per_group = weights.shape
    scale = _transposed_scale(weights, group)
    if isinstance(scale, Refusal):
        return scale
    by_group = weights.data.astype(np.int64).reshape(group, inputs // group * rows * columns, per_group)
    found = _accumulator(site, scale, by_group.transpose(0, 2, 1).reshape(group * per_group, -1))
    if isinstance(found, Refusal):
        return found
    if np.any(found.largest * largest_magnitude(site.operand(0)) + np.abs(found.bias) > ACCUMULATOR_LIMIT):
        return Refusal(f"its sums of {site.operand(0).dtype} do not fit 32 bits")
    factors = multipliers(found.scale / scale_of(site.output))
    if isinstance(factors, Refusal):
        return factors
    bias = site.constant("bias", found.bias.astype(np.int32))
    multiplier = site.constant("multiplier", factors[0])
    attributes = {
        **site.kept("strides", "pads", "dilations", "group", "output_padding"),
        "shift": factors[1],
        **site.levels(),
    }
    return site.replaced_by("QConvTranspose", [site.operand(0), weights, bias, multiplier], attributes)


def is_quantized_int8(value: Value) -> bool:
    """Whether the constant is int8 with a quantization."""
    return value.dtype == "int8" and value.quantization is not None


def _lower_folded(site: Site, op: str, weights: Value, attributes: dict[str, Attribute]) -> Node | Refusal:
    """QConv and QDense: weights with the output channels first, the zero point inside the bias, perhaps a residual."""
    if refusal := activations(site, 0) or _unusable_weights(weights):
        return refusal
    outputs = weights.shape[0]
    scale = _scale_along(quantization_of(weights), 0, outputs)
    if isinstance(scale, Refusal):
        return scale
    found = _accumulator(site, scale, weights.data.astype(np.int64).reshape(outputs, -1))
    if isinstance(found, Refusal):
        return found
    x = site.operand(0)
    folded = found.bias - zero_point_of(x) * found.sums
    largest_level = 1 << (7 if x.dtype == "int8" else 15)
    if np.any(found.largest * largest_level + np.abs(folded) > ACCUMULATOR_LIMIT):
        return Refusal(f"its sums of {x.dtype} do not fit 32 bits")
    residual = site.operands[3] if len(site.operands) > 3 else None
    if residual is not None and (refusal := activations(site, 3)):
        return refusal
    residual_scale = 0.0 if residual is None else scale_of(residual)
    factors = multipliers(np.append(found.scale, residual_scale) / scale_of(site.output))
    if isinstance(factors, Refusal):
        return factors
    (*by_channel, of_residual), shift = factors
    is_short = residual is None or residual.dtype == "int8"
    residual_multiplier = _short_multiplier(int(of_residual), shift) if is_short else int(of_residual)
    rounding: dict[str, Attribute] = {"residual_multiplier": residual_multiplier, "shift": shift, **site.levels()}
    bias = site.constant("bias", folded.astype(np.int32))
    multiplier = site.constant("multiplier", np.array(by_channel, np.int32))
    return site.replaced_by(op, [x, weights, bias, multiplier, residual], {**attributes, **rounding})


def _short_multiplier(multiplier: int, shift: int) -> int:
    """A residual's multiplier rounded to 16 bits behind the point, where it keeps 8 of its own or more.

    It is then at most half a unit off, which over the 255 steps of a residual is 0.002 of a step of the output.
    """
    unit = 1 << max(shift - RESIDUAL_FRACTION_BITS, 0)
    rounded = (multiplier + unit // 2) // unit * unit
    return rounded if multiplier >= 128 * unit and rounded < 1 << MULTIPLIER_BITS else multiplier


def _accumulator(site: Site, weight_scale: NDArray[np.float64], rows: NDArray[np.int64]) -> _Accumulator | Refusal:
    """rows: the weights of each output channel."""
    scale = scale_of(site.operand(0)) * weight_scale
    bias = _bias_levels(site.operands[2] if len(site.operands) > 2 else None, scale)
    if isinstance(bias, Refusal):
        return bias
    return _Accumulator(scale, bias, rows.sum(axis=1), np.abs(rows).sum(axis=1))


def _bias_levels(bias: Value | None, scale: NDArray[np.float64]) -> NDArray[np.int64] | Refusal:
    """The bias in units of the accumulator: its integers where they have that scale, else rescaled."""
    if bias is None:
        return np.zeros(scale.shape, np.int64)
    if not bias.is_constant:
        return Refusal(f"its bias '{bias.name}' is not a constant")
    if np.any(scale <= 0):
        return Refusal("a scale of its weights is zero")
    quantization = bias.quantization
    if quantization is not None and bias.dtype == "int32" and quantization.is_symmetric:
        if np.allclose(quantization.scale_array(1), scale, rtol=1e-6, atol=0):
            return bias.data.astype(np.int64)
        real = bias.data.astype(np.float64) * quantization.scale_array(1)
    else:
        real = real_data(bias).astype(np.float64)
    levels = np.rint(real / scale)
    if np.any(np.abs(levels) > ACCUMULATOR_LIMIT):
        return Refusal(f"its bias '{bias.name}' is too large for the scale of its weights")
    return levels.astype(np.int64)


def _unusable_weights(weights: Value) -> Refusal | None:
    if not weights.is_constant:
        return Refusal(f"its weights '{weights.name}' are not constant")
    if not is_quantized_int8(weights):
        return Refusal(f"its weights '{weights.name}' are {weights.dtype}, not int8 behind DequantizeLinear")
    if not quantization_of(weights).is_symmetric:
        return Refusal(f"its weights '{weights.name}' have zero points that are not 0")
    return None


def _scale_along(quantization: Quantization, axis: int, size: int) -> NDArray[np.float64] | Refusal:
    """One scale for each index along `axis`."""
    scale = np.array(quantization.scale, np.float64)
    if quantization.is_per_tensor:
        return np.repeat(scale, size)
    if quantization.axis != axis:
        return Refusal(f"its weights have scales along axis {quantization.axis}, not along the output channels")
    return scale


def _transposed_scale(weights: Value, group: int) -> NDArray[np.float64] | Refusal:
    """One scale for each output channel of a ConvTranspose; output channel = group index * channels per group + k."""
    inputs, _, _, per_group = weights.shape  # I KH KW O/group
    quantization = quantization_of(weights)
    if quantization.axis == 0 and group == inputs and per_group == 1:
        return np.array(quantization.scale, np.float64)
    scale = _scale_along(quantization, 3, per_group)
    return scale if isinstance(scale, Refusal) else np.tile(scale, group)


def _transposed(site: Site, b: Value) -> Value:
    """MatMul's [K, N] constant as Dense's [N, K]."""
    quantization = quantization_of(b)
    axis = None if quantization.axis is None else 1 - quantization.axis
    turned = site.constant("weight", np.ascontiguousarray(b.data.T))
    turned.quantization = Quantization(quantization.scale, quantization.zero_point, axis)
    return turned
