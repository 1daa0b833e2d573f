"""Which calibration samples a pass looks at: some to propose by, and others, held out, to judge by."""

from __future__ import annotations

from collections.abc import Sequence

from tinyopt.ir import Graph
from tinyopt.passes.quantization.walk import affordable_samples
from tinyopt.quantization_error import evenly_spaced
from tinyopt.samples import Sample

FEWEST_SAMPLES = 10  # below that nothing could be held out

_HELD_OUT = 5  # every fifth sample judges what the others proposed


def too_few(samples: Sequence[Sample]) -> str | None:
    """Why nothing can be judged by the calibration samples; None where there are enough to hold some out."""
    if len(samples) >= FEWEST_SAMPLES:
        return None
    if not samples:
        return f"there are no calibration samples to judge by: give {FEWEST_SAMPLES} or more"
    return f"{len(samples)} calibration samples are too few to judge by: {FEWEST_SAMPLES} or more"


def chosen_samples(graph: Graph, samples: Sequence[Sample]) -> list[Sample]:
    """As many of the samples as a walk over the graph can hold, and enough to hold some out; evenly spaced."""
    count = max(affordable_samples(graph), FEWEST_SAMPLES)
    return [samples[index] for index in evenly_spaced(samples, count)]


def split(count: int) -> tuple[Sequence[int], Sequence[int]]:
    """The samples to propose by, and every fifth, which is held out to judge by."""
    return [i for i in range(count) if i % _HELD_OUT], range(0, count, _HELD_OUT)
