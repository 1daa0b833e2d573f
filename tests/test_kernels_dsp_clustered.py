"""The kernels for clustered weights give the references' bits on an emulated Cortex-M4, and pay what they say."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from cortex_m_cases import CaseMaker
from cortex_m_harness import CLANG, GCC, Case, require_tools, run_cases

from tinyopt.ir import Clusters, Node
from tinyopt.ops import OPERATORS
from tinyopt.targets.kernel import ConstantArgument, Kernel, Refusal, ScratchArgument
from tinyopt.targets.kernels.dsp.clustered import plan_clustered
from tinyopt.targets.kernels.dsp.clustered.convolution import convolution_kernel
from tinyopt.targets.kernels.dsp.clustered.decode_steps import decoded
from tinyopt.targets.kernels.dsp.clustered.dense import dense_kernel
from tinyopt.targets.kernels.dsp.clustered.depthwise import depthwise_kernel
from tinyopt.targets.kernels.dsp.clustered.layer import block_pixels
from tinyopt.targets.kernels.dsp.clustered.pairs import pack_pairs, pair_sequence
from tinyopt.targets.kernels.dsp.clustered.pointwise import rows_kernel
from tinyopt.targets.kernels.dsp.clustered.tiles import multiply_block
from tinyopt.targets.kernels.dsp.clustered.vector import multiply_vector
from tinyopt.targets.kernels.dsp.clustered.widening import WIDEN_RUNS

KINDS = ((0, -128, 127), (1, -128, 127), (0, -20, 50))  # residual, low, high
CLUSTERS = (2, 3, 8, 16, 23, 32, 64)  # every width of an index


def _clusters(indices: list[list[int]], values: int) -> Clusters:
    codebook = np.arange(values, dtype=np.int8) * 3 - 40
    return Clusters(np.array(indices, np.uint8), codebook, np.ones(len(indices), np.float32))


@pytest.mark.parametrize("values", [1, 2, 3, 16, 32])
def test_every_pair_of_values_stands_once_in_the_sequence(values: int) -> None:
    sequence = pair_sequence(values).tolist()
    pairs = list(pairwise(sequence))
    assert len(pairs) == len(set(pairs)) == values**2


@pytest.mark.parametrize("values", CLUSTERS)
def test_packed_pairs_decode_to_the_weights(values: int) -> None:
    indices = np.random.default_rng(1).integers(0, values, (3, 10)).tolist()
    clusters = _clusters(indices, values)
    pairs = [(0, 2), (1, 3), (4, 6), (5, 7), (8, 9)]
    packed = pack_pairs(clusters, pairs)
    bits = clusters.index_bits
    assert packed.nbytes == 3 * (8 * 2 * bits // 8 - 3 * 2 * bits // 8)  # eight pairs without the first three
    table = clusters.codebook[pair_sequence(values)] if bits <= 5 else clusters.codebook
    for channel, row in enumerate(packed.reshape(3, -1)):
        weights = clusters.codebook[np.array(indices[channel])[np.array(pairs)]]
        assert decoded(bits, table, row, 5).tolist() == weights.tolist()


def test_four_pixels_take_the_wide_tile() -> None:
    assert [block_pixels(pixels) for pixels in (1, 3, 4, 9, 125)] == [[1], [3], [4], [6, 3], [6] * 20 + [5]]


def test_clustered_weights_are_smaller_in_flash_and_have_no_copy_in_ram() -> None:
    kernel = plan_clustered(CaseMaker(1).conv(_pointwise, (25, 5, 64), 64, clusters=16).node)
    assert isinstance(kernel, Kernel)
    constants = [a for a in kernel.arguments if isinstance(a, ConstantArgument) and a.role in ("weight", "codebook")]
    assert sum(constant.array.nbytes for constant in constants) == 64 * 64 // 2 + 16 + 64 * 8  # biases, multipliers
    assert kernel.decoding is not None
    assert (kernel.decoding.bytes, kernel.decoding.int8_bytes) == (2064, 4096)
    scratch = [argument.bytes for argument in kernel.arguments if isinstance(argument, ScratchArgument)]
    assert scratch == [2 * 257, 6 * 64 * 2]  # table, six pixels


@pytest.mark.parametrize(
    ("clusters", "shift", "reason"),
    [
        (0, 32, "not clustered"),
        (65, 32, "7 bits save too little"),
        (16, 31, "another shift"),
        (16, 32, "20 bytes, 8 as int8"),
    ],
)
def test_what_is_not_decoded_is_refused_with_a_reason(clusters: int, shift: int, reason: str) -> None:
    channels = 1 if "as int8" in reason else 64
    node = CaseMaker(1).conv(_never_refused, (4, 4, 8), channels, clusters=clusters, shift=shift).node
    refusal = plan_clustered(node)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason


def _never_refused(node: Node) -> Kernel:
    """For nodes whose own planner is asked later."""
    return Kernel(_never_refused, None, "none", ())


def _pointwise(node: Node) -> Kernel:
    return rows_kernel(node)


def pointwise_cases(make: CaseMaker) -> Iterator[Case]:
    for clusters, pixels in product(CLUSTERS, (1, 3, 5, 6, 15)):
        depth, channels = 1 + (5 * clusters + pixels) % 13, 1 + (clusters + 3 * pixels) % 9
        yield make.conv(_pointwise, (1, pixels, depth), channels, clusters=clusters)
    for pixels, (residual, low, high) in product(range(1, 18), KINDS):
        shape = (pixels, 1, 3 + pixels)
        yield make.conv(_pointwise, shape, 12, clusters=16, residual=residual, low=low, high=high)
    for clusters, residual in product((16, 32, 60), (0, 1)):
        yield make.conv(_pointwise, (5, 5, 64), 64, clusters=clusters, residual=residual)
        yield make.conv(_pointwise, (4, 3, 66), 12, clusters=clusters, residual=residual, low=-5)
    for pixels, shift in product((2, 6, 13), (30, 31)):  # residuals that are larger than the output's steps
        yield make.conv(_pointwise, (pixels, 1, 9), 5, clusters=16, residual=1, shift=shift, low=-90)


def convolution_cases(make: CaseMaker) -> Iterator[Case]:
    windows = ((3, 3), (2, 5), (1, 4), (6, 1))
    for channels, window, clusters in product((1, 2, 3, 4, 5, 8), windows, (16, 32)):
        yield make.conv(convolution_kernel, (6, 5, channels), 3, window, (1, 1), (1, 2, 1, 1), clusters=clusters)
    for clusters in CLUSTERS:
        yield make.conv(convolution_kernel, (49, 10, 1), 4, (10, 4), (2, 2), (4, 1, 5, 1), clusters=clusters)
        yield make.conv(convolution_kernel, (12, 12, 3), 8, (3, 3), (2, 2), (0, 0, 1, 1), clusters=clusters)
        yield make.conv(convolution_kernel, (9, 8, 20), 6, (3, 3), (2, 1), (1, 1, 1, 1), clusters=clusters, residual=1)
    yield make.conv(convolution_kernel, (9, 8, 6), 6, (1, 1), (2, 3), clusters=16)
    yield make.conv(convolution_kernel, (1, 20, 8), 8, (1, 7), (1, 2), (0, 3, 0, 3), clusters=16, low=-30, high=40)
    yield make.conv(convolution_kernel, (4, 4, 2), 4, (7, 7), (1, 1), (3, 3, 3, 3), clusters=16, residual=1)
    yield make.conv(convolution_kernel, (3, 3, 4), 4, (7, 7), (1, 1), (5, 5, 5, 5), clusters=16)


def dense_cases(make: CaseMaker) -> Iterator[Case]:
    for clusters, channels in product(CLUSTERS, (1, 2, 4, 5, 6, 7, 8)):
        low = -20 if channels == 6 else -128
        yield make.dense(dense_kernel, (1, 17 + channels), channels, clusters=clusters, low=low)
        wide = {"low": -500, "high": 30000} if channels == 6 else {"low": -(1 << 15), "high": (1 << 15) - 1}
        if channels >= 4:
            yield make.dense(dense_kernel, (1, 17 + channels), channels, clusters=clusters, output_bits=16, **wide)
    yield make.dense(dense_kernel, (1, 640), 12, clusters=16)
    yield make.dense(dense_kernel, (70,), 6, clusters=16, residual=1)
    yield make.dense(dense_kernel, (2, 5, 33), 6, clusters=16)


def depthwise_cases(make: CaseMaker) -> Iterator[Case]:
    for clusters, channels in ((2, 9), (5, 9), (16, 3), (16, 9), (23, 9), (60, 9)):
        image = (7, 9, channels)
        yield make.conv(
            depthwise_kernel, image, channels, (3, 3), (1, 1), (1, 1, 1, 1), depthwise=True, clusters=clusters
        )
    yield make.conv(depthwise_kernel, (40, 48, 5), 5, (3, 3), (2, 2), (0, 0, 1, 1), depthwise=True, clusters=16)
    yield make.conv(depthwise_kernel, (6, 6, 8), 8, (3, 2), depthwise=True, clusters=32, residual=1, shift=31)


FAMILIES = {
    "pointwise": pointwise_cases,
    "convolution": convolution_cases,
    "dense": dense_cases,
    "depthwise": depthwise_cases,
}


@pytest.mark.qemu
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_give_the_bits_of_the_references_and_write_nowhere_else(family: str, tmp_path: Path) -> None:
    require_tools(GCC)
    assert run_cases(list(FAMILIES[family](CaseMaker(7))), tmp_path) == ""


@pytest.mark.qemu
def test_another_compiler_gives_the_same_bits(tmp_path: Path) -> None:
    require_tools(CLANG)
    cases = [case for family in FAMILIES.values() for case in list(family(CaseMaker(9)))[::7]]
    flags = ("-std=gnu99", "-O3", "-Wall", "-Wextra", "-Werror")
    assert run_cases(cases, tmp_path, compiler=CLANG, flags=flags) == ""


@pytest.mark.parametrize("clusters", [8, 16, 32, 50])
@pytest.mark.parametrize(("residual", "low", "high"), KINDS)
def test_the_meaning_of_the_tiles_is_the_layer(clusters: int, residual: int, low: int, high: int) -> None:
    case = CaseMaker(3).conv(_pointwise, (1, 6, 9), 5, clusters=clusters, residual=residual, low=low, high=high)
    spec = case.kernel.spec
    wanted = OPERATORS["QConv"].evaluate(case.node, case.arrays)[0]
    weights, codebook, numbers = (a.array for a in case.kernel.arguments if isinstance(a, ConstantArgument))
    table = codebook[pair_sequence(clusters)] if spec.has_table else codebook
    block = np.zeros(5 * 6, np.int32)  # five pairs times six pixels
    assert case.arrays[0] is not None
    for pixel in range(6):
        WIDEN_RUNS.meaning(case.arrays[0].reshape(-1)[9 * pixel :], block[pixel:], 9, 1, 0, 0, 24)
    y, added = np.zeros(30, np.int8), case.arrays[4]
    added = np.zeros(0, np.int8) if added is None else added.reshape(-1)
    tile = multiply_block(spec.bits, 6, spec.is_clamped, spec.has_residual)
    zero_point, limits = int(numbers[6]), numbers[7:]
    tile.meaning(block, table, weights, y, 5, 5, 6, zero_point, limits, added)
    np.testing.assert_array_equal(y, wanted.reshape(-1))


def test_the_meaning_of_the_vector_kernel_is_the_layer() -> None:
    case = CaseMaker(3).dense(dense_kernel, (1, 20), 6, clusters=16)
    wanted = OPERATORS["QDense"].evaluate(case.node, case.arrays)[0]
    weights, codebook, numbers = (a.array for a in case.kernel.arguments if isinstance(a, ConstantArgument))
    vector, y = np.zeros(10, np.int32), np.zeros(6, np.int8)
    assert case.arrays[0] is not None
    WIDEN_RUNS.meaning(case.arrays[0].reshape(-1), vector, 20, 1, 0, 0, 4)
    kernel = multiply_vector(4, is_clamped=False)
    table = codebook[pair_sequence(16)]
    kernel.meaning(vector, table, weights, y, 6, 10, 18, int(numbers[6]), numbers[7:])
    np.testing.assert_array_equal(y, wanted.reshape(-1))
