"""int8 kernels for cores with Helium (MVE). `MVE`: per operator, the planners to try before those for the DSP."""

from __future__ import annotations

from collections.abc import Mapping

from tinyopt.targets.kernel import KernelPlanner

__all__ = ["MVE"]

MVE: Mapping[str, tuple[KernelPlanner, ...]] = {}
