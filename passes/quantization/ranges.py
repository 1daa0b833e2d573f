"""Ranges of activations, seen sample by sample: memory does not grow with the number of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array
from tinyopt.passes.quantization.parameters import from_range

Range = tuple[float, float]

BINS = 4096  # on each side of zero
_TINIEST_WIDTH = float(np.finfo(np.float32).tiny)  # float32 divides by it without a denormal
_NEW_SHARE = 0.01  # of a sample in the moving average
_SHRINKS = tuple(np.linspace(0.3, 1.0, 36))  # parts of the full range that are tried
_FEWEST_COUNTS = 1e-4  # stands for none in a distribution, as a share of one count


@dataclass(eq=False)
class Observer:
    """What was seen of one activation: its extremes, their moving averages, and a histogram.

    The histogram's bins have equal width and lie about zero: bin i covers [i - BINS, i - BINS + 1) * width. Where a
    value lies beyond the last bin, the width doubles and neighbours are added up, so that nothing is lost.
    """

    low: float = np.inf
    high: float = -np.inf
    average_low: float = np.nan
    average_high: float = np.nan
    width: float = 0.0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))

    def add(self, array: Array) -> None:
        """See the value for one more sample."""
        low, high = float(array.min()), float(array.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if not (np.isfinite(low) and np.isfinite(high)):
            self.low, self.high = np.nan, np.nan
            return
        is_first = np.isnan(self.average_low)
        self.average_low = low if is_first else self.average_low + _NEW_SHARE * (low - self.average_low)
        self.average_high = high if is_first else self.average_high + _NEW_SHARE * (high - self.average_high)
        self._widen(max(abs(low), abs(high)))
        if self.width == 0.0:
            self.counts[BINS] += array.size
            return
        places = array.ravel() / np.float32(self.width)
        places += np.float32(BINS)
        found = np.bincount(places.astype(np.intp), minlength=2 * BINS)  # no place is below 0
        self.counts += found[: 2 * BINS]
        self.counts[-1] += found[2 * BINS :].sum()  # the largest value may round up to the end of the last bin

    @property
    def is_finite(self) -> bool:
        """Whether all values were numbers."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    def _widen(self, largest: float) -> None:
        if self.width == 0.0:
            self.width = max(largest / BINS, _TINIEST_WIDTH) if largest > 0 else 0.0
        while largest > self.width * BINS:
            centre = self.counts.reshape(BINS, 2).sum(axis=1)
            self.counts = np.zeros(2 * BINS, np.int64)
            self.counts[BINS // 2 : BINS // 2 + BINS] = centre
            self.width *= 2


def minmax(seen: Observer) -> Range:
    """The smallest and the largest value."""
    return seen.low, seen.high


def moving_average(seen: Observer) -> Range:
    """Averages of the samples' extremes in which later samples weigh more (Jacob et al., arXiv:1712.05877, 3.1)."""
    return seen.average_low, seen.average_high


def percentile(seen: Observer, percent: float) -> Range:
    """The range that leaves out 100 - percent of the values at either end."""
    below = np.cumsum(seen.counts)
    left_out = (1.0 - percent / 100.0) * below[-1]
    first = int(np.searchsorted(below, left_out, side="right"))
    last = int(np.searchsorted(below, below[-1] - left_out, side="left"))
    return max(seen.low, (first - BINS) * seen.width), min(seen.high, (last - BINS + 1) * seen.width)


def least_squares(seen: Observer) -> Range:
    """The range with the smallest mean squared error (Nagel et al., arXiv:2106.08295, section 3.1)."""
    middles, counts = _distribution(seen)

    def error(limits: Range) -> float:
        quantization = from_range(*limits)
        rounded = quantization.dequantize(quantization.quantize(middles, "int8"))
        return float(np.sum(counts * (rounded - middles) ** 2))

    return min(_shrunk(seen), key=error)


def entropy(seen: Observer) -> Range:
    """The range whose rounded distribution diverges least from the one seen (Migacz, 8-bit inference, GTC 2017)."""
    middles, counts = _distribution(seen)

    def divergence(limits: Range) -> float:
        quantization = from_range(*limits)
        levels = quantization.quantize(middles, "int8").astype(np.intp) + 128
        inside = (middles >= limits[0]) & (middles <= limits[1])
        # Of the values within a level all are as likely after rounding; what lies beyond the range joins its ends.
        in_level = np.bincount(levels[inside], counts[inside], minlength=256)
        bins_in_level = np.bincount(levels[inside], minlength=256)
        after = np.maximum(in_level[levels[inside]] / bins_in_level[levels[inside]], _FEWEST_COUNTS)
        before = counts[inside].copy()
        before[0] += counts[middles < limits[0]].sum()
        before[-1] += counts[middles > limits[1]].sum()
        before, after = before / before.sum(), after / after.sum()
        return float(np.sum(before * np.log(before / after)))

    return min(
        (limits for limits in _shrunk(seen) if _covers_some(middles, limits)), key=divergence, default=minmax(seen)
    )


AUTO = "auto"  # for each activation the method whose range its readers suffer least from
METHODS: Mapping[str, Callable[[Observer], Range]] = {
    "minmax": minmax,
    "moving-average": moving_average,
    "percentile": partial(percentile, percent=99.995),
    "entropy": entropy,
    "mse": least_squares,
}


def candidates(seen: Observer) -> dict[str, Range]:
    """The ranges that the methods propose, by name; percentiles of several strengths."""
    found = {name: method(seen) for name, method in METHODS.items() if name != "percentile"}
    return {**found, **{f"percentile {p:g}": percentile(seen, p) for p in (99.9, 99.99, 99.995, 99.999)}}


def _distribution(seen: Observer) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The middles of the bins that hold something, and what they hold."""
    used = np.flatnonzero(seen.counts)
    middles = ((used - BINS + 0.5) * seen.width).astype(np.float32)
    return np.clip(middles, seen.low, seen.high), seen.counts[used].astype(np.float64)


def _shrunk(seen: Observer) -> Iterator[Range]:
    return ((seen.low * float(part), seen.high * float(part)) for part in _SHRINKS)


def _covers_some(middles: NDArray[np.float32], limits: Range) -> bool:
    return bool(np.any((middles >= limits[0]) & (middles <= limits[1])))
