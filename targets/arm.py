"""Arm CPUs under Linux, 64-bit and 32-bit: object code through LLVM, with the kernels that a CPU's instructions allow.

Which CPU has which instructions: the features of LLVM's processor table (AArch64Processors.td), which are those of
Arm's technical reference manuals. SDOT is FEAT_DotProd, SMMLA is FEAT_I8MM; float16 is FEAT_FP16, which every named CPU
with the dot product has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tinyopt.pass_manager import TargetFacts
from tinyopt.targets.costs import I8MM_COSTS, NEON32_COSTS, NEON_COSTS, SDOT_COSTS, InstructionCosts
from tinyopt.targets.kernel import KernelPlanner
from tinyopt.targets.kernels.scalar import SCALAR
from tinyopt.targets.kernels.vector import I8MM, NEON, SDOT, VECTOR
from tinyopt.targets.target import CpuFeature, Emulator, Target, Toolchain, layered


@dataclass(frozen=True)
class _Level:
    """What CPUs with the same instructions for integer products have in common.

    feature: what tells them from those of the level below. qemu_cpu: QEMU's model that has these instructions and as
    few others as can be, for CPUs that it has no model of. generic: LLVM's name and attributes of any such CPU.
    """

    name: str
    feature: CpuFeature
    kernels: Mapping[str, tuple[KernelPlanner, ...]]
    costs: InstructionCosts
    qemu_cpu: str
    generic: tuple[str, tuple[str, ...]]


_QEMU_MAX = "max,sve=off,pauth-impdef=on"
_NEON = _Level("neon", "", layered(NEON, VECTOR, SCALAR), NEON_COSTS, "cortex-a53", ("cortex-a72", ()))
_DOTPROD = _Level(
    "dotprod", "dotprod", layered(SDOT, VECTOR, SCALAR), SDOT_COSTS, "cortex-a76", ("cortex-a76", ("+dotprod",))
)
_I8MM = _Level(
    "i8mm", "i8mm", layered(I8MM, SDOT, VECTOR, SCALAR), I8MM_COSTS, _QEMU_MAX, ("cortex-a76", ("+dotprod", "+i8mm"))
)


def _target(
    name: str, description: str, level: _Level, mcpu: str, attributes: tuple[str, ...] = (), qemu_cpu: str = ""
) -> Target:
    """mcpu, attributes: LLVM's. qemu_cpu: QEMU's model of this very CPU, where it has one."""
    tvm: dict[str, str | tuple[str, ...]] = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": mcpu}
    return Target(
        name=name,
        description=description,
        code="object",
        tvm=tvm | ({"mattr": attributes} if attributes else {}),
        facts=TargetFacts(name, channel_multiple=4, is_integer_preferred=True, has_winograd=True),
        kernels=level.kernels,
        toolchain=Toolchain(
            ("aarch64-linux-gnu-gcc",),
            ("-fPIC",),
            "aarch64-linux-gnu",
            "gcc-aarch64-linux-gnu and libc6-dev-arm64-cross (Debian), or pip install tinyopt[zig]",
        ),
        emulator=Emulator("qemu-user", "qemu-aarch64", ("-cpu", qemu_cpu or level.qemu_cpu), "qemu-user (Debian)", ""),
        boundary="float",
        gcc_options=(),
        costs=level.costs,
        feature=level.feature,
    )


def _variant(level: _Level) -> Target:
    return _target(level.name, f"any CPU with {level.name}", level, *level.generic)


ARM = replace(
    _target(
        "arm",
        "any 64-bit Arm under Linux: picks its kernels at run time, for i8mm, dotprod or plain NEON",
        _DOTPROD,
        *_DOTPROD.generic,
        _QEMU_MAX,
    ),
    variants=tuple(map(_variant, (_I8MM, _DOTPROD, _NEON))),
    feature="",
)

# Vectors are NEON's 128 bits: LLVM's own vectorizer must not mix scalable ones in.
_NO_SVE, _NO_SVE2 = ("-sve",), ("-sve", "-sve2")

_CPUS: tuple[Target, ...] = (
    _target("cortex-a53", "Arm Cortex-A53", _NEON, "cortex-a53", qemu_cpu="cortex-a53"),
    _target("cortex-a55", "Arm Cortex-A55: dotprod", _DOTPROD, "cortex-a55"),
    _target("cortex-a72", "Arm Cortex-A72", _NEON, "cortex-a72", qemu_cpu="cortex-a72"),
    _target("cortex-a76", "Arm Cortex-A76: dotprod", _DOTPROD, "cortex-a76", qemu_cpu="cortex-a76"),
    _target("cortex-a78", "Arm Cortex-A78: dotprod", _DOTPROD, "cortex-a78"),
    _target("cortex-a510", "Arm Cortex-A510: dotprod, i8mm", _I8MM, "cortex-a510", _NO_SVE2),
    _target("cortex-a710", "Arm Cortex-A710: dotprod, i8mm", _I8MM, "cortex-a710", _NO_SVE2),
    _target("cortex-x1", "Arm Cortex-X1: dotprod", _DOTPROD, "cortex-x1"),
    _target("neoverse-n1", "Arm Neoverse N1: dotprod", _DOTPROD, "neoverse-n1", qemu_cpu="neoverse-n1"),
    _target("neoverse-v1", "Arm Neoverse V1: dotprod, i8mm", _I8MM, "neoverse-v1", _NO_SVE),
    _target("apple-m1", "Apple M1 under Linux: dotprod", _DOTPROD, "apple-m1"),
    _target("raspberry-pi-3", "Raspberry Pi 3 (Cortex-A53), 64-bit", _NEON, "cortex-a53", qemu_cpu="cortex-a53"),
    _target("raspberry-pi-4", "Raspberry Pi 4 (Cortex-A72), 64-bit", _NEON, "cortex-a72", qemu_cpu="cortex-a72"),
    _target("raspberry-pi-5", "Raspberry Pi 5 (Cortex-A76): dotprod", _DOTPROD, "cortex-a76", qemu_cpu="cortex-a76"),
)

NAMED_CPUS: tuple[Target, ...] = tuple(
    replace(cpu, facts=replace(cpu.facts, has_float16=cpu.feature in ("dotprod", "i8mm"))) for cpu in _CPUS
)

ARM32 = Target(
    name="arm32",
    description="32-bit Arm Linux with NEON, hard float (Cortex-A7 and later)",
    code="object",
    tvm={
        "kind": "llvm",
        "mtriple": "armv7a-linux-gnueabihf",
        "mcpu": "cortex-a7",
        "mattr": ("+neon",),
        "mfloat-abi": "hard",
    },
    facts=TargetFacts("arm32", channel_multiple=4, is_integer_preferred=True, has_winograd=True),
    kernels=layered(VECTOR, SCALAR),
    toolchain=Toolchain(
        ("arm-linux-gnueabihf-gcc",),
        ("-mcpu=cortex-a7", "-mfpu=neon-vfpv4", "-mfloat-abi=hard", "-mthumb", "-fPIC"),
        "arm-linux-gnueabihf -mcpu=cortex_a7 -mthumb",
        "gcc-arm-linux-gnueabihf and libc6-dev-armhf-cross (Debian), or pip install tinyopt[zig]",
    ),
    emulator=Emulator("qemu-user", "qemu-arm", ("-cpu", "cortex-a7"), "qemu-user (Debian)", ""),
    boundary="float",
    gcc_options=(),
    costs=NEON32_COSTS,
)
