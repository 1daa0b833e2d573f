"""Remove the channels that the outputs miss least, until the graph is as small as asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tinyopt.errors import UsageError
from tinyopt.ir import Graph
from tinyopt.pass_manager import Pass, PassContext, Unpruned
from tinyopt.passes.calibration_samples import FEWEST_SAMPLES
from tinyopt.passes.channel_groups import ChannelGroup, find_channel_groups, keep_channels
from tinyopt.passes.channel_links import label_of, matches
from tinyopt.passes.pruning.choice import choose
from tinyopt.passes.pruning.cutting import cut_copy, kept_channels
from tinyopt.passes.pruning.goals import Goal, goal_of
from tinyopt.passes.pruning.importance import needs_samples
from tinyopt.passes.pruning.request import (
    Importance,
    check_patterns,
    parse_budget,
    parse_importance,
    parse_layer_shares,
)
from tinyopt.passes.pruning.sensitivity import Sensitivity, from_weights, measured
from tinyopt.passes.pruning.widths import Counts, Widths


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove the channels that the outputs miss least, until the graph is as small as asked.

    What: channels that can only leave together form a unit. In each group of like units they leave in the order of
        their `importance`: obs, the default, takes out one after the other the unit that all layers which read it can
        make up for best, by the second moments of what they read; fisher ranks by what a unit alone brings into them;
        bn-scale by the scales of folded batch normalizations; l2 and l1 by weights. How many of each group leave is
        measured: on calibration samples, how far the outputs move (how much class probability goes elsewhere, or the
        relative error) when a group gives up so many and its readers make up for them. Step by step the group
        pays whose harm is least for each instruction that the target saves; then exchanges between groups, and of
        single units, are measured. Of the plans that promise most, each is rehearsed where that takes no more than a
        minute or two: cut, refitted by one half of the samples and judged by the other, both ways round.
        Layers keep a multiple of the target's lane width. The readers' weights stay as they are: refit-weights
        changes them.
    Before -> After: with ratio=0.2
        conv1[64] -> Relu -> depthwise[64] -> conv2[64]  ->  conv1[48] -> Relu -> depthwise[48] -> conv2[64]
    Exactness: not exact: the outputs change with the ratio; measure the accuracy afterwards.
    Refuses when: nothing is asked for (the default); the graph was pruned already; channels reach an input or output of
        the graph or an operator that is not followed; a layer's name matches a pattern in `keep`. Without calibration
        samples, and of a model that is quantized already, l2 ranks what obs and fisher should, and the share of the
        weights that is lost stands for the harm. The nearest that can be reached is taken where that is not enough.
    Source: Hassibi and Stork, Optimal brain surgeon, NIPS 1992; Kurtic et al., ZipLM, arXiv:2302.04089 (groups of
        channels by their run time); groups as in DepGraph, arXiv:2301.12900.
    """

    name: ClassVar[str] = "prune-channels"
    is_costly: ClassVar[bool] = True
    is_for_target: ClassVar[bool] = True

    ratio: float = 0.0
    to: str = ""
    layers: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    importance: str = "obs"

    def run(self, graph: Graph, context: PassContext) -> bool:
        if not 0 <= self.ratio < 1:
            raise UsageError(f"prune-channels.ratio is the share of the instructions to remove, not {self.ratio:g}")
        budget, shares = parse_budget(self.to), parse_layer_shares(self.layers)
        importance = parse_importance(self.importance)
        if self.ratio and budget is not None:
            raise UsageError("prune by a share or down to a size, not both: leave out --prune or --prune-to")
        check_patterns(graph, (*shares, *self.keep), "prune-channels")
        if not (self.ratio or budget or shares):
            context.declined("nothing is asked for: ratio=0.2 removes a fifth of the instructions")
            return False
        if context.unpruned is not None and context.unpruned.kept:
            context.declined("the graph is pruned already: sizes count from the graph before any pruning")
            return False
        groups = self._open_groups(graph, context)
        if not groups:
            context.declined("no group of channels may be pruned")
            return False
        with threadpool_limits(1):
            known = _sensitivity(graph, groups, importance, context)
            widths = Widths(graph, known.groups)
            fixed = _fixed(known, shares)
            start = _start(known, fixed, context.facts.channel_multiple)
            goal = goal_of(widths, self.ratio, budget, lambda plan: cut_copy(graph, known.kept(plan)), context)
            plan, known = choose(known, start, fixed, goal)
        goal.report(widths.full, plan, context)
        _say_sensitivity(known, context)
        is_changed = _apply(graph, known, plan, widths.full, goal, context)
        context.on_progress(self.name, 1, 1)
        return is_changed

    def _open_groups(self, graph: Graph, context: PassContext) -> list[ChannelGroup]:
        """The groups that may be pruned; a remark for each other."""
        groups: list[ChannelGroup] = []
        for group in find_channel_groups(graph):
            if reason := self._refusal(group, context.facts.channel_multiple):
                context.declined(f"{group.label}: not pruned: {reason}", [use.node for use in group.producers])
            else:
                groups.append(group)
        return groups

    def _refusal(self, group: ChannelGroup, lane: int) -> str | None:
        if group.blocked is not None:
            return group.blocked
        if not group.consumers:
            return "no layer's weights read its channels"
        for use in (*group.producers, *group.depthwise):
            if any(matches(use.node, pattern) for pattern in self.keep):
                return f"'{label_of(use.node)}' is named in keep"
        if group.size <= lane:
            return f"{group.size} channels are no more than the target's {lane} lanes"
        return None


def _sensitivity(
    graph: Graph, groups: Sequence[ChannelGroup], importance: Importance, context: PassContext
) -> Sensitivity:
    """Measured where that is possible, with a remark where it is not."""
    lane = context.facts.channel_multiple
    if reason := _reason_not_to_measure(graph, context):
        if needs_samples(importance):
            context.note(f"{reason}: channels are ranked by l2 instead of {importance}")
            importance = "l2"
        else:
            context.note(f"{reason}: the share of the weights that is lost stands for the harm")
        known = from_weights(graph, groups, importance, context.original, lane)
    else:
        known = measured(
            graph,
            groups,
            importance,
            context.original,
            context.facts,
            context.samples,
            lambda done, total: context.on_progress(PruneChannels.name, done, total),
        )
    for group, ranking in zip(groups, known.rankings, strict=True):
        if ranking.problem:
            context.note(f"{group.label}: {ranking.problem}", [use.node for use in group.producers])
    return known


def _reason_not_to_measure(graph: Graph, context: PassContext) -> str | None:
    if any(node.op == "QuantizeLinear" for node in graph.nodes):
        return "the model is quantized already, and its scales stay as they are"
    if len(context.samples) < FEWEST_SAMPLES:
        count = len(context.samples) or "no"
        return f"{count} calibration samples: {FEWEST_SAMPLES} are needed to measure"
    if any(node.attributes.get("layout") == "NCHW" for node in graph.nodes if node.op in ("Conv", "ConvTranspose")):
        return "the graph is not in the layout NHWC"
    return None


def _fixed(known: Sensitivity, shares: Mapping[str, float]) -> tuple[float | None, ...]:
    """The share of each group's units that a pattern asks for; of several patterns the last counts."""
    found: list[float | None] = []
    for group in known.groups:
        asked = [
            share
            for pattern, share in shares.items()
            if any(matches(use.node, pattern) for use in (*group.producers, *group.depthwise))
        ]
        found.append(asked[-1] if asked else None)
    return tuple(found)


def _start(known: Sensitivity, fixed: Sequence[float | None], lane: int) -> Counts:
    """All units, but what patterns ask for, to the nearest multiple of the lane width."""
    counts: list[int] = []
    for group, share in zip(known.groups, fixed, strict=True):
        wanted = group.size * (1 - (share or 0.0))
        rounded = max(lane, int(wanted / lane + 0.5) * lane)
        counts.append(min(rounded, group.size) if share else group.size)
    return tuple(counts)


def _say_sensitivity(known: Sensitivity, context: PassContext) -> None:
    for group, curve in zip(known.groups, known.curves, strict=True):
        pairs = zip(curve.counts[1:], curve.harms[1:], strict=True)
        if steps := ", ".join(f"{count}: {_percent(harm)}" for count, harm in pairs):
            nodes = [use.node for use in group.producers]
            text = f"{_what(known)} when it alone keeps so many of {group.size} channels: {steps}"
            context.note(f"{group.label}: {text}", nodes)


def _what(known: Sensitivity) -> str:
    return "lost importance" if known.harm is None else "outputs move by"


def _percent(harm: float) -> str:
    return f"{100 * harm**0.5:.2g}%"


def _apply(graph: Graph, known: Sensitivity, plan: Counts, full: Counts, goal: Goal, context: PassContext) -> bool:
    """Cut, and say what was cut."""
    kept = known.kept(plan)
    if not kept:
        return False
    whole = graph.copy() if context.unpruned is None else context.unpruned.graph  # layers may be gone already
    context.unpruned = Unpruned(whole, kept_channels(graph, kept))
    for index, (group, curve, count) in enumerate(zip(known.groups, known.curves, plan, strict=True)):
        if group in kept:
            nodes = [use.node for use in group.producers]
            share = goal.share_saved(full, index, count)
            text = f"{share:.1%} of {goal.unit}, {_what(known)} {_percent(curve.harm(count))}"
            context.did(f"{group.label}: {group.size} -> {count} channels; {text}", nodes, nodes)
    keep_channels(graph, kept)
    return True
