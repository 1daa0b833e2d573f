"""How the float operators are written in ONNX. What is NHWC is wrapped in Transposes, clamps follow as Relu or Clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyopt.ir import DTYPES, Array, Node, Value
from tinyopt.onnx_export.emitter import TO_NCHW, TO_NHWC, Emitter, ExportRule
from tinyopt.ops.pool import average_divisors, lowest_value


def image(node: Node, emit: Emitter, value: Value) -> str:
    """An image or its weights, channels first."""
    return emit.transposed(value, TO_NCHW) if is_nhwc(node) else emit.value(value)


def image_result(node: Node, emit: Emitter, tensor: str) -> str:
    """An NCHW tensor in the node's own layout."""
    return emit("Transpose", tensor, perm=TO_NHWC) if is_nhwc(node) else tensor


def is_nhwc(node: Node) -> bool:
    """Whether the node works on images with the channels last."""
    return node.attributes.get("layout", "NHWC") == "NHWC"  # integer operators are NHWC always


def finish(node: Node, emit: Emitter, tensor: str, residual: Value | None = None) -> None:
    """Residual, clamp, and the name of the output."""
    if residual is not None:
        tensor = emit("Add", tensor, emit.value(residual))
    emit.bind(emit.clamped(tensor, node.float("clamp_low"), node.float("clamp_high"), node.output.dtype), node.output)


def _conv(node: Node, emit: Emitter) -> None:
    inputs = (image(node, emit, node.input(0)), image(node, emit, node.input(1)), emit.value(node.inputs[2]))
    result = emit(
        "Conv",
        *inputs,
        name=node.name,
        strides=node.ints("strides"),
        pads=node.ints("pads"),
        dilations=node.ints("dilations"),
        group=node.int("group"),
    )
    finish(node, emit, image_result(node, emit, result), node.optional_input(3))


def _conv_transpose(node: Node, emit: Emitter) -> None:
    inputs = (image(node, emit, node.input(0)), image(node, emit, node.input(1)), emit.value(node.optional_input(2)))
    result = emit(
        "ConvTranspose",
        *inputs,
        name=node.name,
        strides=node.ints("strides"),
        pads=node.ints("pads"),
        dilations=node.ints("dilations"),
        group=node.int("group"),
        output_padding=node.ints("output_padding"),
    )
    finish(node, emit, image_result(node, emit, result))


def _dense(node: Node, emit: Emitter) -> None:
    x, weights, bias = node.input(0), node.input(1), node.inputs[2]
    if x.type.rank == 2:
        result = emit("Gemm", emit.value(x), emit.value(weights), emit.value(bias), name=node.name, transB=1)
    else:
        result = emit("MatMul", emit.value(x), emit.transposed(weights, (1, 0)), name=node.name)
        result = emit("Add", result, emit.value(bias)) if bias is not None else result
    finish(node, emit, result, node.inputs[3])


def _max_pool(node: Node, emit: Emitter) -> None:
    stored, pads = node.input(0).dtype, node.ints("pads")
    x, dtype = emit.as_runnable(image(node, emit, node.input(0)), stored)
    if are_pads_wide(node):
        top, left, bottom, right = pads
        around = emit.ints((0, 0, top, left, 0, 0, bottom, right), f"{node.name}/pads")
        lowest = emit.array(np.array(lowest_value(stored), DTYPES[dtype]), f"{node.name}/lowest")
        x, pads = emit("Pad", x, around, lowest), (0, 0, 0, 0)
    result = emit(
        "MaxPool",
        x,
        name=node.name,
        kernel_shape=node.ints("kernel"),
        strides=node.ints("strides"),
        pads=pads,
        dilations=node.ints("dilations"),
    )
    emit.bind(image_result(node, emit, emit.as_stored(result, stored)), node.output)


def are_pads_wide(node: Node) -> bool:
    """Whether a pool has pads as large as its kernel, which onnxruntime does not take."""
    kernel = node.ints("kernel")
    return any(pad >= kernel[i % 2] for i, pad in enumerate(node.ints("pads")))


def emit_window_sums(node: Node, emit: Emitter, x: str, factors: Array) -> str:
    """The sums over a pool's windows of the NCHW tensor, times `factors` [OH, OW]: by a Conv, which takes any pads."""
    dtype = "float16" if node.output.dtype == "float16" else "float32"
    ones = np.ones((node.output.shape[3 if is_nhwc(node) else 1], 1, *node.ints("kernel")), dtype)
    result = emit(
        "Conv",
        x,
        emit.array(ones, f"{node.name}/ones"),
        name=node.name,
        strides=node.ints("strides"),
        pads=node.ints("pads"),
        dilations=node.ints("dilations"),
        group=len(ones),
    )
    return emit("Mul", result, emit.array(factors.astype(dtype), f"{node.name}/factors"))


def _average_pool(node: Node, emit: Emitter) -> None:
    """Padding that counts and padding that does not may meet in one node: the first kind becomes a Pad of its own."""
    x = image(node, emit, node.input(0))
    if are_pads_wide(node):
        result = emit_window_sums(node, emit, x, 1 / average_divisors(node))
        finish(node, emit, image_result(node, emit, result))
        return
    pads, counted = node.ints("pads"), node.ints("counted_pads")
    is_all_counted = pads == counted
    if any(counted) and not is_all_counted:
        top, left, bottom, right = counted
        x = emit("Pad", x, emit.ints((0, 0, top, left, 0, 0, bottom, right), f"{node.name}/pads"))
        pads = tuple(pads[i] - counted[i] for i in range(4))
    result = emit(
        "AveragePool",
        x,
        name=node.name,
        kernel_shape=node.ints("kernel"),
        strides=node.ints("strides"),
        pads=pads,
        dilations=node.ints("dilations"),
        count_include_pad=int(is_all_counted),
    )
    finish(node, emit, image_result(node, emit, result))


def _batch_normalization(node: Node, emit: Emitter) -> None:
    """ONNX has the channels at axis 1."""
    x, axis = node.input(0), node.int("axis")
    parameters = [emit.value(value) for value in node.inputs[1:]]
    if x.type.rank == 1:
        row = emit("Reshape", emit.value(x), emit.ints((1, x.shape[0]), f"{node.name}/row"))
        result = emit("BatchNormalization", row, *parameters, name=node.name, epsilon=node.float("epsilon"))
        emit.bind(emit("Reshape", result, emit.ints(x.shape, f"{node.name}/shape")), node.output)
        return
    order = [i for i in range(x.type.rank) if i != axis]
    perm = (order[0], axis, *order[1:])
    moved = emit.transposed(x, perm)
    result = emit("BatchNormalization", moved, *parameters, name=node.name, epsilon=node.float("epsilon"))
    if axis != 1:
        result = emit("Transpose", result, perm=[int(i) for i in np.argsort(perm)])
    emit.bind(result, node.output)


def _clamped_binary(node: Node, emit: Emitter) -> None:
    finish(node, emit, emit(node.op, emit.value(node.input(0)), emit.value(node.input(1)), name=node.name))


def _integer_matmul(node: Node, emit: Emitter) -> None:
    emit.bind(emit("MatMul", *map(emit.value, node.inputs), name=node.name), node.output)


def _clip(node: Node, emit: Emitter) -> None:
    x = emit.value(node.input(0))
    result = emit.clamped(x, node.float("low"), node.float("high"), node.output.dtype, name=node.name)
    if result == x:
        result = emit("Identity", x, name=node.name)
    emit.bind(result, node.output)


def _layer_normalization(node: Node, emit: Emitter) -> None:
    """ONNX demands a scale."""
    x, axis = node.input(0), node.int("axis")
    scale = node.optional_input(1)
    ones = emit.array(np.ones(x.shape[axis:], np.float32), f"{node.name}/ones") if scale is None else emit.value(scale)
    results = emit.many(
        node.op,
        emit.value(x),
        ones,
        emit.value(node.optional_input(2)),
        name=node.name,
        outputs=len(node.outputs),
        axis=axis,
        epsilon=node.float("epsilon"),
    )
    for result, output in zip(results, node.outputs, strict=True):
        emit.bind(result, output)


def _as_named(*attributes: str) -> ExportRule:
    """For operators that ONNX has under the same name, with these attributes of the same names."""

    def rule(node: Node, emit: Emitter) -> None:
        chosen: dict[str, Any] = {key: node.attributes[key] for key in attributes}
        emit.bind(emit(node.op, *map(emit.value, node.inputs), name=node.name, **chosen), node.output)

    return rule


FLOAT_RULES: Mapping[str, ExportRule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Dense": _dense,
    "MatMul": _as_named(),
    "IntegerMatMul": _integer_matmul,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Add": _clamped_binary,
    "Sub": _clamped_binary,
    "Mul": _clamped_binary,
    "Div": _clamped_binary,
    "Relu": _as_named(),
    "Clip": _clip,
    "LeakyRelu": _as_named("alpha"),
    "PRelu": _as_named(),
    "Sigmoid": _as_named(),
    "Tanh": _as_named(),
    "HardSigmoid": _as_named("alpha", "beta"),
    "HardSwish": _as_named(),
    "Gelu": _as_named("approximate"),
    "Softmax": _as_named("axis"),
    "LogSoftmax": _as_named("axis"),
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _layer_normalization,
    "LRN": _as_named("size", "alpha", "beta", "bias"),
    "Hardmax": _as_named("axis"),
    "Identity": _as_named(),
    "Transpose": _as_named("perm"),
    "Concat": _as_named("axis"),
    "Gather": _as_named("axis"),
}
