"""GridSample: an image read at positions that are computed, by the nearest element, linearly or by cubic convolution.

A position counts from -1 to 1 along each axis, the last axis first. float32 throughout. A position that is infinite or
no number is taken as one far outside; nothing outside of the image is read. (Jaderberg et al., arXiv:1506.02025.)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from tinyopt.ir import Array, Node, TensorType
from tinyopt.ops.record import opaque_float_operator
from tinyopt.ops.rules import present, require, require_float32

GRID_MODES: dict[str, tuple[int, int]] = {"nearest": (0, 1), "linear": (0, 2), "cubic": (-1, 3)}
"""The first tap of each mode, counted from the element left of the position, and the end of the taps."""
GRID_PADDINGS = ("zeros", "border", "reflection")
CUBIC_A = -0.75
FAR = 4  # elements beyond either end: from there on every tap is outside


def _infer(node: Node) -> list[TensorType]:
    x, grid = node.input(0), node.input(1)
    require_float32(node)
    dims = x.type.rank - 2
    require(
        dims in (2, 3) and grid.type.rank == dims + 2 and grid.shape[-1] == dims and grid.shape[0] == x.shape[0],
        node,
        f"a grid of shape {grid.shape} does not fit an image of shape {x.shape}",
    )
    require(node.str("mode") in GRID_MODES, node, f"mode {node.str('mode')!r} is unknown")
    require(node.str("mode") != "cubic" or dims == 2, node, "cubic interpolation takes images of two dimensions")
    require(node.str("padding") in GRID_PADDINGS, node, f"padding {node.str('padding')!r} is unknown")
    return [TensorType("float32", (*x.shape[:2], *grid.shape[1:-1]))]


def _position(given: Array, size: int, is_aligned: bool) -> Array:
    one, half = np.float32(1), np.float32(0.5)
    if is_aligned:
        return (given + one) * half * np.float32(size - 1)
    return ((given + one) * np.float32(size) - one) * half


def borders(size: int, is_aligned: bool) -> tuple[float, float]:
    """Where a reflected image ends."""
    return (0.0, size - 1.0) if is_aligned else (-0.5, size - 0.5)


def _reflected(position: Array, size: int, is_aligned: bool) -> Array:
    low, high = (np.float32(border) for border in borders(size, is_aligned))
    span = high - low
    if span == 0:
        return np.zeros_like(position)
    distance = np.abs(position - low)
    turns = np.floor(distance / span)
    rest = distance - turns * span
    is_forward = turns - np.float32(2) * np.floor(turns * np.float32(0.5)) == 0
    return np.where(is_forward, low + rest, high - rest)


def _placed(position: Array, size: int, padding: str, is_aligned: bool) -> Array:
    """The position inside of the image, or for zeros not farther outside than `FAR`."""
    if padding == "reflection":
        low, high = borders(size, is_aligned)
        is_outside = (position < np.float32(low)) | (position > np.float32(high))
        position = np.where(is_outside, _reflected(position, size, is_aligned), position)
    elif padding == "border":
        low, high = borders(size, is_aligned)
        is_outside = (position < np.float32(low)) | (position > np.float32(high))
        position = np.where(is_outside, np.clip(position, 0, np.float32(size - 1)), position)
    bounded = np.where(position > np.float32(-FAR), position, np.float32(-FAR))  # NaN is no larger than anything
    return np.minimum(bounded, np.float32(size - 1 + FAR)).astype(np.float32)


def _weights(mode: str, rest: Array) -> list[Array]:
    """One for each tap; `rest` is how far the position lies behind the element left of it."""
    one, a = np.float32(1), np.float32(CUBIC_A)
    if mode == "nearest":
        return [np.ones_like(rest)]
    if mode == "linear":
        return [one - rest, rest]

    def far(x: Array) -> Array:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    def near(x: Array) -> Array:
        return ((a + 2) * x - (a + 3)) * x * x + one

    return [far(rest + one), near(rest), near(one - rest), far(np.float32(2) - rest)]


def _taps(node: Node, given: Array, size: int) -> list[tuple[Array, Array, Array]]:
    """For each tap along one axis: index inside the image, whether it counts, weight."""
    mode, padding, is_aligned = node.str("mode"), node.str("padding"), bool(node.int("align_corners"))
    position = _position(given, size, is_aligned)
    if mode == "nearest":
        position = np.rint(position)
    position = _placed(position, size, padding, is_aligned)
    left = np.trunc(position) if mode == "nearest" else np.floor(position)
    taps: list[tuple[Array, Array, Array]] = []
    first, end = GRID_MODES[mode]
    for step, weight in zip(range(first, end), _weights(mode, position - left), strict=True):
        index = left + np.float32(step)
        counts = (index >= 0) & (index <= size - 1) if padding == "zeros" else np.ones(index.shape, bool)
        if padding == "reflection":
            low, high = borders(size, is_aligned)
            index = np.where((index < low) | (index > high), np.trunc(_reflected(index, size, is_aligned)), index)
        taps.append((np.clip(index, 0, size - 1).astype(np.int64), counts, weight))
    return taps


def _evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, grid = present(arrays[0]), present(arrays[1])
    dims = x.ndim - 2
    with np.errstate(all="ignore"):  # a position may be infinite
        axes = [_taps(node, grid[..., dims - 1 - axis], x.shape[2 + axis]) for axis in range(dims)]
    batch = np.arange(x.shape[0]).reshape(-1, *(1,) * dims)
    result = np.zeros((x.shape[0], *grid.shape[1:-1], x.shape[1]), np.float32)
    for combination in itertools.product(*axes):
        read = np.moveaxis(x, 1, -1)[(batch, *(index for index, _, _ in combination))]
        counts = np.logical_and.reduce([counts for _, counts, _ in combination])
        weight = np.prod([weight for _, _, weight in combination], axis=0)
        result += np.where(counts[..., None], read, 0) * weight[..., None]
    return [np.ascontiguousarray(np.moveaxis(result, -1, 1))]


def _macs(node: Node) -> int:
    first, end = GRID_MODES[node.str("mode")]
    return int(node.output.type.elements * (end - first) ** (node.input(0).type.rank - 2))


GRID_SAMPLE_OPERATORS = (opaque_float_operator("GridSample", _infer, _evaluate, _macs),)
