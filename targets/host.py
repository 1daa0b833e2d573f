"""This machine's CPU: object code through LLVM, so that models can be run and checked right here."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from tinyopt.pass_manager import TargetFacts
from tinyopt.targets.kernels.scalar import SCALAR
from tinyopt.targets.kernels.vector import NEON, VECTOR
from tinyopt.targets.target import Emulator, Target, Toolchain, layered

_IS_AARCH64 = platform.machine() in ("aarch64", "arm64")


def _tvm_target() -> Mapping[str, str | tuple[str, ...]]:
    """LLVM's name of this machine: a common baseline of its kind, so that two like machines get the same bytes."""
    if _IS_AARCH64:
        return {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "generic"}
    return {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3" if _has_avx2() else "x86-64"}


def _has_avx2() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and " avx2 " in cpuinfo.read_text()


HOST = Target(
    name="host",
    description="this machine's CPU (static and shared library)",
    code="object",
    tvm=_tvm_target(),
    facts=TargetFacts("host", channel_multiple=8, is_integer_preferred=True),
    kernels=layered(NEON, VECTOR, SCALAR) if _IS_AARCH64 else layered(VECTOR, SCALAR),
    toolchain=Toolchain(("cc", "gcc", "clang"), ("-fPIC",), "native", "gcc (Debian), or pip install tinyopt[zig]"),
    emulator=Emulator("native", "", (), "", ""),
    boundary="float",
    gcc_options=(),
)
