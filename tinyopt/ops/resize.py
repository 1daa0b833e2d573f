"""Resize by nearest neighbour (any dtype) or linear interpolation (float32), one axis after the other.

Each output index stands for a position in the input, given by `coordinate_mode`; kernels read the same tables
(`nearest_indices`, `linear_taps`). Positions are computed in float32, as onnxruntime does, so that ties fall alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.record import ChannelRelation, Operator, QuantizationRule
from tinyopt.ops.rules import one_per_output_element, present, require

_Position = Callable[[Array, np.float32, int, int], Array]


def _half_pixel(index: Array, scale: np.float32, size_in: int, size_out: int) -> Array:
    del size_in, size_out
    return (index + np.float32(0.5)) / scale - np.float32(0.5)


def _pytorch_half_pixel(index: Array, scale: np.float32, size_in: int, size_out: int) -> Array:
    return _half_pixel(index, scale, size_in, size_out) if size_out > 1 else np.zeros_like(index)


def _half_pixel_symmetric(index: Array, scale: np.float32, size_in: int, size_out: int) -> Array:
    adjustment = np.float32(size_out) / (scale * np.float32(size_in))
    offset = np.float32(size_in / 2) * (np.float32(1) - adjustment)
    return offset + _half_pixel(index, scale, size_in, size_out)


def _align_corners(index: Array, scale: np.float32, size_in: int, size_out: int) -> Array:
    del scale
    if size_out == 1:
        return np.zeros_like(index)
    return index * np.float32(size_in - 1) / np.float32(size_out - 1)


def _asymmetric(index: Array, scale: np.float32, size_in: int, size_out: int) -> Array:
    del size_in, size_out
    return index / scale


def _tf_half_pixel(index: Array, scale: np.float32, size_in: int, size_out: int) -> Array:
    del size_in, size_out
    return (index + np.float32(0.5)) / scale


COORDINATE_MODES: dict[str, _Position] = {
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "tf_half_pixel_for_nn": _tf_half_pixel,
}


def _half_up(position: Array) -> Array:
    return np.floor(position + 0.5)


def _half_down(position: Array) -> Array:
    return np.ceil(position - 0.5)


NEAREST_MODES: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": _half_down,
    "round_prefer_ceil": _half_up,
    "floor": np.floor,
    "ceil": np.ceil,
}

RESIZE_MODES = ("nearest", "linear")


def _scales(node: Node) -> tuple[float, ...]:
    scales = node.attributes["scales"]
    assert isinstance(scales, tuple)
    return tuple(float(scale) for scale in scales)


def resized_axes(node: Node) -> tuple[int, ...]:
    """The axes along which a Resize does something."""
    shape, sizes, scales = node.input(0).shape, node.ints("sizes"), _scales(node)
    return tuple(axis for axis in range(len(shape)) if sizes[axis] != shape[axis] or scales[axis] != 1)


def _positions(node: Node, axis: int) -> Array:
    size_in, size_out = node.input(0).shape[axis], node.ints("sizes")[axis]
    position = COORDINATE_MODES[node.str("coordinate_mode")]
    return position(np.arange(size_out, dtype=np.float32), np.float32(_scales(node)[axis]), size_in, size_out)


def nearest_indices(node: Node, axis: int) -> Array:
    """int64 [size]: which input index each output index along `axis` takes."""
    rounded = NEAREST_MODES[node.str("nearest_mode")](_positions(node, axis))
    return np.clip(rounded, 0, node.input(0).shape[axis] - 1).astype(np.int64)


def linear_taps(node: Node, axis: int) -> tuple[Array, Array, Array]:
    """For each output index along `axis`: lower and upper input index (int64), weight of the upper (float32)."""
    last = node.input(0).shape[axis] - 1
    positions = np.clip(_positions(node, axis), 0, last).astype(np.float32)
    low = np.floor(positions).astype(np.int64)
    return low, np.minimum(low + 1, last), (positions - low).astype(np.float32)


def _infer(node: Node) -> list[TensorType]:
    x, sizes = node.input(0), node.ints("sizes")
    require(len(sizes) == len(_scales(node)) == x.type.rank, node, f"sizes {sizes} do not fit shape {x.shape}")
    require(
        min(sizes) > 0 and min(_scales(node)) > 0, node, f"sizes {sizes} and scales {_scales(node)} must be positive"
    )
    for key, known in (
        ("mode", RESIZE_MODES),
        ("coordinate_mode", tuple(COORDINATE_MODES)),
        ("nearest_mode", tuple(NEAREST_MODES)),
    ):
        require(node.str(key) in known, node, f"{key} {node.str(key)!r} is none of {', '.join(known)}")
    require(node.str("mode") == "nearest" or x.dtype == "float32", node, f"mode 'linear' takes float32, not {x.dtype}")
    return [TensorType(x.dtype, sizes)]


def _evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    result = present(arrays[0])
    for axis in resized_axes(node):
        if node.str("mode") == "nearest":
            result = result.take(nearest_indices(node, axis), axis=axis)
        else:
            low, high, weight = linear_taps(node, axis)
            weight = weight.reshape([-1 if i == axis else 1 for i in range(result.ndim)])
            result = result.take(low, axis=axis) * (1 - weight) + result.take(high, axis=axis) * weight
    return [result]


RESIZE_OPERATORS = (
    Operator(
        name="Resize",
        infer=_infer,
        evaluate=_evaluate,
        macs=one_per_output_element,
        channels=ChannelRelation.PER_CHANNEL,
        quantization=QuantizationRule.SAME_AS_INPUT,
        is_elementwise=False,
    ),
)
