"""Round weights so that the errors of one are made up for by the others.

Nearest rounding keeps each weight close; what should stay close is the layer's output. With H the second moments of the
inputs, the error of a row of weights is (w - q) H (w - q)'. Weights are rounded one after the other, each one's error
being spread over those that are still free, by the Cholesky factor of H's inverse.

Source: Frantar et al., GPTQ, arXiv:2210.17323, section 3; Hassibi and Stork, Second order derivatives for network
pruning: optimal brain surgeon, NIPS 1992. The input of the quantized model as regressor: Li et al., GPTAQ,
arXiv:2504.02692, here by least squares with a ridge.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyopt.passes.quantization.moments import Matrices, Moments

Matrix: TypeAlias = NDArray[np.float64]
Grid: TypeAlias = Callable[[Matrix], Matrix]  # the nearest integer that a weight may become, for weights in steps

_BLOCK = 64  # columns whose errors reach the columns behind them in one product: the same sums, a tenth of the time


def integer_grid(lowest: int, highest: int) -> Grid:
    """All integers from `lowest` to `highest`."""
    return lambda steps: np.clip(np.rint(steps), lowest, highest)


def codebook_grid(codebook: NDArray[np.int8]) -> Grid:
    """The integers of an ascending codebook."""
    values = codebook.astype(np.float64)
    middles = (values[1:] + values[:-1]) / 2
    return lambda steps: values[np.searchsorted(middles, steps)]


def refit(weights: Matrix, cross: Matrix, moments: Matrix, ridge: float) -> Matrix:
    """The weights [O, K] whose outputs for rounded inputs z come closest to those of `weights` for exact inputs x.

    cross: cov(x, z). moments: cov(z, z). ridge: how strongly the weights are held where they are, in units of the mean
    second moment.
    """
    hold = ridge * _mean_moment(moments)
    held = moments + hold * np.eye(len(moments))
    return np.asarray(np.linalg.solve(held, (weights @ cross + hold * weights).T).T, np.float64)


@dataclass(frozen=True, eq=False)
class Compensation:
    """How the error of one weight is spread over others. order: of rounding. spread: [K, K], upper triangular."""

    order: NDArray[np.intp]
    spread: Matrix


def compensation(moments: Matrix, damping: float) -> Compensation:
    """The Cholesky factor of the inverse of the moments [K, K] of a layer's inputs.

    damping: what is added to the diagonal of the moments, in units of its mean: less of it trusts the samples more.
    Raises numpy.linalg.LinAlgError where the moments are not positive definite for all that.
    """
    mean = _mean_moment(moments)
    damped = moments.copy()
    diagonal = np.arange(len(moments))
    damped[diagonal, diagonal] += damping * mean
    # The weights of the liveliest inputs come first, while many are left to make up for them (GPTQ's act-order).
    order = np.argsort(-moments[diagonal, diagonal], kind="stable")
    inverse = np.linalg.inv(damped[order][:, order])
    return Compensation(order, np.asarray(np.linalg.cholesky(inverse).T, np.float64))


def round_rows(weights: Matrix, scale: Matrix, by: Compensation, grid: Grid) -> Matrix:
    """Integers [O, K] for weights [O, K] in steps of scale [O, 1]."""
    spread = by.spread
    steps = (weights / scale)[:, by.order]
    integers, errors = np.empty_like(steps), np.empty_like(steps)
    for start in range(0, steps.shape[1], _BLOCK):
        end = min(start + _BLOCK, steps.shape[1])
        for column in range(start, end):
            integers[:, column] = grid(steps[:, column])
            errors[:, column] = (steps[:, column] - integers[:, column]) / spread[column, column]
            steps[:, column + 1 : end] -= errors[:, column, None] * spread[column, column + 1 : end]
        steps[:, end:] -= errors[:, start:end] @ spread[start:end, end:]
    result = np.empty_like(integers)
    result[:, by.order] = integers
    return result


@dataclass(frozen=True, eq=False)
class Strength:
    """How boldly errors are made up for. moved: the weights [groups, channels, K], moved to where they make up for the
    errors of the inputs. spreads: for each group how errors of rounding are spread.
    """

    moved: Matrices
    spreads: Sequence[Compensation]

    def rounded(self, scale: Matrices, grid: Grid) -> Matrices:
        """Integers [groups, channels, K] in steps of scale [groups, channels, 1]."""
        return np.stack(list(map(round_rows, self.moved, scale, self.spreads, itertools.repeat(grid))))


def strengths(wanted: Matrices, moments: Moments, ridges: Mapping[float, Sequence[float]]) -> Iterator[Strength]:
    """Ways to round weights `wanted`, of several strengths: ridges by damping, those that can be had."""
    for damping, own_ridges in ridges.items():
        try:
            spreads = [compensation(own, damping) for own in moments.rounded]
        except np.linalg.LinAlgError:
            continue  # too weak to invert these moments
        for ridge in own_ridges:
            moved = map(refit, wanted, moments.cross, moments.rounded, itertools.repeat(ridge))
            yield Strength(np.stack(list(moved)), spreads)


def _mean_moment(moments: Matrix) -> float:
    """The mean of the diagonal; 1 where all inputs stand still."""
    mean = float(np.mean(np.diag(moments)))
    return mean if mean > 0 else 1.0
