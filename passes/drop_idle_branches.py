"""Remove residual branches and layers that hardly change what passes them by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Node, Value, merged_origins
from tinyopt.pass_manager import Pass, PassContext, Unpruned
from tinyopt.passes.calibration_samples import chosen_samples, too_few
from tinyopt.passes.channel_links import label_of, matches
from tinyopt.passes.idle_branches import Finding, Shortcut, Vector, find_shortcuts, measure_shortcut, shortcuts_at
from tinyopt.passes.linear_layers import LAYERS_WITH_BIAS, RESIDUAL
from tinyopt.passes.quantization.walk import Walk
from tinyopt.passes.simplify_arithmetic import composed_clamp

IDLE_SHARE = 1e-4  # of the variance: 40 dB below, about what rounding to int8 adds


@dataclass(frozen=True)
class DropIdleBranches(Pass):
    """Remove residual branches and layers that hardly change what passes them by.

    What: for each sum, the layers that only one operand needs are left out where that operand varies by no more than
        `share` of what the sum varies, clamp included; for each layer whose output has its input's shape, the layer
        where it passes its input on to the same bound. Their mean, by channel, moves into the bias of the layer before,
        or is added where there is none to take it. Means come from the calibration samples, the loss is measured on a
        fifth of them that was held out.
    Before -> After: with share=1e-4
        x -> conv1 -> conv2 -> + <- x  ->  x, where E |conv2 - mean conv2|^2 <= 1e-4 Var(x + conv2)
    Exactness: not exact: each removal loses at most `share` of the variance at its place, the remark says how much.
    Refuses when: share is 0 (the default); the model is quantized already; there are fewer than 10 calibration samples;
        layers or channels were removed before; a layer that would go is named in `keep`; the graph's output would be
        another tensor.
    Source: the residual networks of He et al., arXiv:1603.05027, in which a branch may learn to be zero; bypassing as
        in Veit et al., arXiv:1605.06431.
    """

    name: ClassVar[str] = "drop-idle-branches"
    is_costly: ClassVar[bool] = True

    share: float = 0.0
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, context: PassContext) -> bool:
        if not 0 <= self.share < 1:
            raise UsageError(f"drop-idle-branches.share is a share of the variance, below 1, not {self.share:g}")
        if reason := self._refusal(graph, context):
            context.declined(reason)
            return False
        findings = _measure(graph, context, self.share)
        idle = [finding for finding in findings if finding.share <= self.share]
        before = graph.copy()
        is_changed = False
        for finding in sorted(idle, key=lambda found: -found.shortcut.macs):  # what holds others goes before them
            is_changed |= self._drop(graph, finding, context)
        if is_changed:
            context.unpruned = Unpruned(before, {})
        if not idle:
            context.note(_least(findings))
        return is_changed

    def _refusal(self, graph: Graph, context: PassContext) -> str | None:
        if self.share == 0:
            return "share is 0: no branch is dropped; share=0.0001 drops those that add less than that of the variance"
        if any(node.op == "QuantizeLinear" for node in graph.nodes):
            return "the model is quantized already: drop branches of the float model"
        if context.unpruned is not None:
            return "layers or channels were removed before"
        return too_few(context.samples)

    def _drop(self, graph: Graph, finding: Finding, context: PassContext) -> bool:
        """Take a shortcut where it is still there; returns whether it was taken."""
        here = shortcuts_at(graph, finding.shortcut.node) if finding.shortcut.node in graph.nodes else []
        shortcut = next((found for found in here if found.source == finding.shortcut.source), None)
        if shortcut is None:
            return False  # it went with another branch
        finding = replace(finding, shortcut=shortcut)
        where = f"{label_of(shortcut.node)}: {_described(finding)}"
        if reason := _kept_by_name(shortcut, self.keep) or _output_refusal(graph, finding):
            context.declined(f"{where}: kept: {reason}", [shortcut.node])
            return False
        _take(graph, finding)
        context.did(f"{where}: removed, with {shortcut.macs:,} multiply-accumulates", shortcut.freed)
        return True


def _measure(graph: Graph, context: PassContext, share: float) -> list[Finding]:
    samples = chosen_samples(graph, context.samples)
    walk, shortcuts = Walk(graph, samples), find_shortcuts(graph)
    findings: list[Finding] = []
    for done, shortcut in enumerate(shortcuts):
        context.on_progress(DropIdleBranches.name, done, len(shortcuts))
        walk.run_before(shortcut.node)
        findings.append(measure_shortcut(shortcut, walk, len(samples), share))
    context.on_progress(DropIdleBranches.name, len(shortcuts), len(shortcuts))
    return findings


def _least(findings: Sequence[Finding]) -> str:
    if not findings:
        return "no sum and no layer here could be passed by"
    least = min(findings, key=lambda found: found.share)
    ways = f"each of {len(findings)} ways past some layers would lose something"
    return f"{ways}: the least {least.share:.2g} of the variance at {label_of(least.shortcut.node)}"


def _kept_by_name(shortcut: Shortcut, patterns: Sequence[str]) -> str | None:
    for layer in shortcut.layers:
        if any(matches(layer, pattern) for pattern in patterns):
            return f"'{label_of(layer)}' is named in keep"
    return None


def _output_refusal(graph: Graph, finding: Finding) -> str | None:
    """Why nothing can stand in the node's place: where nothing is left to do, the output would be another tensor."""
    shortcut = finding.shortcut
    is_bare = finding.shift is None and shortcut.limits == (-math.inf, math.inf)
    if is_bare and shortcut.source is not None and graph.is_output(shortcut.node.output):
        return f"it gives the graph's output '{shortcut.node.output.name}'"
    return None


def _described(finding: Finding) -> str:
    """What the layers that would go do, measured."""
    if not finding.shortcut.is_sum:
        return f"passes its input on but for {finding.share:.2g} of the variance"
    names = ", ".join(label_of(layer) for layer in finding.shortcut.layers)
    return f"the branch through {names} adds {finding.share:.2g} of the variance"


def _take(graph: Graph, finding: Finding) -> None:
    """Take a shortcut: the nodes that it frees go, what is left of the sum's node moves into the layer before."""
    node, source = finding.shortcut.node, finding.shortcut.source
    if source is None:
        node.inputs[RESIDUAL] = None
        if finding.shift is not None:
            _add_to_bias(graph, node, finding.shift)
        graph.remove_unused()
        return
    left, output = node.input(source), node.output
    end = _end(graph, finding, left)
    graph.replace_node(node, [end])
    graph.remove_unused()
    if _merge(graph, end, finding):
        graph.remove([end])
        graph.replace_uses(output, left)


def _end(graph: Graph, finding: Finding, left: Value) -> Node:
    """clamp(left + shift) as a node of its own."""
    node, (low, high) = finding.shortcut.node, finding.shortcut.limits
    name = graph.unique_name(f"{node.name}.shortcut")
    if finding.shift is not None:
        shape = (1,) * (left.type.rank - 1) + (-1,)
        shift = Value.of(graph.unique_name(f"{node.name}.mean"), finding.shift.astype(np.float32).reshape(shape))
        return Node("Add", name, [left, shift], [node.output], {"clamp_low": low, "clamp_high": high}, node.origins)
    if (low, high) == (0.0, math.inf):
        return Node("Relu", name, [left], [node.output], {}, node.origins)
    return Node("Clip", name, [left], [node.output], {"low": low, "high": high}, node.origins)


def _merge(graph: Graph, end: Node, finding: Finding) -> bool:
    """Let the layer before do what `end` does; whether it can.

    It takes the name of the node that went: what it gives from now on is to be compared with what that gave.
    """
    left, limits = end.input(0), finding.shortcut.limits
    producer = graph.producers().get(left)
    inner = _clamp(producer)
    if graph.is_output(end.output):
        return False
    if finding.shift is None and composed_clamp(inner, limits) == inner:
        return True
    is_own = graph.consumers()[left] == [end] and not graph.is_output(left)
    if producer is None or producer.op not in LAYERS_WITH_BIAS or not is_own:
        return False
    if finding.shift is not None:
        bias = producer.optional_input(2)
        if inner != (-math.inf, math.inf) or not (bias is None or bias.is_constant):
            return False
        _add_to_bias(graph, producer, finding.shift)
    producer.attributes["clamp_low"], producer.attributes["clamp_high"] = composed_clamp(inner, limits)
    producer.name, producer.origins = finding.shortcut.node.name, merged_origins(producer, end)
    return True


def _clamp(node: Node | None) -> tuple[float, float]:
    if node is None or "clamp_low" not in node.attributes:
        return (0.0, math.inf) if node is not None and node.op == "Relu" else (-math.inf, math.inf)
    return node.float("clamp_low"), node.float("clamp_high")


def _add_to_bias(graph: Graph, node: Node, shift: Vector) -> None:
    """Add a vector to a layer's bias; the constant may have other readers."""
    bias = node.optional_input(2)
    old = np.zeros(len(shift)) if bias is None else bias.data.astype(np.float64)
    name = graph.unique_name(f"{node.name}.bias")
    node.inputs[2] = Value.of(name, (old + shift).astype(np.float32))
