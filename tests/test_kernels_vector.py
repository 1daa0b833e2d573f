"""Vector kernels against the reference: one program for all shapes, on this machine and on an emulated Arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import vector_cases as cases
from vector_harness import AARCH64, HOST, Case, run_cases

from tinyopt.ir import Array, Clusters, Node
from tinyopt.targets.kernel import Kernel, KernelPlanner, Refusal
from tinyopt.targets.kernels.vector import NEON, SDOT, VECTOR
from tinyopt.targets.kernels.vector.rows import plan_rows
from tinyopt.targets.kernels.vector.window import window_of

Sample = tuple[Node, tuple[Array | None, ...]]
SAME = (1, 1, 1, 1)


def planned(samples: Sequence[Sample], planners: Mapping[str, tuple[KernelPlanner, ...]]) -> list[Case]:
    """A kernel for each sample: the first that takes it."""
    return [Case(node, kernel_for(node, planners), arrays) for node, arrays in samples]


def kernel_for(node: Node, planners: Mapping[str, tuple[KernelPlanner, ...]]) -> Kernel:
    chosen = [plan for planner in planners[node.op] if isinstance(plan := planner(node), Kernel)]
    assert chosen, [planner(node) for planner in planners[node.op]]
    return chosen[0]


def float_samples() -> list[Sample]:
    conv = cases.float_convolution
    return [
        conv((25, 5, 64), 64),
        conv((12, 7, 1), 20, (10, 4), (2, 2), (4, 1, 5, 1), low=0),
        conv((8, 8, 16), 16, (3, 3), pads=SAME, residual=True, low=0, high=6),
        conv((16, 16, 3), 8, (3, 3), (2, 2), (0, 0, 1, 1)),
        conv((9, 7, 6), 10, (3, 3), pads=SAME, dilations=(2, 2), residual=True),
        conv((40, 60, 16), 8, (5, 5), (3, 2), (2, 1, 2, 2)),  # too large to be padded as a whole: a ring of rows
        conv((5, 6, 7), 13),
        conv((9, 9, 4), 5, (1, 1), (3, 3)),
        conv((7, 7, 20), 20, (3, 3), group=20, pads=SAME, low=0, high=6),
        conv((30, 40, 32), 32, (3, 3), (2, 2), (0, 0, 1, 1), group=32),
        conv((9, 8, 7), 7, (5, 5), group=7, pads=(2, 2, 2, 2), residual=True),
        conv((10, 9, 9), 9, (3, 3), group=9, pads=(2, 2, 2, 2), dilations=(2, 2)),
        cases.float_dense(1, 640, 128, low=0),
        cases.float_dense(3, 37, 10),
        cases.elementwise("Add", 3, 7, 11, attributes=cases.clamp(0, 1)),
        cases.elementwise("Sub", 15, attributes=cases.clamp()),
        cases.elementwise("Mul", 5, 5, attributes=cases.clamp()),
        cases.elementwise("Relu", 100),
        cases.elementwise("Clip", 37, attributes={"low": -0.3, "high": 6.0}),
        cases.to_levels(91),
        cases.from_levels(43),
        cases.pool("AveragePool", (25, 5, 64), (25, 5)),
        cases.pool("AveragePool", (9, 8, 7), (3, 2), (1, 2), (1, 1, 1, 0), counted_pads=(1, 1, 0, 0)),
        cases.pool("MaxPool", (20, 20, 9), (3, 3), (2, 2), SAME),
    ]


def integer_samples() -> list[Sample]:
    return [
        cases.integer_sum(4, 5, 9, multiplier_b=1_900_000),
        cases.integer_sum(1, 30, multiplier_b=-700_000, low=-20),
        cases.pool("QAveragePool", (25, 5, 64), (25, 5), dtype="int8"),
        cases.pool("QAveragePool", (9, 8, 20), (3, 3), (2, 2), SAME, dtype="int8"),
        cases.pool("MaxPool", (20, 20, 32), (2, 2), (2, 2), dtype="int8"),
        cases.pool("MaxPool", (60, 60, 24), (3, 3), (2, 2), (0, 0, 1, 1), dtype="int8"),
    ]


def integer_products() -> list[Sample]:
    conv = cases.integer_convolution
    return [
        conv((25, 5, 64), 64, low=-7),
        conv((12, 7, 1), 20, (10, 4), (2, 2), (4, 1, 5, 1)),
        conv((8, 8, 16), 16, (3, 3), pads=SAME, residual=True),
        conv((16, 16, 3), 8, (3, 3), (2, 2), (0, 0, 1, 1), low=-30, high=90),
        conv((9, 7, 6), 10, (3, 3), pads=SAME, dilations=(2, 2), residual=True),
        conv((40, 60, 16), 8, (5, 5), (3, 2), (2, 1, 2, 2)),
        conv((60, 60, 12), 24, (3, 3), pads=SAME),  # a ring of rows
        conv((5, 6, 7), 13, residual=True),
        conv((9, 9, 4), 5, (1, 1), (3, 3)),
        conv((6, 6, 8), 8, scale=40.0),  # scales above one half: a shift below 32, and saturation everywhere
        conv((7, 7, 20), 20, (3, 3), group=20, pads=SAME),
        conv((40, 40, 32), 32, (3, 3), (2, 2), (0, 0, 1, 1), group=32, low=-7),
        conv((9, 8, 12), 12, (5, 5), group=12, pads=(2, 2, 2, 2), residual=True),
        conv((10, 9, 9), 9, (3, 3), group=9, pads=(2, 2, 2, 2), dilations=(2, 2), scale=40.0),
        conv((6, 12, 30), 30, (1, 7), group=30, pads=(0, 3, 0, 3)),
        cases.integer_dense(1, 640, 128),
        cases.integer_dense(3, 37, 10),
        cases.integer_dense(2, 16, 4, scale=40.0),
    ]


@pytest.mark.slow
def test_float_kernels_give_the_reference_on_this_machine() -> None:
    run_cases(planned(float_samples(), VECTOR), HOST)


@pytest.mark.slow
def test_integer_kernels_give_every_bit_on_this_machine() -> None:
    run_cases(planned([*integer_samples(), *integer_products()], VECTOR), HOST)


@pytest.mark.qemu
@pytest.mark.slow
def test_float_and_integer_kernels_give_the_reference_on_aarch64() -> None:
    run_cases(planned([*float_samples(), *integer_samples()], VECTOR), AARCH64)


@pytest.mark.qemu
@pytest.mark.slow
def test_integer_products_give_every_bit_on_aarch64_with_and_without_the_dot_product() -> None:
    samples = integer_products()
    run_cases([*planned(samples, SDOT), *planned(samples, NEON)], AARCH64)


@pytest.mark.parametrize("planners", [VECTOR, SDOT])
def test_a_grouped_convolution_is_refused_with_a_reason(planners: Mapping[str, tuple[KernelPlanner, ...]]) -> None:
    make, op = (cases.float_convolution, "Conv") if planners is VECTOR else (cases.integer_convolution, "QConv")
    node, _ = make((6, 6, 8), 8, (3, 3), group=2)
    answers = [planner(node) for planner in planners[op]]
    assert answers
    assert all(isinstance(answer, Refusal) and "group" in answer.reason for answer in answers)


def test_clustered_weights_are_left_to_the_scalar_kernel() -> None:
    node, _ = cases.integer_convolution((6, 6, 8), 8)
    weights = node.input(1)
    weights.clusters = Clusters(np.zeros(weights.shape, np.uint8), np.zeros(1, np.int8), np.ones(8, np.float32))
    answers = [planner(node) for planner in SDOT["QConv"]]
    assert any(isinstance(answer, Refusal) and "clustered" in answer.reason for answer in answers)
    assert not any(isinstance(answer, Kernel) for answer in answers)


def test_large_padded_images_need_scratch_for_a_few_rows_only() -> None:
    node, _ = cases.integer_convolution((100, 100, 16), 8, (3, 3), pads=SAME)
    window = window_of(node, (3, 3))
    assert not isinstance(window, Refusal)
    assert plan_rows(window, "int8", read_over_end=False).ring_bytes == 3 * 102 * 16 + 16
