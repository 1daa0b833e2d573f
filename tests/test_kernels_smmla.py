"""The kernels on SMMLA: which layers they take, and how the image is laid out for them.

Their outputs are compared with the reference in test_kernels_vector.
"""

from __future__ import annotations

import vector_cases as cases
from vector_cases import SAME
from vector_grids import ARM, grid

from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.vector.pointwise_nest import PointwiseSpec
from tinyopt.targets.kernels.vector.smmla_convolution import (
    PairedConvolutionSpec,
    plan_smmla_convolution,
    plan_smmla_dense,
)


def test_a_sample_of_the_grid_has_images_of_both_layouts() -> None:
    sample = grid(ARM["smmla products"], is_full=False)
    specs = [case.kernel.spec for case in sample]
    assert {spec.tile.layout for spec in specs if isinstance(spec, PairedConvolutionSpec)} == {"block", "cells"}
    assert any(isinstance(spec, PointwiseSpec) for spec in specs)


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
