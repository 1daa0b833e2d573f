"""int8 kernels for 64-bit Arm without the dot product: products of the largest size, refusals, pieces of a run.

Their outputs are compared with the reference in test_kernels_vector.
"""

from __future__ import annotations

import pytest
import vector_cases as cases
from vector_harness import ANY_AARCH64, Case, run_cases

from tinyopt.ir import Node
from tinyopt.targets.kernel import Kernel, KernelPlanner, Refusal
from tinyopt.targets.kernels.vector.mull_convolution import plan_mull_convolution
from tinyopt.targets.kernels.vector.mull_depthwise import plan_neon_depthwise
from tinyopt.targets.kernels.vector.mull_steps import STEP, covered_elements, pieces_of


def kernel_of(node: Node, planner: KernelPlanner) -> Kernel:
    kernel = planner(node)
    assert isinstance(kernel, Kernel), kernel
    return kernel


@pytest.mark.qemu
@pytest.mark.slow
def test_two_products_of_the_largest_size_fit_the_16_bits_that_they_are_added_in() -> None:
    samples = [
        cases.integer_convolution((1, 3, 32), 8),
        cases.integer_convolution((4, 5, 16), 16, (3, 3), group=16),
        cases.integer_convolution((4, 5, 16), 16, (3, 3), group=16),
    ]
    for (_, arrays), smallest in zip(samples, (-127, -127, -128), strict=True):
        x, w = arrays[:2]
        assert x is not None
        assert w is not None
        x[:], w[:4], w[4:] = -128, smallest, 127
    planners: tuple[KernelPlanner, ...] = (plan_mull_convolution, plan_neon_depthwise, plan_neon_depthwise)
    run_cases(
        [Case(node, kernel_of(node, plan), arrays) for (node, arrays), plan in zip(samples, planners, strict=True)],
        ANY_AARCH64,
    )


def test_weights_of_which_two_products_could_overflow_are_refused_with_a_reason() -> None:
    node, arrays = cases.integer_convolution((3, 3, 8), 8)
    assert arrays[1] is not None
    arrays[1].flat[17] = -128
    answer = plan_mull_convolution(node)
    assert isinstance(answer, Refusal)
    assert "16 bits" in answer.reason


def test_a_grouped_convolution_is_refused_with_a_reason() -> None:
    answer = plan_mull_convolution(cases.integer_convolution((6, 6, 8), 8, (3, 3), group=2)[0])
    assert isinstance(answer, Refusal)
    assert "groups" in answer.reason


@pytest.mark.parametrize("elements", range(1, 3 * STEP))
def test_the_pieces_of_a_run_cover_it_and_reach_at_most_three_elements_beyond(elements: int) -> None:
    whole, pieces = pieces_of(elements)
    assert covered_elements(elements) == whole * STEP + sum(pieces)
    assert 0 <= covered_elements(elements) - elements < 4
