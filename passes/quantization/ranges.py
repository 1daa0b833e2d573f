"""Ranges of activations, seen sample by sample: memory does not grow with the number of samples."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array

_TINIEST_WIDTH = float(np.finfo(np.float32).tiny)  # float32 divides by it without a denormal
BINS = 4096  # on each side of zero


class RangeObserver(Protocol):
    """Collects one activation's values."""

    def add(self, array: Array) -> None: ...

    def limits(self) -> tuple[float, float]: ...


class MinMaxObserver:
    """The smallest and the largest value."""

    def __init__(self) -> None:
        self._low = np.inf
        self._high = -np.inf

    def add(self, array: Array) -> None:
        self._low = min(self._low, float(array.min()))
        self._high = max(self._high, float(array.max()))

    def limits(self) -> tuple[float, float]:
        return self._low, self._high


class PercentileObserver:
    """The range that leaves out a given share of the values at either end.

    A histogram of bins of equal width about zero. Where a value lies beyond the last bin, the width doubles and
    neighbours are added up, so that nothing that was counted is lost.
    """

    def __init__(self, percentile: float) -> None:
        self._outside = 1.0 - percentile / 100.0
        self._whole = MinMaxObserver()
        self._width = 0.0
        self._counts: NDArray[np.int64] = np.zeros(2 * BINS, np.int64)  # bin i covers [i - BINS, i - BINS + 1) * width

    def add(self, array: Array) -> None:
        self._whole.add(array)
        largest = float(np.max(np.abs(array)))
        if not np.isfinite(largest):
            return
        self._widen(largest)
        if self._width == 0.0:
            self._counts[BINS] += array.size
            return
        bins = (array.ravel() / np.float32(self._width) + np.float32(BINS)).astype(np.intp)  # none is below 0
        self._counts += np.bincount(np.minimum(bins, 2 * BINS - 1), minlength=2 * BINS)

    def limits(self) -> tuple[float, float]:
        low, high = self._whole.limits()
        if not (np.isfinite(low) and np.isfinite(high)):
            return low, high
        below = np.cumsum(self._counts)
        left_out = self._outside * below[-1]
        first = int(np.searchsorted(below, left_out, side="right"))
        last = int(np.searchsorted(below, below[-1] - left_out, side="left"))
        return max(low, (first - BINS) * self._width), min(high, (last - BINS + 1) * self._width)

    def _widen(self, largest: float) -> None:
        if self._width == 0.0:
            self._width = max(largest / BINS, _TINIEST_WIDTH) if largest > 0 else 0.0
        while largest > self._width * BINS:
            centre = self._counts.reshape(BINS, 2).sum(axis=1)
            self._counts = np.zeros(2 * BINS, np.int64)
            self._counts[BINS // 2 : BINS // 2 + BINS] = centre
            self._width *= 2
