"""Winograd convolutions against the reference, in many shapes, cut into blocks in many ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import vector_cases as cases
from vector_harness import HOST, Case, Machine, run_cases

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Kernel, Refusal, ScratchArgument
from tinyopt.targets.kernels.vector.window import Window, window_of
from tinyopt.targets.kernels.vector.winograd import plan_winograd, winograd_kernel
from tinyopt.targets.kernels.vector.winograd_tiling import SCRATCH_BYTES, WinogradSpec, winograd_specs
from tinyopt.targets.kernels.vector.winograd_transforms import BIAS_POSITION, TAPS, TRANSFORMS, Transform

Sample = tuple[Node, tuple[Array | None, ...]]
SAME = (1, 1, 1, 1)
PADS: tuple[cases.Pads, ...] = (SAME, SAME, (0, 0, 0, 0), (0, 1, 2, 0), (2, 3, 1, 1))
AARCH64 = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a53"}  # runs on all of them
CPUS = ("max,sve=off,pauth-impdef=on", "cortex-a72", "cortex-a53")


def any_convolution(random: np.random.Generator) -> Sample:
    height, width = (int(cells) for cells in random.integers(3, 15, 2))
    depth, channels = (int(count) for count in random.integers(4, 22, 2))
    return cases.float_convolution(
        (height, width, depth),
        channels,
        (3, 3),
        pads=PADS[random.integers(len(PADS))],
        residual=bool(random.integers(2)),
        low=(-np.inf, 0.0)[random.integers(2)],
        high=(np.inf, 9.0)[random.integers(2)],
    )


def specs_of(node: Node, outputs: int) -> list[WinogradSpec]:
    window = window_of(node, (3, 3))
    assert isinstance(window, Window)
    specs = winograd_specs(window, node.output.shape[3], node.optional_input(3) is not None)
    return [spec for spec in specs if spec.outputs == outputs]


def any_cases(count: int) -> list[Case]:
    """Random shapes, each cut in a random way; both transforms in turn."""
    random = np.random.default_rng(11)
    chosen: list[Case] = []
    while len(chosen) < count:
        node, arrays = any_convolution(random)
        specs = specs_of(node, (2, 4)[len(chosen) % 2])
        if specs:
            chosen.append(Case(node, winograd_kernel(node, specs[random.integers(len(specs))]), arrays))
    return chosen


def planned_cases() -> list[Case]:
    """As the planner cuts them: a strip of one row of tiles, a whole image, tiles beyond the edge, many channels."""
    conv = cases.float_convolution
    samples = [
        conv((32, 32, 16), 16, (3, 3), pads=SAME, residual=True, low=0),
        conv((8, 8, 256), 12, (3, 3), pads=SAME),
        conv((30, 29, 8), 9, (3, 3), pads=(0, 1, 2, 1), low=-9, high=10),
        conv((12, 10, 64), 64, (3, 3)),
    ]
    return [Case(node, kernel_of(node), arrays) for node, arrays in samples]


def kernel_of(node: Node) -> Kernel:
    kernel = plan_winograd(node)
    assert isinstance(kernel, Kernel), kernel
    return kernel


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.parametrize("cpu", CPUS)
def test_it_gives_the_reference_on_aarch64(cpu: str) -> None:
    machine = Machine(AARCH64, "aarch64-linux-gnu-gcc", ("qemu-aarch64", "-cpu", cpu))
    run_cases([*planned_cases(), *any_cases(12)], machine)


@pytest.mark.slow
def test_it_gives_the_reference_on_this_machine() -> None:
    run_cases([*planned_cases(), *any_cases(2)], HOST)


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
    scratch = [argument.bytes for argument in kernel_of(node).arguments if isinstance(argument, ScratchArgument)]
    assert scratch[0] <= SCRATCH_BYTES
    assert scratch[1] == 4 * (6 * 202 * 32 + 4)  # six rows with their padding, and a vector's slack
