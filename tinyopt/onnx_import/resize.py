"""Resize (opsets 10, 11, 13, 18, 19) and Upsample (7, 9)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array, Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.ops.resize import COORDINATE_MODES, NEAREST_MODES, RESIZE_MODES

_LARGEST_SCALE = 2**31


def _upsample(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    scales = _numbers(node.attributes.get("scales", ())) if node.opset < 9 else _numbers(node.constant(1, "scales"))
    if not scales and node.opset < 9:
        raise node.invalid("attribute 'scales' is missing")
    return [_emit(builder, node, x, scales, _scaled(node, x, scales), "asymmetric", "floor")]


def _resize(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    if node.opset < 11:
        scales = _numbers(node.constant(1, "scales"))
        return [_old_resize(builder, node, x, scales)]
    _check_options(node)
    scales, sizes = _scales_and_sizes(node, x)
    coordinates = node.text("coordinate_transformation_mode", "half_pixel")
    return [_emit(builder, node, x, scales, sizes, coordinates, node.text("nearest_mode", "round_prefer_floor"))]


def _old_resize(builder: Builder, node: OnnxNode, x: Value, scales: Sequence[float]) -> Value:
    """Resize of opset 10 as onnxruntime takes it: nearest rounds up along shrinking axes, and down along the others."""
    sizes = _scaled(node, x, scales)
    if node.text("mode", "nearest") != "nearest" or min(scales) >= 1 or max(scales) <= 1:
        return _emit(builder, node, x, scales, sizes, "asymmetric", "ceil" if min(scales) < 1 else "floor")
    down = [min(scale, 1.0) for scale in scales]
    small = _emit(builder, node, x, down, _scaled(node, x, down), "asymmetric", "ceil")
    return _emit(builder, node, small, [max(scale, 1.0) for scale in scales], sizes, "asymmetric", "floor")


def _check_options(node: OnnxNode) -> None:
    if node.integer("antialias", 0):
        raise Refusal("antialias")
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        raise Refusal(f"keep_aspect_ratio_policy '{policy}'; tinyopt takes stretch")
    if node.integer("exclude_outside", 0):
        raise Refusal("exclude_outside")


def _scales_and_sizes(node: OnnxNode, x: Value) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Both for every dimension, from whichever of the two inputs is given."""
    scales_given = node.optional_constant(2, "scales")
    sizes_given = node.optional_constant(3, "sizes")
    rank = x.type.rank
    axes = [node.axis(axis, rank) for axis in node.integers("axes", tuple(range(rank)))]
    if sizes_given is not None and sizes_given.size:
        sizes = list(x.shape)
        for axis, size in zip(axes, _fitting(node, sizes_given, len(axes)), strict=True):
            sizes[axis] = int(size)
        return tuple(float(np.float32(sizes[i]) / np.float32(x.shape[i])) for i in range(rank)), tuple(sizes)
    if scales_given is None or not scales_given.size:
        raise node.invalid("neither scales nor sizes are given")
    scales = [1.0] * rank
    for axis, scale in zip(axes, _fitting(node, scales_given, len(axes)), strict=True):
        scales[axis] = scale
    return tuple(scales), _scaled(node, x, scales)


def _fitting(node: OnnxNode, array: Array, count: int) -> tuple[float, ...]:
    if array.size != count:
        raise node.invalid(f"{array.size} scales or sizes are given for {count} dimensions")
    return _numbers(array)


def _numbers(array: object) -> tuple[float, ...]:
    return tuple(float(number) for number in np.asarray(array).reshape(-1))


def _scaled(node: OnnxNode, x: Value, scales: Sequence[float]) -> tuple[int, ...]:
    if len(scales) != x.type.rank:
        raise node.invalid(f"{len(scales)} scales are given for shape {x.shape}")
    if not all(0 < scale < _LARGEST_SCALE for scale in scales):
        raise node.invalid(f"scales {tuple(scales)} are not all positive and below {_LARGEST_SCALE}")
    return tuple(int(np.float32(size) * np.float32(scale)) for size, scale in zip(x.shape, scales, strict=True))


def _emit(
    builder: Builder,
    node: OnnxNode,
    x: Value,
    scales: Sequence[float],
    sizes: tuple[int, ...],
    coordinates: str,
    nearest: str,
) -> Value:
    mode = node.text("mode", "nearest")
    for what, chosen, known in (
        ("mode", mode, RESIZE_MODES),
        ("coordinate_transformation_mode", coordinates, tuple(COORDINATE_MODES)),
        ("nearest_mode", nearest, tuple(NEAREST_MODES)),
    ):
        if chosen not in known:
            raise Refusal(f"{what} '{chosen}'; tinyopt takes {', '.join(known)}")
    if mode == "linear" and x.dtype != "float32":
        raise Refusal(f"mode 'linear' on {x.dtype}; tinyopt takes float32")
    return builder.emit(
        "Resize",
        [x],
        {
            "mode": mode,
            "scales": tuple(scales),
            "sizes": sizes,
            "coordinate_mode": coordinates,
            "nearest_mode": nearest,
        },
    )


RESIZE_RULES: dict[tuple[str, str], Rule] = {("", "Resize"): _resize, ("", "Upsample"): _upsample}
