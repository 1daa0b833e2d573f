"""The layers that read channels as matrices: what they multiply, and what they would multiply without some of it.

A layer gives y = W x + b, where x is one row of operands (a window of a convolution, an input vector of a dense layer).
Without the operands R, with those that stay S, the weights V that come closest to its outputs are

    V = W H[:, S] (H[S, S])^-1,  H = cov(x, x) + damping

and only the second moments H of x are needed for that, however many samples there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Graph, Node, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.passes.channel_groups import ChannelGroup
from tinyopt.passes.channel_links import WeightUse, constant_source
from tinyopt.passes.quantization.moments import Matrices, operand_rows, sample_weight, weight_rows
from tinyopt.samples import Sample

MOST_OPERANDS = 2400  # of a layer: the matrix of more would take long to invert, and their variances stand for it

_DAMPING = 1e-3  # of the mean variance of the operands: how far the samples are trusted
_PRODUCTS = 2_000_000_000  # multiplications for one matrix of moments: a fraction of a second
_ROWS_PER_OPERAND = 8  # and at least so many rows, for the matrix to have an inverse worth the name


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer whose weights have columns for some channels. rows: its weights, [parts, outputs, K].

    parts: a grouped convolution has several, which read different channels.
    """

    use: WeightUse
    rows: Matrices

    @property
    def has_bias(self) -> bool:
        return self.use.node.optional_input(2) is not None

    def columns(self, group: ChannelGroup) -> NDArray[np.int64]:
        """The columns of each unit of the group in every part, [units, so many]."""
        assert self.use.input_axis is not None, self.use.node.name
        places = group.member(self.use.weights, self.use.input_axis).places
        if self.use.node.op != "Conv":
            return places
        height, width, channels = self.use.weights.shape[1:]
        cells = np.arange(height * width)[None, :, None] * channels
        return np.asarray(cells + places[:, None, :], np.int64).reshape(len(places), -1)

    def bias_shift(self, shift: NDArray[np.float64]) -> NDArray[np.float64]:
        """What each output needs, [parts, outputs], as one number for each element of the bias."""
        if self.use.node.op != "ConvTranspose":
            return shift.reshape(-1)
        height, width, outputs = self.use.weights.shape[1:]
        taps = shift.reshape(self.use.group, height * width, outputs).sum(axis=1)  # where all taps of a cell lie inside
        return np.asarray(taps.reshape(-1) / np.prod(self.use.node.ints("strides")))

    def weights(self, rows: Matrices) -> Array:
        """Rows in the place of the weights, as the operator has them."""
        if self.use.node.op != "ConvTranspose":
            return rows.astype(np.float32).reshape(self.use.weights.shape)
        inputs, height, width, outputs = self.use.weights.shape
        group = self.use.group
        by_group = rows.reshape(group, height, width, outputs, group, inputs // group)
        own = np.stack([by_group[g, ..., g, :] for g in range(group)])  # group, height, width, outputs, inputs
        return np.moveaxis(own, 4, 1).reshape(self.use.weights.shape).astype(np.float32)


def reader_of(use: WeightUse, producers: Mapping[Value, Node]) -> Reader:
    """The layer with its weights as real numbers; they must not be computed."""
    weights = real_constant(use.weights, producers)
    if use.node.op != "ConvTranspose":
        return Reader(use, weight_rows(use.node, weights))
    inputs, height, width, outputs = weights.shape
    rows = np.zeros((use.group, height, width, outputs, inputs))
    share = inputs // use.group
    for g in range(use.group):
        part = slice(g * share, (g + 1) * share)
        rows[g, ..., part] = np.moveaxis(weights[part], 0, 3)
    return Reader(use, rows.reshape(1, -1, inputs))


def real_constant(value: Value, producers: Mapping[Value, Node]) -> Array:
    """A constant, or what it is dequantized to."""
    source = constant_source(value, dict(producers))
    assert source is not None, value.name
    if source is value:
        return value.data
    assert source.quantization is not None, source.name
    return source.quantization.dequantize(source.data)


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Covariances of a layer's operands, damped, [parts, K, K], and their means, [parts, K].

    Of very many operands only the variances, [parts, K].
    """

    covariance: Matrices
    mean: Matrices

    @property
    def is_diagonal(self) -> bool:
        return self.covariance.ndim == 2

    def energy(self, rows: Matrices) -> float:
        """The variance of the outputs that weights [parts, outputs, K] give, summed up."""
        if self.is_diagonal:
            return float(np.sum(rows**2 * self.covariance[:, None]))
        return float(np.sum((rows @ self.covariance) * rows))

    def without(self, rows: Matrices, stays: NDArray[np.bool_]) -> Matrices:
        """The weights that make best up for the columns that do not stay, which become zero."""
        result = np.where(stays, rows, 0.0)
        if self.is_diagonal or stays.all():
            return result
        gone = ~stays
        for part, covariance in enumerate(self.covariance):
            cross = rows[part][:, gone] @ covariance[np.ix_(gone, stays)]
            result[part][:, stays] += np.linalg.solve(covariance[np.ix_(stays, stays)], cross.T).T
        return result


def measure_inputs(
    graph: Graph,
    readers: Sequence[Reader],
    folds: Sequence[Iterable[Sample]],
    count: int,
    on_sample: Callable[[], None],
) -> list[dict[Node, InputMoments]]:
    """For each fold of the samples what the readers' operands are like, by the layer.

    Every sample counts alike. They are taken about the mean where a layer has a bias, which makes up for the mean.
    count: of the samples in a fold. Of very many rows a random part is taken, the same one in every run.
    """
    values = list(dict.fromkeys(reader.use.node.input(0) for reader in readers))
    inputs = {value.name for value in graph.inputs}
    session = OnnxSession(graph, [value for value in values if value.name not in inputs])
    result: list[dict[Node, InputMoments]] = []
    for samples in folds:
        sums = {reader.use.node: _Sums(reader, count) for reader in readers}
        for sample, found in session.run_each(samples):
            for reader in readers:
                name = reader.use.node.input(0).name
                sums[reader.use.node].add(np.asarray(sample[name] if name in inputs else found[name], np.float32))
            on_sample()
        result.append({node: each.moments() for node, each in sums.items()})
    return result


class _Sums:
    """What the moments of one layer's operands are made of, sample by sample."""

    def __init__(self, reader: Reader, count: int) -> None:
        self._reader = reader
        self._origin: Array | None = None
        parts, _, operands = reader.rows.shape
        self._is_diagonal = operands > MOST_OPERANDS
        most = max(_PRODUCTS // (parts * operands * operands), _ROWS_PER_OPERAND * operands)
        self._rows = most // max(count, 1) + 1
        self._random = np.random.default_rng(0)
        self._weight = 0.0
        self._total = np.zeros((parts, operands))
        self._products = np.zeros((parts, operands) if self._is_diagonal else (parts, operands, operands))

    def add(self, x: Array) -> None:
        """Take in what the layer reads for one sample; nothing where that is all zeros or not finite."""
        weight = sample_weight(x)
        if weight == 0 or not math.isfinite(weight):
            return
        rows = _some_operands(self._reader.use, x, self._rows, self._random)
        origin = self._origin
        if origin is None:  # near the mean: float32 does not hold small variances about a large one
            mean = rows.mean(axis=1, keepdims=True)
            origin = self._origin = mean if self._reader.has_bias else np.zeros_like(mean)
        rows = np.asarray(rows - origin, np.float32)
        products = np.square(rows).sum(axis=1) if self._is_diagonal else rows.transpose(0, 2, 1) @ rows
        self._weight += weight * rows.shape[1]
        self._total += weight * rows.sum(axis=1)
        self._products += weight * products

    def moments(self) -> InputMoments:
        weight = max(self._weight, 1e-300)
        mean, products = self._total / weight, self._products / weight
        if self._reader.has_bias:
            products -= mean**2 if self._is_diagonal else mean[:, :, None] * mean[:, None, :]
        diagonal = products if self._is_diagonal else np.diagonal(products, axis1=1, axis2=2)
        damping = _DAMPING * max(float(diagonal.mean()), 1e-30)
        products = products + (damping if self._is_diagonal else damping * np.eye(products.shape[-1]))
        return InputMoments(products, mean if self._origin is None else mean + self._origin[:, 0])


def _some_operands(use: WeightUse, x: Array, most: int, random: np.random.Generator) -> NDArray[np.float32]:
    """What outputs are weighted sums of, [parts, rows, K]; of a transposed convolution, the input's pixels.

    Of more than `most` rows a random part, before anything is copied.
    """
    if use.node.op == "ConvTranspose":
        pixels = x.reshape(-1, x.shape[-1])
        return pixels[_some(len(pixels), most, random)][None]
    rows = use.node.output.type.elements // use.node.output.shape[-1]
    return operand_rows(use.node, x, _some(rows, most, random))


def _some(count: int, most: int, random: np.random.Generator) -> NDArray[np.int64]:
    """At most so many of the first `count` numbers, ascending."""
    return np.sort(random.choice(count, most, replace=False)) if count > most else np.arange(count)
