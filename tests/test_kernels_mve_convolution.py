"""The Helium kernels of convolutions and dense layers: bit for bit the references, on the emulated Cortex-M55."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from cortex_m_cases import CaseMaker
from cortex_m_harness import CLANG, EMULATOR, FLAGS, GCC, M55, Case, build, program_text, require_tools, run_cases

from tinyopt.targets.kernel import KernelPlanner, Refusal
from tinyopt.targets.kernels.mve.convolution import ConvolutionSpec, plan_convolution
from tinyopt.targets.kernels.mve.dense import DenseSpec, plan_dense
from tinyopt.targets.kernels.mve.memory import COPY_ROWS
from tinyopt.targets.kernels.mve.micro_kernels import dense_tile, pair_tile
from tinyopt.targets.kernels.mve.pointwise import PointwiseSpec, plan_pointwise
from tinyopt.targets.kernels.mve.tile import DENSE_ORDER, PAIR_ORDER, Finish, Rescaling, Tile, rescaling_of, stream_of


def with_large_multipliers(make: CaseMaker, planner: KernelPlanner, case: Case) -> Case:
    """The same node with small weights and with multipliers that leave no other shift."""
    random = np.random.default_rng(9)
    node = case.node
    weights, bias = node.input(1), node.input(2)
    weights.constant = (weights.data // 100).astype(np.int8)
    bias.constant = random.integers(-3, 4, bias.shape).astype(np.int32)
    node.input(3).constant = random.integers(2**30, 2**31, bias.shape).astype(np.int32)
    made = make.case(node, planner)
    assert isinstance(made.kernel.spec, ConvolutionSpec | DenseSpec | PointwiseSpec)
    assert made.kernel.spec.tile.finish.ending == "shift"
    return made


def with_residual_multiplier(make: CaseMaker, planner: KernelPlanner, case: Case, multiplier: int, ending: str) -> Case:
    """The same node with that multiplier, and the ending that its planner must choose then."""
    case.node.attributes["residual_multiplier"] = multiplier
    made = make.case(case.node, planner)
    assert isinstance(made.kernel.spec, ConvolutionSpec | DenseSpec | PointwiseSpec)
    assert made.kernel.spec.tile.finish.ending == ending
    return made


SHORT_MULTIPLIERS = (1 << 16, 0x1234 << 16, 0x6666 << 16, 0x7FFF << 16, -0x3333 << 16)


def short_residual_cases(make: CaseMaker) -> Iterator[Case]:
    """Residuals whose multiplier has 16 bits behind the point, and some beside them that have more."""
    for (depth, count), multiplier in product(
        ((1, 3), (16, 4), (17, 10), (40, 5), (144, 8), (640, 2)), SHORT_MULTIPLIERS
    ):
        low = -128 if depth % 2 else -20
        case = make.conv(plan_pointwise, (3, 5, depth), count, residual=1, low=low)
        yield with_residual_multiplier(make, plan_pointwise, case, multiplier, "short_residual")
        case = make.dense(plan_dense, (1, depth), count + 3, residual=1, low=low)
        yield with_residual_multiplier(make, plan_dense, case, multiplier, "short_residual")
    for depth, count, multiplier in product((3, 16, 33), (1, 6, 8), SHORT_MULTIPLIERS[1:3]):
        for beside, ending in ((0, "short_residual"), (1, "residual")):
            pads, low = (1, 1, 1, 1), -7 if count == 6 else -128
            case = make.conv(plan_convolution, (5, 4, depth), count, (3, 3), (1, 1), pads, residual=1, low=low)
            yield with_residual_multiplier(make, plan_convolution, case, multiplier + beside, ending)
    for shift in (20, 28, 31):  # the multipliers are doubled to shift 32 first
        case = make.conv(plan_pointwise, (3, 3, 16), 5, residual=1, shift=shift)
        yield with_residual_multiplier(make, plan_pointwise, case, 0xFFFF << shift - 16, "short_residual")
    for output_zero, input_zero in product((-128, 127), repeat=2):
        case = make.conv(plan_pointwise, (3, 4, 24), 6, residual=1, output_zero=output_zero, input_zero=input_zero)
        yield with_residual_multiplier(make, plan_pointwise, case, 0x7FFF << 16, "short_residual")


def pointwise_cases(make: CaseMaker) -> Iterator[Case]:
    depths, channels = (1, 3, 8, 15, 16, 17, 32, 40, 48, 64, 80, 96, 112, 128), (1, 2, 4, 7, 8, 16)
    for depth, count in product(depths, channels):
        height, width = ((1, 2), (5, 5), (3, 4))[(depth + count) % 3]
        yield make.conv(plan_pointwise, (height, width, depth), count)
    for depth, count, pixels in product((5, 16, 33), (3, 12), (2, 3, 17)):
        has_residual = int(pixels == 3)
        yield make.conv(plan_pointwise, (1, pixels, depth), count, low=-30, high=55, residual=has_residual)
    for shift, depth, count in product((2, 9, 24, 28, 30, 31), (16, 20), (4, 9)):
        yield with_large_multipliers(make, plan_pointwise, make.conv(plan_pointwise, (3, 3, depth), count, shift=shift))
    for residual, depth, count in product((0, 1), (16, 27, 64), (4, 10)):
        yield make.conv(plan_pointwise, (3, 5, depth), count, residual=residual, low=-90)
    for factor in (0.9, 1.3, 60.0):  # a residual that outweighs the sum
        case = make.conv(plan_pointwise, (3, 5, 16), 6, residual=1, shift=25)
        case.node.attributes["residual_multiplier"] = round(factor * 2**25)
        yield make.case(case.node, plan_pointwise)
    for depth, low in product((20, 48, 64, 144), (-128, -100)):  # from the last pixel to the first
        yield make.conv(plan_pointwise, (1, 5, depth), depth + 5, low=low)
    yield make.conv(plan_pointwise, (1, 1, 48), 6)
    yield make.conv(plan_pointwise, (2, 2, 16), 8, clusters=16)
    yield make.dense(plan_dense, (2, 5, 33), 6)
    yield make.dense(plan_dense, (7, 16), 5)


WINDOWS = (
    ((3, 3), (1, 1, 1, 1)),
    ((3, 3), (0, 0, 1, 1)),
    ((2, 3), (0, 2, 1, 0)),
    ((5, 1), (2, 0, 2, 0)),
    ((4, 2), (1, 0, 2, 1)),
    ((1, 1), (0, 0, 0, 0)),
    ((2, 2), (3, 3, 3, 3)),  # some windows lie outside the image
)


def convolution_cases(make: CaseMaker) -> Iterator[Case]:
    for (window, pads), stride, depth in product(WINDOWS, (1, 2, 3), (1, 3, 4, 16, 19, 32)):
        for count in (4,) if depth in (3, 19) else (1, 6):
            yield make.conv(plan_convolution, (7, 6, depth), count, window, (stride, stride), pads)
    for depth, count, residual in product((2, 16, 31, 64), (3, 8, 13), (0, 1)):
        low, pads = -7 if count == 3 else -128, (1, 1, 1, 1)
        yield make.conv(plan_convolution, (5, 9, depth), count, (3, 3), (1, 1), pads, residual=residual, low=low)
    for shift, depth in product((2, 20, 30), (3, 16)):
        case = make.conv(plan_convolution, (4, 5, depth), 5, (3, 3), (1, 2), (1, 1, 1, 1), shift=shift)
        yield with_large_multipliers(make, plan_convolution, case)
    yield make.conv(plan_convolution, (9, 8, 1), 8, (6, 4), (2, 2), (2, 1, 3, 1))
    yield make.conv(plan_convolution, (6, 7, 8), 9, (6, 7))  # the window is the whole image
    yield make.conv(plan_convolution, (20, 3, 5), 7, (7, 3), (1, 1), (3, 1, 3, 1))
    yield make.conv(plan_convolution, (2, 2, 16), 4, (3, 3), (1, 1), (1, 1, 1, 1))  # no window lies in the image
    yield make.conv(plan_convolution, (1, 40, 2), 4, (1, 9), (1, 4), (0, 4, 0, 4))


def dense_cases(make: CaseMaker) -> Iterator[Case]:
    for depth, channels in product(
        (1, 3, 8, 15, 16, 17, 31, 32, 48, 64, 80, 100, 112, 128), (1, 2, 3, 7, 8, 9, 16, 20)
    ):
        yield make.dense(plan_dense, (1, depth), channels)
    for depth, channels, shift in product((10, 64), (5, 8, 17), (2, 15, 28, 30, 31)):
        yield make.dense(plan_dense, (1, depth), channels, shift=shift)
        yield with_large_multipliers(make, plan_dense, make.dense(plan_dense, (1, depth), channels, shift=shift))
    for depth, channels, low in product((16, 33, 70), (1, 6, 8, 9, 24), (-128, -20)):
        yield make.dense(plan_dense, (depth,), channels, residual=1, low=low)
    for depth, channels in product((5, 96), (4, 10)):
        yield make.dense(plan_dense, (1, depth), channels, high=30, clusters=16)
    yield make.dense(plan_dense, (1, 640), 12)


FAMILIES = {
    "pointwise": pointwise_cases,
    "convolution": convolution_cases,
    "dense": dense_cases,
    "short residual": short_residual_cases,
}


@pytest.mark.qemu
@pytest.mark.parametrize("family", FAMILIES)
def test_gcc_makes_the_bits_of_the_references_and_nothing_is_written_elsewhere(family: str, tmp_path: Path) -> None:
    require_tools()
    assert run_cases(list(FAMILIES[family](CaseMaker(7))), tmp_path, machine=M55) == ""


@pytest.mark.qemu
@pytest.mark.parametrize(("compiler", "level"), [(GCC, "-O3"), (CLANG, "-O3"), (CLANG, "-O0")])
def test_other_compilers_and_levels_make_them_too(compiler: str, level: str, tmp_path: Path) -> None:
    require_tools(compiler)
    cases = [case for family in FAMILIES.values() for case in list(family(CaseMaker(5)))[::9]]
    flags = [level if flag == "-O2" else flag for flag in FLAGS]
    assert run_cases(cases, tmp_path, machine=M55, compiler=compiler, flags=flags) == ""


MEMORY_END = 0x20080000  # of the data memory of QEMU's mps3-an547; reading there is a fault that stops it


@pytest.mark.qemu
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_read_behind_the_input(family: str, tmp_path: Path) -> None:
    require_tools()
    text = program_text(list(FAMILIES[family](CaseMaker(3)))[::3])
    at_end = f"""\
static const void *at_end(const void *array, unsigned bytes) {{
  char *place = (char *){MEMORY_END} - bytes;
  memcpy(place, array, bytes);
  return place;
}}
"""
    first = re.compile(r"(?<=\()\(const void \*\)(data_\d+_0)(?=, )")
    text, inputs = first.subn(r"at_end(\1, sizeof \1)", text)
    assert inputs > 40
    (tmp_path / "cases.c").write_text(text.replace("static unsigned used;\n", f"static unsigned used;\n{at_end}", 1))
    program = build(tmp_path / "cases.c", tmp_path, FLAGS, M55)
    command = (EMULATOR, "-M", M55.machine, "-nographic", "-semihosting", "-kernel", str(program))
    assert subprocess.run(command, capture_output=True, text=True, check=False, timeout=300).stdout == "done\n"


def test_the_meaning_of_a_tile_is_a_product_of_matrices() -> None:
    random = np.random.default_rng(1)
    weights = random.integers(-127, 128, (6, 48)).astype(np.int8)
    x = random.integers(-128, 128, (2, 48)).astype(np.int8)
    bias, multipliers = np.arange(6), np.full(6, 2**24)
    wanted = np.clip(((x.astype(int) @ weights.T + bias) * 2**24 + 2**31 >> 32) + 1, -128, 127)
    for order, tile in (
        (PAIR_ORDER, pair_tile(Tile(1, "blocks", Finish("high", is_clamped=False)))),
        (DENSE_ORDER, dense_tile(Tile(3, "once", Finish("high", is_clamped=False)))),
    ):
        stream = stream_of(weights, bias, multipliers, order)
        offsets = [0, 6, 1, 7, 2, 8, 3, 9] if order is PAIR_ORDER else list(range(8))
        levels = np.array(offsets + [1] * 8 + [-128] * 8 + [127] * 8, np.int16).view(np.int32)
        levels = np.concatenate([np.array([6, 0, 0], np.int32), levels])
        y = np.zeros(12, np.int8)
        tile.meaning(stream, levels, x[0], x[1], 3, y, y, 1)
        assert y[:6].tolist() == wanted[0].tolist()
        assert y[6:].tolist() == (wanted[1].tolist() if order is PAIR_ORDER else [0] * 6)


def test_rows_of_a_tile_lie_a_gap_apart() -> None:
    assert list(Tile(2, "rows", Finish("high", is_clamped=False)).places(1 << 16 | 5)) == [0, 16, 37, 53]
    assert list(Tile(1, "rows", Finish("high", is_clamped=False)).places(1 << 16 | -3 & 0xFFFF)) == [0, 13]
    assert list(Tile(1, "unrolled", Finish("high", is_clamped=False), 3).places(-3)) == [0, 13, 26]


def test_the_meaning_of_copying_rows() -> None:
    to = np.zeros(8, np.int8)
    COPY_ROWS.meaning(to, np.arange(1, 9, dtype=np.int8), 2, 3, 4, 5)
    assert to.tolist() == [1, 2, 3, 0, 6, 7, 8, 0]


def test_multipliers_are_doubled_as_long_as_they_fit_so_that_the_shift_is_32() -> None:
    node = CaseMaker(1).conv(plan_pointwise, (3, 3, 4), 2, shift=28, residual=1).node
    node.input(3).constant = np.array([2**25 + 1, 7], np.int32)
    node.attributes["residual_multiplier"] = 2**29 + 3  # 4 times that has 32 bits
    found = rescaling_of(node)
    assert isinstance(found, Rescaling)
    assert (found.shift, found.multipliers.tolist()) == (32, [2**29 + 16, 112])
    assert (found.residual_multiplier, found.finish.residual_shift) == (2**30 + 6, 3)


def test_a_residual_whose_sums_may_exceed_32_bits_keeps_64() -> None:
    node = CaseMaker(1).conv(plan_pointwise, (3, 3, 4), 2, residual=1).node
    node.attributes["residual_multiplier"] = 2**30

    def ending(multiplier: int, bias: int) -> str:
        node.input(1).constant = np.zeros((2, 1, 1, 4), np.int8)
        node.input(2).constant = np.array([5, bias], np.int32)
        node.input(3).constant = np.array([9, multiplier], np.int32)
        found = rescaling_of(node)
        assert isinstance(found, Rescaling)
        return found.finish.ending

    assert ending(2**30, 2**16 - 2**9) == "short_residual"
    assert ending(2**30, 2**16) == "residual"  # the sum has 32 bits
    assert ending(2**15, 2**30) == "short_residual"
    assert ending(2**16, 2**30) == "residual"  # no shift of the two leaves enough of the product
    assert ending(9, -(2**31)) == "residual"


def test_what_another_kernel_must_take_is_refused_with_the_reason() -> None:
    node = CaseMaker(1).conv(plan_pointwise, (3, 3, 4), 4, residual=1, shift=31).node
    node.input(3).constant = np.full(4, 2**30, np.int32)
    assert plan_pointwise(node) == Refusal("it has a residual, and its scale is 1/2 or more")
    node = CaseMaker(1).conv(plan_pointwise, (3, 3, 4), 4, residual=1, shift=20).node
    node.attributes["residual_multiplier"] = 2**28
    assert plan_pointwise(node) == Refusal("its residual is scaled by more than 64")
    node = CaseMaker(1).conv(plan_pointwise, (1, 1, 1), 4).node
    node.outputs[0] = CaseMaker(1).activation("y", (1, 1, 1, 65535), 0)
    assert plan_pointwise(node) == Refusal("it has more than 65532 output channels")
