"""Means and spreads of a layer's output channels, before pruning and now, from samples looked at one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyopt.passes.recovery.layers import PrunedLayer, Rows

Vector = NDArray[np.float64]  # [channels]

_TINY = 1e-30
_STILL = 1e-9  # of a mean's square: what varies by less is rounding


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Weighted means and variances of a layer's own sums, without the residual: as wanted, and as given; [channels]."""

    wanted_mean: Vector
    wanted_variance: Vector
    given_mean: Vector
    given_variance: Vector

    @property
    def gain(self) -> Vector:
        """What gives each channel the wanted spread; 1 where it does not vary."""
        varies = self.given_variance > np.maximum(_STILL * self.given_mean**2, _TINY)
        ratio = self.wanted_variance / np.where(varies, self.given_variance, 1.0)
        return np.where(varies, np.sqrt(ratio), 1.0)

    def shift(self, gain: Vector) -> Vector:
        """What gives each channel the wanted mean, added after the gain."""
        return self.wanted_mean - gain * self.given_mean


def measure_channels(layer: PrunedLayer, chosen: Sequence[int]) -> ChannelStatistics:
    """Over the `chosen` samples."""
    totals, weight = np.zeros((4, 1)), 0.0
    for index in chosen:
        residual = layer.residual(index)
        parts: list[Vector] = []
        for sums in (layer.wanted(index), layer.given(index)):
            own = np.asarray(sums if residual is None else sums - residual, np.float64)
            parts += [own.mean(axis=0), np.square(own).mean(axis=0)]
        totals = totals + layer.sample_weights[index] * np.stack(parts)
        weight += float(layer.sample_weights[index])
    wanted, wanted_square, given, given_square = totals / weight
    return ChannelStatistics(
        wanted, np.maximum(wanted_square - wanted**2, 0), given, np.maximum(given_square - given**2, 0)
    )


def errors_with(layer: PrunedLayer, candidates: Sequence[tuple[Vector, Vector]], chosen: Sequence[int]) -> list[float]:
    """The squared error behind the clamp with each (gain, shift) of the channels, as a share of the outputs' energy."""
    errors, energy = np.zeros(len(candidates)), 0.0
    for index in chosen:
        wanted, given, residual = layer.clamped(layer.wanted(index)), layer.given(index), layer.residual(index)
        weight = float(layer.sample_weights[index])
        energy += weight * float(np.vdot(wanted, wanted))
        for number, (gain, shift) in enumerate(candidates):
            lack = layer.clamped(_moved(given, residual, gain, shift)) - wanted
            errors[number] += weight * float(np.vdot(lack, lack))
    return [float(error) / max(energy, _TINY) for error in errors]


def _moved(given: Rows, residual: Rows | None, gain: Vector, shift: Vector) -> Rows:
    """The layer's sums with another gain and shift; the residual stays as it is."""
    own = given if residual is None else given - residual
    moved = own * gain.astype(np.float32) + shift.astype(np.float32)
    return np.asarray(moved if residual is None else moved + residual, np.float32)
