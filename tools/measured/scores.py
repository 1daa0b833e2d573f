"""How close outputs are to those of the float model, and how often they are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Graph, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.samples import Sample

Outputs = NDArray[np.float64]

_PASSED_THROUGH = ("Reshape", "QuantizeLinear", "DequantizeLinear", "Requantize")


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says. probabilities: its first output, [samples, elements]; logits: what went to Softmax."""

    probabilities: Outputs
    logits: Outputs | None


@dataclass(frozen=True)
class Score:
    """Beside the float model. None: nothing differs, or there is no such figure.

    snr_db: 10 log10(sum reference^2 / sum (reference - found)^2) over all samples, reference: the float model's.
    agreement, top1: percent of the samples.
    """

    samples: int
    snr_db: float | None = None
    logits_snr_db: float | None = None
    agreement: float | None = None
    top1: float | None = None


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What everything of one model is measured by. labels: None where the model's outputs are not classes."""

    reference: Answers
    labels: NDArray[np.int64] | None

    def score(self, found: Answers) -> Score:
        """How close `found` is."""
        wanted = self.reference
        logits = None
        if wanted.logits is not None and found.logits is not None:
            logits = snr_db(wanted.logits, found.logits)
        agreement = top1 = None
        if self.labels is not None:
            classes = found.probabilities.argmax(axis=1)
            agreement = 100 * float(np.mean(classes == wanted.probabilities.argmax(axis=1)))
            top1 = 100 * float(np.mean(classes == self.labels))
        snr = snr_db(wanted.probabilities, found.probabilities)
        return Score(len(found.probabilities), snr, logits, agreement, top1)


def snr_db(reference: Outputs, found: Outputs) -> float | None:
    """Signal to noise in decibels; None where there is no noise, or no signal."""
    signal, noise = float(np.sum(reference**2)), float(np.sum((reference - found) ** 2))
    return 10 * float(np.log10(signal / noise)) if signal > 0 and noise > 0 else None


def logits_of(graph: Graph) -> Value | None:
    """What the Softmax reads that gives the first output; None where another operator does."""
    producers, value = graph.producers(), graph.outputs[0]
    while value in producers and producers[value].op in _PASSED_THROUGH:
        value = producers[value].input(0)
    is_softmax = value in producers and producers[value].op == "Softmax"
    return producers[value].input(0) if is_softmax else None


def answers(graph: Graph, samples: Sequence[Sample]) -> Answers:
    """What a float or QDQ graph says, run in onnxruntime with every rounding as the graph has it."""
    logits = logits_of(graph)
    session = OnnxSession(graph, [] if logits is None else [logits])
    return session_answers(session, samples, graph.outputs[0].name, None if logits is None else logits.name)


def session_answers(session: OnnxSession, samples: Sequence[Sample], output: str, logits: str | None) -> Answers:
    """What the values of these names are for each sample."""
    names = [output] if logits is None else [output, logits]
    found: dict[str, list[Outputs]] = {name: [] for name in names}
    for sample in samples:
        arrays = session.run(sample)
        for name in names:
            found[name].append(np.asarray(arrays[name], np.float64).ravel())
    return Answers(np.stack(found[output]), None if logits is None else np.stack(found[logits]))
