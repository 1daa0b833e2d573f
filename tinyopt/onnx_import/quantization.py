"""QuantizeLinear and DequantizeLinear: scales and zero points move from inputs onto the int8 or int16 value.

uint8 becomes int8 with a zero point less 128; int16 has the zero point 0. Constants stay integers behind their
DequantizeLinear.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array, Attribute, Quantization, Value
from tinyopt.onnx_import.builder import UNCLAMPED, Builder
from tinyopt.onnx_import.elementwise import Rule, clip
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.onnx_import.pointwise import cast

_ONNX_UINT8, _ONNX_INT8, _ONNX_UINT16, _ONNX_INT16, _ONNX_INT32 = 2, 3, 4, 5, 6
_PLAIN_DTYPES = ("int8", "uint8", "int16", "uint16", "int32")


def _quantize(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    if _is_plain(builder, node, _quantized_dtype(builder, node)):
        return [_quantized_by_elements(builder, node)]
    zero_point = node.optional_constant(2, "zero point")
    return [quantized(builder, node, node.value(0), node.constant(1, "scale"), zero_point)]


def _dequantize(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    if _is_plain(builder, node, builder.dtype(node.value(0))):
        return [_dequantized_by_elements(builder, node)]
    zero_point = node.optional_constant(2, "zero point")
    return [dequantized(builder, node, node.value(0), node.constant(1, "scale"), zero_point)]


def _quantized_dtype(builder: Builder, node: OnnxNode) -> str:
    zero_point = node.optional(2)
    return _output_dtype(node) if zero_point is None else builder.dtype(zero_point)


def _is_plain(builder: Builder, node: OnnxNode, dtype: str) -> bool:
    """Whether the node is a computation like others: no parameters of a tensor that the IR can hold with it.

    So are parameters that are computed, integers with a zero point or type that no integer kernel has, blocks, and
    activations with a scale for each channel.
    """
    x, scale, zero_point = node.value(0), node.value(1), node.optional(2)
    if scale.dtype != "float32" or dtype not in _PLAIN_DTYPES:
        return False  # which is refused
    if scale.constant is None or (zero_point is not None and zero_point.constant is None):
        return True
    if x.is_constant and not node.integer("block_size", 0):
        return dtype == "uint16"
    is_centred = zero_point is None or not np.any(zero_point.data)
    is_unknown = dtype in ("uint16", "int32") or (dtype == "int16" and not is_centred)
    return is_unknown or scale.type.elements > 1


def _quantized_by_elements(builder: Builder, node: OnnxNode) -> Value:
    """saturate(round-half-even(x / scale) + zero point)."""
    dtype = _quantized_dtype(builder, node)
    x, scale, zero_point, shape = _aligned(builder, node, cast(builder, node.value(0), "float32"))
    levels = builder.pointwise("Round", [builder.emit("Div", [x, scale], UNCLAMPED)])
    if zero_point is not None:
        levels = builder.emit("Add", [levels, cast(builder, zero_point, "float32")], UNCLAMPED)
    return builder.reshape(cast(builder, levels, dtype), shape)


def _dequantized_by_elements(builder: Builder, node: OnnxNode) -> Value:
    """(x - zero point) * scale."""
    x, scale, zero_point, shape = _aligned(builder, node, cast(builder, node.value(0), "float32"))
    if zero_point is not None:
        x = builder.emit("Sub", [x, cast(builder, zero_point, "float32")], UNCLAMPED)
    return builder.reshape(builder.emit("Mul", [x, scale], UNCLAMPED), shape)


def _aligned(builder: Builder, node: OnnxNode, x: Value) -> tuple[Value, Value, Value | None, tuple[int, ...]]:
    """x, scale and zero point in shapes that broadcast, and what x's was: blocks are dimensions of their own."""
    scale, zero_point = node.value(1), node.optional(2)
    block, shape = node.integer("block_size", 0), x.shape
    if scale.type.elements == 1:
        fit: tuple[int, ...] = ()
    else:
        axis = node.axis(node.integer("axis", 1), x.type.rank)
        if not block and scale.shape == (shape[axis],):
            fit = (*(1,) * axis, shape[axis], *(1,) * (x.type.rank - axis - 1))
        elif block and scale.type.rank == x.type.rank and shape[axis] == scale.shape[axis] * block:
            x = builder.reshape(x, (*shape[:axis], scale.shape[axis], block, *shape[axis + 1 :]))
            fit = (*scale.shape[: axis + 1], 1, *scale.shape[axis + 1 :])
        else:
            raise node.invalid(f"scales of shape {scale.shape} do not fit axis {axis} of '{x.name}' of shape {shape}")
    if zero_point is not None and zero_point.type.elements != scale.type.elements:
        raise node.invalid(f"{scale.type.elements} scales but {zero_point.type.elements} zero points are given")
    return x, builder.reshape(scale, fit), None if zero_point is None else builder.reshape(zero_point, fit), shape


def quantized(builder: Builder, node: OnnxNode, x: Value, scale: Array, zero_point: Array | None) -> Value:
    """QuantizeLinear(x) as an int8 or int16 value, marked unsigned where ONNX has uint8."""
    dtype = _output_dtype(node) if zero_point is None else zero_point.dtype.name
    if dtype not in ("int8", "uint8", "int16"):
        raise Refusal(f"it quantizes to {dtype}; tinyopt takes int8, uint8 and int16")
    is_unsigned = dtype == "uint8"
    quantization = parameters(node, x, scale, zero_point, is_unsigned)
    inside = "int16" if dtype == "int16" else "int8"
    _check_is_centred(inside, quantization)
    if x.constant is not None:
        result = builder.constant(quantization.quantize(x.constant, inside), x.name, quantization)
    elif quantization.axis is not None:
        raise Refusal(f"it quantizes '{x.name}', which is no constant, per axis; tinyopt takes per tensor")
    else:
        _check_activation_scale(node, quantization)
        result = builder.emit("QuantizeLinear", [x], quantization=quantization, dtype=inside)
    if is_unsigned:
        builder.unsigned.add(result)
    return result


def dequantized(builder: Builder, node: OnnxNode, x: Value, scale: Array, zero_point: Array | None) -> Value:
    """DequantizeLinear(x) with the parameters on the integer value that it reads."""
    x = builder.signed(x)
    if x.dtype not in ("int8", "int16", "int32") or (x.dtype == "int32" and not x.is_constant):
        raise Refusal(f"it dequantizes '{x.name}' of {x.dtype}; tinyopt takes int8, uint8, int16, and int32 constants")
    quantization = parameters(node, x, scale, zero_point, x in builder.unsigned)
    _check_is_centred(x.dtype, quantization)
    if not x.is_constant:
        if quantization.axis is not None:
            raise Refusal(f"it dequantizes '{x.name}', which is no constant, per axis; tinyopt takes per tensor")
        _check_activation_scale(node, quantization)
    return builder.emit("DequantizeLinear", [builder.with_quantization(x, quantization)])


def _clip(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    """Clip of integers that were just quantized: the real numbers are clipped to these levels before.

    So does PyTorch export ranges that are narrower than the type, as 0..127 of uint8. Rounding keeps order and the
    limits are levels, so that both give the same integers.
    """
    x = builder.signed(node.value(0))
    if x.dtype not in ("int8", "int16"):
        return clip(builder, node)
    quantize = builder.producer(x)
    is_quantized = quantize is not None and quantize.op == "QuantizeLinear" and x.quantization is not None
    if x.constant is None and not is_quantized:
        return clip(builder, node)
    low, high = _integer_limits(builder, node, x)
    if x.constant is not None:
        result = builder.constant(np.clip(x.constant, low, high).astype(x.constant.dtype), x.name, x.quantization)
    else:
        assert quantize is not None
        assert x.quantization is not None
        real = x.quantization.dequantize(np.array([low, high]))
        limits: dict[str, Attribute] = {"low": float(real[0]), "high": float(real[1])}
        clipped = builder.emit("Clip", [quantize.input(0)], limits)
        result = builder.emit("QuantizeLinear", [clipped], quantization=x.quantization, dtype=x.dtype)
    if x in builder.unsigned:
        builder.unsigned.add(result)
    return [result]


def _integer_limits(builder: Builder, node: OnnxNode, x: Value) -> tuple[int, int]:
    """The limits as levels of the signed `x`; those of its type where none is given."""
    given = builder.with_constants(node)
    shift = 128 if x in builder.unsigned else 0
    levels = np.iinfo(x.dtype)
    low, high = given.scalar_of(1, "minimum"), given.scalar_of(2, "maximum")
    return (
        levels.min if low is None else max(int(low) - shift, levels.min),
        levels.max if high is None else min(int(high) - shift, levels.max),
    )


def parameters(node: OnnxNode, x: Value, scale: Array, zero_point: Array | None, is_unsigned: bool) -> Quantization:
    """The quantization that the scale and zero point of `node` say of `x`, for int8 in place of uint8."""
    if scale.dtype.name != "float32":
        raise Refusal(f"its scale is {scale.dtype.name}; tinyopt takes float32")
    if not bool(np.all(np.isfinite(scale) & (scale >= 0))):
        raise node.invalid(f"a scale of '{x.name}' is negative or not finite")
    if zero_point is not None and zero_point.size != scale.size:
        raise node.invalid(f"{scale.size} scales but {zero_point.size} zero points are given")
    if scale.ndim > 1 or node.integer("block_size", 0):
        raise Refusal("its scales are blocked; tinyopt takes per tensor and per axis")
    zeros = np.zeros(scale.shape, np.int64) if zero_point is None else zero_point.astype(np.int64)
    zeros = zeros.reshape(-1) - (128 if is_unsigned else 0)
    if scale.size == 1:
        return Quantization.per_tensor(float(scale.reshape(-1)[0]), int(zeros[0]))
    axis = node.axis(node.integer("axis", 1), x.type.rank)
    if x.shape[axis] != scale.size:
        raise node.invalid(f"{scale.size} scales do not fit axis {axis} of '{x.name}' of shape {x.shape}")
    return Quantization.per_channel(scale.tolist(), zeros.tolist(), axis)


def _check_is_centred(dtype: str, quantization: Quantization) -> None:
    if dtype == "int16" and not quantization.is_symmetric:
        raise Refusal("its zero point is not 0; tinyopt takes int16 with 0 alone")


def _check_activation_scale(node: OnnxNode, quantization: Quantization) -> None:
    if not quantization.scale[0]:
        raise node.invalid("its scale is 0")


def _output_dtype(node: OnnxNode) -> str:
    chosen = node.integer("output_dtype", 0)
    known = {
        0: "uint8",
        _ONNX_UINT8: "uint8",
        _ONNX_INT8: "int8",
        _ONNX_UINT16: "uint16",
        _ONNX_INT16: "int16",
        _ONNX_INT32: "int32",
    }
    return known.get(chosen, f"ONNX type {chosen}")


QUANTIZATION_RULES: dict[tuple[str, str], Rule] = {
    ("", "QuantizeLinear"): _quantize,
    ("", "DequantizeLinear"): _dequantize,
    ("", "Clip"): _clip,
    ("com.microsoft", "QuantizeLinear"): _quantize,
    ("com.microsoft", "DequantizeLinear"): _dequantize,
}
