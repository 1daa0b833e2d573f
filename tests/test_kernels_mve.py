"""The Helium kernels for depthwise convolutions and operators on elements give the references' bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
from cortex_m_cases import CaseMaker
from cortex_m_harness import CLANG, FLAGS, GCC, M55, Case, require_tools, run_cases

from tinyopt.targets.kernels.mve.depthwise import plan_depthwise

SAME = (1, 1, 1, 1)


def depthwise_cases(make: CaseMaker) -> Iterator[Case]:
    def case(
        image: tuple[int, int, int], window: tuple[int, int], strides: tuple[int, int], *pads: int, **options: int
    ) -> Case:
        around = (pads[0], pads[1], pads[2], pads[3])
        return make.conv(plan_depthwise, image, image[2], window, strides, around, depthwise=True, **options)

    for height, width, channels in product((1, 2, 5, 8), (1, 2, 3, 7), (2, 8, 11, 16, 19)):
        yield case((height, width, channels), (3, 3), (1, 1), *SAME)
    for height, width, channels, stride in product((3, 6, 9), (3, 8, 11), (3, 16, 20), (1, 2, 3)):
        yield case((height, width, channels), (3, 3), (2, stride), *SAME)
    for window, pads in product(
        ((1, 1), (2, 3), (3, 1), (1, 2)), ((0, 0, 0, 0), (1, 0, 0, 1), (0, 2, 1, 0), (2, 1, 2, 3))
    ):
        yield case((6, 7, 9), window, (1, 1), *pads)
    for window, pads in product(((4, 4), (1, 4), (4, 1), (2, 2)), ((0, 0, 0, 0), (1, 0, 0, 1), (3, 2, 1, 3))):
        yield case((9, 12, 9), window, (2, 2), *pads)
    yield case((25, 5, 64), (3, 3), (1, 1), *SAME)
    yield case((20, 48, 8), (3, 3), (1, 1), *SAME)
    yield case((12, 48, 16), (3, 3), (2, 2), 0, 0, 1, 1)
    for low, high, shift, stride in product((-128, -5), (127, 60), (32, 30), (1, 2)):
        yield case((6, 6, 20), (3, 3), (stride, stride), *SAME, low=low, high=high, shift=shift)


FAMILIES: dict[str, Callable[[CaseMaker], Iterator[Case]]] = {"depthwise": depthwise_cases}


@pytest.mark.qemu
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_give_the_bits_of_the_references_and_write_nowhere_else(family: str, tmp_path: Path) -> None:
    require_tools()
    assert run_cases(list(FAMILIES[family](CaseMaker(7))), tmp_path, machine=M55) == ""


@pytest.mark.qemu
@pytest.mark.parametrize(("compiler", "level"), [(GCC, "-O3"), (CLANG, "-O2"), (CLANG, "-O3"), (CLANG, "-O0")])
def test_every_compiler_gives_the_same_bits(compiler: str, level: str, tmp_path: Path) -> None:
    require_tools(compiler)
    cases = [case for family in FAMILIES.values() for case in list(family(CaseMaker(8)))[::9]]
    flags = [level if flag == "-O2" else flag for flag in FLAGS]
    assert run_cases(cases, tmp_path, machine=M55, compiler=compiler, flags=flags) == ""
