"""Sliding windows over NHWC images: sizes, padding, and the convolutions written with them.

The arithmetic is done in the dtype of the arrays given: float32 for the float operators; integer operators pass
float64, which is exact for sums below 2^53 and much faster in numpy than integers are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tinyopt.ir import Array

NHWC = "NHWC"
NCHW = "NCHW"


def output_size(size: int, kernel: int, stride: int, pad_before: int, pad_after: int, dilation: int) -> int:
    """How many windows fit along one dimension; zero or less where the image is too small."""
    extent = dilation * (kernel - 1) + 1
    return (size + pad_before + pad_after - extent) // stride + 1


def output_plane(
    plane: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]
) -> tuple[int, int]:
    """(height, width) of what a convolution or pool gives for an image of (height, width) `plane`."""
    return (
        output_size(plane[0], kernel[0], strides[0], pads[0], pads[2], dilations[0]),
        output_size(plane[1], kernel[1], strides[1], pads[1], pads[3], dilations[1]),
    )


def transposed_output_plane(
    plane: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    output_padding: Sequence[int],
) -> tuple[int, int]:
    """(height, width) of what a transposed convolution gives for an image of (height, width) `plane`."""
    height, width = (
        strides[i] * (plane[i] - 1) + output_padding[i] + dilations[i] * (kernel[i] - 1) + 1 - pads[i] - pads[i + 2]
        for i in range(2)
    )
    return height, width


def to_nhwc(x: Array, layout: str) -> Array:
    """The array with its channels last (a view)."""
    return x if layout == NHWC else x.transpose(0, 2, 3, 1)


def from_nhwc(x: Array, layout: str) -> Array:
    """The NHWC array in `layout`."""
    return x if layout == NHWC else np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def pad_plane(x: Array, pads: Sequence[int], pad_value: float) -> Array:
    """NHWC `x` with `pads` (top, left, bottom, right) cells of `pad_value` around it; negative pads crop."""
    if not any(pads):
        return x
    top, left, bottom, right = pads
    height, width = x.shape[1], x.shape[2]
    x = x[:, max(-top, 0) : height + min(bottom, 0), max(-left, 0) : width + min(right, 0), :]
    grown = [(0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)), (0, 0)]
    return np.pad(x, grown, constant_values=pad_value)


def sliding_windows(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    pad_value: float,
) -> Array:
    """All windows of NHWC `x` as a read-only view [N, OH, OW, KH, KW, C] of the padded image."""
    x = pad_plane(x, pads, pad_value)
    extent = [dilations[i] * (kernel[i] - 1) + 1 for i in range(2)]
    windows = np.lib.stride_tricks.sliding_window_view(x, (extent[0], extent[1]), axis=(1, 2))  # N H W C KH KW
    windows = windows[:, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]]
    return windows.transpose(0, 1, 2, 4, 5, 3)


def reduce_windows(windows: Array, combine: Callable[[Array, Array], Array]) -> Array:
    """Combine the cells of each window, [N, OH, OW, KH, KW, C] to [N, OH, OW, C], cell by cell in row order."""
    _, _, _, rows, columns, _ = windows.shape
    result = windows[:, :, :, 0, 0, :]
    for cell in range(1, rows * columns):
        result = combine(result, windows[:, :, :, cell // columns, cell % columns, :])
    return np.ascontiguousarray(result)


def window_cell_counts(
    plane: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    counted_pads: Sequence[int],
    dilations: Sequence[int],
) -> Array:
    """int32 [OH, OW]: the cells of each window that lie in the image extended by `counted_pads`."""
    image = pad_plane(np.ones((1, plane[0], plane[1], 1), np.int32), counted_pads, 1)
    rest = [pads[i] - counted_pads[i] for i in range(4)]
    windows = sliding_windows(image, kernel, strides, rest, dilations, 0)
    return np.asarray(windows.sum(axis=(3, 4, 5), dtype=np.int32)[0])


def convolve(
    x: Array,
    weights: Array,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    pad_value: float,
) -> Array:
    """Convolution of NHWC `x` with OHWI `weights` ([O, KH, KW, I/group]), no bias: [N, OH, OW, O]."""
    windows = sliding_windows(x, weights.shape[1:3], strides, pads, dilations, pad_value)
    if weights.shape[3] == 1 and group > 1:
        return _convolve_depthwise(windows, weights)
    batch, height, width, rows, columns, channels = windows.shape
    per_group = channels // group
    parts = [
        windows[..., g * per_group : (g + 1) * per_group].reshape(-1, rows * columns * per_group)
        @ part.reshape(len(part), -1).T
        for g, part in enumerate(np.split(weights, group))
    ]
    return np.concatenate(parts, axis=1).reshape(batch, height, width, len(weights))


def _convolve_depthwise(windows: Array, weights: Array) -> Array:
    multiplier = len(weights) // windows.shape[5]
    if multiplier > 1:
        windows = np.repeat(windows, multiplier, axis=5)
    result = np.zeros((*windows.shape[:3], len(weights)), weights.dtype)
    for row, column in np.ndindex(*weights.shape[1:3]):
        result += windows[:, :, :, row, column, :] * weights[:, row, column, 0]
    return result


def convolve_transposed(
    x: Array,
    weights: Array,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    output_padding: Sequence[int],
) -> Array:
    """Transposed convolution of NHWC `x` with `weights` [I, KH, KW, O/group], no bias: [N, OH, OW, O]."""
    batch, height, width, channels = x.shape
    kernel = weights.shape[1:3]
    full = transposed_output_plane((height, width), kernel, strides, (0, 0, 0, 0), dilations, output_padding)
    top, left, bottom, right = pads
    # Negative pads ask for more cells at the end than the windows reach: they stay zero.
    size = (max(full[0], full[0] - bottom), max(full[1], full[1] - right))
    result = np.zeros((batch, *size, weights.shape[3] * group), x.dtype)
    by_group = x.reshape(batch, height, width, group, channels // group)
    grouped_weights = weights.reshape(group, channels // group, *weights.shape[1:])
    for row, column in np.ndindex(*kernel):
        part = np.einsum("nhwgi,gio->nhwgo", by_group, grouped_weights[:, :, row, column, :], optimize=True)
        y, x_start = row * dilations[0], column * dilations[1]
        result[:, y : y + height * strides[0] : strides[0], x_start : x_start + width * strides[1] : strides[1], :] += (
            part.reshape(batch, height, width, -1)
        )
    return pad_plane(result, (-top, -left, 0, 0), 0)[:, : full[0] - top - bottom, : full[1] - left - right, :]
