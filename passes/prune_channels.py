"""Remove the least important channels until a share of the multiply-accumulates is gone."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import UsageError
from tinyopt.ir import Graph
from tinyopt.ops import OPERATORS
from tinyopt.ops.facts import graph_macs
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.channel_groups import ChannelGroup, find_channel_groups, keep_channels
from tinyopt.passes.channel_links import Dimension, label_of, weight_use

_SMALLEST_SHARE = 0.25  # of its channels that every group keeps: a narrower layer starves all that follow

_MARK = ".pruned"  # ends the names of pruned weights, so that a second run knows them


@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove the least important channels until a share of the multiply-accumulates is gone.

    What: channels that can only leave together form a group; a channel's importance is the sum of the absolute weights
        of its slices, each weight tensor's sum scaled to a mean of 1, so that layers can be compared. Step by step the
        group gives up its least important channels whose loss costs least importance for each multiply-accumulate
        saved. Layers keep a multiple of the target's lane width, and at least a quarter of their channels.
    Before -> After: with ratio=0.2
        conv1[64] -> Relu -> depthwise[64] -> conv2[64]  ->  conv1[48] -> Relu -> depthwise[48] -> conv2[64]
    Exactness: not exact: the outputs change with the ratio; measure the accuracy afterwards. Nothing is retrained.
    Refuses when: ratio is 0 (the default); the graph is quantized already (its scales were chosen for all channels);
        channels reach an input or output of the graph or an operator that is not followed; a layer's name matches a
        pattern in `keep`.
    Source: Li et al., Pruning Filters for Efficient ConvNets, arXiv:1608.08710; groups as in DepGraph,
        arXiv:2301.12900.
    """

    name: ClassVar[str] = "prune-channels"

    ratio: float = 0.0
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, context: PassContext) -> bool:
        if not 0 <= self.ratio < 1:
            raise UsageError(f"prune-channels.ratio is the share of multiply-accumulates to remove, not {self.ratio:g}")
        if self.ratio == 0:
            context.declined("ratio is 0: no channel is pruned; ratio=0.2 removes a fifth of the multiply-accumulates")
            return False
        if any(node.op == "QuantizeLinear" for node in graph.nodes):
            context.declined(
                "the model is quantized already: its scales were chosen for all channels; prune the float model"
            )
            return False
        if pruned := [value.name for value in graph.constants() if _MARK in value.name]:
            context.declined(f"'{pruned[0]}' is pruned already: ratio counts from the model before any pruning")
            return False
        candidates = [
            _Candidate.of(group, context.facts.channel_multiple) for group in self._open_groups(graph, context)
        ]
        before = graph_macs(graph)
        _choose(_MacModel.of(graph, [c.group for c in candidates]), candidates, before * (1 - self.ratio))
        is_changed = _apply(graph, candidates, context)
        _report(before, graph_macs(graph), self.ratio, is_changed, context)
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

    def _refusal(self, group: ChannelGroup, channel_multiple: int) -> str | None:
        if group.blocked is not None:
            return group.blocked
        if not group.consumers:
            return "no layer's weights read its channels"
        for use in (*group.producers, *group.depthwise):
            if any(
                fnmatch.fnmatchcase(name, pattern)
                for pattern in self.keep
                for name in (use.node.name, *use.node.origins)
            ):
                return f"'{label_of(use.node)}' is named in keep"
        if group.size <= channel_multiple:
            return f"{group.size} channels are no more than the target's {channel_multiple} lanes"
        return None


@dataclass(eq=False)
class _Candidate:
    """A group that may be pruned: its channels from the least to the most important, and how many stay so far."""

    group: ChannelGroup
    order: NDArray[np.int64]
    lost_share: NDArray[np.float64]  # of the group's importance, when the first k channels of `order` are gone
    multiple: int
    kept: int

    @classmethod
    def of(cls, group: ChannelGroup, multiple: int) -> _Candidate:
        importance = _importance(group)
        order = np.argsort(importance, kind="stable")
        lost = np.concatenate([[0.0], np.cumsum(importance[order])]) / importance.sum()
        return cls(group, order, lost, multiple, group.size)

    @property
    def next_count(self) -> int | None:
        """How many channels one more step leaves; None where the group has given what it can."""
        count = (self.kept - 1) // self.multiple * self.multiple
        return count if count >= max(self.multiple, _SMALLEST_SHARE * self.group.size) else None

    def penalty(self, kept: int) -> float:
        """The harm done when `kept` channels stay: the square of what is lost; many small losses harm less."""
        return float(self.lost_share[self.group.size - kept] ** 2)


def _importance(group: ChannelGroup) -> NDArray[np.float64]:
    """For each channel, the absolute weights of its slices: each tensor scaled to a mean of 1, then averaged."""
    slices = [(use.weights, use.output_axis) for use in (*group.producers, *group.depthwise)]
    slices += [(use.weights, use.input_axis) for use in group.consumers if use.input_axis is not None]
    total = np.zeros(group.size)
    for value, axis in slices:
        magnitudes = np.abs(value.data).astype(np.float64)
        along = magnitudes.sum(axis=tuple(other for other in range(magnitudes.ndim) if other != axis))
        sums = group.member(value, axis).sums(along)
        total += sums / max(sums.mean(), np.finfo(np.float64).tiny)
    return np.maximum(total / len(slices), np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class _MacModel:
    """The graph's multiply-accumulates for any channel counts: each node's are proportional to its dimensions' sizes.

    nodes: for each node, its multiply-accumulates at full width, and for each of its dimensions the groups in it with
    the share of the dimension that each has.
    """

    nodes: tuple[tuple[int, tuple[tuple[tuple[int, float], ...], ...]], ...]

    @classmethod
    def of(cls, graph: Graph, groups: Sequence[ChannelGroup]) -> _MacModel:
        parts: dict[Dimension, list[tuple[int, float]]] = {}
        for index, group in enumerate(groups):
            for member in group.members:
                share = member.places.size / member.value.shape[member.axis]
                parts.setdefault((member.value, member.axis), []).append((index, share))
        nodes: list[tuple[int, tuple[tuple[tuple[int, float], ...], ...]]] = []
        for node in graph.nodes:
            dimensions: list[Dimension] = [(v, axis) for v in node.outputs for axis in range(v.type.rank)]
            use = weight_use(node)
            if use is not None and use.input_axis is not None:
                dimensions.append((use.weights, use.input_axis))
            scaled_with = tuple(tuple(parts[d]) for d in dimensions if d in parts)
            nodes.append((OPERATORS[node.op].macs(node), scaled_with))
        return cls(tuple(nodes))

    def macs(self, shares: Sequence[float]) -> float:
        """All multiply-accumulates when group i keeps `shares[i]` of its channels."""
        gone = [1 - share for share in shares]
        return sum(
            macs * math.prod(1 - sum(gone[index] * part for index, part in parts) for parts in scaled_with)
            for macs, scaled_with in self.nodes
        )


def _choose(model: _MacModel, candidates: Sequence[_Candidate], goal: float) -> None:
    """Take the step that does least harm for what it saves, until the graph is down to `goal` multiply-accumulates."""
    shares = [1.0] * len(candidates)
    macs = model.macs(shares)
    while macs > goal:
        best: tuple[float, int, float] | None = None  # harm for each multiply-accumulate saved, candidate, what remains
        for index, candidate in enumerate(candidates):
            count = candidate.next_count
            if count is None:
                continue
            trial = [*shares[:index], count / candidate.group.size, *shares[index + 1 :]]
            remaining = model.macs(trial)
            harm = (candidate.penalty(count) - candidate.penalty(candidate.kept)) / (macs - remaining)
            if best is None or harm < best[0]:
                best = (harm, index, remaining)
        if best is None:
            return
        _, index, macs = best
        candidates[index].kept = candidates[index].next_count or candidates[index].kept
        shares[index] = candidates[index].kept / candidates[index].group.size


def _apply(graph: Graph, candidates: Sequence[_Candidate], context: PassContext) -> bool:
    cut = [candidate for candidate in candidates if candidate.kept != candidate.group.size]
    keep_channels(graph, {c.group: sorted(int(unit) for unit in c.order[c.group.size - c.kept :]) for c in cut})
    for candidate in cut:
        group, kept = candidate.group, candidate.kept
        for use in group.producers:
            if _MARK not in use.weights.name:
                use.weights.name = graph.unique_name(use.weights.name + _MARK)
        nodes = [use.node for use in group.producers]
        lost = candidate.lost_share[group.size - kept]
        context.did(
            f"{group.label}: {kept} of {group.size} channels stay, {lost:.1%} of the importance goes", nodes, nodes
        )
    return bool(cut)


def _report(before: int, after: int, ratio: float, is_changed: bool, context: PassContext) -> None:
    reached = 1 - after / max(before, 1)
    text = f"{before:,} -> {after:,} multiply-accumulates: {reached:.1%} removed of {ratio:.1%} asked for"
    if reached < ratio:
        context.declined(f"{text}: the groups that may be pruned have no more to give")
    elif is_changed:
        context.note(text)
