"""Fit a codebook, scales and indices to what a layer gives, not to each of its weights.

With values V = scale * codebook[indices] for weights W, and F, G, H the moments of the layer's inputs (see
`quantization/moments.py`), the error of its outputs is tr(W F W') - 2 tr(W G V') + tr(V H V'). It is quadratic in the
indexed values, in the codebook, and in the scales, each with the others held: they are found in turns.

    values:    one after the other, the error of each being spread over those to come (`round_rows`)
    codebook:  least squares over all weights that share an entry, then rounded to int8
    scales:    scale = w G v' / v H v' of each output channel, v being its values of the codebook

Source: Han et al., Deep Compression, arXiv:1510.00149, section 3; Frantar et al., GPTQ, arXiv:2210.17323; alternating
least squares as in Stock et al., And the bit goes down, arXiv:1907.05686, here with compensated assignment.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyopt.passes.clustering.codebooks import find_codebook, nearest
from tinyopt.passes.quantization.moments import Matrices, Moments
from tinyopt.passes.quantization.rounding import Strength, codebook_grid, strengths
from tinyopt.passes.quantization.weights import LARGEST_LEVEL

# Damping and ridges, the boldest first: few samples of many inputs want much of both.
_STRENGTHS: Mapping[float, tuple[float, ...]] = {0.01: (0.1, 1.0, 10.0), 0.1: (1.0, 10.0, 100.0), 1.0: (100.0,)}
_QUICK: Mapping[float, tuple[float, ...]] = {0.1: (10.0,)}
_TURNS = 4  # of assignment, codebook and scales
_NARROWINGS = np.linspace(0.6, 1.1, 11)  # of a scale, that are tried for weights each by itself
_ROUNDS = 2  # of scales and k-means before the first assignment
_PRODUCTS = 100_000_000  # of pairs of weights that a codebook is fitted to
_LARGEST_CHANGE = 4.0  # of a scale at once
_HOLD = 1e-3  # how strongly an entry of a codebook is held where it is, in units of its own curvature
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Fit:
    """Integers [groups, channels, K] of a codebook, ascending, and the scale [groups, channels, 1] of each channel."""

    integers: Matrices
    codebook: NDArray[np.int8]
    scale: Matrices

    @property
    def weights(self) -> Matrices:
        return self.integers * self.scale


@dataclass(frozen=True, eq=False)
class Problem:
    """What a fit is for. wanted: the float weights [groups, channels, K]. judge: moments over samples held out.

    scale: [groups, channels, 1], to begin with. is_scale_fixed: for weights that came as integers.
    """

    wanted: Matrices
    moments: Moments
    judge: Moments
    scale: Matrices
    clusters: int
    seed: int
    is_scale_fixed: bool = False

    def error(self, fit: Fit) -> float:
        """Over the samples held out."""
        return float(self.judge.error(self.wanted, fit.weights).sum())


def nearest_fit(wanted: Matrices, scale: Matrices, clusters: int, seed: int) -> Fit:
    """Plain k-means of weights [groups, channels, K], each by itself."""
    levels = np.clip(wanted / scale, -LARGEST_LEVEL, LARGEST_LEVEL)
    codebook = find_codebook(levels, clusters, seed)
    return Fit(codebook[nearest(levels, codebook)].astype(np.float64), codebook, scale)


def quick_fit(problem: Problem) -> Fit:
    """A fit not far from the best, in a fraction of the time: to rank layers by."""
    start = _weighted_fit(problem)
    quick = strengths(problem.wanted, problem.moments, _QUICK)
    return min([start, *(_assigned(problem, strength, start) for strength in quick)], key=problem.error)


def best_fit(problem: Problem) -> Fit:
    """The fit with the least error on the samples held out: plain, weighted, or assigned with compensation."""
    plain = nearest_fit(problem.wanted, problem.scale, problem.clusters, problem.seed)
    start = _weighted_fit(problem)
    best = min(plain, start, key=problem.error)
    strength: Strength | None = None
    for candidate in strengths(problem.wanted, problem.moments, _STRENGTHS):
        fit = _assigned(problem, candidate, start)
        if problem.error(fit) < problem.error(best):
            best, strength = fit, candidate
    for _ in range(_TURNS if strength is not None else 0):
        assert strength is not None
        fit = _assigned(problem, strength, _refitted(problem, best))
        if problem.error(fit) >= problem.error(best):
            break
        best = fit
    return best


def _assigned(problem: Problem, strength: Strength, fit: Fit) -> Fit:
    """The weights anew as values of the codebook, each one's error spread over those to come; then the scales."""
    grid = codebook_grid(fit.codebook)
    return _rescaled(problem, Fit(strength.rounded(fit.scale, grid), fit.codebook, fit.scale))


def _weighted_fit(problem: Problem) -> Fit:
    """k-means in which a weight counts as much as the second moment of its input, in turns with the scales."""
    importance = np.diagonal(problem.moments.rounded, axis1=1, axis2=2)[:, None]  # groups, 1, K
    wanted, scale = problem.wanted, problem.scale
    codebook = _weighted_codebook(problem, scale, importance)
    for _ in range(0 if problem.is_scale_fixed else _ROUNDS):
        scale = _narrowed(wanted, scale, importance, codebook)
        codebook = _weighted_codebook(problem, scale, importance)
    return Fit(codebook[nearest(wanted / scale, codebook)].astype(np.float64), codebook, scale)


def _weighted_codebook(problem: Problem, scale: Matrices, importance: Matrices) -> NDArray[np.int8]:
    levels = np.clip(problem.wanted / scale, -LARGEST_LEVEL, LARGEST_LEVEL)
    counts = np.broadcast_to(importance * scale**2, problem.wanted.shape)
    return find_codebook(levels, problem.clusters, problem.seed, counts)


def _narrowed(wanted: Matrices, scale: Matrices, importance: Matrices, codebook: NDArray[np.int8]) -> Matrices:
    """The scales among some near the present ones with which the nearest values err least."""
    best, least = scale, np.full(scale.shape, np.inf)
    for part in _NARROWINGS:
        values = codebook[nearest(wanted / (part * scale), codebook)] * (part * scale)
        error = np.sum(importance * (wanted - values) ** 2, axis=-1, keepdims=True)
        best, least = np.where(error < least, part * scale, best), np.minimum(error, least)
    return best


def _rescaled(problem: Problem, fit: Fit) -> Fit:
    """The scales of least error for these values; those of channels without a signal stay."""
    if problem.is_scale_fixed:
        return fit
    wanted = problem.wanted @ problem.moments.cross
    along = np.sum(wanted * fit.integers, axis=-1, keepdims=True)
    energy = np.sum((fit.integers @ problem.moments.rounded) * fit.integers, axis=-1, keepdims=True)
    ratio = along / np.maximum(energy, _TINY) / fit.scale
    is_usable = (energy > _TINY) & (ratio > 1 / _LARGEST_CHANGE) & (ratio < _LARGEST_CHANGE)
    return Fit(fit.integers, fit.codebook, fit.scale * np.where(is_usable, ratio, 1.0))


def _refitted(problem: Problem, fit: Fit) -> Fit:
    """The codebook of least error for these indices, its entry 0 held, and the largest at the end of int8."""
    indices = np.searchsorted(fit.codebook, fit.integers)
    curvature, slope = _normal_equations(problem, fit.scale, indices, len(fit.codebook))
    present = fit.codebook.astype(np.float64)
    hold = _HOLD * np.diag(curvature) + _HOLD * max(float(np.diag(curvature).mean()), _TINY)
    free = np.flatnonzero(fit.codebook != 0)
    matrix = (curvature + np.diag(hold))[np.ix_(free, free)]
    entries = present.copy()
    entries[free] = np.linalg.solve(matrix, (slope + hold * present)[free])
    largest = float(np.abs(entries).max())
    if largest <= 0:
        return fit
    stretch = 1.0 if problem.is_scale_fixed else LARGEST_LEVEL / largest
    rounded = np.unique(np.clip(np.rint(entries * stretch), -LARGEST_LEVEL, LARGEST_LEVEL)).astype(np.int8)
    return Fit(fit.integers, rounded, fit.scale / stretch)


def _normal_equations(
    problem: Problem, scale: Matrices, indices: NDArray[np.intp], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The curvature [count, count] and the slope [count] of the error in the entries of the codebook.

    Of very many weights some channels are taken, evenly spaced.
    """
    moments, inputs = problem.moments, indices.shape[2]
    wanted = problem.wanted @ moments.cross
    channels = indices.shape[1]
    most = max(1, _PRODUCTS // (len(indices) * inputs * inputs))
    chosen = np.unique(np.linspace(0, channels - 1, min(most, channels)).astype(int))
    curvature, slope = np.zeros(count * count), np.zeros(count)
    for group, channel in itertools.product(range(len(indices)), chosen):
        own, by = indices[group, channel], float(scale[group, channel, 0])
        pairs = (own[:, None] * count + own).ravel()
        curvature += by * by * np.bincount(pairs, moments.rounded[group].ravel(), count * count)
        slope += by * np.bincount(own, wanted[group, channel], count)
    return curvature.reshape(count, count), slope
