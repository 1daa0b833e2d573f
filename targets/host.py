"""This machine's CPU: object code through LLVM, so that models can be run and checked right here."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from tinyopt.pass_manager import TargetFacts
from tinyopt.targets.kernel import KernelPlanner
from tinyopt.targets.kernels.scalar import SCALAR
from tinyopt.targets.kernels.vector import AVX2, NEON, SSE2, VECTOR, VNNI512
from tinyopt.targets.target import Emulator, Target, Toolchain, layered


@dataclass(frozen=True)
class HostLevel:
    """A common baseline of CPUs; there are few, so that two like machines get the same bytes.

    features: what /proc/cpuinfo must name. tvm: LLVM's name of it. kernels: those that use its instructions.
    """

    name: str
    features: Set[str]
    tvm: Mapping[str, str | tuple[str, ...]]
    kernels: Mapping[str, tuple[KernelPlanner, ...]]


def _x86(cpu: str, *features: str) -> Mapping[str, str | tuple[str, ...]]:
    target: dict[str, str | tuple[str, ...]] = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": cpu}
    return {**target, "mattr": features} if features else target


AARCH64 = HostLevel("aarch64", frozenset(), {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "generic"}, NEON)
_V3 = frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
X86_LEVELS = (  # the best first; full vectors of 512 bits: LLVM's default for some CPUs is 256
    HostLevel(
        "x86-64-v4+avx512vnni",
        _V4 | {"avx512_vnni"},
        _x86("x86-64-v4", "+avx512vnni", "-prefer-256-bit"),
        VNNI512,
    ),
    HostLevel("x86-64-v3", _V3, _x86("x86-64-v3"), AVX2),
    HostLevel("x86-64", frozenset(), _x86("x86-64"), SSE2),
)


def host_level() -> HostLevel:
    """The best level whose instructions this machine has."""
    if platform.machine() in ("aarch64", "arm64"):
        return AARCH64
    found = _cpu_features()
    return next(level for level in X86_LEVELS if level.features <= found)


def _cpu_features() -> Set[str]:
    """The flags that Linux reports of the first processor; none on other systems."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def _host(level: HostLevel) -> Target:
    return Target(
        name="host",
        description="this machine's CPU (static and shared library)",
        code="object",
        tvm=level.tvm,
        facts=TargetFacts("host", channel_multiple=8, is_integer_preferred=True, has_winograd=level is AARCH64),
        kernels=layered(level.kernels, VECTOR, SCALAR),
        toolchain=Toolchain(("cc", "gcc", "clang"), ("-fPIC",), "native", "gcc (Debian), or pip install tinyopt[zig]"),
        emulator=Emulator("native", "", (), "", ""),
        boundary="float",
        gcc_options=(),
    )


HOST = _host(host_level())
