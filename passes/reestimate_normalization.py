"""Give each channel of a pruned model the mean and the spread back that it had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tinyopt.ir import Graph, Node, Value
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.channel_links import label_of
from tinyopt.passes.linear_layers import scaled_weights
from tinyopt.passes.recovery.channel_statistics import errors_with, measure_channels
from tinyopt.passes.recovery.layers import (
    REFITTED,
    PrunedLayer,
    constants_refusal,
    replace_constants,
    shared_constants,
    visit_layers,
)

_MARK = ".normalized"  # ends the names of weights with other gains, so that a second run knows them
_EXACT = 1e-10  # of the outputs' energy: float32 rounding
_WORTHWHILE = 0.99  # of the error before: less of a gain comes from the choice of samples


@dataclass(frozen=True)
class ReestimateNormalization(Pass):
    """Give each channel of a pruned model the mean and the spread back that it had.

    What: layer after layer, in running order, each output channel gets a gain, which goes into its weights, and a
        shift, which goes into its bias, so that its mean and its variance over the samples are those in the unpruned
        model, or the shift alone: what has the least error on a fifth of the samples that was held out. Layers that
        refit-weights has refitted get a shift at most. It is what estimating batch normalization anew would do where
        that was folded.
    Before -> After:
        conv2: W, b    =>    conv2: g W, g b + t        (g, t: one number for each output channel)
    Exactness: the outputs come closer to those of the model before pruning. Sizes and speed do not change. The remark
        of each layer gives the squared error at its output before and after, as a share of the output's energy, on the
        samples held out.
    Refuses when: nothing was pruned; fewer than 10 samples; the layer shares its weights, gives what it gave before, or
        does not gain on the samples held out.
    Source: Nagel et al., Data-free quantization, arXiv:1906.04721, section 4.2 (means, there after rounding); He et
        al., Channel pruning, arXiv:1707.06168 (targets from the unpruned model).
    """

    name: ClassVar[str] = "reestimate-normalization"
    is_costly: ClassVar[bool] = True

    def run(self, graph: Graph, context: PassContext) -> bool:
        shared = shared_constants(graph)
        with threadpool_limits(1):  # the sums depend on the number of threads
            return visit_layers(
                self.name,
                graph,
                context,
                lambda node: _refusal(node, shared),
                lambda layer: _reestimate(layer, graph, context),
            )


def _refusal(node: Node, shared: set[Value]) -> str | None:
    if reason := constants_refusal(node, shared):
        return reason
    return "it has its mean and spread already" if _MARK in node.input(1).name else None


def _reestimate(layer: PrunedLayer, graph: Graph, context: PassContext) -> bool:
    """Give one layer's channels other gains and shifts; returns whether that was better."""
    node, weights = layer.node, layer.node.input(1)
    ones = np.ones(layer.channels)
    (before,) = errors_with(layer, [(ones, np.zeros_like(ones))], layer.held_out)
    if before <= _EXACT:
        context.declined(f"{label_of(node)}: gives what it gave before pruning", [node])
        return False
    statistics = measure_channels(layer, layer.fitted)
    gains = [ones] if REFITTED in weights.name else [ones, statistics.gain]
    candidates = [(gain, statistics.shift(gain)) for gain in gains]
    errors = errors_with(layer, candidates, layer.held_out)
    after = min(errors)
    if not after < _WORTHWHILE * before:
        context.declined(f"{label_of(node)}: error {before:.2%} at its output: no less with other means", [node])
        return False
    gain, shift = candidates[errors.index(after)]
    bias = node.optional_input(2)
    old_bias = 0.0 if bias is None else bias.data.astype(np.float64)
    replace_constants(graph, layer, scaled_weights(node, weights.data, gain), gain * old_bias + shift, _MARK)
    what = "means" if gain is ones else "means and spreads"
    context.did(f"{label_of(node)}: {what}: squared error at its output {before:.3%} -> {after:.3%}", [node], [node])
    return True
