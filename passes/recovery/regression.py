"""Least squares for a layer's weights, from sums over samples that are looked at one after the other.

With rows z of operands (a window of a convolution, an input vector of a dense layer) and the sums y that they should
give, the weights that are least off, held to the present ones W by a ridge h, and the bias are

    V = (cov(y, z) + h W) (cov(z, z) + h)^-1        b = mean y - V mean z

Memory depends on the layer, not on the number of samples or pixels.

A clamp hides errors: where a row should give something below the lowest output, all sums below it are right. Such a
target is moved to the sum that the row has by now, and the least squares are solved again; no step makes the error
behind the clamp larger (majorization).

Source: He et al., Channel pruning, arXiv:1707.06168, section 3.1; through the nonlinearity: Zhang et al.,
arXiv:1505.06798, section 3.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Node
from tinyopt.passes.quantization.moments import Matrices, groups_of, operand_rows, weight_rows
from tinyopt.passes.recovery.layers import PrunedLayer

Operands = NDArray[np.float32]  # [groups, rows, ...]

_PRODUCTS = 10_000_000_000  # multiplications for one matrix of moments: about a second
_TINY = 1e-30
_ROWS_PER_INPUT = 8  # and at least so many rows, for the matrix to have an inverse worth the name


@dataclass(frozen=True, eq=False)
class Weights:
    """A layer's weights [groups, channels, K] and bias [groups, channels]."""

    rows: Matrices
    bias: Matrices

    def applied(self, operands: Operands) -> Operands:
        """The sums for operands [groups, rows, K]: [groups, rows, channels]."""
        sums = operands @ self.rows.transpose(0, 2, 1).astype(np.float32)
        return np.asarray(sums + self.bias[:, None].astype(np.float32), np.float32)


@dataclass(frozen=True, eq=False)
class Sums:
    """Weighted sums over rows, with the operands taken about an origin: [groups, ...]."""

    weight: float
    operands: Matrices  # [groups, K]
    moments: Matrices  # [groups, K, K]
    targets: Matrices  # [groups, channels]
    cross: Matrices  # [groups, channels, K]

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.weight + other.weight,
            self.operands + other.operands,
            self.moments + other.moments,
            self.targets + other.targets,
            self.cross + other.cross,
        )


@dataclass(frozen=True, eq=False)
class _Batch:
    """Some rows of one sample, [groups, rows, ...]. wanted: without the residual that is added to the sums."""

    weight: float
    operands: Operands
    wanted: Operands
    residual: Operands | float


class Regression:
    """The least squares of one layer of a pruned model."""

    def __init__(self, layer: PrunedLayer) -> None:
        self._layer = layer
        self._groups = groups_of(layer.node)
        weights = layer.node.input(1).shape
        self.inputs = math.prod(weights[1:])
        most = max(_PRODUCTS // (self._groups * self.inputs**2), _ROWS_PER_INPUT * self.inputs)
        self._rows_per_sample = min(most // layer.samples + 1, layer.node.output.type.elements // weights[0])
        self._origin = self._mean_operands()

    def sums(self, chosen: Sequence[int], near: Weights | None = None) -> Sums:
        """Over the `chosen` samples. near: see `aimed`."""
        return _added(self._products(batch, near) for batch in self._batches(chosen))

    def aimed(self, sums: Sums, chosen: Sequence[int], near: Weights) -> Sums:
        """The sums of the `chosen` samples with other targets.

        near: weights whose own sums are the targets wherever the clamp hides how far they are off.
        """
        found = _added(self._aims(batch, near) for batch in self._batches(chosen))
        return replace(sums, targets=found.targets, cross=found.cross)

    def solve(self, sums: Sums, present: Weights, ridge: float) -> Weights:
        """The weights that are least off, held to the `present` ones.

        ridge: how strongly, in units of the mean variance of the operands.
        Raises numpy.linalg.LinAlgError where the samples do not determine them.
        """
        z_mean, y_mean = sums.operands / sums.weight, sums.targets / sums.weight
        moments = sums.moments / sums.weight - z_mean[:, :, None] * z_mean[:, None, :]
        cross = sums.cross / sums.weight - y_mean[:, :, None] * z_mean[:, None, :]
        hold = ridge * np.trace(moments, axis1=1, axis2=2)[:, None, None] / self.inputs
        held = moments + hold * np.eye(self.inputs)
        rows = np.linalg.solve(held, (cross + hold * present.rows).transpose(0, 2, 1)).transpose(0, 2, 1)
        if not np.isfinite(rows).all():
            raise np.linalg.LinAlgError("the solution is not finite")
        bias = y_mean - np.einsum("gok,gk->go", rows, z_mean + self._origin)
        return Weights(rows, bias)

    def errors(self, candidates: Sequence[Weights], chosen: Sequence[int]) -> list[float]:
        """The squared error of each candidate behind the clamp over the `chosen` samples, of the outputs' energy."""
        errors, energy = np.zeros(len(candidates)), 0.0
        clamped = self._layer.clamped
        for batch in self._batches(chosen):
            wanted = clamped(batch.wanted + batch.residual)
            energy += batch.weight * float(np.vdot(wanted, wanted))
            for index, weights in enumerate(candidates):
                lack = clamped(weights.applied(batch.operands) + batch.residual) - wanted
                errors[index] += batch.weight * float(np.vdot(lack, lack))
        return [float(error) / max(energy, _TINY) for error in errors]

    def _products(self, batch: _Batch, near: Weights | None) -> Sums:
        z = self._centred(batch)
        moments = batch.weight * (z.transpose(0, 2, 1) @ z).astype(np.float64)
        operands = batch.weight * z.sum(axis=1, dtype=np.float64)
        return replace(self._aims(batch, near), operands=operands, moments=moments)

    def _aims(self, batch: _Batch, near: Weights | None) -> Sums:
        """The sums that depend on the targets; zeros for the others."""
        z = self._centred(batch)
        y = batch.wanted if near is None else self._hidden(batch, near.applied(batch.operands))
        cross = batch.weight * (y.transpose(0, 2, 1) @ z).astype(np.float64)
        targets = batch.weight * y.sum(axis=1, dtype=np.float64)
        return Sums(batch.weight * z.shape[1], np.zeros(()), np.zeros(()), targets, cross)

    def _hidden(self, batch: _Batch, given: Operands) -> Operands:
        """What is wanted of the sums, and what they are `given` where both lie beyond the same end of the clamp."""
        low, high = (self._layer.node.float(key) - batch.residual for key in ("clamp_low", "clamp_high"))
        below, above = np.minimum(given, low), np.maximum(given, high)
        return np.where(batch.wanted <= low, below, np.where(batch.wanted >= high, above, batch.wanted))

    def _centred(self, batch: _Batch) -> Operands:
        return batch.operands - self._origin[:, None].astype(np.float32)

    def _batches(self, chosen: Sequence[int]) -> Iterator[_Batch]:
        """The rows of each of the samples; of very many pixels a random part, the same one in every run."""
        layer = self._layer
        for index in chosen:
            pixels = layer.node.output.type.elements // layer.node.output.shape[-1]
            if (count := self._rows_per_sample) < pixels:
                rows = np.sort(np.random.default_rng(index).choice(pixels, count, replace=False))
            else:
                rows = np.arange(pixels)
            residual = layer.residual(index)
            wanted = layer.wanted(index)[rows]
            if residual is not None:
                wanted = wanted - residual[rows]
            yield _Batch(
                float(layer.sample_weights[index]),
                operand_rows(layer.node, layer.inputs(index), rows),
                self._by_group(wanted),
                0.0 if residual is None else self._by_group(residual[rows]),
            )

    def _by_group(self, rows: NDArray[np.float32]) -> Operands:
        split = rows.reshape(len(rows), self._groups, -1).transpose(1, 0, 2)
        return np.ascontiguousarray(split, np.float32)

    def _mean_operands(self) -> Matrices:
        """About the mean of each operand, [groups, K]: products of float32 say little of what hardly leaves it."""
        layer = self._layer
        channels = layer.node.input(0).shape[-1]
        means = [layer.inputs(index).reshape(-1, channels).mean(axis=0, dtype=np.float64) for index in layer.fitted]
        by_group = np.mean(means, axis=0).reshape(self._groups, -1)
        return np.asarray(np.tile(by_group, self.inputs // by_group.shape[1]), np.float64)


def _added(parts: Iterable[Sums]) -> Sums:
    return functools.reduce(operator.add, parts)


def weights_of(node: Node) -> Weights:
    """The present weights; a bias of zeros where there is none."""
    groups = groups_of(node)
    weights, bias = node.input(1), node.optional_input(2)
    outputs = weights.shape[0]
    numbers = np.zeros(outputs) if bias is None else bias.data.astype(np.float64)
    return Weights(weight_rows(node, weights.data), np.broadcast_to(numbers, (outputs,)).reshape(groups, -1))
