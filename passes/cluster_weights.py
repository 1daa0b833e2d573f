"""Let many weights of a layer share few values, so that flash holds short indices and a codebook."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tinyopt.errors import UsageError
from tinyopt.ir import Graph, Node
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.channel_links import label_of, matches
from tinyopt.passes.clustering.automatic import Automatic
from tinyopt.passes.clustering.codebooks import packed_bytes
from tinyopt.passes.clustering.fitting import Fit, Problem, best_fit, nearest_fit
from tinyopt.passes.clustering.layers import Layer, layers_of, refusal
from tinyopt.passes.clustering.walks import Walks, problem_of
from tinyopt.passes.quantization.moments import decibels

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
        k-means. layers: numbers of values for some layers, 'fc*=64'. is_automatic: 64 to 4 values or int8 for each
        layer, by how far it alone, clustered so, moves the model's outputs for each byte that it saves, until the
        library takes at most max_flash bytes. Kernels look weights up as they run where that saves most, as long as the
        model takes at most `cost` times the instructions of int8 weights; the report says which layers do.
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
    is_for_target: ClassVar[bool] = True

    clusters: int = 0
    is_automatic: bool = False
    max_flash: int = 0  # bytes of the library, for is_automatic
    layers: tuple[str, ...] = ()
    seed: int = 0
    cost: float = 1.25

    def run(self, graph: Graph, context: PassContext) -> bool:
        self._check_options()
        if self.clusters == 0 and not self.layers and not self.is_automatic:
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
        if self.is_automatic and self.max_flash <= 0:
            raise UsageError("--cluster auto makes the library fit its flash: give --max-flash, such as 64K")
        if self.is_automatic and self.clusters:
            raise UsageError("cluster-weights.is_automatic finds the numbers of values: leave out clusters")

    def _cluster_all(self, graph: Graph, context: PassContext) -> bool:
        wanted = self._wanted(graph, context)
        if wanted is None:
            return False
        before = graph.copy()
        walks = Walks.over(graph, before, context)
        found, done = list(layers_of(graph)), set[int]()
        is_changed = False
        for position, (use, layer) in enumerate(found):
            context.on_progress(self.name, position, len(found))
            node, clusters = use.node, wanted[use.node]
            if layer is None:
                context.declined(f"{label_of(node)}: not clustered: its weights are computed", [node])
            elif id(layer.weights) in done:
                context.note(f"{label_of(node)}: shares its weights with a layer before it", [node])
            elif reason := refusal(layer, clusters):
                context.declined(f"{label_of(node)}: not clustered: {reason}", [node])
            else:
                done.add(id(layer.weights))
                self._cluster(layer, clusters, walks, context)
                is_changed = True
        context.on_progress(self.name, len(found), len(found))
        if is_changed:
            context.unclustered = before
        return is_changed

    def _wanted(self, graph: Graph, context: PassContext) -> dict[Node, int] | None:
        """For each layer its number of values; None, with a remark, where none can be found."""
        pinned = pinned_clusters(graph, self.layers)
        wanted = dict.fromkeys((use.node for use, _ in layers_of(graph)), self.clusters) | pinned
        if not self.is_automatic:
            return wanted
        layers = {layer.weights: layer for _, layer in layers_of(graph) if layer is not None}
        search = Automatic(graph, list(layers.values()), pinned, self.max_flash, self.cost, self.seed)
        found = search.clusters(context, self.name)
        return None if found is None else wanted | found

    def _cluster(self, layer: Layer, clusters: int, walks: Walks | None, context: PassContext) -> None:
        node, elements = layer.node, layer.weights.type.elements
        wanted, scale = layer.wanted, layer.scale
        reason = "no samples to fit them to" if walks is None else layer.reason_to_take_nearest()
        problem = None
        if walks is not None and reason is None:
            problem = problem_of(layer, *walks.inputs(node), clusters, self.seed)
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


def _gain(problem: Problem, plain: Fit, fit: Fit) -> str:
    signal = float(problem.judge.signal(problem.wanted).sum())
    before, after = (decibels(signal, problem.error(each)) for each in (plain, fit))
    return f"its sums' signal to noise {after} dB, with the nearest values {before}"


def pinned_clusters(graph: Graph, patterns: Sequence[str]) -> dict[Node, int]:
    """The numbers of values of the layers that patterns name, the last one's where several do.

    Raises UsageError for a pattern that names no layer or has no number.
    """
    found: dict[Node, int] = {}
    layers = [use.node for use, _ in layers_of(graph)]
    for text in patterns:
        pattern, _, number = text.rpartition("=")
        if not pattern or not number.isdecimal() or int(number) == 1 or int(number) > _MOST_CLUSTERS:
            raise UsageError(f"'{text}' is no PATTERN=N with 0 or 2 to {_MOST_CLUSTERS} values, such as 'fc*=64'")
        named = [node for node in layers if matches(node, pattern)]
        if not named:
            raise UsageError(f"'{text}' names no layer; there are: {', '.join(node.name for node in layers)}")
        found.update(dict.fromkeys(named, int(number)))
    return found
