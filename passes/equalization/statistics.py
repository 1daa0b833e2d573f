"""What calibration samples say of each channel of a tensor, seen sample by sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Graph, Quantization, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.passes.quantization.parameters import from_range
from tinyopt.samples import Sample

_SMALLEST = 1e-300
_KEPT_NUMBERS = 2**15  # of each tensor: enough to place a range, and a hundred tensors take 13 MB
_CLIPPING = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # shares of the full range that are tried


@dataclass
class ChannelStatistics:
    """The channels of one tensor along `axis`: extremes, typical peaks, and some positions with all their channels."""

    axis: int
    channels: int
    sample_count: int
    low: NDArray[np.float64] = field(init=False)
    high: NDArray[np.float64] = field(init=False)
    _squared_peaks: NDArray[np.float64] = field(init=False)
    _sums: NDArray[np.float64] = field(init=False)
    _squares: NDArray[np.float64] = field(init=False)
    _count: int = 0
    _positions: list[NDArray[np.float32]] = field(default_factory=list[NDArray[np.float32]])

    def __post_init__(self) -> None:
        self.low = np.zeros(self.channels)
        self.high = np.zeros(self.channels)
        self._squared_peaks = np.zeros(self.channels)
        self._sums = np.zeros(self.channels)
        self._squares = np.zeros(self.channels)

    def add(self, array: Array) -> None:
        """See the tensor of one sample."""
        rows = np.moveaxis(array, self.axis, -1).reshape(-1, self.channels)
        low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        with np.errstate(over="ignore", invalid="ignore"):  # `is_finite` tells of it
            self._squared_peaks += np.maximum(-low, high) ** 2
            self._sums += rows.sum(axis=0, dtype=np.float64)
            self._squares += np.square(rows, dtype=np.float64).sum(axis=0)
        self._count += len(rows)
        wanted = max(1, _KEPT_NUMBERS // (self.channels * self.sample_count))
        step = max(1, len(rows) // wanted)
        offset = (len(self._positions) * 7) % step  # not the same pixels of every image
        self._positions.append(rows[offset::step][:wanted].astype(np.float32))

    @property
    def peaks(self) -> NDArray[np.float64]:
        """How far a channel reaches in a sample: the root of the mean square, so that one outlier does not rule."""
        return np.asarray(np.sqrt(self._squared_peaks / max(1, len(self._positions))))

    @property
    def variance(self) -> NDArray[np.float64]:
        """Of each channel, over all positions."""
        count = max(1, self._count)
        return np.asarray(np.maximum(self._squares / count - (self._sums / count) ** 2, 0.0))

    @property
    def is_finite(self) -> bool:
        return bool(np.all(np.isfinite(self.low)) and np.all(np.isfinite(self.high)))

    def quantization(self, factors: NDArray[np.float64], importance: NDArray[np.float64]) -> Quantization:
        """int8 levels for the tensor with its channels divided by `factors`, of the least weighted squared error."""
        low, high = float((self.low / factors).min()), float((self.high / factors).max())
        scaled = np.asarray(np.concatenate(self._positions) / factors, np.float32)
        costs = factors**2 * importance
        relative = np.asarray(costs / max(float(costs.max()), _SMALLEST), np.float32)
        best = min((_rounding_error(scaled, relative, low * share, high * share), -share) for share in _CLIPPING)
        return from_range(-low * best[1], -high * best[1])


def _rounding_error(scaled: NDArray[np.float32], costs: NDArray[np.float32], low: float, high: float) -> float:
    quantization = from_range(low, high)
    scale, zero_point = quantization.scale[0], quantization.zero_point[0]
    steps = scaled / np.float32(scale)
    errors = np.clip(np.rint(steps), -128 - zero_point, 127 - zero_point) - steps
    return float((np.square(errors) @ costs).sum(dtype=np.float64)) * scale**2


def observe(
    graph: Graph, axes: Mapping[Value, int], samples: Iterable[Sample], sample_count: int
) -> dict[Value, ChannelStatistics]:
    """The statistics of some tensors inside the graph, whose channels lie along `axes`."""
    found = {value: ChannelStatistics(axis, value.shape[axis], sample_count) for value, axis in axes.items()}
    session = OnnxSession(graph, list(found))
    for sample in samples:
        results = session.run(sample)
        for value, statistics in found.items():
            statistics.add(results[value.name])
    return found
