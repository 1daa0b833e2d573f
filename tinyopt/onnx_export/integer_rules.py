"""How integer operators are written in ONNX: as what they stand for.

DequantizeLinear -> the float operator -> Clip to the levels low..high -> QuantizeLinear, with the quantizations of the
operator's values. A runtime's result differs by at most one step, where its rounding differs from ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from tinyopt.ir import Array, Node, Quantization, Value
from tinyopt.onnx_export.emitter import TO_NCHW, TO_NHWC, Emitter, ExportRule
from tinyopt.onnx_export.float_rules import are_pads_wide, emit_window_sums
from tinyopt.onnx_export.movement_rules import reduction
from tinyopt.ops.integer_rules import level_limits
from tinyopt.ops.windows import window_cell_counts

_SAME = 1e-3  # relative: multipliers are rounded, what they stand for is recovered from them up to this


def _parameters(value: Value) -> Quantization:
    assert value.quantization is not None, value.name
    return value.quantization


def _scale(value: Value) -> float:
    """The scale of an activation."""
    return _parameters(value).scale[0]


def _finish(node: Node, emit: Emitter, tensor: str, residual: Value | None = None) -> None:
    """Residual, clamp to low..high, QuantizeLinear, and the name of the output."""
    if residual is not None:
        tensor = emit("Add", tensor, emit.dequantized(residual))
    scale, zero_point = _scale(node.output), _parameters(node.output).zero_point[0]
    low, high = node.int("low"), node.int("high")
    lowest, highest = level_limits(node.output.dtype)
    real_low = -math.inf if low == lowest else (low - zero_point) * scale
    real_high = math.inf if high == highest else (high - zero_point) * scale
    emit.bind(emit.quantized(emit.clamped(tensor, real_low, real_high, "float32"), node.output), node.output)


def _weights(node: Node, emit: Emitter, perm: tuple[int, ...]) -> str:
    """Input 1 as real numbers, its axes permuted; the file keeps it as int8."""
    weights = node.input(1)
    quantization = _parameters(weights)
    axis = None if quantization.axis is None else perm.index(quantization.axis)
    permuted = Quantization(quantization.scale, quantization.zero_point, axis)
    return emit.dequantized_tensor(emit.transposed(weights, perm), permuted, weights.dtype)


def _bias(node: Node, emit: Emitter, folded: Array) -> str:
    """Input 2 as real numbers: `folded` is what was added to it for each output channel on account of a zero point."""
    bias = node.input(2)
    channels = len(bias.data)
    scales = np.array(_parameters(node.input(1)).scale, np.float64)  # one for all, or one for each channel of a group
    scales = np.resize(scales, channels) * _scale(node.input(0))
    real = (bias.data.astype(np.int64) - folded) * scales
    return emit.array(real.astype(np.float32), f"{bias.name}/real")


def _folded_zero_point(node: Node) -> Array:
    """-zx * sum(w) for each output channel, which the bias of QConv and QDense contains."""
    weights = node.input(1).data.astype(np.int64)
    sums = weights.reshape(len(weights), -1).sum(axis=1)
    return np.asarray(-_parameters(node.input(0)).zero_point[0] * sums)


def _conv(node: Node, emit: Emitter) -> None:
    x = emit("Transpose", emit.dequantized(node.input(0)), perm=TO_NCHW)
    result = emit(
        "Conv",
        x,
        _weights(node, emit, TO_NCHW),
        _bias(node, emit, _folded_zero_point(node)),
        name=node.name,
        strides=node.ints("strides"),
        pads=node.ints("pads"),
        dilations=node.ints("dilations"),
        group=node.int("group"),
    )
    _finish(node, emit, emit("Transpose", result, perm=TO_NHWC), node.inputs[4])


def _dense(node: Node, emit: Emitter) -> None:
    x, bias = emit.dequantized(node.input(0)), _bias(node, emit, _folded_zero_point(node))
    if node.input(0).type.rank == 2:
        result = emit("Gemm", x, _weights(node, emit, (0, 1)), bias, name=node.name, transB=1)
    else:
        result = emit("Add", emit("MatMul", x, _weights(node, emit, (1, 0)), name=node.name), bias)
    _finish(node, emit, result, node.inputs[4])


def _conv_transpose(node: Node, emit: Emitter) -> None:
    x = emit("Transpose", emit.dequantized(node.input(0)), perm=TO_NCHW)
    result = emit(
        "ConvTranspose",
        x,
        _weights(node, emit, TO_NCHW),
        _bias(node, emit, np.zeros(1, np.int64)),
        name=node.name,
        strides=node.ints("strides"),
        pads=node.ints("pads"),
        dilations=node.ints("dilations"),
        group=node.int("group"),
        output_padding=node.ints("output_padding"),
    )
    _finish(node, emit, emit("Transpose", result, perm=TO_NHWC))


def _matmul(node: Node, emit: Emitter) -> None:
    a, b = emit.dequantized(node.input(0)), emit.dequantized(node.input(1))
    _finish(node, emit, emit("MatMul", a, b, name=node.name))


def _add(node: Node, emit: Emitter) -> None:
    """A negative multiplier stands for a subtraction."""
    a, b = emit.dequantized(node.input(0)), emit.dequantized(node.input(1))
    match node.int("multiplier_a") < 0, node.int("multiplier_b") < 0:
        case False, False:
            result = emit("Add", a, b, name=node.name)
        case False, True:
            result = emit("Sub", a, b, name=node.name)
        case True, False:
            result = emit("Sub", b, a, name=node.name)
        case _:
            result = emit("Neg", emit("Add", a, b, name=node.name))
    _finish(node, emit, result)


def _mul(node: Node, emit: Emitter) -> None:
    a, b = emit.dequantized(node.input(0)), emit.dequantized(node.input(1))
    _finish(node, emit, emit("Mul", a, b, name=node.name))


def _factor(node: Node, multiplier: Array | int) -> Array:
    """By what the real input is multiplied on its way to the real output."""
    to_output_levels = np.asarray(multiplier, np.float64) / 2.0 ** node.int("shift")
    return np.asarray(to_output_levels * _scale(node.output) / _scale(node.input(0)))


def _prelu(node: Node, emit: Emitter) -> None:
    slope = emit.array(_factor(node, node.input(1).data).astype(np.float32), f"{node.name}/slope")
    _finish(node, emit, emit("PRelu", emit.dequantized(node.input(0)), slope, name=node.name))


def _requantize(node: Node, emit: Emitter) -> None:
    """What is read is dequantized, what is given quantized: the change of scale is all that there is."""
    _finish(node, emit, emit.dequantized(node.input(0)))


def _lookup(node: Node, emit: Emitter) -> None:
    level = emit("Cast", emit.value(node.input(0)), to=TensorProto.INT32)
    index = emit("Add", level, emit.array(np.array(128, np.int32), f"{node.name}/offset"))
    emit.bind(emit("Gather", emit.value(node.input(1)), index, name=node.name, axis=0), node.output)


def _average_pool(node: Node, emit: Emitter) -> None:
    """The divisors are recovered from the multipliers: cells inside the image, all cells, or others."""
    kernel, strides, pads, dilations = (node.ints(key) for key in ("kernel", "strides", "pads", "dilations"))
    plane = node.output.shape[1:3]
    area = math.prod(kernel)
    factors = np.broadcast_to(_factor(node, node.input(1).data), math.prod(plane)).reshape(plane)
    inside = window_cell_counts(node.input(0).shape[1:3], kernel, strides, pads, (0, 0, 0, 0), dilations)
    is_inside_average = np.allclose(factors * inside, 1, rtol=_SAME, atol=0)
    x = emit("Transpose", emit.dequantized(node.input(0)), perm=TO_NCHW)
    if are_pads_wide(node):
        _finish(node, emit, emit("Transpose", emit_window_sums(node, emit, x, factors), perm=TO_NHWC))
        return
    result = emit(
        "AveragePool",
        x,
        name=node.name,
        kernel_shape=kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
        count_include_pad=int(not is_inside_average),
    )
    if not is_inside_average and not np.allclose(factors * area, 1, rtol=_SAME, atol=0):
        result = emit("Mul", result, emit.array((factors * area).astype(np.float32), f"{node.name}/factors"))
    _finish(node, emit, emit("Transpose", result, perm=TO_NHWC))


def _reduce_sum(node: Node, emit: Emitter) -> None:
    """A sum, a mean, or a sum that is multiplied by something else."""
    x, axes = node.input(0), node.ints("axes")
    factor = float(_factor(node, node.int("multiplier")))
    is_mean = math.isclose(factor * math.prod(x.shape[axis] for axis in axes), 1, rel_tol=_SAME)
    axes_tensor = emit.ints(axes, f"{node.name}/axes")
    op = "ReduceMean" if is_mean else "ReduceSum"
    result = emit(op, emit.dequantized(x), axes_tensor, name=node.name, **reduction(node))
    if not is_mean and not math.isclose(factor, 1, rel_tol=_SAME):
        result = emit("Mul", result, emit.array(np.array(factor, np.float32), f"{node.name}/factor"))
    _finish(node, emit, result)


def _softmax(node: Node, emit: Emitter) -> None:
    result = emit("Softmax", emit.dequantized(node.input(0)), name=node.name, axis=node.int("axis"))
    emit.bind(emit.quantized(result, node.output), node.output)


def _quantize(node: Node, emit: Emitter) -> None:
    emit.bind(emit.quantized(emit.value(node.input(0)), node.output, name=node.name), node.output)


def _dequantize(node: Node, emit: Emitter) -> None:
    x = node.input(0)
    emit.bind(emit.dequantized_tensor(emit.value(x), _parameters(x), x.dtype, name=node.name), node.output)


def _flip_sign(node: Node, emit: Emitter) -> None:
    """x ^ 0x80 is x - 128 from uint8 to int8, and x + 128 back."""
    x = node.input(0)
    offset, dtype = (-128, TensorProto.INT8) if x.dtype == "uint8" else (128, TensorProto.UINT8)
    wide = emit("Cast", emit.value(x), to=TensorProto.INT32)
    moved = emit("Add", wide, emit.array(np.array(offset, np.int32), f"{node.name}/offset"))
    emit.bind(emit("Cast", moved, name=node.name, to=dtype), node.output)


INTEGER_RULES: Mapping[str, ExportRule] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "FlipSign": _flip_sign,
    "QConv": _conv,
    "QDense": _dense,
    "QConvTranspose": _conv_transpose,
    "QMatMul": _matmul,
    "QAdd": _add,
    "QMul": _mul,
    "QPRelu": _prelu,
    "QRequantize": _requantize,
    "QLookup": _lookup,
    "QAveragePool": _average_pool,
    "QReduceSum": _reduce_sum,
    "QSoftmax": _softmax,
}
