"""How convolutions and pools of any number of dimensions are written in ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import TensorProto

from tinyopt.ir import Node
from tinyopt.onnx_export.emitter import Emitter, ExportRule


def _window(node: Node) -> dict[str, Any]:
    return {key: node.ints(key) for key in ("strides", "pads", "dilations")}


def _conv(node: Node, emit: Emitter) -> None:
    inputs = [emit.value(value) for value in node.inputs]
    emit.bind(emit("Conv", *inputs, name=node.name, group=node.int("group"), **_window(node)), node.output)


def _integer_conv(node: Node, emit: Emitter) -> None:
    """Integers as float32: ONNX has no convolution of int32. Sums below 2^24 are exact."""
    inputs = ["" if value is None else emit("Cast", emit.value(value), to=TensorProto.FLOAT) for value in node.inputs]
    result = emit("Conv", *inputs, name=node.name, group=node.int("group"), **_window(node))
    emit.bind(emit("Cast", result, to=TensorProto.INT32), node.output)


def _conv_transpose(node: Node, emit: Emitter) -> None:
    extra = {"group": node.int("group"), "output_padding": node.ints("output_padding")}
    inputs = [emit.value(value) for value in node.inputs]
    emit.bind(emit("ConvTranspose", *inputs, name=node.name, **extra, **_window(node)), node.output)


def _max_pool(node: Node, emit: Emitter) -> None:
    results = emit.many(
        "MaxPool",
        emit.value(node.input(0)),
        name=node.name,
        outputs=len(node.outputs),
        kernel_shape=node.ints("kernel"),
        storage_order=node.int("storage_order"),
        **_window(node),
    )
    for result, output in zip(results, node.outputs, strict=True):
        emit.bind(result, output)


def _lp_pool(node: Node, emit: Emitter) -> None:
    kernel = {"kernel_shape": node.ints("kernel"), "p": node.int("p")}
    emit.bind(emit("LpPool", emit.value(node.input(0)), name=node.name, **kernel, **_window(node)), node.output)


ND_RULES: Mapping[str, ExportRule] = {
    "ConvNd": _conv,
    "IntegerConvNd": _integer_conv,
    "ConvTransposeNd": _conv_transpose,
    "MaxPoolNd": _max_pool,
    "LpPoolNd": _lp_pool,
}
