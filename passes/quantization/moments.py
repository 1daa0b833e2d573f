"""Second moments of what a layer multiplies its weights with: all that its squared error depends on.

A layer gives y = W x + b, where x is one row of operands (a window of a convolution, an input vector of a dense layer).
With weights V on inputs z instead of W on x, and the best bias, its mean squared error is

    E |W (x - mean x) - V (z - mean z)|^2 = tr(W F W') - 2 tr(W G V') + tr(V H V')

where F = cov(x, x), G = cov(x, z) and H = cov(z, z). Memory depends on the layer, not on the number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Node
from tinyopt.ops.windows import sliding_windows

Matrices = NDArray[np.float64]  # [groups, ...]: one matrix or vector for each group of a convolution

LARGEST_INPUTS = 2304  # of a layer: moments of more, and their factors, would take minutes and gigabytes

_TINY = 1e-30
_FAR = 1000.0  # a mean's square this many times the variance is far from zero
_ROUNDING = 1e-9  # of a mean's square
_PRODUCTS = 2_000_000_000  # multiplications for one matrix of moments: a fraction of a second
_ROWS_PER_INPUT = 8  # and at least so many rows, for the matrix to have an inverse worth the name


@dataclass(frozen=True, eq=False)
class Moments:
    """Covariances and means of a layer's operands, [groups, K, K] and [groups, K]."""

    exact: Matrices | None  # F: of the float model, where errors are wanted
    cross: Matrices  # G: of the float model with the quantized one
    rounded: Matrices  # H: of the quantized model
    exact_mean: Matrices
    rounded_mean: Matrices

    @property
    def varies(self) -> bool:
        """Whether the quantized model's operands vary by more than rounding."""
        variance = float(np.trace(self.rounded, axis1=1, axis2=2).sum())
        return variance > _ROUNDING * float(np.sum(self.rounded_mean**2))

    def error(self, exact_weights: Matrices, weights: Matrices) -> NDArray[np.float64]:
        """Mean squared error of each output channel, [groups, channels], with weights [groups, channels, K]."""
        mixed = np.sum((exact_weights @ self.cross) * weights, axis=-1)
        after = np.sum((weights @ self.rounded) * weights, axis=-1)
        return np.asarray(np.maximum(self.signal(exact_weights) - 2 * mixed + after, 0.0))

    def signal(self, exact_weights: Matrices) -> NDArray[np.float64]:
        """The variance of each output channel of the float model, [groups, channels]."""
        assert self.exact is not None, "measured without errors in mind"
        return np.asarray(np.sum((exact_weights @ self.exact) * exact_weights, axis=-1))

    def bias_shift(self, exact_weights: Matrices, weights: Matrices) -> NDArray[np.float64]:
        """What to add to the bias of each output channel, so that the mean output stays: [groups * channels]."""
        wanted = np.einsum("gok,gk->go", exact_weights, self.exact_mean)
        given = np.einsum("gok,gk->go", weights, self.rounded_mean)
        return np.asarray((wanted - given).reshape(-1))


def has_rows(node: Node) -> bool:
    """Whether the node is a layer whose operands `operand_rows` knows."""
    return node.op == "Dense" or (node.op == "Conv" and node.str("layout") == "NHWC")


def groups_of(node: Node) -> int:
    """How many parts the layer has that read different input channels."""
    return node.int("group") if node.op == "Conv" else 1


def weight_rows(node: Node, weights: Array) -> Matrices:
    """Weights as [groups, output channels of a group, K], with K ordered as `operand_rows` has it."""
    groups = groups_of(node)
    return weights.astype(np.float64).reshape(groups, len(weights) // groups, -1)


def operand_rows(node: Node, x: Array, chosen: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """What each output element is a weighted sum of: [groups, rows, K]. chosen: of which pixels; of all if None."""
    if node.op == "Dense":
        rows = x.reshape(1, -1, x.shape[-1])
        return rows if chosen is None else np.ascontiguousarray(rows[:, chosen], np.float32)
    kernel = node.input(1).shape[1:3]
    windows = sliding_windows(x, kernel, node.ints("strides"), node.ints("pads"), node.ints("dilations"), 0)
    picked = windows if chosen is None else windows[np.unravel_index(chosen, windows.shape[:3])]
    cells, groups = math.prod(kernel), groups_of(node)
    split = picked.reshape(-1, cells, groups, x.shape[-1] // groups).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(split, np.float32).reshape(groups, split.shape[1], -1)


def sample_weight(x: Array) -> float:
    """How much a sample counts: each alike, whatever its magnitude. A loud one would else outweigh all the others.

    x: what the layer reads in the float model. One of zeros says nothing.
    """
    energy = float(np.vdot(x, x))
    return 1.0 / max(energy, _TINY) if energy > 0 else 0.0


def measure_moments(
    node: Node, exact: Sequence[Array], rounded: Sequence[Array], chosen: Sequence[int], *, with_exact: bool
) -> Moments:
    """The moments over the `chosen` samples of a layer's input in the float and in the quantized model.

    They are taken about the means where the layer has a bias, which makes up for the means, and else about zero.
    Every sample counts alike. Of very many rows a random part is taken, the same one in every run.
    """
    sums: dict[str, Matrices] = {}
    weight = 0.0
    centre = 0.0 if node.optional_input(2) is None else 1.0
    origin = _origin(node, [exact[index] for index in chosen]) if centre else None
    for index in chosen:
        x, z = _some_rows(operand_rows(node, exact[index]), operand_rows(node, rounded[index]), index, len(chosen))
        scale = sample_weight(exact[index])
        weight += scale * x.shape[1]
        if origin is not None:
            x, z = x - origin[:, None], z - origin[:, None]
        parts = {"cross": _products(x, z), "rounded": _products(z, z), "x": x.sum(axis=1), "z": z.sum(axis=1)}
        if with_exact:
            parts["exact"] = _products(x, x)
        for key, part in parts.items():
            sums[key] = sums.get(key, 0.0) + scale * part.astype(np.float64)
    means = {key: total / max(weight, _TINY) for key, total in sums.items()}
    x_mean, z_mean = means["x"], means["z"]
    offset = 0.0 if origin is None else origin
    return Moments(
        means["exact"] - centre * _products_of_means(x_mean, x_mean) if with_exact else None,
        means["cross"] - centre * _products_of_means(x_mean, z_mean),
        means["rounded"] - centre * _products_of_means(z_mean, z_mean),
        x_mean + offset,
        z_mean + offset,
    )


def _origin(node: Node, arrays: Sequence[Array]) -> NDArray[np.float32] | None:
    """Operands near the mean, [groups, K], to measure from; None where zero serves as well.

    Products of float32 have seven digits: they do not say how much inputs vary that hardly leave a large mean.
    """
    arrays = [x for x in arrays if x.any()]
    if not arrays:
        return None
    channels = arrays[0].shape[-1]
    means = [x.reshape(-1, channels).mean(axis=0, dtype=np.float64) for x in arrays]
    squares = [np.square(x.reshape(-1, channels), dtype=np.float64).mean(axis=0) for x in arrays]
    mean = np.mean(means, axis=0)
    if np.sum(mean**2) <= _FAR * max(float(np.sum(np.mean(squares, axis=0) - mean**2)), 0.0):
        return None
    cells = 1 if node.op == "Dense" else math.prod(node.input(1).shape[1:3])
    return np.tile(mean.astype(np.float32).reshape(groups_of(node), -1), cells)


def _some_rows(
    x: NDArray[np.float32], z: NDArray[np.float32], seed: int, samples: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """At most so many rows that the moments over all samples stay affordable."""
    _, rows, inputs = x.shape
    most = max(_PRODUCTS // (len(x) * inputs * inputs), _ROWS_PER_INPUT * inputs) // samples + 1
    if rows <= most:
        return x, z
    chosen = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return x[:, chosen], z[:, chosen]


def _products(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return a.transpose(0, 2, 1) @ b


def _products_of_means(a: Matrices, b: Matrices) -> Matrices:
    return a[:, :, None] * b[:, None, :]


def decibels(signal: float, noise: float) -> str:
    """10 log10(signal / noise), for remarks."""
    return "inf" if noise <= 0 or signal <= 0 else f"{10 * math.log10(signal / noise):.1f}"
