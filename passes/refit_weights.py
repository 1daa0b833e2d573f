"""Refit the weights of a pruned model to the outputs that its layers had."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tinyopt.ir import Graph, Node, Value
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.channel_links import label_of
from tinyopt.passes.quantization.moments import LARGEST_INPUTS, has_rows
from tinyopt.passes.recovery.layers import (
    REFITTED,
    PrunedLayer,
    constants_refusal,
    replace_constants,
    shared_constants,
    visit_layers,
)
from tinyopt.passes.recovery.regression import Regression, Sums, Weights, weights_of

_RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # in units of the operands' mean variance
_STEPS = 3  # through the clamp; the first brings most
_EXACT = 1e-10  # of the outputs' energy: float32 rounding
_WORTHWHILE = 0.999  # of the error before: less of a gain comes from the choice of samples


@dataclass(frozen=True)
class RefitWeights(Pass):
    """Refit the weights of a pruned model to the outputs that its layers had.

    What: layer after layer, in running order, the weights and the bias are moved to where the layer gives, for what it
        reads in the pruned model as it stands so far, the outputs of the unpruned model: by least squares, with a ridge
        that holds them to the present weights, and then again with the targets set free that the clamp hides. Where a
        residual is added, the target makes up for the residual's error too. Of several ridges a layer takes the one
        with the least error on a fifth of the samples that was held out, and is then fitted to all of them.
    Before -> After:
        conv2: W, b    =>    conv2: V, c with the least E |clamp(V z + c + s) - clamp(W x + b + r)|^2
        (x, r: input and residual in the unpruned model, of all channels; z, s: in the pruned one)
    Exactness: the outputs come closer to those of the model before pruning; exact where each removed channel is a
        linear combination of those that stay. Sizes and speed do not change. The remark of each layer gives the squared
        error at its output before and after, as a share of the output's energy, on the samples held out (before these
        had their part in it).
    Refuses when: nothing was pruned; fewer than 10 samples; the layer is not a Conv or Dense, has more than 2304
        inputs, shares its weights, gives what it gave before, or does not gain on the samples held out.
    Source: He et al., Channel pruning, arXiv:1707.06168, section 3.1; Zhang et al., arXiv:1505.06798, section 3.
    """

    name: ClassVar[str] = "refit-weights"
    is_costly: ClassVar[bool] = True

    def run(self, graph: Graph, context: PassContext) -> bool:
        shared = shared_constants(graph)
        # One product follows the other: threads would mostly wait for one another, and the sums depend on their number.
        with threadpool_limits(1):
            return visit_layers(
                self.name,
                graph,
                context,
                lambda node: _refusal(node, shared),
                lambda layer: _refit(layer, graph, context),
            )


def _refusal(node: Node, shared: set[Value]) -> str | None:
    if reason := constants_refusal(node, shared):
        return reason
    if not has_rows(node):
        return f"the weights of {node.op} are not refitted"
    if REFITTED in node.input(1).name:
        return "it is refitted already"
    inputs = math.prod(node.input(1).shape[1:])
    return f"{inputs} inputs are too many" if inputs > LARGEST_INPUTS else None


def _refit(layer: PrunedLayer, graph: Graph, context: PassContext) -> bool:
    """Refit one layer; returns whether that was better."""
    node = layer.node
    regression, present = Regression(layer), weights_of(node)
    (before,) = regression.errors([present], layer.held_out)
    if before <= _EXACT:
        context.declined(f"{label_of(node)}: gives what it gave before pruning", [node])
        return False
    sums = regression.sums(layer.fitted)
    found = _fitted(layer, regression, present, sums)
    if found is None or not found.error < _WORTHWHILE * before:
        context.declined(f"{label_of(node)}: error {before:.2%} at its output: no less with refitted weights", [node])
        return False
    weights = _fitted_to_all(layer, regression, present, sums, found)
    replace_constants(graph, layer, weights.rows, weights.bias, REFITTED)
    gain = f"squared error at its output {before:.3%} -> {found.error:.3%} of the energy, ridge {found.ridge:g}"
    context.did(f"{label_of(node)}: {gain}", [node], [node])
    return True


@dataclass(frozen=True, eq=False)
class _Fit:
    weights: Weights
    error: float  # on the samples held out
    ridge: float
    is_through_clamp: bool


def _fitted(layer: PrunedLayer, regression: Regression, present: Weights, sums: Sums) -> _Fit | None:
    """The best weights on the samples held out; None where no ridge gives any."""
    solutions: dict[float, Weights] = {}
    for ridge in _RIDGES:
        try:
            solutions[ridge] = regression.solve(sums, present, ridge)
        except np.linalg.LinAlgError:
            continue  # too weak for these moments
    if not solutions:
        return None
    errors = regression.errors(list(solutions.values()), layer.held_out)
    error, ridge = min(zip(errors, solutions, strict=True))
    best = _Fit(solutions[ridge], error, ridge, is_through_clamp=False)
    weights = best.weights
    for _ in range(_STEPS if layer.is_clamped else 0):
        weights = regression.solve(regression.aimed(sums, layer.fitted, weights), present, ridge)
        (error,) = regression.errors([weights], layer.held_out)
        if error < best.error:
            best = _Fit(weights, error, ridge, is_through_clamp=True)
    return best


def _fitted_to_all(layer: PrunedLayer, regression: Regression, present: Weights, sums: Sums, best: _Fit) -> Weights:
    """Once more with the ridge that did best, and with the samples that were held out to choose it."""
    near = best.weights if best.is_through_clamp else None
    known = sums if near is None else regression.aimed(sums, layer.fitted, near)
    return regression.solve(known + regression.sums(layer.held_out, near), present, best.ridge)
