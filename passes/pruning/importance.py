"""The order in which units leave their group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Array, Graph, Node
from tinyopt.passes.channel_groups import ChannelGroup
from tinyopt.passes.pruning.elimination import Harms, Order, Problem, eliminate
from tinyopt.passes.pruning.readers import InputMoments, Reader, real_constant
from tinyopt.passes.pruning.request import Importance

_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Ranking:
    """The units of a group, the first to leave first. lost: [units + 1], what is lost when so many are gone."""

    order: Order
    lost: Harms
    problem: str = ""  # why they are not ranked as asked

    @classmethod
    def by(cls, importances: NDArray[np.float64], problem: str = "") -> Ranking:
        """Units by importances that add up; what is lost is the square of their share: many small losses harm less."""
        importances = np.nan_to_num(np.maximum(importances, 0.0), nan=0.0, posinf=1 / _TINY)
        order = np.argsort(importances, kind="stable")
        lost = np.concatenate([[0.0], np.cumsum(importances[order])]) / max(float(importances.sum()), _TINY)
        return cls(order.astype(np.int64), lost**2, problem)

    def gone(self, count: int) -> Order:
        """The units that leave when `count` stay."""
        return self.order[: len(self.order) - count]

    def starting_with(self, gone: Order) -> Ranking:
        """The same with some units first; what is lost is no longer known."""
        rest = self.order[~np.isin(self.order, gone)]
        return replace(self, order=np.concatenate([gone, rest]))

    def kept(self, count: int) -> list[int]:
        """The units that stay, ascending."""
        return sorted(int(unit) for unit in self.order[len(self.order) - count :])


def rank_by_weights(group: ChannelGroup, graph: Graph, power: int) -> Ranking:
    """By the absolute weights of all slices of a unit (power 1) or their squares (2).

    Each tensor is scaled to a mean of 1.

    Source: Li et al., Pruning Filters for Efficient ConvNets, arXiv:1608.08710.
    """
    return Ranking.by(_weight_importances(group, graph, power))


def rank_by_normalization(group: ChannelGroup, graph: Graph, original: Graph | None) -> Ranking:
    """By |gamma| of the BatchNormalizations that were folded into the producers; by weights where there is none.

    Source: Liu et al., Network Slimming, arXiv:1708.06519.
    """
    scales: list[NDArray[np.float64]] = []
    for use in group.producers:
        gamma = None if original is None else _gamma(use.node, original)
        rows = group.member(use.weights, use.output_axis)
        if gamma is None or len(gamma) != use.weights.shape[use.output_axis]:
            reason = "no batch normalization" if gamma is None else "another number of channels in its normalization"
            return Ranking.by(_weight_importances(group, graph, 1), f"{reason}: l1 instead of bn-scale")
        scales.append(rows.sums(np.abs(gamma)))
    return Ranking.by(np.sum([scale / max(float(scale.mean()), _TINY) for scale in scales], axis=0))


def rank_by_energy(
    group: ChannelGroup, readers: Mapping[Node, Reader], moments: Mapping[Node, InputMoments]
) -> Ranking:
    """By the variance that a unit alone brings into the outputs of its readers, each relative to its own variance.

    It is what Fisher pruning ranks by when every output of a reader counts alike and no label or gradient is known:
    tr(W_u H_uu W_u') with the second moments H of the calibration activations. No unit makes up for another.
    Source: after Theis et al., Faster gaze prediction with dense networks and Fisher pruning, arXiv:1801.05787.
    """
    total = np.zeros(group.size)
    for use in group.consumers:
        reader, known = readers[use.node], moments[use.node]
        columns = reader.columns(group)
        energy = max(known.energy(reader.rows), _TINY)
        for rows, covariance in zip(reader.rows, known.covariance, strict=True):
            taken = rows[:, columns].transpose(1, 0, 2)  # units, outputs, so many
            if known.is_diagonal:
                total += np.sum(taken**2 * covariance[columns][:, None], axis=(1, 2)) / energy
            else:
                blocks = covariance[columns[:, :, None], columns[:, None, :]]
                total += np.sum((taken @ blocks) * taken, axis=(1, 2)) / energy
    return Ranking.by(total)


def rank_by_elimination(
    group: ChannelGroup, readers: Mapping[Node, Reader], moments: Mapping[Node, InputMoments], fewest: int
) -> Ranking:
    """By what leaving a unit out costs all readers when the units that are left make up for it, one after the other."""
    problems = [
        Problem(readers[use.node].rows, moments[use.node], readers[use.node].columns(group)) for use in group.consumers
    ]
    return Ranking(*eliminate(problems, group.size, fewest))


def needs_samples(importance: Importance) -> bool:
    """Whether it looks at activations."""
    return importance in ("obs", "fisher")


def _weight_importances(group: ChannelGroup, graph: Graph, power: int) -> NDArray[np.float64]:
    producers = graph.producers()
    slices = [(use.weights, use.output_axis) for use in (*group.producers, *group.depthwise)]
    slices += [(use.weights, use.input_axis) for use in group.consumers if use.input_axis is not None]
    total = np.zeros(group.size)
    for value, axis in slices:
        magnitudes = np.abs(real_constant(value, producers).astype(np.float64)) ** power
        along = magnitudes.sum(axis=tuple(other for other in range(magnitudes.ndim) if other != axis))
        sums = group.member(value, axis).sums(along)
        total += sums / max(float(sums.mean()), _TINY)
    return np.asarray(total / max(len(slices), 1))


def _gamma(node: Node, original: Graph) -> Array | None:
    """The scales of the normalization that the layer was folded with."""
    names = set(node.origins)
    producers = original.producers()
    found = [
        each
        for each in original.nodes
        if each.op == "BatchNormalization" and not names.isdisjoint((each.name, *each.origins))
    ]
    if len(found) != 1:
        return None
    return np.asarray(real_constant(found[0].input(1), producers), np.float64)


def merged(parts: Sequence[Mapping[Node, InputMoments]]) -> dict[Node, InputMoments]:
    """The moments of all folds together."""
    return {
        node: InputMoments(
            np.mean([part[node].covariance for part in parts], axis=0),
            np.mean([part[node].mean for part in parts], axis=0),
        )
        for node in parts[0]
    }
