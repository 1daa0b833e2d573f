"""Convolution on the Arm DSP extension gives the references' bits on an emulated Cortex-M4, also over its own input."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from cortex_m_cases import CaseMaker
from cortex_m_harness import CLANG, GCC, Case, require_tools, run_cases

from tinyopt.ops import OPERATORS
from tinyopt.targets.kernel import ConstantArgument, Kernel, Overlap, Refusal
from tinyopt.targets.kernels.dsp import DSP
from tinyopt.targets.kernels.dsp.convolution import plan_convolution
from tinyopt.targets.kernels.dsp.micro_kernels import PIXELS
from tinyopt.targets.kernels.dsp.packing import depth_pairs, pack_channel_pairs
from tinyopt.targets.kernels.dsp.pointwise import plan_pointwise


def test_packed_pairs_hold_each_weight_once_beside_its_channel_neighbour() -> None:
    weights = np.arange(1, 22, dtype=np.int8).reshape(3, 7)  # channels, depth
    pairs = depth_pairs(run=7, runs=1)
    assert pairs == [(0, 2), (1, 3), (4, 5), (6, -1)]
    packed = pack_channel_pairs(weights, pairs)
    assert packed[0].tolist() == [[1, 8, 3, 10], [2, 9, 4, 11], [5, 12, 6, 13], [7, 14, 0, 0]]
    assert packed[1, 0].tolist() == [15, 0, 17, 0]  # there is no fourth channel


def test_what_a_kernel_does_not_take_is_refused_with_a_reason() -> None:
    node = CaseMaker(1).conv(plan_convolution, (5, 5, 4), 4, (3, 3)).node
    node.attributes["dilations"] = (2, 2)
    answers = [plan(node) for plan in DSP["QConv"]]
    assert all(isinstance(answer, Refusal) and answer.reason for answer in answers)


def test_a_window_s_output_may_follow_the_rows_that_were_copied() -> None:
    conv = CaseMaker(1).conv(plan_convolution, (96, 96, 3), 8, (3, 3), (2, 2), (0, 0, 1, 1))
    assert conv.kernel.overlaps == (Overlap.forward(0, 384 - 3 * 288),)  # three rows are read before one is written
    same = CaseMaker(1).conv(plan_convolution, (32, 32, 16), 16, (3, 3), (1, 1), (1, 1, 1, 1))
    assert same.kernel.overlaps == (Overlap.forward(0, -512),)


def test_a_pointwise_output_with_more_channels_grows_over_the_input_from_its_end() -> None:
    conv = CaseMaker(1).conv(plan_pointwise, (48, 48, 8), 16)
    assert conv.kernel.overlaps == (Overlap.backward(0, 4 * 8 - 4 * 16),)


def test_an_output_takes_the_place_of_a_residual_that_is_also_the_input_and_no_other() -> None:
    node = CaseMaker(1).conv(plan_convolution, (5, 5, 4), 4, (3, 3), (1, 1), (1, 1, 1, 1), residual=1).node
    apart = plan_convolution(node)
    assert isinstance(apart, Kernel)
    assert Overlap.in_place(4) in apart.overlaps
    node.inputs[4] = node.inputs[0]
    same = plan_convolution(node)
    assert isinstance(same, Kernel)
    assert same.overlaps == (Overlap.in_place(0),)


def test_shifts_that_would_push_bits_out_are_left_to_other_kernels() -> None:
    node = CaseMaker(1).conv(plan_pointwise, (5, 5, 4), 2, residual=1).node
    node.attributes["shift"] = 12
    assert isinstance(plan_pointwise(node), Refusal)
    for constant in (node.input(1), node.input(2)):
        constant.constant = np.zeros_like(constant.data)
    assert isinstance(plan_pointwise(node), Kernel)
    node.attributes["shift"] = 9
    assert isinstance(plan_pointwise(node), Refusal)


@pytest.mark.parametrize("shift", [31, 32])
@pytest.mark.parametrize("residual", [0, 1])
@pytest.mark.parametrize("depth", [7, 600])
def test_the_meaning_of_the_product_is_the_convolution(depth: int, residual: int, shift: int) -> None:
    case = CaseMaker(3).conv(plan_pointwise, (2, 4, depth), 3, residual=residual, shift=shift, high=90)
    weights, parameters = (a.array.reshape(-1) for a in case.kernel.arguments if isinstance(a, ConstantArgument))
    product = case.kernel.spec.product
    block, y = np.zeros(2 * PIXELS * depth, np.int16), np.zeros(2 * PIXELS * 3, np.int8)
    x, *_, added = (array if array is None else array.reshape(-1) for array in case.arrays)
    product.meaning(block, weights, y, parameters.tolist(), PIXELS, 2, x, added)
    assert y.tolist() == OPERATORS["QConv"].evaluate(case.node, case.arrays)[0].reshape(-1).tolist()


def pointwise_cases(make: CaseMaker) -> Iterator[Case]:
    for depth, channels, pixels in product((1, 2, 3, 4, 7, 16, 17, 40), (1, 2, 5, 12), (1, 2, 6, 11)):
        yield make.conv(plan_pointwise, (1, pixels, depth), channels)
    for depth in (32, 33, 64, 66):  # around whole rounds of the loop over the depth
        yield make.conv(plan_pointwise, (3, 3, depth), 8)
    yield make.conv(plan_pointwise, (2, 3, 66), 12, residual=1)
    yield make.conv(plan_pointwise, (1, 7, 1200), 4)  # sums too wide for joined weights
    yield make.conv(plan_pointwise, (1, 7, 1200), 3, residual=1)
    yield make.conv(plan_pointwise, (1, 7, 1200), 5, shift=31, high=20)
    yield make.conv(plan_pointwise, (4, 4, 24), 24, residual=1, low=-5)
    yield make.conv(plan_pointwise, (3, 6, 5), 20, residual=1)  # backward
    yield make.conv(plan_pointwise, (1, 7, 9), 6, shift=31, high=60)
    yield make.conv(plan_pointwise, (1, 8, 9), 6, shift=31)
    yield make.conv(plan_pointwise, (1, 7, 9), 6, shift=29, residual=1)
    for pixels, channels in product((3, 4, 5, 8), (6, 7)):
        yield make.conv(plan_pointwise, (1, pixels, 9), channels, shift=31, residual=1)


def convolution_cases(make: CaseMaker) -> Iterator[Case]:
    for channels, window, stride in product((1, 2, 3, 4, 8), ((1, 1), (3, 3), (2, 5)), ((1, 1), (2, 2), (3, 1))):
        pads = (window[0] // 2, window[1] // 2, window[0] // 2, window[1] // 2)
        yield make.conv(plan_convolution, (7, 9, channels), 5, window, stride, pads)
    for height, width, pads in product((3, 4), (3, 5, 8), ((0, 0, 0, 0), (0, 0, 2, 1), (1, 2, 0, 0), (2, 1, 1, 3))):
        yield make.conv(plan_convolution, (height, width, 3), 4, (3, 3), (1, 1), pads)
    for channels, width, rows in product((4, 12, 20), (4, 11), (1, 3)):  # three columns at stride 1
        yield make.conv(plan_convolution, (5, width, channels), 4, (rows, 3), (2, 1), (rows // 2, 1, 0, 1))
    yield make.conv(plan_convolution, (12, 10, 1), 8, (10, 4), (2, 2), (4, 1, 5, 1))
    yield make.conv(plan_convolution, (8, 8, 16), 16, (3, 3), (1, 1), (1, 1, 1, 1), residual=1)
    yield make.conv(plan_convolution, (8, 7, 16), 15, (3, 3), (1, 1), (1, 1, 1, 1), residual=1, shift=31)
    yield make.conv(plan_convolution, (9, 9, 3), 8, (3, 3), (2, 2), (0, 0, 1, 1), low=-30, high=40)
    yield make.conv(plan_convolution, (4, 4, 2), 4, (7, 7), (1, 1), (3, 3, 3, 3), shift=30, residual=1)
    yield make.conv(plan_convolution, (6, 6, 3), 19, (3, 3), (1, 1), (1, 1, 1, 1))
    yield make.conv(plan_convolution, (2, 2, 3), 4, (2, 2), (1, 1), (3, 3, 3, 3))  # windows that touch no pixel
    yield make.conv(plan_convolution, (9, 9, 4), 4, (1, 1), (3, 3))  # rows and columns that nothing reads
    yield make.conv(plan_convolution, (9, 9, 4), 40, (2, 1), (4, 4), (1, 0, 0, 0))
    yield make.conv(plan_convolution, (5, 9, 8), 8, (5, 9))  # one pixel


def extreme_case(make: CaseMaker, depth: int) -> Case:
    """Every product has the largest magnitude; weights are odd channels' 127 beside even channels' -127."""
    case = make.conv(plan_pointwise, (1, 6, depth), 4)
    weight = case.node.input(1)
    weight.constant = np.broadcast_to(
        np.array([-127, 127, -127, 127], np.int8)[:, None, None, None], weight.shape
    ).copy()
    case.node.input(2).constant = np.zeros(4, np.int32)
    kernel = plan_pointwise(case.node)
    assert isinstance(kernel, Kernel)
    x = np.full((1, 1, 6, depth), -128, np.int8)
    x[0, 0, 3:] = 127
    return Case(case.node, kernel, (x, *(value and value.constant for value in case.node.inputs[1:])))


@pytest.mark.qemu
def test_sums_may_be_as_large_as_the_planner_takes_them(tmp_path: Path) -> None:
    require_tools()
    longest = 2**23 // (127 * 128)  # of joined weights
    cases = [extreme_case(CaseMaker(2), longest + more) for more in (0, 1)]
    assert [case.kernel.spec.is_joined for case in cases] == [True, False]
    assert run_cases(cases, tmp_path) == ""


FAMILIES = {"pointwise": pointwise_cases, "convolution": convolution_cases}


@pytest.mark.qemu
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("compiler", "level"), [(GCC, "-O2"), (CLANG, "-O3")])
def test_convolutions_give_the_bits_of_the_reference_and_write_nowhere_else(
    family: str, compiler: str, level: str, tmp_path: Path
) -> None:
    require_tools(compiler)
    cases = list(FAMILIES[family](CaseMaker(7)))
    flags = ("-std=gnu99", level, "-Wall", "-Wextra", "-Werror")
    assert run_cases(cases, tmp_path, flags=flags, compiler=compiler) == ""
