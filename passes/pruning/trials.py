"""How far a graph's outputs move when units leave and their readers' weights make up for it: measured, not estimated.

Nothing is cut in a trial: columns of zeros do the same. The weights come from the moments of one half of the samples,
and the other half judges them, both ways round, so that every sample judges what it had no part in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Graph, Node, TensorType, Value
from tinyopt.onnx_session import OnnxSession
from tinyopt.passes.channel_groups import ChannelGroup
from tinyopt.passes.pruning.readers import InputMoments, Reader, real_constant
from tinyopt.samples import Sample

Gone: TypeAlias = Mapping[ChannelGroup, NDArray[np.int64]]  # units of groups
Outputs: TypeAlias = list[list[Array]]  # for each sample, for each judged value

_FLOOR = 1e-12


@dataclass(frozen=True, eq=False)
class Judge:
    """What is compared: for each output the value to look at, and how."""

    values: tuple[Value, ...]
    harms: tuple[Callable[[Array, Array], NDArray[np.float64]], ...]  # of exact and found arrays, [samples, elements]

    @classmethod
    def of(cls, graph: Graph) -> Judge:
        """By how much class probabilities move where an output is a softmax, else the root of the squared error."""
        producers = graph.producers()
        values: list[Value] = []
        harms: list[Callable[[Array, Array], NDArray[np.float64]]] = []
        for output in graph.outputs:
            producer = producers.get(output)
            values.append(output)
            if producer is not None and producer.op in ("Softmax", "LogSoftmax"):
                values[-1] = producer.input(0)
                harms.append(partial(moved_probability, axis=producer.int("axis") - output.type.rank))
            else:
                harms.append(relative_error)
        return cls(tuple(values), tuple(harms))

    def harm(self, exact: Outputs, found: Outputs) -> NDArray[np.float64]:
        """For each sample, the mean over the outputs."""
        total = np.zeros(len(exact))
        for index, harm in enumerate(self.harms):
            a, b = (np.stack([each[index] for each in side]).astype(np.float64) for side in (exact, found))
            total += np.nan_to_num(harm(a, b), nan=np.inf, posinf=np.inf)
        return total / max(len(self.harms), 1)


def moved_probability(exact: Array, found: Array, axis: int) -> NDArray[np.float64]:
    """For each sample how much probability moves to other classes, 0 to 1; a mean over other axes.

    It is the total variation distance of softmax(found) from softmax(exact). Unlike their divergence it is not ruled by
    a few samples, and so tells better what it will be on others.
    """
    distance = np.abs(_softmax(exact, axis) - _softmax(found, axis)).sum(axis=axis) / 2
    return np.asarray(distance.reshape(len(exact), -1).mean(axis=1))


def relative_error(exact: Array, found: Array) -> NDArray[np.float64]:
    """For each sample the root of the mean squared error, in units of what the samples vary about their mean."""
    a, b = exact.reshape(len(exact), -1), found.reshape(len(found), -1)
    variance = np.mean((a - a.mean(axis=0)) ** 2) if len(a) > 1 else np.mean(a**2)
    return np.asarray(np.sqrt(np.mean((a - b) ** 2, axis=1) / max(float(variance), _FLOOR)))


def _softmax(x: Array, axis: int) -> Array:
    exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=axis, keepdims=True))


class Trials:
    """Measures the harm of plans on samples. folds: the samples; moments: what each fold's readers read."""

    def __init__(
        self,
        graph: Graph,
        readers: Sequence[Reader],
        folds: Sequence[Sequence[Sample]],
        moments: Sequence[Mapping[Node, InputMoments]],
    ) -> None:
        self._graph = graph
        self._readers = readers
        self._folds = folds
        self._moments = moments
        self._judge = Judge.of(graph)
        self._producers = graph.producers()
        self._exact = [outputs_of(graph, self._judge.values, fold) for fold in folds]

    def harm(self, gone: Gone) -> NDArray[np.float64]:
        """For each sample, fold after fold, how far the outputs move when the units of `gone` leave."""
        harms: list[NDArray[np.float64]] = []
        for fold, samples in enumerate(self._folds):
            trained = self._moments[len(self._folds) - 1 - fold]
            graph = self.compensated(gone, trained)
            found = outputs_of(graph, Judge.of(graph).values, samples)
            harms.append(self._judge.harm(self._exact[fold], found))
        return np.concatenate(harms)

    def compensated(self, gone: Gone, moments: Mapping[Node, InputMoments]) -> Graph:
        """A copy of the graph in which the columns of the units are zero and the others make up for them."""
        graph = self._graph.copy()
        nodes = dict(zip(self._graph.nodes, graph.nodes, strict=True))
        for reader in self._readers:
            stays = staying_columns(reader, gone)
            if stays.all():
                continue
            node, known = nodes[reader.use.node], moments[reader.use.node]
            rows = known.without(reader.rows, stays)
            weights = reader.weights(rows)
            node.inputs[1] = Value(f"{node.name}.compensated", TensorType.of(weights), weights)
            bias = reader.use.node.optional_input(2)
            if bias is not None:
                shift = np.einsum("gok,gk->go", reader.rows - rows, known.mean)
                addend = real_constant(bias, self._producers) + reader.bias_shift(shift)
                data = addend.astype(np.float32)
                node.inputs[2] = Value(f"{node.name}.compensated_bias", TensorType.of(data), data)
        return graph


def outputs_of(graph: Graph, values: Sequence[Value], samples: Sequence[Sample]) -> Outputs:
    """What some values of the graph are for each sample."""
    hidden = [value for value in dict.fromkeys(values) if not graph.is_output(value) and value not in graph.inputs]
    return [
        [np.asarray(found[value.name] if value.name in found else sample[value.name]) for value in values]
        for sample, found in OnnxSession(graph, hidden).run_each(samples)
    ]


def staying_columns(reader: Reader, gone: Gone) -> NDArray[np.bool_]:
    """Which columns [K] of a reader stay."""
    stays = np.ones(reader.rows.shape[2], np.bool_)
    for group, units in gone.items():
        if len(units) and any(use.node is reader.use.node for use in group.consumers):
            stays[reader.columns(group)[units].reshape(-1)] = False
    return stays
