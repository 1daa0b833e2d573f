"""Arm CPUs under Linux (aarch64) with the dot product extension: object code through LLVM."""

from __future__ import annotations

from tinyopt.pass_manager import TargetFacts
from tinyopt.targets.costs import SDOT_COSTS
from tinyopt.targets.kernels.scalar import SCALAR
from tinyopt.targets.kernels.vector import SDOT, VECTOR
from tinyopt.targets.target import Emulator, Target, Toolchain, layered

ARM = Target(
    name="arm",
    description="64-bit Arm Linux with dotprod (Cortex-A55/A75 and later): static and shared library",
    code="object",
    tvm={"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76", "mattr": ("+dotprod",)},
    facts=TargetFacts("arm", channel_multiple=4, is_integer_preferred=True),
    kernels=layered(SDOT, VECTOR, SCALAR),
    toolchain=Toolchain(
        ("aarch64-linux-gnu-gcc",),
        ("-fPIC",),
        "aarch64-linux-gnu",
        "gcc-aarch64-linux-gnu and libc6-dev-arm64-cross (Debian), or pip install tinyopt[zig]",
    ),
    emulator=Emulator("qemu-user", "qemu-aarch64", ("-cpu", "max,sve=off,pauth-impdef=on"), "qemu-user (Debian)", ""),
    boundary="float",
    gcc_options=(),
    costs=SDOT_COSTS,
)
