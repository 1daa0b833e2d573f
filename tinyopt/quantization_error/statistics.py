"""Sums over samples: energies of signals and noises by channel, and how a layer's integers are used."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import DTYPES, Array, Quantization, Value
from tinyopt.quantization_error.model import QuantizedLayer
from tinyopt.quantization_error.report import ChannelError, LayerError, snr_db

_WORST_CHANNELS = 3
_BUCKETS = 256  # that the integers are counted in: each int8 by itself, neighbours of int16 together


@dataclass
class Energies:
    """Sums of squares of a signal and of its noise: one of each for every channel."""

    signal: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    noise: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))

    def add(self, exact: Array, found: Array) -> None:
        """exact, found: [values, channels]."""
        self.signal = self.signal + _energy(exact)
        self.noise = self.noise + _energy(exact - found)

    @property
    def by_channel(self) -> float:
        """The mean over channels of noise over signal, a channel being lost at most."""
        ratios = self.noise / np.maximum(self.signal, 1e-300)
        return float(np.mean(np.minimum(ratios, 1.0)))

    @property
    def snr_db(self) -> float:
        return snr_db(float(self.signal.sum()), float(self.noise.sum()))


@dataclass
class LayerStatistics:
    """What the samples told of one layer so far."""

    layer: QuantizedLayer
    alone: Energies = field(default_factory=Energies)
    constants: Energies = field(default_factory=Energies)
    output: Energies = field(default_factory=Energies)
    accumulated: Energies = field(default_factory=Energies)
    values: int = 0
    saturated: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    largest: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))  # absolute, for each channel

    def add(self, exact: Array, with_constants: Array, accumulated: Array) -> None:
        """One sample: the float output, the one of quantized constants, and what the QDQ graph gives."""
        channels = _channel_axis(self.layer)
        exact, with_constants, accumulated = (
            np.moveaxis(array, channels, -1).reshape(-1, array.shape[channels]) if array.ndim else array.reshape(1, 1)
            for array in (exact, with_constants, accumulated)
        )
        self.constants.add(exact, with_constants)
        self.alone.add(exact, self._rounded(with_constants))
        self.output.add(exact, self._rounded(exact))
        self.accumulated.add(exact, accumulated)
        self.values += exact.size
        self.largest = np.maximum(self.largest, np.max(np.abs(exact), axis=0, initial=0.0))
        if self.layer.levels is not None:
            self._count(exact, self.layer.levels)

    def _rounded(self, array: Array) -> Array:
        levels = self.layer.levels
        if levels is None or levels.quantization is None:
            return array
        return levels.quantization.dequantize(levels.quantization.quantize(array, levels.dtype))

    def _count(self, exact: Array, levels: Value) -> None:
        quantization, limits = levels.quantization, np.iinfo(DTYPES[levels.dtype])
        assert quantization is not None, levels.name
        low, high = _limits(quantization, limits.min, limits.max)
        self.saturated += int(np.count_nonzero((exact < low) | (exact > high)))
        step = (int(limits.max) - int(limits.min) + 1) // _BUCKETS
        integers = quantization.quantize(exact, levels.dtype).astype(np.int64).ravel() - limits.min
        counted = np.bincount(integers // step, minlength=_BUCKETS)
        self.counts = counted if self.counts.size == 0 else self.counts + counted

    def error(self, snr_model_db: float | None) -> LayerError:
        """The figures of all samples."""
        used = np.flatnonzero(self.counts)
        levels = max(self.counts.size, 1)
        widest = int(np.argmax(self.largest))
        median = float(np.median(self.largest))
        return LayerError(
            self.layer.name,
            self.layer.op,
            self.alone.snr_db,
            self.constants.snr_db,
            self.output.snr_db,
            snr_db(1.0, self.alone.by_channel),
            self.accumulated.snr_db,
            snr_model_db,
            self.saturated / max(self.values, 1),
            used.size / levels,
            (int(used[-1]) - int(used[0]) + 1) / levels if used.size else 0.0,
            self._worst_channels(),
            (widest, float(self.largest[widest]) / median if median > 0 else float("inf")),
            float(self.largest[widest]),
            self.output.by_channel > self.constants.by_channel,
        )

    def _worst_channels(self) -> tuple[ChannelError, ...]:
        pairs = zip(self.alone.signal.tolist(), self.alone.noise.tolist(), strict=True)
        ratios = [ChannelError(index, snr_db(*pair)) for index, pair in enumerate(pairs) if pair[1] > 0]
        return tuple(sorted(ratios, key=lambda channel: channel.snr_db)[:_WORST_CHANNELS])


def _energy(array: Array) -> NDArray[np.float64]:
    wide = array.astype(np.float64)
    return np.asarray(np.einsum("ij,ij->j", wide, wide), np.float64)


def _limits(quantization: Quantization, lowest: int, highest: int) -> tuple[float, float]:
    """The smallest and the largest real number that is rounded without being cut off."""
    centre = quantization.zero_point[0]
    return (lowest - centre - 0.5) * quantization.scale[0], (highest - centre + 0.5) * quantization.scale[0]


def _channel_axis(layer: QuantizedLayer) -> int:
    node, rank = layer.node, layer.value.type.rank
    is_nchw = node is not None and node.attributes.get("layout") == "NCHW"
    return 1 if is_nchw and rank == 4 else rank - 1
