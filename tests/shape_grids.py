"""Families of small integer nodes that differ in shape: tails, pads, strides, single channels and pixels, clamps.

Each family has at least 200 of them, for whichever kernels a planner makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count, cycle, product

import numpy as np
from cortex_m_cases import CaseMaker
from cortex_m_harness import Case

from tinyopt.ir import Attribute, Node, Value
from tinyopt.ops.integer_softmax import exponential_table
from tinyopt.targets.kernel import Kernel, KernelPlanner, Refusal

SAME = (1, 1, 1, 1)
NO_PADS = (0, 0, 0, 0)
STRIDES = ((1, 1), (2, 2), (1, 2), (3, 1))
CLAMPS = ((-128, 60), (-5, 127), (-20, 99), (3, 3))
SHIFTS = (8, 12, 17, 20, 23, 24, 26, 28, 29, 30, 31)
WINDOWS = (
    ((3, 3), SAME),
    ((3, 3), (0, 0, 1, 1)),
    ((2, 3), (0, 2, 1, 0)),
    ((4, 1), (2, 0, 1, 0)),
    ((1, 4), NO_PADS),
    ((2, 2), (2, 2, 2, 2)),  # some windows lie outside the image
)


def first_of(kernels: Mapping[str, tuple[KernelPlanner, ...]]) -> KernelPlanner:
    """What the first planner of an operator that does not refuse makes of a node: what a target takes."""

    def plan(node: Node) -> Kernel | Refusal:
        answers = [planner(node) for planner in kernels[node.op]]
        return next((answer for answer in answers if isinstance(answer, Kernel)), answers[-1])

    return plan


def convolutions(make: CaseMaker, plan: KernelPlanner) -> Iterator[Case]:
    images = cycle(((1, 1), (1, 2), (2, 3)))
    for depth, channels in product((1, 2, 3, 5, 8, 9, 16, 17), (1, 3, 8, 16)):
        yield make.conv(plan, (*next(images), depth), channels)
    for depth, strides in product((1, 3, 4, 8), STRIDES[1:]):
        yield make.conv(plan, (3, 4, depth), 8, (1, 1), strides)
    numbers = cycle((8, 1, 8, 2, 16))
    for (window, pads), strides, depth in product(WINDOWS, STRIDES, (1, 3, 8, 9)):
        yield make.conv(plan, (4, 4, depth), next(numbers), window, strides, pads)
    for depth, channels, (window, pads) in product((1, 4, 8), (1, 8), (((1, 1), NO_PADS), *WINDOWS[:2])):
        yield make.conv(plan, (2, 3, depth), channels, window, (1, 1), pads, residual=1, low=-90)
    for depth, shift in zip(count(1), SHIFTS, strict=False):
        yield make.conv(plan, (1, 2, depth), 8, shift=shift)
        yield make.conv(plan, (2, 1, depth), 2, (2, 1), (1, 1), (1, 0, 0, 0), shift=shift, residual=1)
    for depth, (low, high) in product((2, 7), CLAMPS):
        yield make.conv(plan, (1, 3, depth), 8, (1, 2), low=low, high=high)
    for depth, dilations in product((1, 3), ((2, 2), (1, 3), (2, 1))):
        yield make.conv(plan, (5, 5, depth), 8, (3, 2), (1, 1), SAME, False, dilations)
    yield make.conv(plan, (1, 1, 3), 8, (3, 3), (1, 1), SAME)  # one pixel, eight pads around it
    yield make.conv(plan, (4, 5, 2), 8, (4, 5))  # one output pixel
    yield make.conv(plan, (2, 2, 2), 8, (5, 5), (1, 1), (2, 2, 2, 2))  # a window larger than the image
    yield make.conv(plan, (12, 10, 1), 8, (10, 4), (2, 2), (4, 1, 5, 1))
    yield make.conv(plan, (1, 9, 2), 8, (1, 7), (1, 2), (0, 3, 0, 3))
    for zero in (-128, 0, 127):
        yield make.conv(plan, (3, 3, 2), 8, (3, 3), (1, 1), SAME, input_zero=zero, output_zero=-1 - zero)


def depthwise_convolutions(make: CaseMaker, plan: KernelPlanner) -> Iterator[Case]:
    def case(
        image: tuple[int, int],
        channels: int,
        window: tuple[int, int] = (3, 3),
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = SAME,
        dilations: tuple[int, int] = (1, 1),
        **options: int,
    ) -> Case:
        return make.conv(plan, (*image, channels), channels, window, strides, pads, True, dilations, **options)

    channels = cycle((8, 1, 3, 8, 9, 16, 2))
    images = cycle(((4, 4), (5, 4), (4, 7)))
    for (window, pads), strides, _ in product(
        WINDOWS, STRIDES, range(5)
    ):  # the cycles have lengths without a common factor
        yield case(next(images), next(channels), window, strides, pads)
    for height, width in product((1, 2, 3), (1, 2, 3, 5)):
        yield case((height, width), 8)
        yield case((height, width), 5, strides=(2, 2))
    for number, shift in product((4, 8), SHIFTS):
        yield case((1, 2), number, (1, 2), pads=NO_PADS, shift=shift)
    for number, shift in product((1, 8, 11), (32, 29)):
        yield case((2, 3), number, residual=1, shift=shift)
    for number, (low, high) in product((1, 8, 10), CLAMPS):
        yield case((2, 2), number, low=low, high=high)
    for number, dilations, strides in product((3, 8), ((2, 2), (1, 3), (2, 1)), STRIDES[:2]):
        yield case((5, 5), number, (2, 2), strides, SAME, dilations)
    for number in (1, 7, 8, 17):
        yield case((4, 5), number, (4, 5), pads=NO_PADS)  # one output pixel
        yield case((2, 2), number, (5, 5), pads=(2, 2, 2, 2))  # a window larger than the image
        yield case((3, 3), number, (1, 1), pads=NO_PADS, input_zero=127, output_zero=-128)


def dense_layers(make: CaseMaker, plan: KernelPlanner) -> Iterator[Case]:
    depths, channels = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33), (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 20)
    for depth, number in product(depths, channels):
        yield make.dense(plan, (1, depth), number)
    for rows, depth, number in product((2, 3), (1, 7, 8), (1, 3, 5, 8)):
        yield make.dense(plan, (rows, depth), number)
    for (depth, shift), residual in product(zip(count(3), SHIFTS, strict=False), (0, 1)):
        yield make.dense(plan, (1, depth), 8, shift=shift, residual=residual)
    for depth, (low, high) in product((6, 10), CLAMPS):
        yield make.dense(plan, (depth,), 8, low=low, high=high)
    for zero in (-128, 0, 127):
        yield make.dense(plan, (1, 11), 6, input_zero=zero, output_zero=-1 - zero)
    for depth in (64, 100, 257):
        yield make.dense(plan, (1, depth), 8, residual=1, low=-90)
    yield make.dense(plan, (1, 2, 3, 5), 4)
    yield make.dense(plan, (1, 640), 2)


def pools(make: CaseMaker, plan: KernelPlanner) -> Iterator[Case]:
    windows = (
        ((2, 2), (2, 2), NO_PADS),
        ((3, 3), (2, 2), SAME),
        ((3, 2), (1, 1), (0, 1, 2, 0)),
        ((1, 3), (2, 1), NO_PADS),
        ((3, 3), (1, 1), SAME),
        ((5, 4), (1, 1), NO_PADS),  # of all the image, where it is of this size
    )
    images = ((5, 4), (6, 7))
    for (kernel, strides, pads), channels, image in product(windows, (1, 3, 8, 13, 17), images):
        window = _window(kernel, strides, pads)
        small: dict[str, Attribute] = {**window, "shift": 24, "low": -50, "high": 127}
        yield make.unary("MaxPool", plan, (1, *image, channels), window)
        yield make.unary("QAveragePool", plan, (1, *image, channels), {**window, **_rounding(), "high": 90}, _parts(4))
        yield make.unary("QAveragePool", plan, (1, *image, channels), small, _parts(3, shift=24))
    cells = _parts(4, 6, 4, 6, 9, 6, 4, 6, 4)
    for channels in (1, 2, 7, 8, 20):
        window = _window((3, 3), (1, 1), SAME)
        yield make.unary("QAveragePool", plan, (1, 3, 3, channels), {**window, **_rounding()}, cells)
        yield make.unary("MaxPool", plan, (1, 1, 1, channels), _window((1, 1), (1, 1), NO_PADS))
        yield make.unary("MaxPool", plan, (1, 7, 6, channels), {**_window((2, 2), (1, 2), SAME), "dilations": (2, 3)})
    for shape, keepdims in product(((1, 5, 6, 8), (1, 3, 1, 17), (1, 9, 8, 3)), (0, 1)):
        total: dict[str, Attribute] = {**_rounding(), "axes": (1, 2), "keepdims": keepdims, "multiplier": 2**25}
        yield make.unary("QReduceSum", plan, shape, total)


def elementwise_operators(make: CaseMaker, plan: KernelPlanner) -> Iterator[Case]:
    sizes = (1, 2, 3, 7, 8, 9, 15, 16, 17, 33)
    broadcast = (((2, 3, 4), (4,)), ((2, 3, 4), ()), ((2, 1, 4), (3, 1)), ((3, 4), (2, 3, 4)), ((2, 3, 4), (1, 3, 1)))
    for size, (shift, clamp) in product(sizes, zip((12, 20, 20, 24, 31), ((-128, 127), *CLAMPS), strict=True)):
        yield make.add(plan, ((1, 1, size, 3),) * 2, _adding(shift, *clamp))
    for shapes, shift in product(broadcast, (12, 20, 31)):
        yield make.add(plan, shapes, _adding(shift))
    for size, shift, (low, high) in product(sizes, (32, 29, 20), CLAMPS[1:3]):
        scale: dict[str, Attribute] = {"multiplier": round(0.01 * 2**shift), "shift": shift, "low": low, "high": high}
        yield make.binary("QMul", plan, ((1, 1, size, 3),) * 2, scale)
    for shapes in broadcast:
        yield make.binary("QMul", plan, shapes, {**_rounding(), "multiplier": round(0.01 * 2**32)})
    for size in range(1, 46):
        yield make.unary("QLookup", plan, (1, size, 3), {}, Value.of("table", make.levels((256,))))
    random = np.random.default_rng(4)
    for size, channels in product((1, 5), (1, 3, 8)):
        slopes = Value.of("slopes", random.integers(-(2**30), 2**30, channels).astype(np.int32))
        yield make.unary("QPRelu", plan, (1, 2, size, channels), {**_rounding(), "multiplier": 2**30}, slopes)
    for length, axis in product((1, 2, 3, 9, 10, 12, 33, 100), (0, 1)):
        yield _softmax(make, plan, (2, length) if axis else (length, 3), axis)
    for shape, axis in product(((1, 2, 7, 3), (1, 3, 1, 8)), (1, 2, 3)):
        yield _softmax(make, plan, shape, axis)


def _softmax(make: CaseMaker, plan: KernelPlanner, shape: tuple[int, ...], axis: int) -> Case:
    table = Value.of("table", exponential_table(0.1))
    attributes: dict[str, Attribute] = {"axis": axis, "ratio": 256}
    x = make.activation("x", shape, 3)
    return make.case(Node("QSoftmax", "node", [x, table], [make.activation("y", shape, -128)], attributes), plan)


def _adding(shift: int, low: int = -128, high: int = 127) -> dict[str, Attribute]:
    first, second = (round(share * 2 ** min(shift, 21)) for share in (0.7, -0.9))
    return {"shift": shift, "low": low, "high": high, "multiplier_a": first, "multiplier_b": second}


def _window(kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, ...]) -> dict[str, Attribute]:
    return {"kernel": kernel, "strides": strides, "pads": pads, "dilations": (1, 1), "layout": "NHWC"}


def _rounding() -> dict[str, Attribute]:
    return {"shift": 32, "low": -128, "high": 127}


def _parts(*cells: int, shift: int = 32) -> Value:
    """One multiplier for all positions, or one for each: half of what divides by the number of cells."""
    return Value.of("multiplier", np.array([round(2.0 ** (shift - 1) / cell) for cell in cells], np.int32))


GRIDS: Mapping[str, Callable[[CaseMaker, KernelPlanner], Iterator[Case]]] = {
    "convolution": convolutions,
    "depthwise": depthwise_convolutions,
    "dense": dense_layers,
    "pool": pools,
    "elementwise": elementwise_operators,
}
