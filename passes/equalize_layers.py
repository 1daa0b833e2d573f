"""Divide channels that reach far, and multiply the weights that read them, so that one int8 scale fits all channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Value
from tinyopt.ops.facts import graph_macs
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.equalization.candidates import Factors, candidates, importance
from tinyopt.passes.equalization.groups import ScaleGroup, apply_factors, are_finite, find_scale_groups, names_of
from tinyopt.passes.equalization.measure import relative_errors
from tinyopt.passes.equalization.statistics import ChannelStatistics, observe
from tinyopt.passes.equalization.trial import Trial, is_rounded, weight_noise

_STATISTICS_SAMPLES = 64
_TRIAL_SAMPLES = (8, 16)  # at least and at most
_TRIAL_MACS = 3e11  # of all samples and trials together: some tens of seconds
_MOST_TRIAL_NODES = 50_000  # beside the network, which grow with the square of its depth
_FEWEST_SAMPLES = 4  # half of them are measured, half are measured with

_LEAST_SHARE = 0.005  # of the error of all groups at best: what factors save beside it can be seen at the outputs

_UNSCALED = "none"


@dataclass(frozen=True)
class EqualizeLayers(Pass):
    """Divide channels that reach far, and multiply the weights that read them, so that one int8 scale fits all.

    What: an int8 activation has one scale for all its channels, so the channel that reaches farthest leaves the others
        few levels. A positive factor for each channel moves through Relu, pools, sums and moved data: the layers that
        give a channel are divided by it, the layers that read it are multiplied. Several proposals (from the ranges of
        the weights, and from the ranges of the activations against the weights that read them) are tried for each
        group of channels: its tensors and its readers' weights are rounded, and the error at the network's outputs is
        measured on calibration samples that the proposals were not made from. The best one is taken if it lowers that
        error by `gain` decibels.
    Before -> After: channel 1 reaches to 100, the others to 1
        Dense(w) -> Relu -> Dense(v)  ->  Dense(w, row 1 / 100) -> Relu -> Dense(v, column 1 * 100)
    Exactness: exact in real arithmetic; in float32 outputs move by rounding only. Clusters of weights come afterwards.
    Refuses when: there are fewer than 4 calibration samples; the model is quantized already; a clamp such as Relu6 or
        another operator that does not scale lies between the layers; channels reach an input or output of the graph;
        two layers share the weights; a reader's weights are integers, whose columns have no scales of their own; the
        network has so many layers that the trials of all groups would run more than 50,000 nodes for each sample.
    Source: Nagel et al., arXiv:1906.04721, section 4.1; Xiao et al., SmoothQuant, arXiv:2211.10438, section 4.
    """

    name: ClassVar[str] = "equalize-layers"
    is_costly: ClassVar[bool] = True

    gain: float = 1.0  # decibels

    def run(self, graph: Graph, context: PassContext) -> bool:
        if not self.gain > 0:
            raise UsageError(f"equalize-layers.gain is a number of decibels above 0, not {self.gain:g}")
        reason = _reason_to_decline(graph, context)
        if reason is not None:
            context.declined(reason)
            return False
        groups, refused = find_scale_groups(graph)
        for use, why in refused:
            context.declined(f"{names_of([use])}: not equalized: {why}", [use.node])
        proposals = _proposals(graph, groups, context)
        trials = [trial for proposal in proposals for trial in proposal.trials.values()]
        if not trials:
            return False
        if (nodes := _trial_nodes(graph, proposals)) > _MOST_TRIAL_NODES:
            context.declined(
                f"{len(proposals)} groups of channels: their trials would run {nodes:,} nodes for a sample"
            )
            return False
        count = _trial_samples(graph, proposals, len(context.samples) // 2)
        samples = (context.samples[index] for index in _spread(len(context.samples), count, 1))
        errors = relative_errors(graph, trials, samples, lambda i: context.on_progress(self.name, i, count))
        total = sum(min(errors[trial] for trial in proposal.trials.values()) for proposal in proposals)
        decisions = [self._decide(graph, proposal, errors, total, context) for proposal in proposals]
        return any(decisions)

    def _decide(
        self,
        graph: Graph,
        proposal: _Proposal,
        errors: Mapping[Trial, float],
        total: float,
        context: PassContext,
    ) -> bool:
        """Apply the best factors of one group where they gain enough; whether they did."""
        group, trials = proposal.group, proposal.trials
        name = min((key for key in trials if key != _UNSCALED), key=lambda key: errors[trials[key]])
        factors, nodes = trials[name].factors, [use.node for use in group.producers]
        before, after = errors[trials[_UNSCALED]], errors[trials[name]]
        if reason := self._reason_to_leave(group, factors, before, after, total):
            context.declined(f"{group.label}: not equalized: {reason} (the best factors: {name})", nodes)
            return False
        apply_factors(graph, group, factors)
        changed = list(dict.fromkeys([*nodes, *(use.node for use in group.readers)]))
        context.did(
            f"{group.label}: {group.size} channels are divided by {factors.min():.3g}..{factors.max():.3g} ({name}):"
            f" its int8 error at the outputs falls by {_decibels(before, after):.1f} dB",
            changed,
            changed,
        )
        return True

    def _reason_to_leave(
        self, group: ScaleGroup, factors: Factors, before: float, after: float, total: float
    ) -> str | None:
        if not np.isfinite([before, after]).all():
            return "the network's outputs are not finite when it is rounded"
        gain = _decibels(before, after)
        if gain < self.gain:
            return f"its int8 error at the outputs changes by {-gain:+.1f} dB; it has to fall by {self.gain:g}"
        if before - after < _LEAST_SHARE * total:
            return f"its int8 error is but {before / total:.2%} of what all groups cost at best"
        return None if are_finite(group, factors) else "float32 does not hold the scaled weights"


@dataclass(frozen=True, eq=False)
class _Proposal:
    """A group, and a trial for each method; the first one is without factors."""

    group: ScaleGroup
    trials: Mapping[str, Trial]


def _reason_to_decline(graph: Graph, context: PassContext) -> str | None:
    if any(node.op == "QuantizeLinear" for node in graph.nodes):
        return "the model is quantized already"
    if not context.samples:
        return "no calibration data: give --calib"
    if len(context.samples) < _FEWEST_SAMPLES:
        return f"{len(context.samples)} calibration samples are too few to measure with: {_FEWEST_SAMPLES} are needed"
    return None


def _proposals(graph: Graph, groups: Sequence[ScaleGroup], context: PassContext) -> list[_Proposal]:
    axes = {value: group.places[value][0] for group in groups for value in _rounded_values(group)}
    axes |= {use.node.input(0): use.channel_axis for group in groups for use in group.readers}
    indices = _spread(len(context.samples), _STATISTICS_SAMPLES, 0)
    statistics = observe(graph, axes, (context.samples[index] for index in indices), len(indices))
    proposals: list[_Proposal] = []
    for group in groups:
        nodes = [use.node for use in group.producers]
        if unusable := [v.name for v in axes if v in group.places and not statistics[v].is_finite]:
            reason = f"'{unusable[0]}' becomes NaN or infinite on the calibration samples"
            context.declined(f"{group.label}: not equalized: {reason}", nodes)
        elif found := candidates(group, {value: statistics[value] for value in _rounded_values(group)}):
            everything = {_UNSCALED: np.ones(group.size), **found}
            trials = {name: _trial(group, factors, statistics) for name, factors in everything.items()}
            proposals.append(_Proposal(group, trials))
        else:
            context.declined(f"{group.label}: not equalized: fewer than two of its channels are other than zero", nodes)
    return proposals


def _trial(group: ScaleGroup, factors: Factors, statistics: Mapping[Value, ChannelStatistics]) -> Trial:
    mine = {value: statistics[value] for value in _rounded_values(group)}
    cost = importance(group, mine)
    quantizations = {
        value: seen.quantization(group.along(value, factors), group.along(value, cost, float(cost.mean())))
        for value, seen in mine.items()
    }
    noise = {u.node: weight_noise(group, u, factors, statistics[u.node.input(0)].variance) for u in group.readers}
    return Trial(group, factors, quantizations, noise)


def _rounded_values(group: ScaleGroup) -> list[Value]:
    """The tensors of a group that are quantized by ranges of their own."""
    return [value for node in group.inner if is_rounded(node) for value in node.outputs if value in group.places]


def _spread(length: int, count: int, part: int) -> list[int]:
    """Evenly spaced indices, at most `count`: those of part 0 and of part 1 have none in common."""
    taken = min(length // 2, count)
    return [(2 * index + part) * length // (2 * taken) for index in range(taken)]


def _trial_samples(graph: Graph, proposals: Sequence[_Proposal], available: int) -> int:
    """As many samples as time allows: each trial runs about its part of the network."""
    macs = graph_macs(graph) * (1 + max(len(proposal.trials) for proposal in proposals))
    least, most = _TRIAL_SAMPLES
    return min(available, int(np.clip(_TRIAL_MACS / max(macs, 1), least, most)))


def _trial_nodes(graph: Graph, proposals: Sequence[_Proposal]) -> int:
    """About how many nodes run for one sample: each trial runs what lies behind its group, or some of that."""
    behind = {node: len(graph.nodes) - place for place, node in enumerate(graph.nodes)}
    return sum(len(proposal.trials) * behind[proposal.group.inner[0]] for proposal in proposals)


def _decibels(before: float, after: float) -> float:
    if before == after:
        return 0.0
    return float(10 * np.log10(max(before, 1e-30) / max(after, 1e-30)))
