"""Resize (opsets 10, 11, 13, 18, 19) and Upsample (7, 9).

Nearest and linear become one Resize; cubic, antialiased and cropping ones a Gather or Interpolate for each axis, with
tables of what each output index is made of, and a Pad where they reach beyond the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyopt.ir import Array, Value
from tinyopt.onnx_import.builder import Builder
from tinyopt.onnx_import.elementwise import Rule
from tinyopt.onnx_import.limits import LARGEST_TENSOR_ELEMENTS
from tinyopt.onnx_import.onnx_node import OnnxNode, Refusal
from tinyopt.onnx_import.resize_tables import crop_positions, taps
from tinyopt.onnx_import.tabulated import check_table
from tinyopt.ops.resize import COORDINATE_MODES, NEAREST_MODES, RESIZE_MODES

_LARGEST_SCALE = 2**31
_CROP = "tf_crop_and_resize"


@dataclass(frozen=True)
class _Request:
    """What is asked for, for every dimension: scales, sizes, and the part of the input, in shares of it."""

    scales: tuple[float, ...]
    sizes: tuple[int, ...]
    parts: tuple[tuple[float, float], ...]
    mode: str
    coordinates: str
    nearest: str
    exclude_outside: bool
    antialias: bool
    cubic_a: float | None  # None but for cubic
    outside_value: float

    def is_idle(self, axis: int, size: int) -> bool:
        is_whole = self.coordinates != _CROP or self.parts[axis] == (0, 1)
        return self.sizes[axis] == size and math.isclose(self.scales[axis], 1) and is_whole


def _upsample(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    scales = _numbers(node.attributes.get("scales", ())) if node.opset < 9 else _numbers(node.constant(1, "scales"))
    if not scales and node.opset < 9:
        raise node.invalid("attribute 'scales' is missing")
    return [_emit(builder, x, _plain_request(node, scales, _scaled(node, x, scales), "asymmetric", "floor"))]


def _resize(builder: Builder, node: OnnxNode) -> Sequence[Value]:
    x = node.value(0)
    if node.opset < 11:
        return [_old_resize(builder, node, x, _numbers(node.constant(1, "scales")))]
    request = _request(node, x)
    if x.dtype != "float32" and request.mode != "nearest":
        raise Refusal(f"mode '{request.mode}' on {x.dtype}; tinyopt takes float32")
    if request.cubic_a is None and request.coordinates != _CROP and not request.antialias:
        return [_emit(builder, x, request)]
    return [_resized_by_axes(builder, x, request)]


def _old_resize(builder: Builder, node: OnnxNode, x: Value, scales: Sequence[float]) -> Value:
    """Resize of opset 10 as onnxruntime takes it: nearest rounds up along shrinking axes, and down along the others."""
    sizes = _scaled(node, x, scales)

    def step(value: Value, factors: Sequence[float], wanted: tuple[int, ...], nearest: str) -> Value:
        return _emit(builder, value, _plain_request(node, factors, wanted, "asymmetric", nearest))

    if node.text("mode", "nearest") != "nearest" or min(scales) >= 1 or max(scales) <= 1:
        return step(x, scales, sizes, "ceil" if min(scales) < 1 else "floor")
    down = [min(scale, 1.0) for scale in scales]
    small = step(x, down, _scaled(node, x, down), "ceil")
    return step(small, [max(scale, 1.0) for scale in scales], sizes, "floor")


def _plain_request(
    node: OnnxNode, scales: Sequence[float], sizes: tuple[int, ...], coordinates: str, nearest: str
) -> _Request:
    """Of an operator that has no other attributes than its mode."""
    mode = node.text("mode", "nearest")
    _check_known("mode", mode, RESIZE_MODES)
    parts = ((0.0, 1.0),) * len(sizes)
    return _Request(tuple(scales), sizes, parts, mode, coordinates, nearest, False, False, None, 0.0)


def _request(node: OnnxNode, x: Value) -> _Request:
    rank = x.type.rank
    mode = node.text("mode", "nearest")
    coordinates = node.text("coordinate_transformation_mode", "half_pixel")
    nearest = node.text("nearest_mode", "round_prefer_floor")
    _check_known("mode", mode, (*RESIZE_MODES, "cubic"))
    _check_known("coordinate_transformation_mode", coordinates, (*COORDINATE_MODES, _CROP))
    _check_known("nearest_mode", nearest, tuple(NEAREST_MODES))
    antialias = bool(node.integer("antialias", 0))
    if antialias and mode == "nearest":
        raise node.invalid("antialias does not go with mode 'nearest'")
    axes = [node.axis(axis, rank) for axis in node.integers("axes", tuple(range(rank)))]
    if len(set(axes)) != len(axes):
        raise node.invalid(f"axes {axes} name a dimension twice")
    scales, sizes = _scales_and_sizes(node, x, axes)
    return _Request(
        scales,
        sizes,
        _parts(node, rank, axes) if coordinates == _CROP else ((0.0, 1.0),) * rank,
        mode,
        coordinates,
        nearest,
        bool(node.integer("exclude_outside", 0)),
        antialias,
        node.real("cubic_coeff_a", -0.75) if mode == "cubic" else None,
        node.real("extrapolation_value", 0.0),
    )


def _check_known(what: str, chosen: str, known: tuple[str, ...]) -> None:
    if chosen not in known:
        raise Refusal(f"{what} '{chosen}'; tinyopt takes {', '.join(known)}")


def _parts(node: OnnxNode, rank: int, axes: Sequence[int]) -> tuple[tuple[float, float], ...]:
    given = node.optional_constant(1, "region of interest")
    if given is None or not given.size:
        raise node.invalid(f"{_CROP} without a region of interest")
    numbers = _fitting(node, given, 2 * len(axes))
    parts = [(0.0, 1.0)] * rank
    for axis, begin, end in zip(axes, numbers[: len(axes)], numbers[len(axes) :], strict=True):
        parts[axis] = (begin, end)
    return tuple(parts)


def _scales_and_sizes(node: OnnxNode, x: Value, axes: Sequence[int]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Both for every dimension, from whichever of the two inputs is given."""
    scales_given = node.optional_constant(2, "scales")
    sizes_given = node.optional_constant(3, "sizes")
    rank = x.type.rank
    if sizes_given is not None and sizes_given.size:
        return _from_sizes(node, x, axes, _fitting(node, sizes_given, len(axes)))
    if scales_given is None or not scales_given.size:
        raise node.invalid("neither scales nor sizes are given")
    scales = [1.0] * rank
    for axis, scale in zip(axes, _fitting(node, scales_given, len(axes)), strict=True):
        scales[axis] = scale
    sizes = _scaled(node, x, scales)
    coordinates = node.text("coordinate_transformation_mode", "half_pixel")
    is_whole = all(math.isclose(n * s, new, rel_tol=1e-6) for n, s, new in zip(x.shape, scales, sizes, strict=True))
    if coordinates in (_CROP, "align_corners") and not is_whole:
        raise Refusal(
            f"{coordinates} with scales {tuple(scales)} of shape {x.shape}, which give no whole sizes: ONNX and its"
            " runtimes do not agree on what that means; export the model with sizes instead of scales"
        )
    return tuple(scales), sizes


def _from_sizes(
    node: OnnxNode, x: Value, axes: Sequence[int], given: Sequence[float]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    scales, sizes = [1.0] * x.type.rank, list(x.shape)
    if not all(1 <= size < _LARGEST_SCALE for size in given):
        raise node.invalid(f"sizes {tuple(given)} are not all positive and below {_LARGEST_SCALE}")
    for axis, size in zip(axes, given, strict=True):
        sizes[axis] = int(size)
        scales[axis] = float(np.float32(size) / np.float32(x.shape[axis]))
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return tuple(scales), tuple(sizes)
    _check_known("keep_aspect_ratio_policy", policy, ("stretch", "not_larger", "not_smaller"))
    common = (min if policy == "not_larger" else max)(scales[axis] for axis in axes)
    for axis in axes:
        scales[axis], sizes[axis] = common, max(int(np.float32(common) * np.float32(x.shape[axis]) + 0.5), 1)
    return tuple(scales), tuple(sizes)


def _fitting(node: OnnxNode, array: Array, count: int) -> tuple[float, ...]:
    if array.size != count:
        raise node.invalid(f"{array.size} scales, sizes or corners are given, not {count}")
    numbers = _numbers(array)
    if not all(math.isfinite(number) for number in numbers):
        raise node.invalid(f"{numbers} are not all finite")
    return numbers


def _numbers(array: object) -> tuple[float, ...]:
    return tuple(float(number) for number in np.asarray(array).reshape(-1))


def _scaled(node: OnnxNode, x: Value, scales: Sequence[float]) -> tuple[int, ...]:
    if len(scales) != x.type.rank:
        raise node.invalid(f"{len(scales)} scales are given for shape {x.shape}")
    if not all(0 < scale < _LARGEST_SCALE for scale in scales):
        raise node.invalid(f"scales {tuple(scales)} are not all positive and below {_LARGEST_SCALE}")
    return tuple(int(np.float32(size) * np.float32(scale)) for size, scale in zip(x.shape, scales, strict=True))


def _emit(builder: Builder, x: Value, request: _Request) -> Value:
    if request.mode == "linear" and x.dtype != "float32":
        raise Refusal(f"mode 'linear' on {x.dtype}; tinyopt takes float32")
    _check_sizes(x, request)
    return builder.emit(
        "Resize",
        [x],
        {
            "mode": request.mode,
            "scales": request.scales,
            "sizes": request.sizes,
            "coordinate_mode": request.coordinates,
            "nearest_mode": request.nearest,
        },
    )


def _check_sizes(x: Value, request: _Request) -> None:
    """Raise Refusal where the table of what each output index reads would be too large."""
    for axis, (old, new) in enumerate(zip(x.shape, request.sizes, strict=True)):
        if old != new:
            check_table(new, f"axis {axis} resized from {old} to {new}")


def _resized_by_axes(builder: Builder, x: Value, request: _Request) -> Value:
    """One axis after the other, those first that shrink most."""
    if math.prod(request.sizes) > LARGEST_TENSOR_ELEMENTS or min(request.sizes) < 1:
        raise Refusal(f"its output of shape {request.sizes} is empty, or larger than tinyopt takes")
    _check_sizes(x, request)
    begins, ends = [0] * x.type.rank, [0] * x.type.rank
    result = x
    for axis in sorted(range(x.type.rank), key=lambda axis: request.scales[axis]):
        if request.is_idle(axis, x.shape[axis]):
            continue
        positions = _positions(request, axis, x.shape[axis])
        inside = np.flatnonzero((positions >= 0) & (positions <= x.shape[axis] - 1))
        if request.coordinates == _CROP:
            if not inside.size:
                raise Refusal("its region of interest lies outside of the image")
            begins[axis], ends[axis] = int(inside[0]), len(positions) - 1 - int(inside[-1])
            positions = positions[inside[0] : inside[-1] + 1]
        result = _resized_axis(builder, result, request, axis, positions)
    if any((*begins, *ends)):
        value = request.outside_value - (128 if x in builder.unsigned else 0)
        result = builder.emit("Pad", [result], {"pads": (*begins, *ends), "mode": "constant", "value": value})
    return builder.emit("Identity", [result]) if result is x else result


def _positions(request: _Request, axis: int, size_in: int) -> Array:
    """float32: where in the input each output index lies."""
    size_out = request.sizes[axis]
    if request.coordinates == _CROP:
        return crop_positions(size_in, size_out, *request.parts[axis])
    steps, scale = np.arange(size_out, dtype=np.float32), np.float32(request.scales[axis])
    return np.asarray(COORDINATE_MODES[request.coordinates](steps, scale, size_in, size_out), np.float32)


def _resized_axis(builder: Builder, x: Value, request: _Request, axis: int, positions: Array) -> Value:
    size_in = x.shape[axis]
    if request.mode == "nearest":
        rounded = np.clip(NEAREST_MODES[request.nearest](positions), 0, size_in - 1).astype(np.int64)
        return builder.emit("Gather", [x, builder.constant(rounded, "indices")], {"axis": axis})
    shrinking = min(request.scales[axis], 1.0) if request.antialias else 1.0
    check_table(round(len(positions) * (2 + 4 / shrinking)), f"interpolation along a dimension of {size_in}")
    indices, weights = taps(positions, size_in, shrinking, request.cubic_a, request.exclude_outside)
    tables = [builder.constant(indices, "indices"), builder.constant(weights, "weights")]
    return builder.emit("Interpolate", [x, *tables], {"axis": axis})


RESIZE_RULES: dict[tuple[str, str], Rule] = {("", "Resize"): _resize, ("", "Upsample"): _upsample}
