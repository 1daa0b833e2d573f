"""The one-dimensional transforms of Winograd's minimal filtering F(m, 3), for m = 2 and m = 4.

    m outputs of a filter of three taps g over n = m + 2 inputs d:    A^T ((G g) * (B^T d)),    * element by element

In two dimensions, each transform is applied along the columns and then along the rows. Source: Lavin and Gray, Fast
Algorithms for Convolutional Neural Networks, arXiv:1509.09308, section 4; the sums are arranged here so that they share
terms and become fused multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tinyopt.ir import Array
from tinyopt.targets.kernels.tir import Expr, KernelBuilder, broadcast, constant
from tinyopt.targets.kernels.vector.float_convolution import fused_multiply_add
from tinyopt.targets.kernels.vector.machine import Float

TAPS = 3
BIAS_POSITION = 1  # A^T times the unit vector of this position is all ones, for both m


class Arithmetic(Protocol):
    """What the transforms are made of."""

    def sum(self, a: Any, b: Any) -> Any: ...

    def difference(self, a: Any, b: Any) -> Any: ...

    def scaled_sum(self, total: Any, value: Any, factor: float) -> Any:
        """total + value * factor, rounded once."""
        ...


@dataclass(frozen=True)
class Vectors:
    """Arithmetic on vectors of `width` floats; each result gets a name in the generated code."""

    kernel: KernelBuilder
    width: int
    element: Float

    def sum(self, a: Expr, b: Expr) -> Expr:
        return self.kernel.let(a + b)

    def difference(self, a: Expr, b: Expr) -> Expr:
        return self.kernel.let(a - b)

    def scaled_sum(self, total: Expr, value: Expr, factor: float) -> Expr:
        return self.multiply_add(total, value, broadcast(constant(factor, self.element), self.width))

    def multiply_add(self, total: Expr, a: Expr, b: Expr) -> Expr:
        """total + a * b, rounded once."""
        return self.kernel.let(fused_multiply_add(total, b, a, self.width, self.element))


Apply = Callable[[Arithmetic, Sequence[Any]], list[Any]]


@dataclass(frozen=True, eq=False)
class Transform:
    """F(m, 3). filters: G, [n, 3]. inputs: B^T times n vectors. outputs: A^T times n vectors.

    input_operations, output_operations: instructions of one application.
    """

    filters: Array
    inputs: Apply
    outputs: Apply
    input_operations: int
    output_operations: int


def _inputs_for_two(vectors: Arithmetic, d: Sequence[Any]) -> list[Any]:
    return [
        vectors.difference(d[0], d[2]),
        vectors.sum(d[1], d[2]),
        vectors.difference(d[2], d[1]),
        vectors.difference(d[1], d[3]),
    ]


def _outputs_for_two(vectors: Arithmetic, m: Sequence[Any]) -> list[Any]:
    return [
        vectors.sum(m[0], vectors.sum(m[1], m[2])),
        vectors.difference(vectors.difference(m[1], m[2]), m[3]),
    ]


def _inputs_for_four(vectors: Arithmetic, d: Sequence[Any]) -> list[Any]:
    even, odd = vectors.difference(d[4], d[2]), vectors.difference(d[3], d[1])
    far_even, far_odd = vectors.scaled_sum(d[4], d[2], -4.0), vectors.scaled_sum(d[3], d[1], -4.0)
    return [
        vectors.scaled_sum(even, vectors.difference(d[0], d[2]), 4.0),
        vectors.sum(far_even, far_odd),
        vectors.difference(far_even, far_odd),
        vectors.scaled_sum(even, odd, 2.0),
        vectors.scaled_sum(even, odd, -2.0),
        vectors.scaled_sum(vectors.difference(d[5], d[3]), odd, -4.0),
    ]


def _outputs_for_four(vectors: Arithmetic, m: Sequence[Any]) -> list[Any]:
    near_sum, near_difference = vectors.sum(m[1], m[2]), vectors.difference(m[1], m[2])
    far_sum, far_difference = vectors.sum(m[3], m[4]), vectors.difference(m[3], m[4])
    return [
        vectors.sum(vectors.sum(m[0], near_sum), far_sum),
        vectors.scaled_sum(near_difference, far_difference, 2.0),
        vectors.scaled_sum(near_sum, far_sum, 4.0),
        vectors.scaled_sum(vectors.sum(near_difference, m[5]), far_difference, 8.0),
    ]


TRANSFORMS: Mapping[int, Transform] = {
    2: Transform(
        np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
        _inputs_for_two,
        _outputs_for_two,
        input_operations=4,
        output_operations=4,
    ),
    4: Transform(
        np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
        _inputs_for_four,
        _outputs_for_four,
        input_operations=12,
        output_operations=10,
    ),
}


def transformed_filters(weights: Array, outputs: int) -> Array:
    """G g G^T of [O, 3, 3, I] filters for `outputs` = m: float64 [n, n, I, O]."""
    g = TRANSFORMS[outputs].filters
    transformed: Array = np.einsum("pr,orsi,qs->pqio", g, weights.astype(np.float64), g, optimize=True)
    return transformed


def transformed(apply: Apply, vectors: Arithmetic, plane: Sequence[Sequence[Expr]]) -> list[list[Expr]]:
    """`apply` along the columns of a plane of vectors: plane[row][column]."""
    columns = [apply(vectors, column) for column in zip(*plane, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]
