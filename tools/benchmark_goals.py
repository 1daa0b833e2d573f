"""What the figures must reach: the bars that this project has set itself, and where they are missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.benchmark_field import Layer, residual_instructions_per_element
from tools.benchmark_figures import BUILDS, Figures

FAMILIES = {
    "cortex-m0plus": "plain",
    "cortex-m3": "plain",
    "cortex-m4": "dsp",
    "cortex-m7": "dsp",
    "cortex-m33": "dsp",
    "cortex-m55": "helium",
    "cortex-m85": "helium",
}
INSTRUCTIONS = {
    "kws01": {"plain": 16_200_000, "dsp": 3_300_000, "helium": 800_000},
    "vww01": {"plain": 39_000_000, "dsp": 5_800_000, "helium": 1_800_000},
    "vww01, dead channels kept": {"dsp": 10_500_000, "helium": 3_000_000},
    "ic01": {"plain": 44_000_000, "dsp": 14_000_000, "helium": 2_400_000},
    "ad01": {"plain": 650_000, "dsp": 350_000, "helium": 75_000},
}
CODE_BYTES = {"kws01": 14_000, "vww01": 14_000, "vww01, dead channels kept": 14_000, "ic01": 14_000, "ad01": 6_000}
ARENA_BYTES = {"kws01": 10_000, "vww01": 40_000, "ic01": 38_000, "ad01": 2_200}
RESIDUAL_PER_ELEMENT = {"cortex-m4": 8.0, "cortex-m55": 2.0}
STACK_BYTES = 1024

# (where, what) of goals that are known to be missed: a test wants this list to be neither too short nor too long
NOT_YET: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Miss:
    """One figure that is not what it must be."""

    where: str
    what: str
    found: float
    goal: float

    def __str__(self) -> str:
        return f"{self.where}: {self.found:,} {self.what}, the goal is {self.goal:,}"


def misses(figures: Sequence[Figures], layers: Sequence[Layer]) -> list[Miss]:
    """Every figure that misses its goal. Instructions and code count as built by default, the rest however built."""
    found: list[Miss] = []
    for line in figures:
        where = f"{line.model} on {line.core}, {line.compiler} -{line.optimization}"
        bounds = [("bytes of stack", line.stack_bytes, STACK_BYTES), ("wrong bytes", line.different_bytes, 0)]
        bounds.append(("bytes of static RAM", line.static_ram_bytes, 0))
        if (line.compiler, line.optimization) == (BUILDS[0].cc, BUILDS[0].optimization):
            bounds += _default_bounds(line)
        found += [Miss(where, what, value, goal) for what, value, goal in bounds if value > goal]
    for layer in layers:
        if layer.cmsis_nn is not None and layer.is_slower:
            where = f"{layer.model} on {layer.core}, layer {layer.index} ({layer.kernel}; {layer.replaces})"
            found.append(Miss(where, "instructions", layer.instructions, layer.cmsis_nn))
    return [*found, *_slow_residuals(layers)]


def _default_bounds(line: Figures) -> list[tuple[str, int, int]]:
    instructions = INSTRUCTIONS.get(line.model, {}).get(FAMILIES[line.core])
    bounds = [
        ("instructions", line.instructions, instructions),
        ("bytes of code", line.code_bytes, CODE_BYTES.get(line.model)),
        ("bytes of arena", line.arena_bytes, ARENA_BYTES.get(line.model)),
    ]
    return [(what, value, goal) for what, value, goal in bounds if goal is not None]


def _slow_residuals(layers: Sequence[Layer]) -> list[Miss]:
    found: list[Miss] = []
    for core, goal in RESIDUAL_PER_ELEMENT.items():
        cost = residual_instructions_per_element([layer for layer in layers if layer.core == core])
        if cost is not None and cost > goal:
            found.append(Miss(f"a residual on {core}", "instructions per element", round(cost, 2), goal))
    return found
