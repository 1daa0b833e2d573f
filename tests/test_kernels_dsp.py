"""The kernels of the Arm DSP extension give the references' bits on an emulated Cortex-M4."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from cortex_m_cases import CaseMaker
from cortex_m_harness import Case, require_tools, run_cases, run_intrinsics

from tinyopt.ir import Attribute, Value
from tinyopt.targets.kernel import Kernel, Overlap, Refusal
from tinyopt.targets.kernels.dsp import DSP, intrinsics
from tinyopt.targets.kernels.dsp.convolution import plan_convolution
from tinyopt.targets.kernels.dsp.dense import plan_dense
from tinyopt.targets.kernels.dsp.depthwise import plan_depthwise
from tinyopt.targets.kernels.dsp.elementwise import plan_add
from tinyopt.targets.kernels.dsp.packing import depth_pairs, pack_channel_pairs
from tinyopt.targets.kernels.dsp.pointwise import plan_pointwise
from tinyopt.targets.kernels.dsp.pool import plan_average_pool, plan_max_pool
from tinyopt.targets.kernels.intrinsic import Intrinsic
from tinyopt.targets.kernels.requantize import SMMLAR, SSAT8


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


def test_an_output_does_not_take_the_place_of_a_residual_that_is_also_the_input() -> None:
    node = CaseMaker(1).conv(plan_convolution, (5, 5, 4), 4, (3, 3), (1, 1), (1, 1, 1, 1), residual=1).node
    apart = plan_convolution(node)
    assert isinstance(apart, Kernel)
    assert apart.overlaps == (Overlap.in_place(4),)
    node.inputs[4] = node.inputs[0]
    same = plan_convolution(node)
    assert isinstance(same, Kernel)
    assert not same.overlaps


def pointwise_cases(make: CaseMaker) -> Iterator[Case]:
    for depth, channels in product((1, 2, 3, 4, 7, 16, 40), (1, 2, 5)):
        yield make.conv(plan_pointwise, (3, depth % 3 + 1, depth), channels)
    yield make.conv(plan_pointwise, (5, 5, 64), 64)
    yield make.conv(plan_pointwise, (2, 3, 66), 12, residual=1)
    yield make.conv(plan_pointwise, (4, 4, 24), 24, residual=1, low=-5)
    yield make.conv(plan_pointwise, (1, 7, 9), 6, shift=31, high=60)
    yield make.conv(plan_pointwise, (1, 7, 9), 6, shift=29, residual=1)


def convolution_cases(make: CaseMaker) -> Iterator[Case]:
    for channels, window in product((1, 3, 4, 5, 8), ((3, 3), (2, 5), (1, 4))):
        yield make.conv(plan_convolution, (6, 5, channels), 3, window, (1, 1), (1, 2, 1, 1))
    yield make.conv(plan_convolution, (49, 10, 1), 4, (10, 4), (2, 2), (4, 1, 5, 1))
    yield make.conv(plan_convolution, (12, 12, 3), 8, (3, 3), (2, 2), (0, 0, 1, 1))
    yield make.conv(plan_convolution, (9, 8, 20), 6, (3, 3), (2, 1), (1, 1, 1, 1), residual=1)
    yield make.conv(plan_convolution, (9, 8, 6), 6, (1, 1), (2, 3))
    yield make.conv(plan_convolution, (1, 20, 8), 8, (1, 7), (1, 2), (0, 3, 0, 3), low=-30, high=40)
    yield make.conv(plan_convolution, (4, 4, 2), 4, (7, 7), (1, 1), (3, 3, 3, 3), shift=30, residual=1)


def depthwise_cases(make: CaseMaker) -> Iterator[Case]:
    for width, stride in product((1, 5, 9, 12, 19), (1, 2)):
        yield make.conv(plan_depthwise, (7, width, 8), 8, (3, 3), (stride, stride), (1, 1, 1, 1), depthwise=True)
    for channels in (2, 3, 5, 11):
        yield make.conv(plan_depthwise, (6, 6, channels), channels, (3, 3), (1, 1), (1, 1, 1, 1), depthwise=True)
    for window, pads in (
        ((1, 5), (0, 2, 0, 2)),
        ((5, 5), (2, 2, 2, 2)),
        ((4, 2), (1, 0, 2, 1)),
        ((1, 1), (0, 0, 0, 0)),
    ):
        for stride in (1, 2, 3):
            yield make.conv(plan_depthwise, (9, 10, 6), 6, window, (stride, stride), pads, depthwise=True)
    yield make.conv(plan_depthwise, (40, 48, 4), 4, (3, 3), (1, 1), (1, 1, 1, 1), depthwise=True)  # several strips
    yield make.conv(plan_depthwise, (40, 48, 5), 5, (3, 3), (2, 2), (0, 0, 1, 1), depthwise=True, low=-5)
    yield make.conv(plan_depthwise, (40, 50, 4), 4, (2, 2), (3, 3), depthwise=True)  # strips that share no row
    yield make.conv(plan_depthwise, (6, 6, 8), 8, (3, 3), (1, 1), (1, 1, 1, 1), depthwise=True, residual=1)
    yield make.conv(plan_depthwise, (6, 6, 8), 8, (3, 3), (1, 1), (1, 1, 1, 1), depthwise=True, shift=28)
    yield make.conv(plan_depthwise, (5, 9, 8), 8, (5, 9), depthwise=True)  # one output pixel


def dense_cases(make: CaseMaker) -> Iterator[Case]:
    for depth, channels in product((1, 3, 4, 10, 64), (1, 2, 3, 4, 9)):
        yield make.dense(plan_dense, (1, depth), channels)
    yield make.dense(plan_dense, (1, 640), 12, low=-5)
    yield make.dense(plan_dense, (70,), 6, residual=1)
    yield make.dense(plan_dense, (1, 33), 6, shift=30)
    yield make.dense(plan_dense, (2, 5, 33), 6)


def add_cases(make: CaseMaker) -> Iterator[Case]:
    for shift, (low, high), size in product((12, 20, 21), ((-128, 127), (-20, 99)), (1, 7, 48)):
        multipliers = round(0.7 * 2**shift), -round(0.9 * 2**shift)
        attributes: dict[str, Attribute] = {"shift": shift, "low": low, "high": high}
        attributes |= {"multiplier_a": multipliers[0], "multiplier_b": multipliers[1]}
        yield make.add(plan_add, ((1, 1, size, 3),) * 2, attributes)


def pool_cases(make: CaseMaker) -> Iterator[Case]:
    rounding = {"shift": 32, "low": -128, "high": 120}
    windows = (
        ((2, 2), (2, 2), (0, 0, 0, 0)),
        ((3, 3), (2, 2), (1, 1, 1, 1)),
        ((3, 2), (1, 1), (0, 1, 2, 0)),
        ((9, 8), (1, 1), (0, 0, 0, 0)),
    )
    for (kernel, strides, pads), channels in product(windows, (4, 7, 16)):
        window: dict[str, Attribute] = {
            "kernel": kernel,
            "strides": strides,
            "pads": pads,
            "dilations": (1, 1),
            "layout": "NHWC",
        }
        yield make.unary("MaxPool", plan_max_pool, (1, 9, 8, channels), window)
        yield make.unary("QAveragePool", plan_average_pool, (1, 9, 8, channels), {**window, **rounding}, _factors([5]))
    window = {"kernel": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
    yield make.unary(
        "QAveragePool", plan_average_pool, (1, 3, 3, 8), {**window, **rounding}, _factors([4, 6, 4, 6, 9, 6, 4, 6, 4])
    )
    window = {"kernel": (20, 21), "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    yield make.unary("QAveragePool", plan_average_pool, (1, 20, 21, 8), {**window, **rounding}, _factors([60]))


def _factors(cells: list[int]) -> Value:
    return Value.of("multiplier", np.array([round(2.0**31 / count) for count in cells], np.int32))


FAMILIES = {
    "pointwise": pointwise_cases,
    "convolution": convolution_cases,
    "depthwise": depthwise_cases,
    "dense": dense_cases,
    "add": add_cases,
    "pool": pool_cases,
}


def test_the_meaning_of_the_multiplications_is_a_dot_product() -> None:
    weights = np.array([[3, -4], [5, 6]], np.int8)  # place, channel
    word = intrinsics.LOAD_WORD.meaning(weights.reshape(-1))
    x = np.array([[100, -7], [2, 9], [11, 1]], np.int16)  # pixel, place
    acc = np.zeros(4, np.int32)
    intrinsics.multiply_columns(2).meaning(acc, x.view(np.int32).reshape(-1), 1, word)
    assert acc.reshape(2, 2).tolist() == (weights.T.astype(int) @ x[1:].T.astype(int)).tolist()
    acc = np.zeros(1, np.int32)
    intrinsics.multiply_rows(1).meaning(acc, [word], word)
    assert acc.tolist() == [3 * 3 + 4 * 4 + 5 * 5 + 6 * 6]


@pytest.mark.qemu
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_give_the_bits_of_the_references_and_write_nowhere_else(family: str, tmp_path: Path) -> None:
    require_tools()
    cases = list(FAMILIES[family](CaseMaker(7)))
    assert run_cases(cases, tmp_path) == ""


@pytest.mark.qemu
def test_instructions_do_what_their_meaning_says(tmp_path: Path) -> None:
    require_tools()
    known = [value for value in vars(intrinsics).values() if isinstance(value, Intrinsic)]
    pure = [intrinsic for intrinsic in known if intrinsic not in (intrinsics.LOAD_WORD, intrinsics.OPAQUE_ADDRESS)]
    assert run_intrinsics([*pure, SMMLAR, SSAT8, intrinsics.shift_and_saturate(5)], tmp_path) == ""
