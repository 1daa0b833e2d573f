"""MaxPool, AveragePool, LpPool and their global forms, 1-D to 3-D."""

from __future__ import annotations

from collections.abc import Sequence

from tinyopt.ir import Attribute, Value
from tinyopt.onnx_import.builder import UNCLAMPED, Builder
from tinyopt.onnx_import.onnx_node import OnnxNode
from tinyopt.onnx_import.spatial import (
    lifted,
    lowered,
    nd_attributes,
    nd_window,
    spatial_rank,
    window_of,
    with_auto_pad,
    with_ceil_mode,
)
from tinyopt.onnx_import.volumes import pool_volume


def import_max_pool(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    if x.dtype in ("float32", "int8", "int16") and not node.is_used(1):
        return [_pool(builder, node, x, "MaxPool")]
    attributes = _nd_window(node, x)
    attributes["storage_order"] = node.integer("storage_order", 0)
    count = 2 if node.is_used(1) else 1
    results = builder.emit_many("MaxPoolNd", [x], attributes, count, x.quantization)
    for place in results[1:]:
        place.quantization = None
    if x in builder.unsigned:
        builder.unsigned.add(results[0])
    return results


def import_lp_pool(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    attributes = _nd_window(node, x)
    return [builder.emit("LpPoolNd", [x], {**attributes, "p": _norm(node)})]


def import_global_lp_pool(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    rank = spatial_rank(node, x)
    ones, zeros = (1,) * rank, (0,) * (2 * rank)
    attributes: dict[str, Attribute] = {"kernel": x.shape[2:], "strides": ones, "dilations": ones, "pads": zeros}
    return [builder.emit("LpPoolNd", [x], {**attributes, "p": _norm(node)})]


def _norm(node: OnnxNode) -> int:
    p = node.integer("p", 2)
    if p < 1:
        raise node.invalid(f"p is {p}")
    return p


def _nd_window(node: OnnxNode, x: Value) -> dict[str, Attribute]:
    """The attributes of a pool of any number of dimensions."""
    kernel = tuple(int(size) for size in node.required("kernel_shape"))
    if len(kernel) != spatial_rank(node, x):
        raise node.invalid(f"kernel_shape {kernel} does not fit input '{x.name}' of shape {x.shape}")
    window = nd_window(node, kernel, x.shape[2:])
    if node.integer("ceil_mode", 0):
        window = with_ceil_mode(window, x.shape[2:])
    return {**nd_attributes(window), "kernel": kernel}


def import_average_pool(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [average_pool(builder, node, node.value(0))]


def average_pool(builder: Builder, node: OnnxNode, x: Value) -> Value:
    """An AveragePool with the attributes of `node`."""
    return _pool(builder, node, x, "AveragePool")


def import_global_max_pool(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [_global_pool(builder, node, node.value(0), "MaxPool", {})]


def import_global_average_pool(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    return [global_average_pool(builder, node, node.value(0))]


def global_average_pool(builder: Builder, node: OnnxNode, x: Value) -> Value:
    """An AveragePool over the whole image."""
    return _global_pool(builder, node, x, "AveragePool", {"counted_pads": (0, 0, 0, 0), **UNCLAMPED})


def _pool(builder: Builder, node: OnnxNode, x: Value, op: str) -> Value:
    if x.type.rank == 5:
        return pool_volume(builder, node, x, lambda part, planes: _pool(builder, part, planes, op))
    rank = spatial_rank(node, x)
    kernel = tuple(int(size) for size in node.required("kernel_shape"))
    if len(kernel) != rank:
        raise node.invalid(f"kernel_shape {kernel} does not fit input '{x.name}' of shape {x.shape}")
    image = lifted(builder, x)
    window = with_auto_pad(node, window_of(node, kernel), image.shape[2:])
    counted = window.pads if node.integer("count_include_pad", 0) else (0, 0, 0, 0)
    if node.integer("ceil_mode", 0):
        window = with_ceil_mode(window, image.shape[2:])
    attributes: dict[str, Attribute] = {**window.attributes(), "kernel": window.kernel}
    if op == "AveragePool":
        attributes.update({"counted_pads": counted, **UNCLAMPED})
    return lowered(builder, builder.emit(op, [image], attributes), rank)


def _global_pool(builder: Builder, node: OnnxNode, x: Value, op: str, more: dict[str, Attribute]) -> Value:
    if x.type.rank == 5:
        image = builder.reshape(x, (*x.shape[:3], x.shape[3] * x.shape[4]))
        return builder.reshape(_global_pool(builder, node, image, op, more), (*x.shape[:2], 1, 1, 1))
    rank = spatial_rank(node, x)
    image = lifted(builder, x)
    attributes: dict[str, Attribute] = {
        "kernel": image.shape[2:],
        "strides": (1, 1),
        "pads": (0, 0, 0, 0),
        "dilations": (1, 1),
        "layout": "NCHW",
        **more,
    }
    return lowered(builder, builder.emit(op, [image], attributes), rank)
