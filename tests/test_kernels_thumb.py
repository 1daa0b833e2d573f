"""The kernels for cores without DSP give the references' bits on an emulated board, as ARMv6-M and as ARMv7-M code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from cortex_m_cases import CaseMaker
from cortex_m_harness import CLANG, GCC, M0PLUS, M3, Case, require_tools, run_cases

from tinyopt.ops import OPERATORS
from tinyopt.targets.kernel import ConstantArgument, Kernel, Overlap, Refusal
from tinyopt.targets.kernels.thumb.convolution import plan_convolution
from tinyopt.targets.kernels.thumb.dense import plan_dense
from tinyopt.targets.kernels.thumb.dense_micro_kernels import correct_meaning, dot_meaning, pack_meaning
from tinyopt.targets.kernels.thumb.depthwise import plan_depthwise
from tinyopt.targets.kernels.thumb.meanings import columns_meaning, pack_pair
from tinyopt.targets.kernels.thumb.sparse_dense import plan_sparse_dense
from tinyopt.targets.kernels.thumb.thumb1_sparse import list_meaning, sparse_meaning

MACHINES = {"thumb1": M0PLUS, "thumb2": M3}


def convolution_cases(make: CaseMaker, core: str) -> Iterator[Case]:
    plan = partial(plan_convolution, core)
    for depth, channels in product((1, 2, 3, 5, 8, 9, 16, 40), (1, 2, 7, 8, 9, 17)):
        yield make.conv(plan, (3, depth % 3 + 1, depth), channels)
    for depth, channels, width in product((3, 8, 24), (3, 8, 24), (1, 2, 3, 5)):
        yield make.conv(plan, (3, width, depth), channels, residual=1, shift=32 - width)
    for channels, window, strides in product((1, 2, 3, 8), ((3, 3), (2, 5), (1, 4)), ((1, 1), (2, 1), (1, 2), (3, 3))):
        yield make.conv(plan, (6, 5, channels), 3, window, strides, (1, 2, 1, 1))
        yield make.conv(plan, (7, 6, channels), 10, window, strides, (1, 0, 0, 1), low=-17, high=93)
    yield make.conv(plan, (49, 10, 1), 8, (10, 4), (2, 2), (4, 1, 5, 1))
    yield make.conv(plan, (12, 12, 3), 8, (3, 3), (2, 2), (0, 0, 1, 1), low=-5)
    yield make.conv(plan, (9, 8, 20), 6, (3, 3), (2, 1), (1, 1, 1, 1), residual=1, shift=30)
    yield make.conv(plan, (1, 20, 8), 8, (1, 7), (1, 2), (0, 3, 0, 3), low=-30, high=40)
    yield make.conv(plan, (4, 4, 2), 4, (7, 7), (1, 1), (3, 3, 3, 3), residual=1)
    yield make.conv(plan, (5, 5, 64), 64)
    yield make.conv(plan, (8, 8, 4), 20, (3, 3), (1, 1), (1, 1, 1, 1))
    for shift in range(20, 33):
        yield make.conv(plan, (2, 3, 6), 4, shift=shift)
    dilated = make.conv(plan, (9, 9, 3), 4, (3, 3), (1, 1), (2, 2, 2, 2)).node
    dilated.attributes |= {"dilations": (2, 2), "pads": (1, 2, 3, 2)}
    dilated.outputs = [make.activation("y", (1, 9, 9, 4), -5)]
    yield make.case(dilated, plan)
    yield largest_products(make, plan)


def depthwise_cases(make: CaseMaker, core: str) -> Iterator[Case]:
    plan = partial(plan_depthwise, core)
    windows = ((3, 3), (1, 1), (2, 3), (3, 2), (5, 5), (1, 4), (4, 1))
    all_pads = ((1, 1, 1, 1), (0, 0, 0, 0), (0, 2, 1, 0), (2, 0, 0, 3))
    for window, strides, pads in product(windows, ((1, 1), (2, 2), (1, 3), (3, 1)), all_pads):
        for height, width in ((5, 5), (6, 8)):
            channels = 1 + (height * pads[3] + window[1] + strides[0]) % 7
            yield make.conv(plan, (height, width, channels), channels, window, strides, pads, depthwise=True)
    for shift, channels in product(range(24, 33), (1, 8)):
        yield make.conv(
            plan, (2, 3, channels), channels, (3, 3), (1, 1), all_pads[0], depthwise=True, shift=shift, high=50
        )
    yield make.conv(plan, (5, 9, 8), 8, (5, 9), depthwise=True, low=-5)  # one output pixel
    yield make.conv(plan, (25, 5, 16), 16, (3, 3), (1, 1), (1, 1, 1, 1), depthwise=True)


def dense_cases(make: CaseMaker, core: str) -> Iterator[Case]:
    plan = partial(plan_dense, core)
    for depth, channels in product(
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 19, 24, 33, 64), (*range(1, 10), 63, 64, 65)
    ):
        yield make.dense(plan, (1, depth), channels)
    yield make.dense(plan, (1, 640), 70, low=-5)
    yield in_place(make.dense(plan, (1, 640), 64))
    yield make.dense(plan, (1, 1023), 5, high=90)
    yield make.dense(plan, (4, 5, 6), 9, residual=1)
    for shift in range(24, 33):
        yield make.dense(plan, (20,), 6, shift=shift)
    loud = make.dense(plan, (1, 11), 5).node
    loud.input(1).data[:] = np.array([127, -127, 127, -127, 127], np.int8).reshape(5, 1)
    for level in (-128, 127):
        case = make.case(loud, plan)
        assert case.arrays[0] is not None
        case.arrays[0][:] = level
        yield case


def sparse_cases(make: CaseMaker, core: str) -> Iterator[Case]:
    plan = partial(plan_sparse_dense, core)
    for depth, channels, zeros in product((1, 2, 3, 9, 16, 33, 64, 130), (1, 3, 7, 8, 9, 63, 65), (0.0, 0.5, 0.9, 1.0)):
        case = make.dense(plan, (1, depth), channels, input_zero=-128, shift=32 - depth % 3, low=-50)
        x = case.arrays[0]
        assert x is not None
        x[:, : round(zeros * depth)] = -128
        yield in_place(case)


def in_place(case: Case) -> Case:
    """The kernel permits any distance between input and output: here it is none."""
    assert case.kernel.overlaps == (Overlap(0, None, None),)
    return replace(case, kernel=replace(case.kernel, overlaps=(Overlap.in_place(0),)))


def largest_products(make: CaseMaker, plan: Callable[..., Kernel | Refusal]) -> Case:
    """Two products that add up to all that half a word holds, with either sign."""
    node = make.conv(plan, (2, 2, 8), 2).node
    node.input(1).data[:] = np.array([127, -127], np.int8).reshape(2, 1, 1, 1)
    node.input(2).data[:] = 0
    node.input(3).data[:] = 1 << 21
    case = make.case(node, plan)
    x = case.arrays[0]
    assert x is not None
    x[0] = np.array([-128, 127, 127, -128], np.int8).reshape(2, 2, 1)
    return case


FAMILIES: dict[str, Callable[[CaseMaker, str], Iterator[Case]]] = {
    "convolution": convolution_cases,
    "depthwise": depthwise_cases,
    "dense": dense_cases,
    "sparse": sparse_cases,
}


def test_the_meaning_of_packed_columns_is_a_convolution() -> None:
    case = CaseMaker(3).conv(partial(plan_convolution, "thumb1"), (1, 4, 6), 3, residual=1, low=-20)
    x, weights, bias, multiplier, residual = (np.asarray(array) for array in case.arrays)
    columns = [0] * 12
    for half in range(2):
        words = [0] * 12
        pack_pair(x.reshape(4, 6)[2 * half], x.reshape(4, 6)[2 * half + 1], 6, words)
        for place in range(6):
            columns[place // 2 * 4 + half * 2 + place % 2] = words[place // 2 * 4 + place % 2]
    pairs = list(zip(bias.tolist(), multiplier.tolist(), strict=True))
    numbers = case.kernel.arguments[3]
    assert isinstance(numbers, ConstantArgument)
    of_tile = numbers.array.tolist()[-6:]
    got = columns_meaning(columns, weights.reshape(3, 6), pairs, of_tile, residual.reshape(4, 3))
    wanted = OPERATORS["QConv"].evaluate(case.node, case.arrays)[0]
    assert np.array_equal(got.reshape(-1), wanted.reshape(-1))


def test_the_meaning_of_packed_words_is_a_dot_product() -> None:
    random = np.random.default_rng(5)
    x = random.integers(-128, 128, 40).astype(np.int8)
    weights = random.integers(-60, 61, (4, 40))
    words = np.ascontiguousarray((weights + 128).astype(np.uint8)).view(np.uint32)  # channel, word
    assert dot_meaning(pack_meaning(x), words.T, [1, 2, 3, 4]) == (weights @ x + [1, 2, 3, 4]).tolist()
    added, entries = list_meaning(x, -128)
    sums = sparse_meaning(entries, np.tile((weights + 128).astype(np.uint8).T, 2), [added] * 8)
    assert sums[:4] == (weights @ (x.astype(int) + 128)).tolist()


def test_what_a_weight_lacks_is_among_the_corrections() -> None:
    node = CaseMaker(1).dense(partial(plan_dense, "thumb1"), (1, 4), 1).node
    node.input(1).data[:] = np.array([[127, -100, 90, 3]], np.int8)
    kernel = plan_dense("thumb1", node)
    assert isinstance(kernel, Kernel)
    constants = {a.role: a.array for a in kernel.arguments if isinstance(a, ConstantArgument)}
    assert constants["weight"].view(np.uint8)[:4].tolist() == [62 + 128, -100 + 128, 90 + 128, 3 + 128]
    assert constants["correction"].tolist() == [65 << 24]  # of place 0 of channel 0
    sums = [5]
    correct_meaning(np.array([2, 0, 0, 0], np.int8), constants["correction"].tolist(), sums)
    assert sums == [5 + 2 * 65]


PAIRS = [(family, core) for family, core in product(FAMILIES, MACHINES) if (family, core) != ("sparse", "thumb2")]


@pytest.mark.qemu
@pytest.mark.parametrize(("family", "core"), PAIRS)
def test_kernels_give_the_bits_of_the_references_and_write_nowhere_else(family: str, core: str, tmp_path: Path) -> None:
    require_tools()
    cases = list(FAMILIES[family](CaseMaker(7), core))
    assert len(cases) >= 200
    assert run_cases(cases, tmp_path, machine=MACHINES[core], compiler=GCC) == ""


@pytest.mark.qemu
@pytest.mark.parametrize("core", MACHINES)
def test_clang_makes_the_same_of_them(core: str, tmp_path: Path) -> None:
    require_tools(CLANG)
    cases = [case for family, of in PAIRS if of == core for case in list(FAMILIES[family](CaseMaker(8), core))[::13]]
    assert run_cases(cases, tmp_path, machine=MACHINES[core], compiler=CLANG) == ""


@pytest.mark.parametrize("core", MACHINES)
def test_what_would_overflow_is_refused_with_a_reason(core: str) -> None:
    node = CaseMaker(1).conv(partial(plan_convolution, core), (4, 4, 4), 4).node
    node.input(1).data[0] = -128
    answer = plan_convolution(core, node)
    assert isinstance(answer, Refusal)
    assert "too large" in answer.reason


def test_an_output_takes_the_room_of_its_input_from_the_side_at_which_the_kernel_begins() -> None:
    make = CaseMaker(1)
    plan = partial(plan_convolution, "thumb1")
    assert make.conv(plan, (8, 8, 16), 16).kernel.overlaps == (Overlap.forward(0, 0),)
    assert make.conv(plan, (8, 8, 8), 16).kernel.overlaps == (Overlap.backward(0, -32),)  # a block is read
    (first,) = make.conv(plan, (96, 96, 3), 8, (3, 3), (2, 2), (0, 0, 1, 1)).kernel.overlaps
    assert first.last is not None
    assert 0 <= -first.last < 96 * 3
