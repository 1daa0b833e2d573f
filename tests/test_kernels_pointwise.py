"""Pointwise layers of any size on 64-bit Arm: every bit on three CPUs, and few functions for many sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import vector_cases as cases
from vector_harness import AARCH64, ANY_AARCH64, CPUS, Case, Machine, run_cases

from tinyopt.ir import Array, Node
from tinyopt.targets import target_named
from tinyopt.targets.kernel import Kernel
from tinyopt.targets.kernels.vector.integer_ending import Method
from tinyopt.targets.kernels.vector.pointwise import PointwisePlan, plan_pointwise, pointwise
from tinyopt.targets.kernels.vector.window import Window, dense_window, ungrouped_window
from tinyopt.targets.target import Target

Sample = tuple[Node, tuple[Array | None, ...]]
DEPTHS = (17, 24, 32, 75, 95, 144)  # of all remainders; as many steps as are written out, and more
OUTPUTS = (16, 17, 20, 31, 32, 40, 45, 64, 71)
IMAGES = ((1, 1), (1, 2), (3, 1), (2, 2), (1, 5), (2, 3), (3, 3), (2, 5), (3, 4), (7, 3), (5, 5))
ENDINGS = (  # residual, lowest level, highest level, scale: one above one half needs a shift below 32
    (False, -128, 127, 1.0),
    (True, -128, 127, 40.0),
    (False, -9, 127, 40.0),
    (True, -40, 33, 1.0),
)


def samples(seed: int, count: int) -> Iterator[Sample]:
    random = np.random.default_rng(seed)
    for number in range(count):
        depth, outputs = int(random.choice(DEPTHS)), int(random.choice(OUTPUTS))
        residual, low, high, scale = ENDINGS[random.integers(len(ENDINGS))]
        if number % 10 == 0:
            yield cases.integer_dense(int(random.integers(1, 8)), depth, outputs, scale)
            continue
        image = (*IMAGES[random.integers(len(IMAGES))], depth)
        yield cases.integer_convolution(image, outputs, residual=residual, low=low, high=high, scale=scale)


def window_of(node: Node) -> Window:
    if node.op == "QDense":
        return dense_window(node)
    window = ungrouped_window(node)
    assert isinstance(window, Window)
    return window.flattened()


def taken(method: Method, seed: int) -> list[Case]:
    """Those that are large enough."""
    plans = [(plan_pointwise(node, window_of(node), method), node, arrays) for node, arrays in samples(seed, 260)]
    return [
        Case(node, plan.kernel(node, "any"), arrays) for plan, node, arrays in plans if isinstance(plan, PointwisePlan)
    ]


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.parametrize("cpu", list(CPUS))
def test_plain_neon_gives_every_bit(cpu: str) -> None:
    grid = taken("neon", 1)
    assert len(grid) >= 200
    run_cases(grid, Machine(ANY_AARCH64.target, ANY_AARCH64.compiler, CPUS[cpu]))


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.parametrize("method", ["sdot", "smmla"])
def test_the_dot_and_the_matrix_product_give_every_bit(method: Method) -> None:
    grid = taken(method, 2)
    assert len(grid) >= 200
    run_cases(grid, Machine({**AARCH64.target, "mattr": ("+dotprod", "+i8mm")}, AARCH64.compiler, AARCH64.runner))


@pytest.mark.parametrize("variant", target_named("arm").variants, ids=lambda variant: variant.name)
def test_layers_that_differ_in_sizes_and_zero_points_share_a_function(variant: Target) -> None:
    sizes = [
        (cells, depth, 16 * tiles) for cells in (100, 245, 600) for depth in (80, 96, 160, 320) for tiles in (2, 5)
    ]
    functions: set[object] = set()
    for cells, depth, outputs in sizes:
        node, _ = cases.integer_convolution((1, cells, depth), outputs, low=-100 + depth % 7)
        kernel = variant.kernels["QConv"][0](node)
        assert isinstance(kernel, Kernel)
        assert kernel.template is pointwise
        functions.add(kernel.spec)
    assert len(functions) <= 3


@pytest.mark.parametrize("variant", target_named("arm").variants, ids=lambda variant: variant.name)
def test_depthwise_layers_of_one_stride_share_a_function(variant: Target) -> None:
    functions: set[object] = set()
    for size in (40, 56, 112):
        for channels in (48, 64, 143):
            image = (size, size, channels)
            node, _ = cases.integer_convolution(image, channels, (3, 3), pads=cases.SAME, group=channels)
            kernels = (plan(node) for plan in variant.kernels["QConv"])
            functions.add(next(kernel.spec for kernel in kernels if isinstance(kernel, Kernel)))
    assert len(functions) == 1
