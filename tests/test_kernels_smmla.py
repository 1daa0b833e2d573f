"""The kernels on SMMLA against the reference: a grid of shapes in one program, on an emulated Arm with I8MM."""

from __future__ import annotations

import numpy as np
import pytest
import vector_cases as cases
from vector_harness import AARCH64, Case, Machine, run_cases

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.vector import I8MM
from tinyopt.targets.kernels.vector.smmla_convolution import plan_smmla_convolution, plan_smmla_dense

Sample = tuple[Node, tuple[Array | None, ...]]
SAME = (1, 1, 1, 1)
WITH_I8MM = Machine({**AARCH64.target, "mattr": ("+dotprod", "+i8mm")}, AARCH64.compiler, AARCH64.runner)


def random_convolutions(seed: int, count: int) -> list[Sample]:
    """Windows of all kinds over small images."""
    random = np.random.default_rng(seed)

    def pick(*values: int) -> int:
        return int(random.choice(values))

    samples: list[Sample] = []
    while len(samples) < count:
        kernel = (pick(1, 1, 2, 3, 3, 5, 10), pick(1, 2, 3, 3, 4, 5))
        dilations = (pick(1, 1, 2), pick(1, 1, 1, 2))
        spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
        top, left, bottom, right = (int(random.integers(0, spans[axis % 2])) for axis in range(4))
        pads = (top, left, bottom, right) if pick(0, 1, 1) else cases.NO_PADS
        height = max(spans[0] - pads[0] - pads[2], 1) + pick(0, 1, 2, 4)
        width = max(spans[1] - pads[1] - pads[3], 1) + pick(1, 3, 6, 11)
        strides = (pick(1, 1, 2, 3), pick(1, 1, 2, 3))
        low, high = ((-128, 127), (-9, 127), (-40, 33))[pick(0, 1, 2)]
        scale = 200.0 if pick(0, 0, 0, 0, 1) else 1.0  # scales above one half: a shift below 32
        image = (height, width, pick(1, 3, 7, 8, 9, 12, 16, 19, 24, 40))
        outputs = pick(1, 2, 4, 7, 8, 11, 12, 16, 20, 26, 37)
        arguments = (kernel, strides, pads, dilations, 1, bool(pick(0, 0, 1)), low, high, scale)
        samples.append(cases.integer_convolution(image, outputs, *arguments))
    return samples


def pointwise_convolutions() -> list[Sample]:
    conv = cases.integer_convolution
    depths, outputs = (8, 9, 15, 16, 17, 24, 31, 64, 100), (1, 5, 12, 16, 24, 28, 40)
    images = ((1, 2), (3, 1), (5, 1), (2, 3), (4, 4), (5, 5), (7, 7))
    shapes = [(images[(i + k) % len(images)], d, o) for i, d in enumerate(depths) for k, o in enumerate(outputs)]
    return [conv((*image, depth), out, residual=depth % 2 == 0) for image, depth, out in shapes]


def dense_layers() -> list[Sample]:
    return [cases.integer_dense(rows, depth, 10) for rows in (2, 3, 7, 8) for depth in (16, 37, 144)]


def taken(samples: list[Sample]) -> list[Case]:
    """Those that the planners do not leave to the dot product."""
    plans = [(node, I8MM[node.op][0](node), arrays) for node, arrays in samples]
    return [Case(node, plan, arrays) for node, plan, arrays in plans if isinstance(plan, Kernel)]


@pytest.mark.qemu
@pytest.mark.slow
def test_every_shape_gives_every_bit_and_nothing_is_written_beside_the_output() -> None:
    grid = taken([*random_convolutions(3, 300), *pointwise_convolutions(), *dense_layers()])
    assert len(grid) >= 200
    assert {case.kernel.spec.tile.layout for case in grid} == {"block", "cells"}
    run_cases(grid, WITH_I8MM)


def test_one_row_of_a_dense_layer_is_left_to_the_dot_product() -> None:
    node, _ = cases.integer_dense(1, 640, 128)
    answer = plan_smmla_dense(node)
    assert isinstance(answer, Refusal)
    assert "one pixel" in answer.reason


def test_layers_that_cost_more_than_on_the_dot_product_are_refused_with_both_counts() -> None:
    node, _ = cases.integer_convolution((8, 3, 16), 4, (3, 1))
    answer = plan_smmla_convolution(node)
    assert isinstance(answer, Refusal)
    assert "the dot product takes about" in answer.reason


def test_large_padded_images_need_scratch_for_a_few_rows_only() -> None:
    node, _ = cases.integer_convolution((200, 100, 16), 16, (3, 3), pads=SAME)
    plan = plan_smmla_convolution(node)
    assert isinstance(plan, Kernel)
    assert sum(getattr(argument, "bytes", 0) for argument in plan.arguments) < 4 * 102 * 32
