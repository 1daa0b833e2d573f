"""How many points of top-1 a graph loses, measured on labelled samples or as agreement with the model as it came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import UsageError
from tinyopt.ir import Graph
from tinyopt.onnx_session import OnnxSession
from tinyopt.pass_manager import PassContext
from tinyopt.quantization_error import evenly_spaced
from tinyopt.samples import Sample

AGREEMENT_SAMPLES = 512  # calibration samples to compare on, spread evenly: there may be very many


@dataclass(frozen=True, eq=False)
class Accuracy:
    """The yardstick: which class each sample has, and how many points of those the model as it came gets right.

    expected: labels, or what the model as it came says, which then has 100 points.
    """

    samples: Sequence[Sample]
    indices: Sequence[int]
    expected: NDArray[np.int64]
    reference_points: float
    unit: str
    on_progress: Callable[[str, int, int], None]

    def drop(self, graph: Graph) -> float:
        """The points that `graph` loses; negative where it is better."""
        found = _classes(graph, self.samples, self.indices, self.on_progress)
        return self.reference_points - 100 * float(np.mean(found == self.expected))


def accuracy_of(context: PassContext, reference: Graph) -> Accuracy:
    """On labelled samples where the user gave some, else agreement with `reference` on calibration samples.

    Raises UsageError where the model does not give one vector of scores for classes.
    """
    _require_classes(reference)
    labelled = context.evaluation
    if labelled is None:
        some = evenly_spaced(context.samples, AGREEMENT_SAMPLES)
        expected = _classes(reference, context.samples, some, context.on_progress)
        unit = f"agreement of top-1 with the float model on {len(some)} calibration samples"
        return Accuracy(context.samples, some, expected, 100.0, unit, context.on_progress)
    indices = range(len(labelled.samples))
    classes = _classes(reference, labelled.samples, indices, context.on_progress)
    points = 100 * float(np.mean(classes == labelled.labels))
    unit = f"top-1 on {len(indices)} labelled samples"
    return Accuracy(labelled.samples, indices, labelled.labels, points, unit, context.on_progress)


def _require_classes(graph: Graph) -> None:
    what = f"--max-drop counts points of top-1, but model '{graph.name}'"
    if len(graph.outputs) != 1:
        raise UsageError(f"{what} has {len(graph.outputs)} outputs: leave --max-drop out, and compare them yourself")
    output = graph.outputs[0]
    if output.type.elements < 2 or output.shape[-1] != output.type.elements:
        raise UsageError(
            f"{what} gives {list(output.shape)} in '{output.name}', not one score for each class: leave --max-drop out"
        )
    if any(output.shape == value.shape for value in graph.inputs):
        raise UsageError(f"{what} gives an output of its input's shape, not scores for classes: leave --max-drop out")


def _classes(
    graph: Graph, samples: Sequence[Sample], indices: Sequence[int], on_progress: Callable[[str, int, int], None]
) -> NDArray[np.int64]:
    """The class with the highest score for each sample."""
    session, name = OnnxSession(graph), graph.outputs[0].name
    found = np.empty(len(indices), np.int64)
    for done, index in enumerate(indices):
        found[done] = int(session.run(samples[index])[name].argmax())
        on_progress("accuracy", done + 1, len(indices))
    return found
