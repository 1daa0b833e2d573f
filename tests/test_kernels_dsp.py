"""Depthwise, dense, elementwise and pooling kernels of the DSP extension give the references' bits on a Cortex-M4."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from cortex_m_cases import CaseMaker
from cortex_m_harness import CLANG, GCC, Case, require_tools, run_cases, run_intrinsics

from tinyopt.ir import Attribute, Value
from tinyopt.targets.kernel import ConstantArgument, Kernel, ScratchArgument
from tinyopt.targets.kernels.dsp import intrinsics
from tinyopt.targets.kernels.dsp.dense import plan_dense
from tinyopt.targets.kernels.dsp.depthwise import plan_depthwise
from tinyopt.targets.kernels.dsp.elementwise import plan_add, plan_lookup, plan_mul
from tinyopt.targets.kernels.dsp.pool import plan_average_pool, plan_max_pool
from tinyopt.targets.kernels.intrinsic import Intrinsic
from tinyopt.targets.kernels.requantize import SMMLAR, SSAT8

SAME = (1, 1, 1, 1)


def depthwise_cases(make: CaseMaker) -> Iterator[Case]:
    def case(
        image: tuple[int, int],
        channels: int,
        window: tuple[int, int],
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        **options: int,
    ) -> Case:
        shape = (*image, channels)
        return make.conv(plan_depthwise, shape, channels, window, strides, pads, True, (1, 1), **options)

    for width, height, channels in product((1, 3, 5, 6, 7, 9, 24), (1, 2, 3, 6, 11), (4, 6, 9)):
        yield case((height, width), channels, (3, 3), (1, 1), SAME, input_zero=7 * width - 90)
    for width, height, channels in product((1, 5, 6, 12, 13), (2, 3, 6, 11), (4, 7, 8)):
        yield case((height, width), channels, (3, 3), (2, 2), (height % 2, width % 2, 1, 1))
    for channels, height in product((2, 3), (1, 2, 3, 4, 5, 9, 12)):
        yield case((height, 6), channels, (3, 3), (1, 1), SAME)
    for window, pads in (
        ((1, 5), (0, 2, 0, 2)),
        ((5, 5), (2, 2, 2, 2)),
        ((4, 2), (1, 0, 2, 1)),
        ((1, 1), (0, 0, 0, 0)),
    ):
        for stride in (1, 2, 3):
            yield case((9, 10), 6, window, (stride, stride), pads)
    yield case((5, 9), 8, (5, 9))  # one output pixel
    yield case((3, 40), 4, (1, 31))
    yield case((40, 48), 4, (3, 3), (1, 1), SAME)  # several strips
    yield case((40, 50), 4, (2, 2), (3, 3))  # strips that share no row
    yield case((40, 48), 5, (3, 3), (2, 2), (0, 0, 1, 1), low=-5)
    yield case((40, 25), 5, (3, 3), (1, 1), SAME, high=60)
    yield case((6, 7), 8, (3, 3), (1, 1), SAME, residual=1)
    yield case((6, 10), 3, (3, 3), (1, 1), SAME, residual=1, shift=27)
    yield case((6, 6), 8, (3, 3), (1, 1), SAME, shift=28)


def dense_cases(make: CaseMaker) -> Iterator[Case]:
    for depth, channels in product((1, 2, 3, 4, 5, 8, 15, 16, 17, 22, 35, 64), range(1, 17)):
        yield make.dense(plan_dense, (1, depth), channels)
    for channels in (1, 3, 4, 6):
        yield make.dense(plan_dense, (1, 1640), channels)  # too deep for two channels in one multiplication
        yield make.dense(plan_dense, (70,), channels, residual=1)
        yield make.dense(plan_dense, (1, 33), channels, low=-5, high=80)
    yield make.dense(plan_dense, (1, 33), 6, shift=30, residual=1)
    yield make.dense(plan_dense, (1, 33), 6, shift=30)
    yield make.dense(plan_dense, (2, 5, 33), 6)


def elementwise_cases(make: CaseMaker) -> Iterator[Case]:
    clamps = ((-128, 127), (-20, 99))
    for shift, (low, high), size in product((12, 20, 21, 22), clamps, (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 40)):
        multipliers = [round(share * 2 ** min(shift, 21)) for share in (0.7, -0.9)]
        yield make.add(plan_add, ((1, 1, size, 1),) * 2, _adding(multipliers, shift, low, high))
    for low, high in clamps:  # the zero point does not fit into the offset
        yield make.add(plan_add, ((1, 1, 9, 3),) * 2, _adding([2**21 - 1, 2**21 - 1], 27, low, high))
    for (low, high), size in product(clamps, (1, 7, 8, 19)):
        rounding: dict[str, Attribute] = {"multiplier": 2**24, "shift": 32, "low": low, "high": high}
        for shapes in (
            ((3, size), (3, size)),
            ((1, 2, 3, 8 + size), (8 + size,)),
            ((1, 1, 8 + size), (2, 3, 8 + size)),
        ):
            yield make.binary("QMul", plan_mul, shapes, rounding)
            yield make.add(plan_add, shapes, _adding([2**20, -(2**21) + 1], 21, low, high))
    for size in range(1, 61):
        yield make.unary("QLookup", plan_lookup, (1, size), {}, Value.of("table", make.levels((256,))))


def _adding(multipliers: list[int], shift: int, low: int, high: int) -> dict[str, Attribute]:
    return {"shift": shift, "low": low, "high": high, "multiplier_a": multipliers[0], "multiplier_b": multipliers[1]}


def pool_cases(make: CaseMaker) -> Iterator[Case]:
    windows = (
        ((2, 2), (2, 2), (0, 0, 0, 0)),
        ((3, 3), (2, 2), SAME),
        ((3, 2), (1, 1), (0, 1, 2, 0)),
        ((1, 3), (2, 1), (0, 0, 0, 0)),
    )
    for (kernel, strides, pads), channels in product(windows, (4, 7, 16)):
        window = _window(kernel, strides, pads)
        rounding = {"shift": 32, "low": -128, "high": 120 if channels == 7 else 127}
        for height, width in ((3, 3), (3, 9), (4, 4), (5, 3), (6, 7), (9, 8), (8, 9), (10, 5), (4, 12)):
            image = 1, height, width, channels
            yield make.unary("MaxPool", plan_max_pool, image, window)
            yield make.unary("QAveragePool", plan_average_pool, image, {**window, **rounding}, _factors([5]))
    rounding = {"shift": 32, "low": -128, "high": 127}
    corners = _factors([4, 6, 4, 6, 9, 6, 4, 6, 4])
    yield make.unary(
        "QAveragePool", plan_average_pool, (1, 3, 3, 8), {**_window((3, 3), (1, 1), SAME), **rounding}, corners
    )
    window = {**_window((20, 21), (1, 1), (0, 0, 0, 0)), **rounding}
    yield make.unary("QAveragePool", plan_average_pool, (1, 20, 21, 8), window, _factors([60]))


def _window(kernel: tuple[int, int], strides: tuple[int, int], pads: tuple[int, ...]) -> dict[str, Attribute]:
    return {"kernel": kernel, "strides": strides, "pads": pads, "dilations": (1, 1), "layout": "NHWC"}


def _factors(cells: list[int]) -> Value:
    return Value.of("multiplier", np.array([round(2.0**31 / count) for count in cells], np.int32))


FAMILIES: dict[str, Callable[[CaseMaker], Iterator[Case]]] = {
    "depthwise": depthwise_cases,
    "dense": dense_cases,
    "elementwise": elementwise_cases,
    "pool": pool_cases,
}


@pytest.mark.qemu
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_give_the_bits_of_the_references_and_write_nowhere_else(family: str, tmp_path: Path) -> None:
    require_tools()
    cases = list(FAMILIES[family](CaseMaker(7)))
    assert len(cases) >= 200
    assert run_cases(cases, tmp_path) == ""


@pytest.mark.qemu
@pytest.mark.parametrize(("compiler", "level"), [(GCC, "-O0"), (GCC, "-O3"), (CLANG, "-O3"), (CLANG, "-Os")])
def test_every_compiler_gives_the_same_bits(compiler: str, level: str, tmp_path: Path) -> None:
    require_tools(compiler)
    cases = [case for family in FAMILIES.values() for case in list(family(CaseMaker(5)))[::16]]
    assert run_cases(cases, tmp_path, flags=("-std=gnu99", level, "-Wall", "-Wextra"), compiler=compiler) == ""


def test_depthwise_layers_of_one_row_width_share_their_function_and_a_small_scratch() -> None:
    make = CaseMaker(3)
    kernels = [
        make.conv(plan_depthwise, (side, side, channels), channels, (3, 3), (1, 1), SAME, depthwise=True).kernel
        for side, channels in ((48, 8), (24, 32), (12, 60), (6, 107))
    ]
    assert len({kernel.spec for kernel in kernels}) == 1
    assert max(_scratch_bytes(kernel) for kernel in kernels) <= 2048


def _scratch_bytes(kernel: Kernel) -> int:
    return sum(argument.bytes for argument in kernel.arguments if isinstance(argument, ScratchArgument))


def test_a_joined_word_of_weights_is_256_times_the_second_channel_plus_the_first() -> None:
    make = CaseMaker(1)
    case = make.dense(plan_dense, (1, 4), 4)
    packed = next(argument.array for argument in case.kernel.arguments if isinstance(argument, ConstantArgument))
    weights = case.node.input(1).data.astype(int)  # channels, depth
    joined = np.frombuffer(packed.tobytes(), "<i2").reshape(2, 2, 2)  # word of the quad, pair of channels, place
    wanted = weights[0::2] + 256 * weights[1::2]  # pair of channels, depth
    assert joined[0].tolist() == wanted[:, [0, 2]].tolist()
    assert joined[1].tolist() == wanted[:, [1, 3]].tolist()


@pytest.mark.qemu
def test_instructions_do_what_their_meaning_says(tmp_path: Path) -> None:
    require_tools()
    known = [value for value in vars(intrinsics).values() if isinstance(value, Intrinsic)]
    pure = [intrinsic for intrinsic in known if intrinsic.result == "int32" and intrinsic is not intrinsics.LOAD_WORD]
    assert run_intrinsics([*pure, SMMLAR, SSAT8, intrinsics.shift_and_saturate(5)], tmp_path) == ""
