"""Run the trials, and make one number of what each costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tinyopt.ir import Graph
from tinyopt.onnx_session import OnnxSession
from tinyopt.passes.equalization.trial import Trial, build_trials
from tinyopt.samples import Sample

_SMALLEST = 1e-300


def relative_errors(
    graph: Graph, trials: Sequence[Trial], samples: Iterable[Sample], on_sample: Callable[[int], None]
) -> dict[Trial, float]:
    """For each trial the error energy at the network's outputs over the signal's."""
    measured = build_trials(graph, trials)
    if not measured.signals:  # no output that depends on the inputs is a float
        return dict.fromkeys(trials, 0.0)
    session = OnnxSession(measured.graph)
    totals = dict.fromkeys(session.output_names, 0.0)
    for done, sample in enumerate(samples):
        for name, found in session.run(sample).items():
            totals[name] += float(np.nan_to_num(found, nan=np.inf))
        on_sample(done + 1)
    signal = max(sum(totals[value.name] for value in measured.signals), _SMALLEST)
    errors = [sum(totals[value.name] for value in values) for values in measured.errors]
    return {trial: error / signal for trial, error in zip(trials, errors, strict=True)}
