"""Winograd convolutions: the transforms, when the planner takes them, and what memory they need.

Their outputs are compared with the reference in test_kernels_vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import vector_cases as cases
from vector_cases import SAME

from tinyopt.targets.kernel import Kernel, Refusal, ScratchArgument
from tinyopt.targets.kernels.vector.winograd import plan_winograd
from tinyopt.targets.kernels.vector.winograd_tiling import SCRATCH_BYTES
from tinyopt.targets.kernels.vector.winograd_transforms import BIAS_POSITION, TAPS, TRANSFORMS, Transform


class Numbers:
    """What the transforms do to vectors of code, done to numbers."""

    def sum(self, a: Any, b: Any) -> Any:
        return a + b

    def difference(self, a: Any, b: Any) -> Any:
        return a - b

    def scaled_sum(self, total: Any, value: Any, factor: float) -> Any:
        return total + value * factor


@pytest.mark.parametrize(("outputs", "transform"), TRANSFORMS.items())
def test_the_transforms_give_the_sums_of_a_sliding_filter(outputs: int, transform: Transform) -> None:
    random = np.random.default_rng(3)
    cells, taps = random.normal(size=outputs + TAPS - 1), random.normal(size=TAPS)
    products = (transform.filters @ taps) * transform.inputs(Numbers(), list(cells))
    np.testing.assert_allclose(
        transform.outputs(Numbers(), list(products)), np.correlate(cells, taps, "valid"), atol=1e-12
    )


@pytest.mark.parametrize(("outputs", "transform"), TRANSFORMS.items())
def test_the_bias_added_at_its_position_reaches_every_output_once(outputs: int, transform: Transform) -> None:
    unit = np.eye(outputs + TAPS - 1)[BIAS_POSITION]
    assert transform.outputs(Numbers(), list(unit)) == [1.0] * outputs


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"strides": (2, 2)}, "stride"),
        ({"dilations": (2, 2)}, "stride 1"),
        ({"group": 8}, "group"),
        ({"channels": 3}, "fewer channels"),
        ({"kernel": (1, 3)}, "3 x 3"),
        ({"image": (12, 1, 8), "pads": SAME}, "no block"),
        ({"image": (5, 5, 64)}, "saves too little"),
    ],
)
def test_what_it_does_not_take_or_would_not_speed_up_is_refused_with_a_reason(
    options: dict[str, Any], reason: str
) -> None:
    complete: dict[str, Any] = {"image": (12, 12, 8), "channels": 8, "kernel": (3, 3), **options}
    node, _ = cases.float_convolution(**complete)
    answer = plan_winograd(node)
    assert isinstance(answer, Refusal)
    assert reason in answer.reason


def test_scratch_memory_does_not_grow_with_the_image() -> None:
    node, _ = cases.float_convolution((150, 200, 32), 32, (3, 3), pads=SAME)
    kernel = plan_winograd(node)
    assert isinstance(kernel, Kernel)
    scratch = [argument.bytes for argument in kernel.arguments if isinstance(argument, ScratchArgument)]
    assert scratch[0] <= SCRATCH_BYTES
    assert scratch[1] == 4 * (6 * 202 * 32 + 4)  # six rows with their padding, and a vector's slack
