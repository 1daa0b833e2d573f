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
from tinyopt.targets.kernels.dsp import intrinsics
from tinyopt.targets.kernels.dsp.dense import plan_dense
from tinyopt.targets.kernels.dsp.depthwise import plan_depthwise
from tinyopt.targets.kernels.dsp.elementwise import plan_add
from tinyopt.targets.kernels.dsp.pool import plan_average_pool, plan_max_pool
from tinyopt.targets.kernels.intrinsic import Intrinsic
from tinyopt.targets.kernels.requantize import SMMLAR, SSAT8


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
    "depthwise": depthwise_cases,
    "dense": dense_cases,
    "add": add_cases,
    "pool": pool_cases,
}


def test_the_meaning_of_the_multiplication_is_a_dot_product() -> None:
    weights = np.array([[3, -4], [5, 6]], np.int8)  # place, channel
    word = intrinsics.LOAD_WORD.meaning(weights.reshape(-1))
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
    pure = [intrinsic for intrinsic in known if intrinsic is not intrinsics.LOAD_WORD]
    assert run_intrinsics([*pure, SMMLAR, SSAT8, intrinsics.shift_and_saturate(5)], tmp_path) == ""
