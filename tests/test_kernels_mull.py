"""int8 kernels for 64-bit Arm without the dot product against the reference, in many shapes, on three CPUs."""

from __future__ import annotations

import numpy as np
import pytest
import vector_cases as cases
from vector_harness import Case, Machine, run_cases

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Kernel, KernelPlanner, Refusal
from tinyopt.targets.kernels.vector.mull_convolution import plan_mull_convolution, plan_mull_dense
from tinyopt.targets.kernels.vector.mull_steps import STEP, covered_elements, pieces_of
from tinyopt.targets.kernels.vector.widened_depthwise import plan_neon_depthwise

Sample = tuple[Node, tuple[Array | None, ...]]
TARGET = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a53"}  # runs on all of them
CPUS = ("max,sve=off,pauth-impdef=on", "cortex-a72", "cortex-a53")
WINDOWS: tuple[cases.Pair, ...] = ((1, 1), (1, 1), (3, 3), (5, 2), (1, 4), (4, 1), (2, 3))
DEPTHWISE_WINDOWS: tuple[cases.Pair, ...] = ((3, 3), (3, 3), (5, 5), (1, 4), (4, 1), (8, 7))
STEPS: tuple[cases.Pair, ...] = ((1, 1), (1, 1), (2, 2), (1, 3))
DILATIONS: tuple[cases.Pair, ...] = ((1, 1), (1, 1), (1, 1), (2, 2), (1, 2))
CLAMPS = ((-128, 127), (-128, 127), (-7, 127), (-30, 20))
DEPTHS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17, 20, 24, 32, 35)
CHANNELS = (1, 2, 3, 4, 4, 4, 4, 5, 7, 8, 12)


def kernel_of(node: Node, planner: KernelPlanner) -> Kernel:
    kernel = planner(node)
    assert isinstance(kernel, Kernel), kernel
    return kernel


def any_convolution(random: np.random.Generator) -> Sample:
    window, strides, dilations, clamp = (
        table[random.integers(len(table))] for table in (WINDOWS, STEPS, DILATIONS, CLAMPS)
    )
    spans = [(window[i] - 1) * dilations[i] + 1 for i in range(2)]
    top, left, bottom, right = (int(random.integers(spans[i % 2])) for i in range(4))
    height, width = (int(cells) for cells in random.integers(1, 6, 2))
    height, width = max(height, spans[0] - top - bottom), max(width, spans[1] - left - right)
    return cases.integer_convolution(
        (height, width, int(random.choice(DEPTHS))),
        int(random.choice(CHANNELS)),
        window,
        strides,
        (top, left, bottom, right),
        dilations,
        residual=not random.integers(3),
        low=clamp[0],
        high=clamp[1],
        scale=40.0 if not random.integers(8) else 1.0,  # scales above one half: a shift below 32
    )


def convolutions(count: int) -> list[Case]:
    random = np.random.default_rng(5)
    samples = [any_convolution(random) for _ in range(count)]
    return [Case(node, kernel_of(node, plan_mull_convolution), arrays) for node, arrays in samples]


def any_depthwise(random: np.random.Generator) -> Sample:
    window, strides, dilations, clamp = (
        table[random.integers(len(table))] for table in (DEPTHWISE_WINDOWS, STEPS, DILATIONS, CLAMPS)
    )
    spans = [(window[i] - 1) * dilations[i] + 1 for i in range(2)]
    channels = int(random.integers(8, 44))
    return cases.integer_convolution(
        (spans[0] + int(random.integers(4)), spans[1] + int(random.integers(4)), channels),
        channels,
        window,
        strides,
        (int(random.integers(2)), int(random.integers(3)), int(random.integers(2)), 0),
        dilations,
        channels,
        residual=not random.integers(3),
        low=clamp[0],
        high=clamp[1],
        scale=40.0 if not random.integers(8) else 1.0,
    )


def depthwise_convolutions(count: int) -> list[Case]:
    """Every seventh has a weight of -128, so that no products are added in pairs."""
    random = np.random.default_rng(7)
    samples = [any_depthwise(random) for _ in range(count)]
    for _, arrays in samples[::7]:
        assert arrays[1] is not None
        arrays[1].flat[0] = -128
    return [Case(node, kernel_of(node, plan_neon_depthwise), arrays) for node, arrays in samples]


def dense_layers(count: int) -> list[Case]:
    random = np.random.default_rng(6)
    samples = [
        cases.integer_dense(
            int(random.integers(1, 6)), int(random.choice(DEPTHS)), int(random.choice(CHANNELS)), scale=scale
        )
        for scale in (1.0, 1.0, 40.0) * (count // 3)
    ]
    return [Case(node, kernel_of(node, plan_mull_dense), arrays) for node, arrays in samples]


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.parametrize("cpu", CPUS)
def test_convolutions_and_dense_layers_give_every_bit(cpu: str) -> None:
    machine = Machine(TARGET, "aarch64-linux-gnu-gcc", ("qemu-aarch64", "-cpu", cpu))
    run_cases([*convolutions(210), *dense_layers(30)], machine)


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.parametrize("cpu", CPUS)
def test_depthwise_convolutions_give_every_bit(cpu: str) -> None:
    machine = Machine(TARGET, "aarch64-linux-gnu-gcc", ("qemu-aarch64", "-cpu", cpu))
    run_cases(depthwise_convolutions(205), machine)


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
    machine = Machine(TARGET, "aarch64-linux-gnu-gcc", ("qemu-aarch64", "-cpu", "cortex-a53"))
    run_cases(
        [Case(node, kernel_of(node, plan), arrays) for (node, arrays), plan in zip(samples, planners, strict=True)],
        machine,
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
