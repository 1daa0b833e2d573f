"""Portable C99: scalar kernels, no intrinsics, for any machine with 32-bit integers and a C compiler."""

from __future__ import annotations

from tinyopt.pass_manager import TargetFacts
from tinyopt.targets.kernels.scalar import SCALAR
from tinyopt.targets.target import Emulator, Target, Toolchain, layered

PORTABLE_C = Target(
    name="c",
    description="portable C99 without intrinsics, for any machine",
    code="c",
    tvm={"kind": "c"},
    facts=TargetFacts("c", channel_multiple=1, is_integer_preferred=True),
    kernels=layered(SCALAR),
    toolchain=Toolchain(("cc", "gcc", "clang"), (), "native", "gcc (Debian), or pip install tinyopt[zig]"),
    emulator=Emulator("native", "", (), "", ""),
    boundary="int8",
    gcc_options=(),
)
