"""float16 kernels beside the grids of shapes: the instructions of each CPU, casts, and who refuses."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import vector_cases as cases
from vector_harness import AARCH64, Case, run_cases

from tinyopt.ir import Node, TensorType, Value
from tinyopt.lowering.kernel_cache import compile_kernels
from tinyopt.lowering.lower import choose_kernel
from tinyopt.lowering.request import request_for
from tinyopt.targets import target_named
from tinyopt.targets.arm import NAMED_CPUS
from tinyopt.targets.kernel import Kernel, Refusal
from tinyopt.targets.kernels.scalar import SCALAR

OBJDUMP = "aarch64-linux-gnu-objdump"
HALF_CPUS = [target.name for target in NAMED_CPUS if target.facts.has_float16]


def kernel_of(node: Node, target: str = "cortex-a76") -> Kernel:
    chosen = choose_kernel(node, target_named(target))
    assert chosen is not None, node.op
    return chosen[0]


@pytest.mark.qemu
@pytest.mark.slow
def test_casts_give_every_bit_of_subnormal_and_infinite_numbers_too() -> None:
    edges = np.array([0, 1e-8, 3e-8, 6e-8, 6.1e-5, 1.0005, 2049, 65504, 65519, 65520, 1e9], np.float32)
    wide = np.concatenate([edges, -edges, cases.floats(33)])
    narrow = np.arange(0, 0x7C01, 7, dtype=np.uint16).view(np.float16)
    chosen: list[Case] = []
    for array, to in ((wide, "float16"), (narrow, "float32")):
        node = Node("Cast", "cast", [Value("x", TensorType.of(array))], [Value("y", TensorType(to, array.shape))], {})
        chosen.append(Case(node, kernel_of(node), (array,)))
    run_cases(chosen, AARCH64)


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["cortex-a55", "cortex-a510", "neoverse-v1", "apple-m1"])
def test_a_cpu_multiplies_eight_lanes_by_one_and_converts_nothing(cpu: str, tmp_path: Path) -> None:
    if shutil.which(OBJDUMP) is None:
        pytest.skip(f"no {OBJDUMP} on PATH")
    node, _ = cases.in_float16(cases.float_convolution((1, 8, 16), 16))
    request = request_for(kernel_of(node, cpu), target_named(cpu).tvm)
    (tmp_path / "k.o").write_bytes(compile_kernels([request], "object", None, lambda _done, _all: None)[request.key])
    text = subprocess.run([OBJDUMP, "-d", tmp_path / "k.o"], capture_output=True, text=True, check=True).stdout
    kernel = text.partition(f"<{request.symbol}>:")[2].partition(">:")[0]
    products = [line for line in kernel.splitlines() if "fmla" in line]
    assert products
    assert all(".8h," in line and ".h[" in line for line in products)
    assert "fcvt" not in kernel


def test_the_cpus_with_float16_are_those_with_the_dot_product() -> None:
    assert [target.name for target in NAMED_CPUS if target.feature in ("dotprod", "i8mm")] == HALF_CPUS
    assert not target_named("arm").facts.has_float16  # it must run on all of them


def test_scalar_kernels_refuse_float16_and_say_so() -> None:
    node, _ = cases.in_float16(cases.float_convolution((6, 6, 8), 8, (3, 3), group=2))
    answers = [planner(node) for planner in SCALAR["Conv"]]
    assert answers
    assert all(isinstance(answer, Refusal) and "float16" in answer.reason for answer in answers)
