"""Every scalar kernel, compiled as C, gives what the operator's numpy reference gives."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph_builder import random_inputs
from tests.indexing_cases import indexing_cases
from tests.integer_cases import MIXED_CASES
from tests.kernel_cases import Case, CaseBuilder, all_cases, integer_dense
from tests.kernel_harness import check_kernel, check_outputs, run_kernel_object
from tinyopt.ops import OPERATORS
from tinyopt.targets.kernel import ConstantArgument, Kernel, Refusal
from tinyopt.targets.kernels.packing import pack_rows, row_bytes, unpack_rows
from tinyopt.targets.kernels.requantize import SMMLAR, SSAT8
from tinyopt.targets.kernels.scalar import SCALAR


def mixed_case(title: str) -> Case:
    """An operator that reads or gives int16, with all its inputs."""
    graph = MIXED_CASES[title]
    inputs, node = random_inputs(graph), graph.nodes[0]
    arrays = [None if value is None else inputs.get(value.name, value.constant) for value in node.inputs]
    return Case(title, node, tuple(arrays))


CASES = [*all_cases(), *indexing_cases(), *(mixed_case(title) for title in MIXED_CASES)]
VIEWS = {"Reshape", "Identity"}


def planned(case: Case) -> Kernel:
    """What the first planner that does not refuse makes of the node."""
    for planner in SCALAR[case.node.op]:
        kernel = planner(case.node)
        if not isinstance(kernel, Refusal):
            return kernel
    raise AssertionError(f"every planner refuses {case.id}")


def test_every_operator_but_the_views_has_a_kernel() -> None:
    assert set(SCALAR) == set(OPERATORS) - VIEWS


def test_every_kernel_has_a_case() -> None:
    assert {case.node.op for case in CASES} == set(SCALAR)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_c_of_a_kernel_gives_the_numbers_of_the_reference(case: Case) -> None:
    check_kernel(case.node, planned(case), case.arrays)


@pytest.mark.parametrize("case", [c for c in CASES if "clusters" in c.title], ids=lambda case: case.id)
def test_clustered_weights_take_less_flash_than_int8(case: Case) -> None:
    arguments = planned(case).arguments
    packed = sum(a.array.nbytes for a in arguments if isinstance(a, ConstantArgument) and a.role != "bias")
    assert packed < case.node.input(1).type.bytes
    assert "packed" in planned(case).name


def test_weights_of_integer_products_take_as_few_bytes_as_they_need() -> None:
    found = {
        case.title: argument.array.dtype.name
        for case in CASES
        if case.node.op in ("IntegerMatMul", "IntegerConvNd")
        for argument in planned(case).arguments
        if isinstance(argument, ConstantArgument)
    }
    assert found == {
        "weights from -128": "int8",
        "weights from 0": "uint8",
        "weights from -32768": "int16",
        "weights of 8 bits": "int8",
    }  # and those from -129 to 65535 are read as they are


def test_a_clustered_layer_that_packing_would_not_shrink_takes_the_plain_kernel() -> None:
    build = CaseBuilder()
    integer_dense(build, "tiny", (1,), build.clustered(2, 1, 3), residual=False)  # one packed byte and two of codebook
    refusal = SCALAR["QDense"][0](build.cases[0].node)
    assert isinstance(refusal, Refusal)
    assert "no less than int8" in refusal.reason
    assert planned(build.cases[0]).name == "dense_s8"


@pytest.mark.parametrize("bits", range(1, 7))
def test_packed_rows_come_back_as_they_were(bits: int) -> None:
    indices = np.random.default_rng(bits).integers(0, 1 << bits, (3, 13)).astype(np.uint8)
    packed = pack_rows(indices, bits)
    assert packed.shape == (3, row_bytes(13, bits))
    np.testing.assert_array_equal(unpack_rows(packed, 13, bits), indices)


def test_packing_is_least_significant_bit_first() -> None:
    packed = pack_rows(np.array([[1, 2, 7]], np.uint8), 3)
    assert packed.tolist() == [[0b11_010_001, 0b1]]


def test_smmlar_and_ssat_mean_the_requantization() -> None:
    for accumulator, multiplier in ((12345, 987654321), (-12345, 987654321), (-1, 1 << 31 - 1), (1 << 30, 1 << 30)):
        exact = ((accumulator * multiplier + (1 << 31)) >> 32) - 5
        assert SSAT8.meaning(SMMLAR.meaning(accumulator, multiplier, -5)) == min(max(exact, -128), 127)


@pytest.mark.slow
@pytest.mark.parametrize("op", sorted(SCALAR))
def test_the_object_of_a_kernel_gives_the_numbers_of_the_reference(op: str) -> None:
    case = next(case for case in CASES if case.node.op == op)
    check_outputs(case.node, case.arrays, run_kernel_object(case.node, planned(case), case.arrays))
