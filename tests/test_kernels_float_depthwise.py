"""Float depthwise convolutions against the reference, in many shapes, cut into groups of pixels in many ways."""

from __future__ import annotations

import numpy as np
import pytest
import vector_cases as cases
from vector_harness import HOST, Case, Machine, run_cases

from tinyopt.ir import Array, Node
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.vector.depthwise import plan_depthwise
from tinyopt.targets.kernels.vector.depthwise_groups import column_groups, reaches_over, shared_cells
from tinyopt.targets.kernels.vector.float_depthwise import depthwise_kernel, depthwise_specs, plan_float_depthwise
from tinyopt.targets.kernels.vector.float_ending import Clamp
from tinyopt.targets.kernels.vector.window import Window

Sample = tuple[Node, tuple[Array | None, ...]]
SAME = (1, 1, 1, 1)
AARCH64 = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a53"}  # runs on all of them
CPUS = ("max,sve=off,pauth-impdef=on", "cortex-a72", "cortex-a53")
DILATIONS: tuple[cases.Pair, ...] = ((1, 1), (1, 1), (1, 2), (2, 1), (2, 2))


def any_convolution(random: np.random.Generator) -> Sample | None:
    """Image, window, strides, dilations and pads of any size; None where the window does not fit."""
    height, width, channels = (int(random.integers(low, 13)) for low in (1, 1, 4))
    kernel, strides = (tuple(int(cells) for cells in random.integers(1, most, 2)) for most in (6, 4))
    dilations = DILATIONS[random.integers(len(DILATIONS))]
    pads = tuple(int(cells) for cells in random.integers(0, 4, 4))
    if (kernel[0] - 1) * dilations[0] >= height + pads[0] + pads[2]:
        return None
    if (kernel[1] - 1) * dilations[1] >= width + pads[1] + pads[3]:
        return None
    return cases.float_convolution(
        (height, width, channels),
        channels,
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (pads[0], pads[1], pads[2], pads[3]),
        dilations,
        group=channels,
        residual=bool(random.integers(2)),
        low=(-np.inf, 0.0)[random.integers(2)],
        high=(np.inf, 2.0)[random.integers(2)],
    )


def any_cases(count: int) -> list[Case]:
    """Random shapes, each cut in a random way."""
    random = np.random.default_rng(5)
    chosen: list[Case] = []
    while len(chosen) < count:
        sample = any_convolution(random)
        if sample is None:
            continue
        node, arrays = sample
        shape = plan_depthwise(node, "float32", 4, 4)
        assert not isinstance(shape, Refusal)
        specs = list(depthwise_specs(shape, Clamp.of(node), node.optional_input(3) is not None))
        chosen.append(Case(node, depthwise_kernel(node, specs[random.integers(len(specs))]), arrays))
    return chosen


def planned_cases() -> list[Case]:
    """As the planner cuts them: rows outermost, and blocks of channels outermost."""
    samples = [
        cases.float_convolution((24, 30, 20), 20, (3, 3), pads=SAME, group=20, low=0, high=6),
        cases.float_convolution((30, 28, 16), 16, (3, 3), (2, 2), (0, 0, 1, 1), group=16, residual=True),
        cases.float_convolution((7, 7, 11), 11, (3, 3), pads=SAME, group=11),
    ]
    return [Case(node, kernel_of(node), arrays) for node, arrays in samples]


def kernel_of(node: Node) -> Kernel:
    kernel = plan_float_depthwise(node)
    assert isinstance(kernel, Kernel), kernel
    return kernel


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.parametrize("cpu", CPUS)
def test_it_gives_the_reference_on_aarch64(cpu: str) -> None:
    machine = Machine(AARCH64, "aarch64-linux-gnu-gcc", ("qemu-aarch64", "-cpu", cpu))
    run_cases([*planned_cases(), *any_cases(24)], machine)


@pytest.mark.slow
def test_it_gives_the_reference_on_this_machine() -> None:
    run_cases([*planned_cases(), *any_cases(8)], HOST)


def test_neighbouring_pixels_share_the_cells_between_them() -> None:
    assert shared_cells(outputs=2, stride=1, dilation=1, taps=3) == (
        (0, ((0, 0),)),
        (1, ((0, 1), (1, 0))),
        (2, ((0, 2), (1, 1))),
        (3, ((1, 2),)),
    )


def test_cells_that_no_window_reads_are_left_out() -> None:
    assert [cell for cell, _ in shared_cells(outputs=2, stride=3, dilation=1, taps=1)] == [0, 3]


def test_groups_at_the_edges_leave_the_padding_out_and_those_between_share_a_loop() -> None:
    window = Window(8, 13, 4, 8, 13, (3, 3), (1, 1), (1, 1), (1, 1))
    groups = column_groups(window, 4, is_padded=False)
    assert [(group.first, group.count, group.padding) for group in groups] == [
        (0, 1, frozenset({0})),
        (1, 2, frozenset()),
        (3, 1, frozenset({5})),
    ]


def test_only_rows_at_the_edges_are_looked_at_as_the_kernel_runs() -> None:
    window = Window(8, 13, 4, 8, 13, (3, 3), (1, 1), (1, 1), (1, 1))
    assert [reaches_over(window, 2, row) for row in range(4)] == [
        (True, False),
        (False, False),
        (False, False),
        (False, True),
    ]


def test_a_large_padded_image_is_read_in_place() -> None:
    node, _ = cases.float_convolution((56, 56, 32), 32, (3, 3), pads=SAME, group=32)
    assert kernel_of(node).spec.shape.rows.ring_bytes == 0
