"""Cortex-M microcontrollers: C text for any MCU toolchain, with kernels for the DSP extension and for Helium."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyopt.pass_manager import TargetFacts
from tinyopt.targets.costs import DSP_COSTS, MVE_COSTS, THUMB1_COSTS, THUMB2_COSTS, InstructionCosts
from tinyopt.targets.kernel import KernelPlanner
from tinyopt.targets.kernels.dsp import DSP
from tinyopt.targets.kernels.mve import MVE
from tinyopt.targets.kernels.scalar import SCALAR
from tinyopt.targets.kernels.thumb import THUMB1, THUMB2
from tinyopt.targets.target import Emulator, Target, Toolchain, layered

_GCC = "gcc-arm-none-eabi and libnewlib-arm-none-eabi (Debian), or pip install tinyopt[zig]"


@dataclass(frozen=True)
class _Family:
    """What cores of one instruction set have in common."""

    kernels: Mapping[str, tuple[KernelPlanner, ...]]
    channel_multiple: int
    gcc_options: tuple[str, ...]
    required_macro: str
    costs: InstructionCosts


# Cores without the DSP extension multiply two pixels at once by one ordinary multiplication.
_THUMB1 = _Family(layered(THUMB1, SCALAR), 8, (), "__thumb__", THUMB1_COSTS)
_THUMB2 = _Family(layered(THUMB2, SCALAR), 1, (), "__thumb2__", THUMB2_COSTS)

# Weights are packed for four channels at a time where SMLAD takes two pairs of them.
_DSP = _Family(layered(DSP, SCALAR), 4, ("no-schedule-insns",), "__ARM_FEATURE_DSP", DSP_COSTS)

# A vector is 16 places of a depth: half of one is the least that pruning should leave over.
_MVE = _Family(layered(MVE, DSP, SCALAR), 8, ("no-schedule-insns",), "__ARM_FEATURE_MVE", MVE_COSTS)


def _core(
    name: str, description: str, flags: tuple[str, ...], machine: str, board: str, family: _Family, zig_cpu: str
) -> Target:
    """A core; `machine` is QEMU's name of a board that has it (or, for M0+, one that runs its code)."""
    return Target(
        name=name,
        description=description,
        code="c",
        tvm={"kind": "c"},
        facts=TargetFacts(name, channel_multiple=family.channel_multiple, is_integer_preferred=True),
        kernels=family.kernels,
        toolchain=Toolchain(
            ("arm-none-eabi-gcc",), ("-mthumb", *flags), f"thumb-freestanding-eabi -mcpu={zig_cpu}", _GCC
        ),
        emulator=Emulator(
            "qemu-system",
            "qemu-system-arm",
            ("-M", machine, "-nographic", "-semihosting"),
            "qemu-system-arm (Debian)",
            board,
        ),
        boundary="int8",
        gcc_options=family.gcc_options,
        required_macro=family.required_macro,
        costs=family.costs,
    )


_HARD_SINGLE = ("-mfloat-abi=hard", "-mfpu=fpv4-sp-d16")

CORTEX_M: tuple[Target, ...] = (
    _core(
        "cortex-m0plus",
        "Cortex-M0+: 32-bit multiplications only, no FPU (emulated on a Cortex-M3 board)",
        ("-mcpu=cortex-m0plus", "-mfloat-abi=soft"),
        "mps2-an385",
        "mps2",
        _THUMB1,
        "cortex_m0plus",
    ),
    _core(
        "cortex-m3",
        "Cortex-M3: no DSP, no FPU",
        ("-mcpu=cortex-m3", "-mfloat-abi=soft"),
        "mps2-an385",
        "mps2",
        _THUMB2,
        "cortex_m3",
    ),
    _core(
        "cortex-m4",
        "Cortex-M4F: DSP, single FPU",
        ("-mcpu=cortex-m4", *_HARD_SINGLE),
        "mps2-an386",
        "mps2",
        _DSP,
        "cortex_m4",
    ),
    _core(
        "cortex-m7",
        "Cortex-M7: DSP, double FPU",
        ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16"),
        "mps2-an500",
        "mps2",
        _DSP,
        "cortex_m7",
    ),
    _core(
        "cortex-m33",
        "Cortex-M33: DSP, single FPU",
        ("-mcpu=cortex-m33", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
        "mps2-an505",
        "mps2-an505",
        _DSP,
        "cortex_m33",
    ),
    _core(
        "cortex-m55",
        "Cortex-M55: Helium (MVE) and FPU",
        ("-mcpu=cortex-m55", "-mfloat-abi=hard"),
        "mps3-an547",
        "mps3",
        _MVE,
        "cortex_m55",
    ),
    _core(
        "cortex-m85",
        "Cortex-M85: Helium (MVE) and FPU (emulated on a Cortex-M55 board)",
        ("-march=armv8.1-m.main+dsp+mve.fp+fp.dp", "-mfloat-abi=hard"),  # gcc 12 does not know it by name
        "mps3-an547",
        "mps3",
        _MVE,
        "cortex_m85",
    ),
)
