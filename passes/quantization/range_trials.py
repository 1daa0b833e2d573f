"""Choose between ranges of an activation by the error that rounding it causes at the outputs of its readers.

Its own error is no measure: a layer may hardly look at the values that a range clips. Every sample counts alike, its
error being taken relative to the layer's output for it: a loud sample would else outweigh all the others.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from tinyopt.ir import Array, Graph, Node, Quantization, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.pass_manager import PassContext
from tinyopt.passes.quantization.parameters import Choice, activation_inputs, from_range
from tinyopt.passes.quantization.ranges import Observer, Range, candidates
from tinyopt.passes.quantization.walk import Walk, affordable_samples
from tinyopt.quantization_error import evenly_spaced
from tinyopt.samples import Sample

Errors = dict[Quantization, float]

_MOST_SAMPLES = 128
_TINY = 1e-30


def best_ranges(
    graph: Graph, choice: Choice, seen: Mapping[Value, Observer], settled: Collection[Value], context: PassContext
) -> Mapping[Value, Range]:
    """For each activation the range with the least error at its readers; those that share a scale share the method.

    settled: activations whose scale does not depend on what is found here: no remark is made of them.
    """
    members: dict[Value, list[Value]] = {}
    for value in seen:
        members.setdefault(choice.groups.root(value), []).append(value)
    proposals = {root: _proposals([seen[value] for value in values]) for root, values in members.items()}
    tried = {
        value: list(dict.fromkeys(from_range(*limits) for limits in proposals[root].values()))
        for root, values in members.items()
        for value in values
    }
    errors = reader_errors(graph, choice, tried, context.samples, context)
    ranges: dict[Value, Range] = {}
    for root, values in members.items():
        costs = {
            name: sum(errors[value][from_range(*limits)] for value in values)
            for name, limits in proposals[root].items()
        }
        best = min(costs, key=costs.__getitem__)
        low, high = proposals[root][best]
        ranges.update(dict.fromkeys(values, (low, high)))
        if all(value in settled for value in values):
            continue
        context.note(
            f"'{values[0].name}': [{low:.4g}, {high:.4g}] by {best}; noise at its readers {_decibels(costs[best])} dB, "
            f"by minmax {_decibels(costs['minmax'])} dB"
        )
    return ranges


def _proposals(observers: Sequence[Observer]) -> dict[str, Range]:
    """By the method's name the range that holds what it proposes for each of the activations."""
    each = [candidates(seen) for seen in observers]
    return {name: (min(c[name][0] for c in each), max(c[name][1] for c in each)) for name in each[0]}


def _decibels(noise: float) -> str:
    return "-inf" if noise <= 0 else f"{10 * math.log10(noise):.1f}"


def reader_errors(
    graph: Graph,
    choice: Choice,
    candidates: Mapping[Value, Sequence[Quantization]],
    samples: Sequence[Sample],
    context: PassContext,
) -> dict[Value, Errors]:
    """For each activation and each of its candidates the noise over the signal, summed over the activation's readers.

    The readers are the operators that compute; an activation that only leaves the model is judged by its own error.
    """
    count = min(_MOST_SAMPLES, affordable_samples(graph))
    walk = Walk(graph, [samples[i] for i in evenly_spaced(samples, count)])
    errors: dict[Value, Errors] = {value: dict.fromkeys(tried, 0.0) for value, tried in candidates.items()}
    readers = [node for node in choice.nodes if node not in choice.movers]
    read = {choice.groups.root(value) for node in readers for value in activation_inputs(node)}
    for done, node in enumerate(readers):
        walk.run_before(node)
        trial = _Trial(graph, node, walk)
        for value in dict.fromkeys(activation_inputs(node)):
            for quantization in errors.get(value, {}):
                errors[value][quantization] += trial.error(value, quantization)
        for output in node.outputs:
            for quantization in () if choice.groups.root(output) in read else errors.get(output, {}):
                errors[output][quantization] += trial.own_error(quantization)
        context.on_progress("choosing ranges", done + 1, len(readers))
    return errors


class _Trial:
    """One operator with one of its inputs rounded."""

    def __init__(self, graph: Graph, node: Node, walk: Walk) -> None:
        self._inputs = list(dict.fromkeys(value for value in node.present_inputs if not value.is_constant))
        self._fed = {value: walk.arrays(value) for value in self._inputs}
        self._name = node.output.name
        self._session = OnnxSession(Graph(graph.name, self._inputs, list(node.outputs), [node]))
        self._expected = self._run(self._fed)

    def error(self, value: Value, quantization: Quantization) -> float:
        """The mean over samples of noise over signal at the operator's output."""
        return _relative(self._expected, self._run({**self._fed, value: _rounded(self._fed[value], quantization)}))

    def own_error(self, quantization: Quantization) -> float:
        """The same where the output itself is rounded."""
        return _relative(self._expected, _rounded(self._expected, quantization))

    def _run(self, fed: Mapping[Value, Sequence[Array]]) -> list[Array]:
        samples = zip(*fed.values(), strict=True)
        names = [value.name for value in fed]
        return [self._session.run(dict(zip(names, arrays, strict=True)))[self._name] for arrays in samples]


def _rounded(arrays: Sequence[Array], quantization: Quantization) -> list[Array]:
    return [quantization.dequantize(quantization.quantize(array, "int8")) for array in arrays]


def _relative(expected: Sequence[Array], found: Sequence[Array]) -> float:
    ratios = [
        float(np.sum(np.square(a - b, dtype=np.float64))) / max(float(np.sum(np.square(a, dtype=np.float64))), _TINY)
        for a, b in zip(expected, found, strict=True)
    ]
    return float(np.mean(np.minimum(ratios, 1.0)))
