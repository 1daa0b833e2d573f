"""Vector kernels against the reference: a grid of shapes for each family, on this machine and on emulated Arm CPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import vector_cases as cases
from vector_cases import SAME
from vector_grids import FAMILIES, PORTABLE, edge_cases, grid
from vector_harness import AARCH64, ANY_AARCH64, CPUS, HOST, run_cases, run_with_each

from tinyopt.ir import Clusters
from tinyopt.targets.kernel import Kernel, KernelPlanner, Refusal
from tinyopt.targets.kernels.vector import SDOT, VECTOR
from tinyopt.targets.kernels.vector.rows import plan_rows
from tinyopt.targets.kernels.vector.sdot_depthwise import plan_sdot_depthwise
from tinyopt.targets.kernels.vector.window import window_of


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_shape_of_the_grid_gives_the_reference_on_arm(
    name: str, is_full_grid: bool, record_property: Callable[[str, object], None]
) -> None:
    """int8: the same bytes. float32: 1e-4 relative. float16: what rounding its sums gives. Nothing else is written."""
    family = FAMILIES[name]
    shapes = grid(family, is_full_grid)
    if family.needs:
        machine, cpus = replace(AARCH64, target={**AARCH64.target, "mattr": family.needs}), {"max": CPUS["max"]}
    else:
        machine, cpus = ANY_AARCH64, CPUS
    for cpu, error in run_with_each(shapes, machine, cpus).items():
        record_property("grid", f"{name:20} {cpu:12} {len(shapes):4} {error:8.1e}")


@pytest.mark.slow
def test_edge_cases_give_the_reference_on_this_machine() -> None:
    run_cases([case for family in PORTABLE.values() for case in edge_cases(family)[::3]], HOST)


@pytest.mark.parametrize("planners", [VECTOR, SDOT])
def test_a_grouped_convolution_is_refused_with_a_reason(planners: Mapping[str, tuple[KernelPlanner, ...]]) -> None:
    make, op = (cases.float_convolution, "Conv") if planners is VECTOR else (cases.integer_convolution, "QConv")
    node, _ = make((6, 6, 8), 8, (3, 3), group=2)
    answers = [planner(node) for planner in planners[op]]
    assert answers
    assert all(isinstance(answer, Refusal) and "group" in answer.reason for answer in answers)


def test_fewer_depthwise_channels_than_a_block_are_refused_with_a_reason() -> None:
    node, _ = cases.integer_convolution((6, 6, 7), 7, (3, 3), group=7)
    answer = plan_sdot_depthwise(node)
    assert isinstance(answer, Refusal)
    assert "7 channels" in answer.reason


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
