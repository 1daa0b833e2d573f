"""Let many weights of a layer share few values, so that flash holds short indices and a codebook."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tinyopt.errors import UsageError
from tinyopt.ir import Array, Graph, Node
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.channel_links import label_of
from tinyopt.passes.clustering.codebooks import packed_bytes
from tinyopt.passes.clustering.fitting import Fit, Problem, best_fit, nearest_fit
from tinyopt.passes.clustering.layers import Layer, layers_of
from tinyopt.passes.quantization.layers import FEWEST_SAMPLES, split
from tinyopt.passes.quantization.moments import measure_moments
from tinyopt.passes.quantization.walk import Walk, affordable_samples
from tinyopt.quantization_error import evenly_spaced

_FEWEST_WEIGHTS_PER_CLUSTER = 4
_MOST_CLUSTERS = 256


@dataclass(frozen=True)
class ClusterWeights(Pass):
    """Let many weights of a layer share few values, so that flash holds short indices and a codebook.

    What: each Conv and Dense layer gets a codebook of `clusters` int8 values and one scale for each output channel; its
        float weights become exactly codebook[index] * scale, so that quantization takes these integers as they are and
        nothing is rounded twice. With calibration samples the values are those with which the layer's outputs err
        least, given what it reads once the layers before it are clustered: k-means weighted by the inputs' second
        moments, then one weight after the other, the error of each being spread over those to come; codebook, scales
        and indices are fitted in turns, and the bias takes over the mean that is left. Of several strengths a layer
        keeps the one with the least error on a fifth of the samples that was held out. Without samples it is plain
        k-means. layers: numbers of values for some layers, 'fc*=64'. A kernel looks weights up as it runs only where
        that takes at most `cost` times the instructions of int8 weights; the report says which layers do.
    Before -> After: with clusters=16
        w float32[64, 64] (int8: 4,096 bytes)  ->  4-bit indices, 16 int8 values: 2,064 bytes
    Exactness: not exact: the remark of each layer says how its outputs' signal to noise fares with plain k-means and as
        fitted, on the samples held out; measure the accuracy afterwards. Channels without weights stay empty.
    Refuses when: clusters is 0 (the default); the indices and the codebook would not be smaller than int8 weights; a
        layer has fewer than 4 weights for each cluster; integer weights have zero points or scales along another axis;
        a ConvTranspose (its scales do not lie along the weights' first axis). Weights are taken to the nearest value
        each by itself where there are fewer than 10 samples, where a layer shares its weights or its bias, has more
        than 2304 inputs or one that hardly varies.
    Source: Han et al., Deep Compression, arXiv:1510.00149, section 3; Frantar et al., GPTQ, arXiv:2210.17323; Li et
        al., GPTAQ, arXiv:2504.02692; all without retraining.
    """

    name: ClassVar[str] = "cluster-weights"
    is_costly: ClassVar[bool] = True

    clusters: int = 0
    layers: tuple[str, ...] = ()
    seed: int = 0
    cost: float = 1.25

    def run(self, graph: Graph, context: PassContext) -> bool:
        self._check_options()
        if self.clusters == 0 and not self.layers:
            context.declined("clusters is 0: weights are not clustered; clusters=32 packs each into 5 bits")
            return False
        # scikit-learn first: a limit holds for the thread pools that are there. The problems are small, and threads
        # would only wait for one another.
        importlib.import_module("sklearn.cluster")
        with threadpool_limits(1):
            return self._cluster_all(graph, context)

    def _check_options(self) -> None:
        if self.clusters != 0 and not 2 <= self.clusters <= _MOST_CLUSTERS:
            raise UsageError(f"cluster-weights.clusters is a number of values between 2 and 256, not {self.clusters}")
        if not self.cost >= 1:
            raise UsageError(f"cluster-weights.cost is a factor of at least 1, not {self.cost:g}")

    def _cluster_all(self, graph: Graph, context: PassContext) -> bool:
        wanted = wanted_clusters(graph, self.clusters, self.layers)
        before = graph.copy()
        walks = _Walks.over(graph, before, context)
        found, done = list(layers_of(graph)), set[int]()
        is_changed = False
        for position, (use, layer) in enumerate(found):
            context.on_progress(self.name, position, len(found))
            node, clusters = use.node, wanted[use.node]
            if layer is None:
                context.declined(f"{label_of(node)}: not clustered: its weights are computed", [node])
            elif id(layer.weights) in done:
                context.note(f"{label_of(node)}: shares its weights with a layer before it", [node])
            elif reason := _refusal(layer, clusters):
                context.declined(f"{label_of(node)}: not clustered: {reason}", [node])
            else:
                done.add(id(layer.weights))
                self._cluster(layer, clusters, walks, context)
                is_changed = True
        context.on_progress(self.name, len(found), len(found))
        if is_changed:
            context.unclustered = before
        return is_changed

    def _cluster(self, layer: Layer, clusters: int, walks: _Walks | None, context: PassContext) -> None:
        node, elements = layer.node, layer.weights.type.elements
        wanted, scale = layer.wanted, layer.scale
        reason = "no samples to fit them to" if walks is None else layer.reason_to_take_nearest()
        problem = None
        if walks is not None and reason is None:
            problem = _problem(layer, *walks.inputs(node), clusters, self.seed)
            reason = None if problem is not None else "its input hardly varies"
        fit = nearest_fit(wanted, scale, clusters, self.seed) if problem is None else best_fit(problem)
        if problem is None:
            error = float(np.mean((wanted - fit.weights) ** 2))
            gain = f"nearest values, for {reason}: mean squared error {error:.3g}"
        else:
            gain = _gain(problem, nearest_fit(wanted, scale, clusters, self.seed), fit)
        layer.store(fit, self.cost)
        if problem is not None and layer.bias is not None:
            shift = problem.moments.bias_shift(wanted, layer.wanted)
            layer.bias.constant = (layer.bias.data + shift).astype(np.float32)
        values = len(fit.codebook)
        context.did(
            f"{label_of(node)}: {elements:,} weights share {values} values: {elements:,} bytes as int8 ->"
            f" {packed_bytes(elements, values):,} bytes; {gain}",
            [node],
            [node],
        )


@dataclass(frozen=True, eq=False)
class _Walks:
    """What the layers read in the graph before clustering, and in the graph as it stands."""

    exact: Walk
    clustered: Walk
    twins: dict[str, Node]

    @classmethod
    def over(cls, graph: Graph, before: Graph, context: PassContext) -> _Walks | None:
        """None where there are too few samples."""
        if len(context.samples) < FEWEST_SAMPLES:
            return None
        count = max(affordable_samples(graph), FEWEST_SAMPLES)
        samples = [context.samples[i] for i in evenly_spaced(context.samples, count)]
        return cls(Walk(before, samples), Walk(graph, samples), {node.name: node for node in before.nodes})

    def inputs(self, node: Node) -> tuple[Sequence[Array], Sequence[Array]]:
        """What a layer reads before clustering and as things stand, for each sample."""
        twin = self.twins[node.name]
        self.exact.run_before(twin)
        self.clustered.run_before(node)
        return self.exact.arrays(twin.input(0)), self.clustered.arrays(node.input(0))


def _problem(layer: Layer, x: Sequence[Array], z: Sequence[Array], clusters: int, seed: int) -> Problem | None:
    """None where the layer's input hardly varies."""
    used, held_out = split(len(x))
    moments = measure_moments(layer.node, x, z, used, with_exact=False)
    if not moments.varies:
        return None
    judge = measure_moments(layer.node, x, z, held_out, with_exact=True)
    return Problem(layer.wanted, moments, judge, layer.scale, clusters, seed, layer.is_integer)


def _gain(problem: Problem, plain: Fit, fit: Fit) -> str:
    signal = float(problem.judge.signal(problem.wanted).sum())
    before, after = (_decibels(signal, problem.error(each)) for each in (plain, fit))
    return f"its sums' signal to noise {after} dB, with the nearest values {before}"


def _decibels(signal: float, noise: float) -> str:
    return "inf" if noise <= 0 or signal <= 0 else f"{10 * math.log10(signal / noise):.1f}"


def wanted_clusters(graph: Graph, clusters: int, patterns: Sequence[str]) -> dict[Node, int]:
    """For each node how many values it shall have: of the last pattern that names it, else `clusters`.

    Raises UsageError for a pattern that names no layer or has no number.
    """
    wanted = dict.fromkeys(graph.nodes, clusters)
    layers = [use.node for use, _ in layers_of(graph)]
    for text in patterns:
        pattern, _, number = text.rpartition("=")
        if not pattern or not number.isdecimal() or int(number) == 1 or int(number) > _MOST_CLUSTERS:
            raise UsageError(f"'{text}' is no PATTERN=N with 0 or 2 to {_MOST_CLUSTERS} values, such as 'fc*=64'")
        named = [node for node in layers if any(fnmatchcase(name, pattern) for name in (node.name, *node.origins))]
        if not named:
            raise UsageError(f"'{text}' names no layer; there are: {', '.join(node.name for node in layers)}")
        wanted.update(dict.fromkeys(named, int(number)))
    return wanted


def _refusal(layer: Layer, clusters: int) -> str | None:
    weights, use = layer.weights, layer.use
    elements = weights.type.elements
    if clusters == 0:
        return "it shall have no clusters"
    if weights.clusters is not None:
        return f"it has {len(weights.clusters.codebook)} clusters already"
    if use.output_axis != 0:
        return f"{use.node.op} has its scales along axis {use.output_axis} of its weights"
    if weights.dtype not in ("float32", "int8"):
        return f"its weights are {weights.dtype}"
    if elements < _FEWEST_WEIGHTS_PER_CLUSTER * clusters:
        return f"{elements} weights are too few for {clusters} clusters"
    if packed_bytes(elements, clusters) >= elements:
        return f"{packed_bytes(elements, clusters)} bytes of indices and codebook, {elements} as int8"
    if layer.is_integer:
        return _integer_refusal(layer)
    return None if np.all(np.isfinite(weights.data)) else "its weights hold NaN or infinite numbers"


def _integer_refusal(layer: Layer) -> str | None:
    quantization = layer.weights.quantization
    if quantization is None or not quantization.is_symmetric:
        return "its integer weights have a zero point"
    if quantization.axis not in (None, 0):
        return f"its integer weights have their scales along axis {quantization.axis}"
    return None
