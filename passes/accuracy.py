"""How many points of top-1 a graph loses, measured on labelled samples or as agreement with the model as it came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import UsageError
from tinyopt.evaluate import evaluate
from tinyopt.ir import Graph
from tinyopt.onnx_session import OnnxSession
from tinyopt.ops import OPERATORS
from tinyopt.pass_manager import PassContext, TargetFacts
from tinyopt.passes.lower_integer import LowerInteger
from tinyopt.quantization_error import evenly_spaced
from tinyopt.samples import Sample

AGREEMENT_SAMPLES = 512  # calibration samples to compare on, spread evenly: there may be very many
_REFERENCE_MACS = 2_000_000_000  # multiply-accumulates of the integer references to spend on close decisions
_ANY_MACHINE = TargetFacts("any", 1, is_integer_preferred=True)  # lowering asks nothing of it
_FEWEST_CLOSE, _MOST_CLOSE = 4, 32


@dataclass(frozen=True, eq=False)
class _Answers:
    """For each sample the class with the highest score, and its lead over the second."""

    classes: NDArray[np.int64]
    margins: NDArray[np.float64]


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
        """The points that `graph`, in float or with QuantizeLinear, loses; negative where it is better."""
        return self._lost(self._answers(graph).classes)

    def drop_in_integers(self, graph: Graph) -> float:
        """The points that a QDQ graph loses once it is lowered.

        Integer operators move values by a step here and there, which can only turn close decisions: the samples whose
        two best scores lie closest together are run through the integer operators' references.
        """
        answers = self._answers(graph)
        lowered = graph.copy()
        LowerInteger().run(lowered, PassContext(_ANY_MACHINE))
        macs = sum(OPERATORS[node.op].macs(node) for node in lowered.nodes)
        count = min(max(_REFERENCE_MACS // max(macs, 1), _FEWEST_CLOSE), _MOST_CLOSE)
        close = np.argsort(answers.margins, kind="stable")[:count]
        for done, place in enumerate(close):
            (scores,) = evaluate(lowered, self.samples[self.indices[place]]).values()
            answers.classes[place] = int(scores.argmax())
            self.on_progress("close decisions", done + 1, len(close))
        return self._lost(answers.classes)

    def _answers(self, graph: Graph) -> _Answers:
        return _answers(graph, self.samples, self.indices, self.on_progress)

    def _lost(self, classes: NDArray[np.int64]) -> float:
        return self.reference_points - 100 * float(np.mean(classes == self.expected))


def accuracy_of(context: PassContext, reference: Graph) -> Accuracy:
    """On labelled samples where the user gave some, else agreement with `reference` on calibration samples.

    Raises UsageError where the model does not give one vector of scores for classes.
    """
    _require_classes(reference)
    labelled = context.evaluation
    if labelled is None:
        some = evenly_spaced(context.samples, AGREEMENT_SAMPLES)
        expected = _answers(reference, context.samples, some, context.on_progress).classes
        unit = f"agreement of top-1 with the float model on {len(some)} calibration samples"
        return Accuracy(context.samples, some, expected, 100.0, unit, context.on_progress)
    indices = range(len(labelled.samples))
    classes = _answers(reference, labelled.samples, indices, context.on_progress).classes
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


def _answers(
    graph: Graph, samples: Sequence[Sample], indices: Sequence[int], on_progress: Callable[[str, int, int], None]
) -> _Answers:
    session, name = OnnxSession(graph), graph.outputs[0].name
    found = _Answers(np.empty(len(indices), np.int64), np.empty(len(indices)))
    for done, index in enumerate(indices):
        scores = session.run(samples[index])[name].ravel()
        found.classes[done] = int(scores.argmax())
        second, first = np.partition(scores, -2)[-2:]
        found.margins[done] = float(first) - float(second)
        on_progress("accuracy", done + 1, len(indices))
    return found
