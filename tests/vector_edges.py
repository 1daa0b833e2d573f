"""The layers that are in every run of a grid: tails, pads, strides, dilations, one channel, one pixel, tight clamps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import vector_cases as cases
from vector_cases import SAME, Sample

INTEGER_LEVELS: tuple[dict[str, Any], ...] = (
    {"low": 3, "high": 4},
    {"low": -7},
    {"scale": 40.0},  # scales above one half: a shift below 32, and saturation everywhere
    {"scale": 200.0, "residual": True},
    {"zero_points": (-128, 127)},
    {"zero_points": (127, -128), "residual": True},
    {"zero_points": (0, 0)},
)
FLOAT_CLAMPS: tuple[dict[str, Any], ...] = ({"low": 0.0}, {"low": 0.0, "high": 6.0, "residual": True})
BROADCASTS = (((2, 3, 4), (4,)), ((2, 3, 4), (1,)), ((2, 1, 4), (3, 1)), ((3, 4), (2, 3, 4)), ((2, 3, 4), (1, 3, 1)))

CONVOLUTIONS: tuple[dict[str, Any], ...] = (
    {"image": (1, 1, 1), "channels": 1},
    {"image": (1, 1, 3), "channels": 8, "kernel": (3, 3), "pads": SAME},  # one pixel, eight pads around it
    {"image": (25, 5, 64), "channels": 64},
    {"image": (5, 6, 7), "channels": 13, "residual": True},
    {"image": (5, 6, 7), "channels": 1},
    {"image": (9, 9, 4), "channels": 5, "strides": (3, 3)},
    {"image": (12, 7, 1), "channels": 20, "kernel": (10, 4), "strides": (2, 2), "pads": (4, 1, 5, 1)},
    {"image": (8, 8, 16), "channels": 16, "kernel": (3, 3), "pads": SAME, "residual": True},
    {"image": (16, 16, 3), "channels": 8, "kernel": (3, 3), "strides": (2, 2), "pads": (0, 0, 1, 1)},
    {"image": (9, 7, 6), "channels": 10, "kernel": (3, 3), "pads": SAME, "dilations": (2, 2), "residual": True},
    {"image": (40, 60, 16), "channels": 8, "kernel": (5, 5), "strides": (3, 2), "pads": (2, 1, 2, 2)},  # a ring of rows
    {"image": (4, 5, 2), "channels": 8, "kernel": (4, 5)},  # one output pixel
    {"image": (2, 2, 9), "channels": 9, "kernel": (5, 5), "pads": (2, 2, 2, 2)},  # a window larger than the image
    {"image": (4, 4, 8), "channels": 9, "kernel": (2, 2), "pads": (2, 2, 2, 2)},  # windows outside of the image
    {"image": (1, 9, 2), "channels": 8, "kernel": (1, 7), "strides": (1, 2), "pads": (0, 3, 0, 3)},
)
DEPTHWISE: tuple[dict[str, Any], ...] = (
    {"image": (1, 1, 8), "kernel": (3, 3), "pads": SAME},
    {"image": (7, 7, 20), "kernel": (3, 3), "pads": SAME},
    {"image": (24, 30, 20), "kernel": (3, 3), "pads": SAME},  # rows outermost
    {"image": (40, 40, 32), "kernel": (3, 3), "strides": (2, 2), "pads": (0, 0, 1, 1)},
    {"image": (7, 7, 11), "kernel": (3, 3), "pads": SAME},
    {"image": (9, 8, 12), "kernel": (5, 5), "pads": (2, 2, 2, 2), "residual": True},
    {"image": (10, 9, 9), "kernel": (3, 3), "pads": (2, 2, 2, 2), "dilations": (2, 2)},
    {"image": (6, 12, 30), "kernel": (1, 7), "pads": (0, 3, 0, 3)},
    {"image": (4, 5, 17), "kernel": (4, 5)},  # one output pixel
    {"image": (2, 2, 8), "kernel": (5, 5), "pads": (2, 2, 2, 2)},  # a window larger than the image
    {"image": (12, 11, 8), "kernel": (8, 7)},  # too many taps to be written out
    {"image": (3, 3, 16), "kernel": (1, 1)},
    {"image": (5, 9, 24), "kernel": (3, 3), "strides": (3, 1), "pads": (0, 2, 1, 0), "residual": True},
)
DENSE = ((1, 1, 1), (1, 640, 128), (3, 37, 10), (1, 64, 1), (7, 16, 24), (8, 144, 12), (2, 1, 5), (1, 7, 33))
WINOGRAD: tuple[dict[str, Any], ...] = (
    {"image": (32, 32, 16), "channels": 16, "pads": SAME, "residual": True, "low": 0.0},  # strips of one row of tiles
    {"image": (8, 8, 256), "channels": 12, "pads": SAME},
    {"image": (30, 29, 8), "channels": 9, "pads": (0, 1, 2, 1), "low": -9.0, "high": 10.0},  # tiles beyond the edge
    {"image": (12, 10, 64), "channels": 64},
    {"image": (10, 11, 16), "channels": 8, "pads": SAME, "low": 0.0, "high": 6.0, "residual": True},
    {"image": (6, 6, 24), "channels": 32, "pads": (2, 2, 2, 2)},
)
POOLS: tuple[dict[str, Any], ...] = (
    {"image": (25, 5, 64), "kernel": (25, 5)},
    {"image": (1, 1, 4), "kernel": (1, 1)},
    {"image": (9, 8, 7), "kernel": (3, 2), "strides": (1, 2), "pads": (1, 1, 1, 0)},
    {"image": (20, 20, 9), "kernel": (3, 3), "strides": (2, 2), "pads": SAME},
    {"image": (60, 60, 24), "kernel": (3, 3), "strides": (2, 2), "pads": (0, 0, 1, 1)},  # a ring of rows
    {"image": (7, 6, 17), "kernel": (2, 2), "strides": (1, 2), "pads": SAME, "dilations": (2, 3)},
    {"image": (5, 4, 3), "kernel": (2, 2), "strides": (2, 2)},  # fewer channels than a vector has lanes
    {"image": (3, 3, 1), "kernel": (3, 3), "pads": SAME},
)


def float_convolutions() -> Iterator[Sample]:
    yield from (cases.float_convolution(**layer) for layer in CONVOLUTIONS)
    yield from (cases.float_convolution((6, 5, 9), 7, (3, 2), **clamp) for clamp in FLOAT_CLAMPS)


def integer_convolutions() -> Iterator[Sample]:
    yield from (cases.integer_convolution(**layer) for layer in CONVOLUTIONS)
    yield from (cases.integer_convolution((4, 5, 24), 12, (3, 3), pads=SAME, **level) for level in INTEGER_LEVELS)


def pointwise_convolutions() -> Iterator[Sample]:
    """Depths and channels around whole steps and pairs; rows of one to five pixels."""
    images = ((1, 2), (3, 1), (5, 1), (2, 3), (4, 4))
    for number, depth in enumerate((8, 9, 15, 16, 17, 24, 31, 64, 100)):
        channels = (1, 5, 12, 16, 24, 28, 40)[number % 7]
        yield cases.integer_convolution((*images[number % 5], depth), channels, residual=depth % 2 == 0)


def float_depthwise() -> Iterator[Sample]:
    yield from (cases.float_convolution(**_one_group_each(layer)) for layer in DEPTHWISE)
    yield from (cases.float_convolution((6, 5, 8), 8, (3, 2), group=8, **clamp) for clamp in FLOAT_CLAMPS)


def integer_depthwise() -> Iterator[Sample]:
    yield from (cases.integer_convolution(**_one_group_each(layer)) for layer in DEPTHWISE)
    for level in INTEGER_LEVELS:
        yield cases.integer_convolution((4, 5, 24), 24, (3, 3), pads=SAME, group=24, **level)
    node, arrays = cases.integer_convolution((4, 5, 16), 16, (3, 3), pads=SAME, group=16)
    node.input(1).data.flat[17] = -128  # products that may not be added in pairs
    yield node, arrays


def _one_group_each(layer: dict[str, Any]) -> dict[str, Any]:
    channels = layer["image"][2]
    return {**layer, "channels": channels, "group": channels}


def float_dense() -> Iterator[Sample]:
    yield from (cases.float_dense(*shape) for shape in DENSE)
    yield from (cases.float_dense(2, 19, 9, **clamp) for clamp in FLOAT_CLAMPS)


def integer_dense() -> Iterator[Sample]:
    yield from (cases.integer_dense(*shape) for shape in DENSE)
    yield from (cases.integer_dense(2, 32, 12, **level) for level in INTEGER_LEVELS)


def winograd() -> Iterator[Sample]:
    yield from (cases.float_convolution(kernel=(3, 3), **layer) for layer in WINOGRAD)


def float_pools() -> Iterator[Sample]:
    for op, layer in product(("AveragePool", "MaxPool"), POOLS):
        yield cases.pool(op, **layer)
    pads = (1, 2, 1, 0)
    yield cases.pool("AveragePool", (6, 5, 8), (3, 3), pads=pads, counted_pads=pads)
    yield cases.pool("AveragePool", (6, 5, 8), (3, 3), pads=pads, counted_pads=(0, 1, 1, 0))


def integer_pools() -> Iterator[Sample]:
    for op, layer in product(("QAveragePool", "MaxPool"), POOLS):
        yield cases.pool(op, **layer, dtype="int8")
    for zero_points, (low, high) in zip(
        ((-128, 127), (127, -128), (0, 9)), ((-128, 127), (3, 4), (-20, 9)), strict=True
    ):
        levels: dict[str, Any] = {"low": low, "high": high, "zero_points": zero_points, "dtype": "int8"}
        yield cases.pool("QAveragePool", (5, 4, 9), (2, 3), pads=SAME, **levels)
        yield cases.pool("QAveragePool", (5, 4, 9), (2, 3), pads=SAME, **levels, has_factors=True)


def float_elementwise() -> Iterator[Sample]:
    for op, size in product(("Add", "Sub", "Mul"), (1, 3, 15, 33)):
        yield cases.elementwise(op, size, attributes=cases.clamp())
    for op, shapes in zip(("Add", "Sub", "Mul", "Add", "Mul"), BROADCASTS, strict=True):
        yield cases.elementwise_of(op, shapes, cases.clamp(0, 1))
    yield cases.elementwise("Add", 3, 7, 11, attributes=cases.clamp(0, 1))
    yield cases.elementwise("Relu", 100)
    yield cases.elementwise("Clip", 37, attributes={"low": -0.3, "high": 6.0})
    yield cases.elementwise("Clip", 1, attributes={"low": 0.5, "high": 0.5})
    for count, (scale, zero_point) in zip(
        (1, 6, 91, 17), ((0.5, -3), (0.25, 127), (0.0039, -128), (1.0, 0)), strict=True
    ):
        yield cases.to_levels(count, scale, zero_point)
        yield cases.from_levels(count, scale, zero_point)


def integer_sums() -> Iterator[Sample]:
    for size in (1, 15, 16, 17, 33, 180):
        yield cases.integer_sum(size, multiplier_b=1_900_000)
        yield cases.integer_sum(size, multiplier_b=-700_000, low=-20)
    for shapes, shift in zip(BROADCASTS, (20, 12, 31, 20, 24), strict=True):
        yield cases.integer_sum_of(shapes, _shares(shift), shift)
    yield cases.integer_sum_of(((5, 7), (5, 7)), (900_000, 300_000), 20, 3, 4)
    yield cases.integer_sum_of(((5, 7), (5, 7)), (1, 2**21 - 1), 21, zero_points=(127, -128, 0))
    yield cases.integer_sum_of(((5, 7), (5, 7)), (2**21 - 1, 2**21 - 2), 31, zero_points=(0, 0, 127))


def _shares(shift: int) -> cases.Pair:
    """Multipliers of a sum: 0.7 and -0.9 where the shift allows it."""
    unit = 2 ** min(shift, 21)
    return round(0.7 * unit), -round(0.9 * unit)
