"""Remove channels that are constant whatever the input, and channels that nobody reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tinyopt.ir import Graph, Node, Value
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.channel_groups import ChannelGroup, find_channel_groups, keep_channels
from tinyopt.passes.channel_intervals import Bounds, Interval, find_intervals
from tinyopt.passes.channel_links import WeightUse, constant_source, label_of, removable_use, weight_use


@dataclass(frozen=True)
class EliminateDeadChannels(Pass):
    """Remove channels that are constant whatever the input, and channels that nobody reads.

    What: interval analysis runs forward from what is known of the input (its type, or input_low and input_high) and
        finds channels that can only hold one number; liveness runs backward from the weights and finds channels whose
        every column is zero. Such channels leave all layers of their group; a constant other than zero moves into its
        readers' biases. Weights below `negligible` times their layer's largest count as zero and are set to zero:
        training leaves 1e-30 where it decayed a channel away.
    Before -> After:
        conv1[64] -> Relu -> conv2, rows 3..63 of conv1 all zero  ->  conv1[3] -> Relu -> conv2 with another bias
    Exactness: exact in real arithmetic but for the negligible weights, which a float32 sum cannot see as long as no
        channel of a tensor is 100,000 times as large as all others; outputs move by rounding only. No calibration
        sample is used as a proof. Exact in the integers of a model that arrives quantized.
    Refuses when: the channels reach an input or output of the graph, or an operator that mixes or moves them in a way
        that is not followed; a constant other than zero is read by a padded convolution (the padding is zero, the
        constant is not).
    Source: Moore, Interval Analysis, 1966; liveness as in any data-flow analysis.
    """

    name: ClassVar[str] = "eliminate-dead-channels"

    input_low: float = -math.inf
    input_high: float = math.inf
    negligible: float = 1e-12

    def run(self, graph: Graph, context: PassContext) -> bool:
        is_flushed = _flush_negligible_weights(graph, self.negligible, context)
        tally = _Tally(graph)
        findings = _find(graph, self.input_low, self.input_high)
        while _remove_found(graph, findings, tally):
            findings = _find(graph, self.input_low, self.input_high)
        tally.report(graph, context)
        if not tally.constant:
            context.note("no channel is proved constant or unread")
        _report_kept(findings, context)
        return is_flushed or bool(tally.constant)


@dataclass(frozen=True, eq=False)
class _Finding:
    """What the analysis says of one group, and the intervals that it says it from."""

    group: ChannelGroup
    verdict: _Verdict
    intervals: dict[Value, Interval]


@dataclass(frozen=True, eq=False)
class _Wiring:
    """Who makes and who reads each value of a graph."""

    producers: dict[Value, Node]
    consumers: dict[Value, list[Node]]


@dataclass(frozen=True, eq=False)
class _Verdict:
    """What may leave a group: channels that are constant at every reader, and channels that no reader reads."""

    constant: NDArray[np.bool_]
    unread: NDArray[np.bool_]
    padded: tuple[str, ...]  # readers that keep a channel only because they pad it

    @property
    def removable(self) -> NDArray[np.bool_]:
        return self.constant | self.unread


class _Tally:
    """How many channels each layer had, and what was removed from it."""

    def __init__(self, graph: Graph) -> None:
        uses = [use for node in graph.nodes if (use := removable_use(node)) is not None]
        self.before = {id(use.node): use.weights.shape[use.output_axis] for use in uses}
        self.constant: dict[int, int] = {}

    def add(self, group: ChannelGroup, constant: int) -> None:
        for use in (*group.producers, *group.depthwise):
            rows = constant * group.member(use.weights, use.output_axis).places.shape[1]
            self.constant[id(use.node)] = self.constant.get(id(use.node), 0) + rows

    def report(self, graph: Graph, context: PassContext) -> None:
        """One remark for each layer that lost channels."""
        for node in graph.nodes:
            if id(node) not in self.constant:
                continue
            use = removable_use(node)
            assert use is not None
            before, after = self.before[id(node)], use.weights.shape[use.output_axis]
            constant = min(self.constant[id(node)], before - after)
            context.did(f"{label_of(node)}: {_reasons(constant, before - after, before)}: removed", [node], [node])


def _reasons(constant: int, removed: int, before: int) -> str:
    """For example: 9 of 16 channels are constant, 2 are never read."""
    unread = removed - constant
    if not unread:
        return f"{constant} of {before} channels are constant"
    if not constant:
        return f"{unread} of {before} channels are never read"
    return f"{constant} of {before} channels are constant, {unread} are never read"


def _flush_negligible_weights(graph: Graph, share: float, context: PassContext) -> bool:
    """Set weights to zero that are below `share` of their layer's largest."""
    is_changed = False
    for node in graph.nodes:
        use = weight_use(node)
        if use is None or not use.weights.is_constant:
            continue
        magnitudes = np.abs(use.weights.data)
        tiny = (magnitudes < share * magnitudes.max(initial=0.0)) & (magnitudes > 0)
        if not tiny.any():
            continue
        use.weights.constant = np.where(tiny, np.zeros_like(use.weights.data), use.weights.data)
        is_changed = True
        context.did(
            f"{label_of(node)}: {int(tiny.sum()):,} of {tiny.size:,} weights, the largest {magnitudes[tiny].max():.1g},"
            f" are below {share:g} of the layer's largest: set to zero",
            [node],
            [node],
        )
    return is_changed


def _find(graph: Graph, input_low: float, input_high: float) -> list[_Finding]:
    """Every group that some layer's weights read, with what may leave it."""
    intervals = find_intervals(graph, input_low, input_high)
    groups = [group for group in find_channel_groups(graph) if group.consumers]
    wiring = _Wiring(graph.producers(), graph.consumers())
    return [_Finding(group, _judge(wiring, group, intervals), intervals) for group in groups]


def _remove_found(graph: Graph, findings: Sequence[_Finding], tally: _Tally) -> bool:
    """Remove what can be from groups that have no layer in common; whether anything was."""
    touched: set[int] = set()
    kept: dict[ChannelGroup, list[int]] = {}
    for finding in findings:
        group, removable = finding.group, finding.verdict.removable
        nodes = {id(use.node) for use in (*group.producers, *group.depthwise, *group.consumers)}
        if group.blocked is not None or nodes & touched:
            continue
        if removable.all():
            removable[0] = False  # a layer without channels is no layer
        if removable.any():
            _fold_constants(graph, group, np.flatnonzero(removable), finding.intervals)
            kept[group] = [int(unit) for unit in np.flatnonzero(~removable)]
            tally.add(group, int((removable & finding.verdict.constant).sum()))
            touched |= nodes
    keep_channels(graph, kept)
    return bool(kept)


def _judge(wiring: _Wiring, group: ChannelGroup, intervals: dict[Value, Interval]) -> _Verdict:
    constant = np.ones(group.size, np.bool_)
    unread = np.ones(group.size, np.bool_)
    padded: list[str] = []
    for use in group.consumers:
        member = group.member(use.node.input(0), use.channel_axis)
        levels = intervals[use.node.input(0)].along(use.channel_axis, use.node.input(0).shape[use.channel_axis])
        is_read = _nonzero_columns(use, intervals)
        exact = levels.is_exact
        foldable = exact & ((levels.low == 0) | _takes_constants(wiring, use))
        if _is_padded(use.node) and bool((exact & is_read & ~foldable).any()):
            padded.append(label_of(use.node))
        constant &= member.where_all(foldable | ~is_read)
        unread &= member.where_all(~is_read)
    return _Verdict(constant & ~unread, unread, tuple(padded))


def _nonzero_columns(use: WeightUse, intervals: dict[Value, Interval]) -> NDArray[np.bool_]:
    """Whether any weight reads each channel of the layer's input: [input channels]."""
    weights = _by_column(use, intervals)
    return np.asarray(weights.reshape(*weights.shape[:2], -1).any(axis=(0, 2)).reshape(-1), np.bool_)


def _by_column(use: WeightUse, intervals: dict[Value, Interval]) -> Bounds:
    """The weights as real numbers, as [output channels, input channels, taps...] of one of the layer's groups.

    Those of several groups stand side by side as [output channels of one group, input channels, taps...].
    """
    weights = intervals[use.weights].low  # exact: links block weights that are computed
    assert use.input_axis is not None
    weights = np.moveaxis(weights, (use.output_axis, use.input_axis), (0, 1))
    if use.group == 1 or use.node.op == "ConvTranspose":  # whose columns are those of all groups as they are
        return weights
    parts = weights.reshape(use.group, -1, *weights.shape[1:])  # group, O/group, I/group, taps...
    return np.concatenate(list(parts), axis=1)


def _is_padded(node: Node) -> bool:
    return "pads" in node.attributes and any(pad > 0 for pad in node.ints("pads"))


def _takes_constants(wiring: _Wiring, use: WeightUse) -> bool:
    """Whether a constant channel other than zero can move into the layer's bias."""
    if use.node.op == "ConvTranspose" or _is_padded(use.node):
        return False  # cells at the border see it through fewer taps
    bias = use.node.optional_input(2)
    if bias is None:
        return use.weights.is_constant
    source = constant_source(bias, wiring.producers)
    if source is None or source is bias:
        return source is bias
    return len(wiring.consumers[source]) == 1 and _bias_steps_are_products(use, source, wiring.producers)


def _bias_steps_are_products(use: WeightUse, bias: Value, producers: dict[Value, Node]) -> bool:
    """Whether an integer bias counts in steps of (input scale) * (weight scale): every constant's share is whole."""
    x, weights = producers.get(use.node.input(0)), constant_source(use.weights, producers)
    if x is None or x.op != "DequantizeLinear" or weights is None:
        return False
    quantizations = [x.input(0).quantization, weights.quantization, bias.quantization]
    if any(quantization is None for quantization in quantizations):
        return False
    x_scale, weight_scale, bias_scale = (np.array(q.scale, np.float64) for q in quantizations if q is not None)
    return bool(np.allclose(x_scale * weight_scale, bias_scale, rtol=1e-6, atol=0))


def _fold_constants(
    graph: Graph, group: ChannelGroup, doomed: NDArray[np.int64], intervals: dict[Value, Interval]
) -> None:
    """Move what the doomed channels, which are constant or not read, add to their readers into their biases."""
    for use in group.consumers:
        x = use.node.input(0)
        columns = group.member(x, use.channel_axis).indices(doomed)
        level = intervals[x].along(use.channel_axis, x.shape[use.channel_axis]).low
        weights = _by_column(use, intervals)
        per_column = weights[:, columns].reshape(weights.shape[0], len(columns), -1).sum(axis=2)  # O/group, columns
        is_read = per_column.any(axis=0)
        columns, per_column = columns[is_read], per_column[:, is_read]
        of_group = columns * use.group // x.shape[use.channel_axis]
        parts = [per_column[:, of_group == g] @ level[columns[of_group == g]] for g in range(use.group)]
        _add_to_bias(graph, use.node, np.concatenate(parts))


def _add_to_bias(graph: Graph, node: Node, addend: Bounds) -> None:
    if not addend.any():
        return
    bias = node.optional_input(2)
    source = None if bias is None else constant_source(bias, graph.producers())
    if source is not None and source is not bias:
        _add_to_integer_bias(source, addend)
    elif bias is None or len(graph.consumers()[bias]) > 1:
        old = np.zeros(len(addend), np.float32) if bias is None else bias.data
        node.inputs[2] = Value.of(graph.unique_name(f"{node.name}_bias"), (old + addend).astype(np.float32))
    else:
        bias.constant = (bias.data + addend).astype(bias.data.dtype)


def _add_to_integer_bias(bias: Value, addend: Bounds) -> None:
    assert bias.quantization is not None
    steps = addend / bias.quantization.scale_array(1).astype(np.float64)
    assert np.all(np.abs(steps - np.rint(steps)) < 0.5 - 1e-3), "every share of a constant is a whole number of steps"
    bias.constant = (bias.data + np.rint(steps)).astype(bias.data.dtype)


def _report_kept(findings: Sequence[_Finding], context: PassContext) -> None:
    """One remark for each group that keeps channels which could go, and why."""
    for finding in findings:
        group, verdict = finding.group, finding.verdict
        count = int(verdict.removable.sum())
        nodes = [use.node for use in group.producers]
        if count and group.blocked is not None:
            context.declined(f"{group.label}: {count} dead channels are kept: {group.blocked}", nodes)
        elif verdict.padded:
            context.declined(
                f"{group.label}: channels that are constant but not zero are kept: {_listed(verdict.padded)} pads them"
                " with zeros",
                nodes,
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
