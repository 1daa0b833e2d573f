"""Kernels for x86-64 against the reference, on each level whose instructions this machine has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, pairwise, product
from typing import Any

import numpy as np
import pytest
import vector_cases as cases
from vector_harness import Case, Machine, run_cases

from tinyopt.ir import Array, Node
from tinyopt.targets.host import X86_LEVELS, HostLevel, host_level
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.vector.vnni_depthwise import VnniDepthwiseSpec, plan_vnni_depthwise

Sample = tuple[Node, tuple[Array | None, ...]]
Make = Callable[..., Sample]
Image = tuple[int, int]

IMAGES: tuple[Image, ...] = ((1, 1), (2, 5), (5, 3), (3, 16), (7, 9))
LARGE: Image = (40, 43)  # its padded rows do not fit into scratch memory as a whole
WINDOWS: tuple[dict[str, Any], ...] = (
    {},
    {"kernel": (3, 3), "pads": (1, 1, 1, 1)},
    {"kernel": (3, 3), "strides": (2, 2), "pads": (0, 0, 1, 1)},
    {"strides": (3, 2)},
    {"kernel": (5, 2), "strides": (1, 2), "pads": (2, 0, 1, 1)},
    {"kernel": (3, 2), "strides": (2, 1), "pads": (2, 2, 2, 2), "dilations": (2, 2)},
    {"kernel": (1, 4), "pads": (0, 3, 0, 0)},
)
ENDINGS: tuple[dict[str, Any], ...] = (
    {},
    {"low": -9},
    {"low": 3, "high": 4},
    {"scale": 40.0},  # scales above one half: a shift below 32, and saturation everywhere
    {"low": -100, "high": 90, "scale": 0.01},
)
# wide ones, for rounding is judged by the largest output
CLAMPS: tuple[dict[str, Any], ...] = ({}, {"low": 0.0}, {"low": -9.0, "high": 40.0})

OTHERS = 10  # the best level takes so many times as many samples as the others, which share most of the code
SAMPLE = 5  # and so many times as many with --full-grids

_BEST = X86_LEVELS.index(host_level()) if host_level() in X86_LEVELS else len(X86_LEVELS)
LEVELS = X86_LEVELS[_BEST:]
on_each_level = pytest.mark.parametrize("level", LEVELS, ids=[level.name for level in LEVELS])


def has_output(image: Image, kernel: Image = (1, 1), pads: tuple[int, ...] = (0, 0, 0, 0), **others: Any) -> bool:
    """Whether the window fits into the padded image."""
    dilations = others.get("dilations", (1, 1))
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    return all(image[i] + pads[i] + pads[i + 2] >= reach[i] for i in range(2))


def geometries() -> Iterator[tuple[Image, dict[str, Any]]]:
    return ((image, window) for image, window in product(IMAGES, WINDOWS) if has_output(image, **window))


def convolutions(make: Make, endings: tuple[dict[str, Any], ...]) -> Iterator[Sample]:
    """Convolutions without groups: each geometry with some depths and channels, then large images."""
    depths, channels = cycle((1, 3, 4, 9, 17, 64)), cycle((1, 5, 8, 16, 24, 37, 70))
    ending, residual = cycle(endings), cycle((False, False, True))
    for _, (image, window) in product(range(6), geometries()):
        yield make((*image, next(depths)), next(channels), **window, **next(ending), residual=next(residual))
    for window, depth in product(WINDOWS, (3, 20)):
        yield make((*LARGE, depth), next(channels), **window, **next(ending), residual=next(residual))


def depthwise(make: Make, endings: tuple[dict[str, Any], ...], numbers: tuple[int, ...]) -> Iterator[Sample]:
    """One group for each channel."""
    channels, ending = cycle(numbers), cycle(endings)
    for _, (image, window) in product(range(7), geometries()):
        count = next(channels)
        yield make((*image, count), count, **window, **next(ending), group=count)
    for window, count in product(WINDOWS, (32, 48)):
        yield make((*LARGE, count), count, **window, **next(ending), group=count)


def dense(make: Callable[..., Sample]) -> Iterator[Sample]:
    """Dense layers of one and more rows."""
    for rows, depth, channels in product((1, 2, 7, 30), (1, 4, 6, 65), (1, 12, 16, 40)):
        yield make(rows, depth, channels)


def chosen(samples: Iterator[Sample], level: HostLevel, names: tuple[str, ...], is_full: bool) -> list[Case]:
    """The kernels of this level for the samples, or for some of them, which do not change; refused are none."""
    result: list[Case] = []
    random = np.random.default_rng(3)
    for node, arrays in samples:
        if random.integers(one_of(level, is_full)):
            continue
        plans = [planner(node) for planner in level.kernels[node.op]]
        plan = next((plan for plan in plans if isinstance(plan, Kernel)), plans[-1])
        assert isinstance(plan, Kernel), (node.input(0).shape, plan)
        assert plan.name in names
        result.append(Case(node, plan, arrays))
    return result


def one_of(level: HostLevel, is_full: bool) -> int:
    """Samples of which one is taken."""
    return (1 if level is LEVELS[0] else OTHERS) * (1 if is_full else SAMPLE)


def check(made: list[Case], level: HostLevel, is_full: bool) -> None:
    assert len(made) >= 150 // one_of(level, is_full)
    assert len(made) >= 200 or one_of(level, is_full) > 1
    run_cases(made, Machine(level.tvm, "gcc", ()))


@pytest.mark.slow
@on_each_level
def test_float_products_are_the_references_within_rounding(level: HostLevel, is_full_grid: bool) -> None:
    samples = [*convolutions(cases.float_convolution, CLAMPS), *dense(cases.float_dense)]
    check(chosen(iter(samples), level, ("conv_vector", "dense_vector"), is_full_grid), level, is_full_grid)


@pytest.mark.slow
@on_each_level
def test_float_depthwise_convolutions_are_the_references_within_rounding(level: HostLevel, is_full_grid: bool) -> None:
    samples = depthwise(cases.float_convolution, CLAMPS, (4, 7, 8, 16, 20, 33))
    check(chosen(samples, level, ("depthwise_vector",), is_full_grid), level, is_full_grid)


@pytest.mark.slow
@on_each_level
def test_integer_products_give_every_bit(level: HostLevel, is_full_grid: bool) -> None:
    if "QConv" not in level.kernels:
        pytest.skip("this level takes the kernels of any LLVM target")
    samples = [*convolutions(cases.integer_convolution, ENDINGS), *dense(cases.integer_dense)]
    check(
        chosen(iter(samples), level, ("conv_vnni", "dense_vnni", "conv_madd", "dense_madd"), is_full_grid),
        level,
        is_full_grid,
    )


@pytest.mark.slow
def test_integer_depthwise_convolutions_give_every_bit_with_vnni(is_full_grid: bool) -> None:
    if LEVELS[:1] != X86_LEVELS[:1]:
        pytest.skip("this machine has no AVX-512 VNNI")
    samples = depthwise(cases.integer_convolution, ENDINGS, (16, 24, 32, 64, 80, 100))
    check(chosen(samples, LEVELS[0], ("depthwise_vnni",), is_full_grid), LEVELS[0], is_full_grid)


def test_few_channels_fill_a_vector_with_several_pixels_where_windows_step_by_one() -> None:
    window: dict[str, Any] = {"kernel": (3, 3), "pads": (1, 1, 1, 1)}
    plan = plan_vnni_depthwise(cases.integer_convolution((9, 17, 8), 8, **window, group=8)[0])
    assert isinstance(plan, Kernel)
    assert isinstance(plan.spec, VnniDepthwiseSpec)
    assert (plan.spec.copies, plan.spec.blocks.width) == (8, 64)
    refused = plan_vnni_depthwise(cases.integer_convolution((9, 17, 8), 8, **window, strides=(2, 2), group=8)[0])
    assert isinstance(refused, Refusal)


@pytest.mark.slow
def test_the_extreme_levels_and_weights_do_not_saturate() -> None:
    """255 * -128 * 2 does not fit 16 bits: VPMADDUBSW would give another sum."""
    for level in LEVELS:
        if "QDense" not in level.kernels:
            continue
        samples: list[Sample] = []
        for x, w in product((-128, 127), (-128, 127)):
            node, arrays = cases.integer_dense(1, 64, 16)
            node.input(1).data[...] = w
            samples.append((node, (np.full_like(arrays[0], x), node.input(1).data, *arrays[2:])))
        run_cases(
            [Case(n, p, a) for n, a in samples if isinstance(p := level.kernels["QDense"][0](n), Kernel)],
            Machine(level.tvm, "gcc", ()),
        )


def test_every_level_names_the_features_of_the_ones_below_it() -> None:
    for better, plainer in pairwise(X86_LEVELS):
        assert better.features > plainer.features
    assert not X86_LEVELS[-1].features
