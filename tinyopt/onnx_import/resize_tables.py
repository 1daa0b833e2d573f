"""What one output index of a Resize is made of along one axis, as ONNX's reference implementation defines it."""

from __future__ import annotations

import numpy as np

from tinyopt.ir import Array

_LINEAR_REACH, _CUBIC_REACH = 1, 2  # elements on either side that a kernel reaches


def crop_positions(size_in: int, size_out: int, begin: float, end: float) -> Array:
    """Positions in the input (float32) for tf_crop_and_resize of the part from `begin` to `end`, in shares of it."""
    last = np.float32(size_in - 1)
    low, high = np.float32(begin), np.float32(end)
    if size_out == 1:
        return np.array([np.float32(0.5) * (low + high) * last], np.float32)
    steps = np.arange(size_out, dtype=np.float32)
    return np.asarray(low * last + steps * (high - low) * last / np.float32(size_out - 1), np.float32)


def linear_weights(distances: Array) -> Array:
    """The triangle that linear interpolation weighs elements with."""
    return np.asarray(np.clip(1 - np.abs(distances), 0, 1))


def cubic_weights(distances: Array, a: float) -> Array:
    """Keys' kernel with the coefficient `a`: Keys, "Cubic convolution interpolation", IEEE TASSP 29 (6), 1981."""
    x = np.abs(distances)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def taps(
    positions: Array, size_in: int, shrinking: float, cubic_a: float | None, exclude_outside: bool
) -> tuple[Array, Array]:
    """(indices int64, weights float32), both [positions, taps].

    shrinking: 1, or the scale below 1 by which an antialiasing kernel is wider. cubic_a: None for linear.
    Elements outside of the input are the nearest inside, or count nothing and the others more.
    """
    reach = _LINEAR_REACH if cubic_a is None else _CUBIC_REACH
    before = int(np.floor(-reach / shrinking)) + 1  # the first tap, counted from the element left of the position
    wide = positions.astype(np.float64)
    left = np.ceil(wide) - 1  # a position on an element lies at the right end of its interval
    steps = np.arange(before, 2 - before)
    distances = (steps[None, :] - (wide - left)[:, None]) * shrinking
    weights = linear_weights(distances) if cubic_a is None else cubic_weights(distances, cubic_a)
    weights = weights / weights.sum(axis=1, keepdims=True)
    indices = left[:, None].astype(np.int64) + steps[None, :]
    if exclude_outside:
        weights = np.where((indices < 0) | (indices >= size_in), 0, weights)
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total == 0, 1, total)
    return np.clip(indices, 0, size_in - 1), weights.astype(np.float32)
