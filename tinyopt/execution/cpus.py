"""Another CPU for qemu-user to emulate: the same library, on what users have."""

from __future__ import annotations

from dataclasses import replace

from tinyopt.errors import UsageError
from tinyopt.execution.built_model import BuiltModel
from tinyopt.targets import all_targets
from tinyopt.targets.target import Target


def on_cpu(built: BuiltModel, cpu: str | None) -> BuiltModel:
    """`built` as the emulator of `cpu` runs it; None for the target's own.

    cpu: a target ("raspberry-pi-4"), one of the library's variants ("dotprod": a CPU that has just that), or QEMU's
    name of a CPU. Raises UsageError where the target is not run by qemu-user.
    """
    if cpu is None:
        return built
    target = built.target
    if target.emulator.kind != "qemu-user":
        raise UsageError(f"--cpu chooses the CPU that qemu-user emulates; {target.name} is not run by it")
    emulator = replace(target.emulator, arguments=_arguments(target, cpu))
    return replace(built, target=replace(target, emulator=emulator))


def _arguments(target: Target, cpu: str) -> tuple[str, ...]:
    for machine in (*target.variants, *all_targets().values()):
        if machine.name == cpu and machine.emulator.program == target.emulator.program:
            return machine.emulator.arguments
    return "-cpu", cpu
