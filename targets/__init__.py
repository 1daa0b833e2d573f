"""Targets: what a machine is, and the kernels that run on it."""

from __future__ import annotations

import functools
import importlib.metadata

from tinyopt.errors import UsageError
from tinyopt.targets.target import Target

if __name__ != "tinyopt.targets":
    raise ImportError("import tinyopt.targets: a bare `targets` makes a second copy of every module")

ENTRY_POINT_GROUP = "tinyopt.targets"


def all_targets() -> dict[str, Target]:
    """Every target by name: the built-in ones, then those that other packages registered.

    Raises UsageError where an entry point of the group `tinyopt.targets` cannot be loaded or is not a Target.
    """
    from tinyopt.targets.arm import ARM, ARM32, NAMED_CPUS
    from tinyopt.targets.cortex_m import CORTEX_M
    from tinyopt.targets.host import HOST
    from tinyopt.targets.portable_c import PORTABLE_C

    built_in = {target.name: target for target in (HOST, ARM, *NAMED_CPUS, ARM32, *CORTEX_M, PORTABLE_C)}
    return built_in | _registered_targets()


@functools.cache  # to ask for entry points reads the metadata of every installed package
def _registered_targets() -> dict[str, Target]:
    found: dict[str, Target] = {}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            loaded = entry.load()
        except Exception as error:
            raise UsageError(f"target '{entry.name}' ({entry.value}) cannot be loaded: {error}") from error
        if not isinstance(loaded, Target):
            raise UsageError(f"entry point '{entry.name}' ({entry.value}) is not a tinyopt.targets.target.Target")
        found[loaded.name] = loaded
    return found


def target_named(name: str) -> Target:
    """Raises UsageError that lists the targets there are."""
    targets = all_targets()
    if name not in targets:
        raise UsageError(f"no target '{name}'; there are: {', '.join(targets)}")
    return targets[name]
