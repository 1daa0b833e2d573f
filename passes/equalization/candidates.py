"""Factors worth a trial, from what a channel holds and how much its readers make of it.

All are written from one common form of the group, in which every channel reaches equally far: factors that were applied
before change nothing in what is proposed, so that a second run finds its own proposal in place.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Value
from tinyopt.passes.equalization.groups import ScaleGroup, energy_in_column, largest_in_column, largest_in_row
from tinyopt.passes.equalization.statistics import ChannelStatistics

Factors = NDArray[np.float64]

# Of a factor about the geometric mean. What hardly reaches is not drawn out further: one step of the layer's input
# would become many of its output, and kernels are fastest where it is less than half a one.
_SMALLEST_FACTOR, _LARGEST_FACTOR = 2.0**-4, 2.0**14
_LEAST_SHARE = 1e-3  # of its row that a column counts as: below it no int8 weight is other than zero
_MIGRATION = (0.25, 0.5, 0.75, 1.0)  # how much of the difficulty the activations hand to the weights


def candidates(group: ScaleGroup, statistics: Mapping[Value, ChannelStatistics]) -> dict[str, Factors]:
    """Factors by the name of the method that proposes them."""
    reach = _common(group, {value: found.peaks for value, found in statistics.items()})
    is_live = reach > 0
    if np.count_nonzero(is_live) < 2:
        return {}
    even = np.where(is_live, reach, 1.0)
    column = np.maximum(np.max([largest_in_column(group, use, even) for use in group.readers], axis=0), _LEAST_SHARE)
    row = _common(group, {use.node.output: largest_in_row(use) for use in group.producers if use.weights.is_constant})
    found: dict[str, Factors] = {}
    if np.all(row[is_live] > 0):
        found["weight ranges"] = np.sqrt(row / np.where(is_live, column / even, 1.0))
    is_uneven = bool(np.any(column < 1))  # readers that see each channel alone have no columns to compare
    for share in _MIGRATION if is_uneven else _MIGRATION[-1:]:
        found[f"activation ranges ({share:g})"] = even / column ** (1 - share)
    return {name: _limited(factors, is_live) for name, factors in found.items()}


def importance(group: ScaleGroup, statistics: Mapping[Value, ChannelStatistics]) -> Factors:
    """What a unit of error energy in a channel does at the group's readers, relative to their outputs: [size]."""
    reach = _common(group, {value: found.peaks for value, found in statistics.items()})
    even = np.where(reach > 0, reach, 1.0)
    return sum(
        (group.collect(use.node.input(0), energy_in_column(group, use, even)) for use in group.readers),
        np.zeros(group.size),
    )


def _common(group: ScaleGroup, tensors: Mapping[Value, NDArray[np.float64]]) -> Factors:
    """One number for each channel: the largest in any tensor, each tensor's divided by their geometric mean."""
    found = np.zeros(group.size)
    for value, numbers in tensors.items():
        mine = group.collect(value, numbers)
        if mine.any():
            found = np.maximum(found, mine / _geometric_mean(mine[mine > 0]))
    return found


def _limited(factors: Factors, is_live: NDArray[np.bool_]) -> Factors:
    centred = factors / _geometric_mean(factors[is_live])
    return np.where(is_live, np.clip(centred, _SMALLEST_FACTOR, _LARGEST_FACTOR), 1.0)


def _geometric_mean(numbers: NDArray[np.float64]) -> float:
    return float(np.exp(np.mean(np.log(numbers))))
