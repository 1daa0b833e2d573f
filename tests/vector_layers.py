"""Random layers for the grids of the vector kernels: windows of all kinds over small images, few and many channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import vector_cases as cases
from vector_cases import Pads, Pair, Sample

T = TypeVar("T")

WINDOWS: tuple[Pair, ...] = ((1, 1), (1, 1), (3, 3), (3, 3), (5, 2), (1, 4), (4, 1), (2, 3))
DEPTHWISE_WINDOWS: tuple[Pair, ...] = ((3, 3), (3, 3), (5, 5), (1, 4), (4, 1), (7, 2), (8, 7))
STRIDES: tuple[Pair, ...] = ((1, 1), (1, 1), (2, 2), (1, 3), (3, 1))
DILATIONS: tuple[Pair, ...] = ((1, 1), (1, 1), (1, 1), (2, 2), (1, 2), (2, 1))
DEPTHS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 20, 24, 32, 35, 40)
CHANNELS = (1, 2, 3, 4, 5, 7, 8, 11, 12, 16, 20, 26, 37)
LEVELS: tuple[dict[str, Any], ...] = ({}, {}, {"low": -7}, {"low": -30, "high": 20}, {"scale": 40.0})
CLAMPS: tuple[dict[str, Any], ...] = ({}, {"low": 0.0}, {"low": -9.0, "high": 40.0})
ZERO_POINTS: tuple[Pair, ...] = ((11, -7), (-128, 3), (127, -128), (0, 0), (-77, 127))
ELEMENTWISE = ("Add", "Sub", "Mul", "Relu", "Clip", "QuantizeLinear", "DequantizeLinear")


def pick(random: np.random.Generator, table: Sequence[T]) -> T:
    return table[int(random.integers(len(table)))]


@dataclass(frozen=True)
class Geometry:
    """A window that fits into a padded image."""

    image: Pair
    kernel: Pair
    strides: Pair
    pads: Pads
    dilations: Pair

    @property
    def arguments(self) -> tuple[Pair, Pair, Pads, Pair]:
        return self.kernel, self.strides, self.pads, self.dilations


def any_geometry(random: np.random.Generator, windows: Sequence[Pair]) -> Geometry:
    """An image of a few windows; pads are smaller than a window, or none."""
    kernel, strides, dilations = (pick(random, table) for table in (windows, STRIDES, DILATIONS))
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    top, left, bottom, right = (int(random.integers(spans[axis % 2])) for axis in range(4))
    pads = (top, left, bottom, right) if random.integers(3) else cases.NO_PADS
    height = max(spans[0] - pads[0] - pads[2], 1) + pick(random, (0, 1, 2, 4))
    width = max(spans[1] - pads[1] - pads[3], 1) + pick(random, (0, 1, 3, 6, 11))
    return Geometry((height, width), kernel, strides, pads, dilations)


def float_convolution(random: np.random.Generator) -> Sample:
    at, depth, channels = any_geometry(random, WINDOWS), pick(random, DEPTHS), pick(random, CHANNELS)
    options: dict[str, Any] = {"residual": not random.integers(3), **pick(random, CLAMPS)}
    return cases.float_convolution((*at.image, depth), channels, *at.arguments, **options)


def _integer_options(random: np.random.Generator) -> dict[str, Any]:
    zero_points = pick(random, ZERO_POINTS)
    return {"residual": not random.integers(3), "zero_points": zero_points, **pick(random, LEVELS)}


def integer_product(random: np.random.Generator) -> Sample:
    """Every seventh is a dense layer."""
    depth, channels = pick(random, DEPTHS), pick(random, CHANNELS)
    if not random.integers(7):
        return cases.integer_dense(int(random.integers(1, 9)), depth, channels, **_integer_options(random))
    at = any_geometry(random, WINDOWS)
    return cases.integer_convolution((*at.image, depth), channels, *at.arguments, **_integer_options(random))


def float_depthwise(random: np.random.Generator) -> Sample:
    at, channels = any_geometry(random, DEPTHWISE_WINDOWS), int(random.integers(4, 24))
    options: dict[str, Any] = {"group": channels, "residual": not random.integers(3), **pick(random, CLAMPS)}
    return cases.float_convolution((*at.image, channels), channels, *at.arguments, **options)


def integer_depthwise(random: np.random.Generator) -> Sample:
    """Every seventh has a weight of -128, so that no products may be added in pairs."""
    at, channels = any_geometry(random, DEPTHWISE_WINDOWS), int(random.integers(8, 44))
    options: dict[str, Any] = {"group": channels, **_integer_options(random)}
    node, arrays = cases.integer_convolution((*at.image, channels), channels, *at.arguments, **options)
    if not random.integers(7):
        node.input(1).data.flat[0] = -128
    return node, arrays


def float_dense(random: np.random.Generator) -> Sample:
    options: dict[str, Any] = {"residual": not random.integers(3), **pick(random, CLAMPS)}
    rows, depth, channels = (int(random.integers(1, most)) for most in (9, 80, 50))
    return cases.float_dense(rows, depth, channels, **options)


def winograd(random: np.random.Generator) -> Sample:
    height, width = (int(cells) for cells in random.integers(3, 15, 2))
    depth, channels = (int(count) for count in random.integers(4, 22, 2))
    pads: Pads = pick(random, (cases.SAME, cases.SAME, cases.NO_PADS, (0, 1, 2, 0), (2, 3, 1, 1)))
    options: dict[str, Any] = {"residual": bool(random.integers(2)), **pick(random, CLAMPS)}
    return cases.float_convolution((height, width, depth), channels, (3, 3), pads=pads, **options)


def _pool(random: np.random.Generator, average: str, dtype: str) -> Sample:
    at, channels = any_geometry(random, ((2, 2), (3, 3), (1, 3), (4, 2), (2, 5))), int(random.integers(4, 40))
    options: dict[str, Any] = {"dtype": dtype}
    if dtype == "int8":
        low, high = pick(random, ((-128, 127), (-20, 99), (3, 4)))
        options |= {"zero_points": pick(random, ZERO_POINTS), "low": low, "high": high}
        options["has_factors"] = bool(random.integers(2))
    else:
        options["counted_pads"] = at.pads if random.integers(2) else cases.NO_PADS
    return cases.pool(pick(random, (average, "MaxPool")), (*at.image, channels), *at.arguments, **options)


def float_pool(random: np.random.Generator) -> Sample:
    return _pool(random, "AveragePool", "float32")


def integer_pool(random: np.random.Generator) -> Sample:
    return _pool(random, "QAveragePool", "int8")


def float_elementwise(random: np.random.Generator) -> Sample:
    op, size = pick(random, ELEMENTWISE), int(random.integers(1, 300))
    scale, zero_point = float(random.uniform(0.003, 0.7)), int(random.integers(-128, 128))
    low = float(random.normal())
    high = low + float(random.uniform(0, 2))
    match op:
        case "QuantizeLinear":
            return cases.to_levels(size, scale, zero_point)
        case "DequantizeLinear":
            return cases.from_levels(size, scale, zero_point)
        case "Clip":
            return cases.elementwise(op, size, attributes={"low": low, "high": high})
        case "Relu":
            return cases.elementwise(op, size)
        case _:
            return cases.elementwise(op, size, attributes=cases.clamp(low, high if random.integers(2) else math.inf))


def integer_sum(random: np.random.Generator) -> Sample:
    size, shift = int(random.integers(1, 300)), int(random.integers(12, 32))
    most = 2 ** min(shift, 20)
    first, second = (int(multiplier) for multiplier in random.integers(-most, most, 2))
    low, high = pick(random, ((-128, 127), (-20, 127), (-9, 33)))
    zero_points = tuple(int(level) for level in random.integers(-128, 128, 3))
    shapes = ((size,), (size,))
    return cases.integer_sum_of(
        shapes, (first, second), shift, low, high, (zero_points[0], zero_points[1], zero_points[2])
    )
