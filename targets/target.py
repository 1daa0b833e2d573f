"""What a machine is: its code generator, its kernels, its toolchain and its emulator, as plain facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tinyopt.pass_manager import TargetFacts
from tinyopt.targets.costs import PORTABLE_COSTS, InstructionCosts
from tinyopt.targets.kernel import KernelPlanner

# what libraries can ask a CPU for at run time; empty for nothing
CpuFeature: TypeAlias = Literal["", "dotprod", "i8mm"]


@dataclass(frozen=True)
class Toolchain:
    """How the generated library is compiled for this machine.

    compilers: the names to look for on PATH, best first. flags: those that choose the machine and are part of its ABI.
    zig_target: what `zig cc -target` takes for it, empty where zig does not know it.
    packages: what to install, for the error message.
    """

    compilers: tuple[str, ...]
    flags: tuple[str, ...]
    zig_target: str
    packages: str


@dataclass(frozen=True)
class Emulator:
    """How a program for this machine runs here. kind "native" runs it directly."""

    kind: Literal["native", "qemu-user", "qemu-system"]
    program: str  # the executable to look for on PATH
    arguments: tuple[str, ...]
    packages: str
    board: str  # the folder of start-up code and linker script in tinyopt/emulation, empty for user programs


@dataclass(frozen=True)
class Target:
    """A machine that tinyopt compiles for.

    code: "c" gives C text through TVM's C code generator, "object" machine code through its LLVM one.
    tvm: the TVM target, such as {"kind": "llvm", "mtriple": ..., "mcpu": ...}.
    kernels: for each operator the planners to ask, the fastest first; the last is a scalar one that takes everything.
    boundary: the element type of inputs and outputs of a quantized model, unless the user says otherwise.
    gcc_options: optimizer options that the generated C asks gcc for by a pragma, so that no build system has to.
    required_macro: what C compilers predefine when they compile for this machine, where kernels use instructions that
        not all of its kin have: the generated C stops with the right flags otherwise. Empty where any C compiler does.
    costs: rough instruction counts, for estimates; those of a machine of which nothing is known may stand.
    variants: for a library that picks its kernels at run time: a target for each set of them, the fastest first, the
        last for every CPU. They differ in `tvm`, `kernels` and `costs`; those of the whole serve estimates alone.
    feature: what a CPU must have to run the code.
    """

    name: str
    description: str
    code: Literal["c", "object"]
    tvm: Mapping[str, str | tuple[str, ...]]
    facts: TargetFacts
    kernels: Mapping[str, tuple[KernelPlanner, ...]]
    toolchain: Toolchain
    emulator: Emulator
    boundary: Literal["int8", "float"]
    gcc_options: tuple[str, ...]
    required_macro: str = ""
    costs: InstructionCosts = PORTABLE_COSTS
    variants: tuple[Target, ...] = ()
    feature: CpuFeature = ""


def layered(*tables: Mapping[str, tuple[KernelPlanner, ...]]) -> dict[str, tuple[KernelPlanner, ...]]:
    """One table of kernels out of several: for each operator the planners of the first table, then the second's, ..."""
    operators = dict.fromkeys(operator for table in tables for operator in table)
    return {operator: tuple(p for table in tables for p in table.get(operator, ())) for operator in operators}
