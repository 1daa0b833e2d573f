"""Every kernel of the host, of portable C and of the smallest cores gives the references' bits for 200 shapes a family.

Of the host's, which LLVM compiles one by one, a sample runs unless --full-grids is given. The other cores' own grids
are in the tests of their kernels.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import vector_harness
from cortex_m_cases import CaseMaker
from cortex_m_harness import M0PLUS, M3, Case, Machine, program_text, require_tools, run_cases
from shape_grids import GRIDS, first_of

from tinyopt.targets import target_named
from tinyopt.targets.host import HOST
from tinyopt.targets.kernel import KernelPlanner

SHAPES = 200
SAMPLE = 4  # shapes of the host of which one is taken

# LLVM's optimizer takes most of the time that a vector kernel takes; the tests of vector kernels build with it.
QUICKLY_BUILT = vector_harness.Machine({**HOST.tvm, "opt-level": 0}, "gcc", ())


def grid(family: str, kernels: Mapping[str, tuple[KernelPlanner, ...]]) -> list[Case]:
    """The family's cases, each of another layer."""
    cases = list(GRIDS[family](CaseMaker(7), first_of(kernels)))
    different = {
        (case.node.op, tuple(v and v.shape for v in case.node.inputs), repr(case.node.attributes)) for case in cases
    }
    assert len(different) >= SHAPES, f"{len(different)} shapes in {len(cases)} cases"
    return cases


def run_here(cases: Sequence[Case], folder: Path) -> str:
    """What the program of the cases prints on this machine: nothing where all is right."""
    marks_for_counting = re.compile(r'__asm volatile\("[^"]*"\);')
    (folder / "cases.c").write_text(marks_for_counting.sub("", program_text(cases)))
    flags = ("-std=gnu99", "-O0", "-Wall", "-Wextra", "-Werror")
    program = folder / "cases"
    built = subprocess.run(
        ["gcc", *flags, str(folder / "cases.c"), "-o", str(program)], capture_output=True, check=False
    )
    assert built.returncode == 0, built.stderr[-4000:]
    result = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=60)
    assert result.stdout.endswith("done\n"), result.stdout[-2000:]
    return result.stdout.removesuffix("done\n")


@pytest.mark.slow
def test_the_kernels_of_the_host_give_the_bits_of_the_references(is_full_grid: bool) -> None:
    random = np.random.default_rng(2)
    cases = [
        case for family in GRIDS for case in grid(family, HOST.kernels) if is_full_grid or not random.integers(SAMPLE)
    ]
    vector_harness.run_cases([vector_harness.Case(c.node, c.kernel, c.arrays) for c in cases], QUICKLY_BUILT)


@pytest.mark.slow
@pytest.mark.parametrize("family", GRIDS)
def test_portable_c_gives_the_bits_of_the_references_and_writes_nowhere_else(family: str, tmp_path: Path) -> None:
    assert run_here(grid(family, target_named("c").kernels), tmp_path) == ""


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.parametrize(("core", "machine"), [("cortex-m0plus", M0PLUS), ("cortex-m3", M3)])
@pytest.mark.parametrize("family", ["pool", "elementwise"])
def test_what_the_smallest_cores_take_from_portable_c_gives_them_too(
    family: str, core: str, machine: Machine, tmp_path: Path
) -> None:
    require_tools()
    assert run_cases(grid(family, target_named(core).kernels), tmp_path, machine=machine) == ""
