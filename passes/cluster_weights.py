"""Let many weights of a layer share few values, so that flash holds short indices and a codebook."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tinyopt.errors import UsageError
from tinyopt.ir import Array, Clusters, Graph, Node, Value
from tinyopt.pass_manager import Pass, PassContext
from tinyopt.passes.channel_links import WeightUse, constant_source, label_of, weight_use

_LEVELS = 127  # the largest int8 weight
_RESTARTS = 8  # of k-means, from different seeds; the best is taken
_FEWEST_WEIGHTS_PER_CLUSTER = 4


@dataclass(frozen=True)
class ClusterWeights(Pass):
    """Let many weights of a layer share few values, so that flash holds short indices and a codebook.

    What: the weights of each Conv and Dense layer, divided by the largest magnitude of their output channel / 127, are
        grouped by k-means into `clusters` values, which are rounded to int8: one codebook for a layer, one scale for an
        output channel. The float weights become exactly codebook[index] * scale, so that quantization takes these
        integers as they are and nothing is rounded twice. Zero stays exactly zero where a layer has zero weights:
        pruned rows and padding stay empty. Where a target's kernels look weights up as they run, a layer keeps its
        indices only if that takes at most `cost` times the instructions of int8 weights; else it is compiled with the
        integers, and the report says so.
    Before -> After: with clusters=16
        w float32[64, 64] (int8: 4,096 bytes)  ->  4-bit indices, 16 int8 values: 2,064 bytes
    Exactness: not exact: the remark of each layer gives the mean squared error; measure the accuracy afterwards.
    Refuses when: clusters is 0 (the default); the indices and the codebook would not be smaller than int8 weights; a
        layer has fewer than 4 weights for each cluster; integer weights have zero points or scales along another axis;
        a ConvTranspose (its scales do not lie along the weights' first axis).
    Source: Han et al., Deep Compression, arXiv:1510.00149, section 3; without retraining.
    """

    name: ClassVar[str] = "cluster-weights"

    clusters: int = 0
    seed: int = 0
    cost: float = 1.25

    def run(self, graph: Graph, context: PassContext) -> bool:
        if self.clusters == 0:
            context.declined("clusters is 0: weights are not clustered; clusters=32 packs each into 5 bits")
            return False
        if not 2 <= self.clusters <= 256:
            raise UsageError(f"cluster-weights.clusters is a number of values between 2 and 256, not {self.clusters}")
        if not self.cost >= 1:
            raise UsageError(f"cluster-weights.cost is a factor of at least 1, not {self.cost:g}")
        # Loaded here, for it takes a second that most compilations need not wait for, and scikit-learn first: a limit
        # holds for the thread pools that are there. The problems are tiny, and threads would only wait for one another.
        importlib.import_module("sklearn.cluster")
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1):
            return self._cluster_all(graph, context)

    def _cluster_all(self, graph: Graph, context: PassContext) -> bool:
        producers = graph.producers()
        uses = [use for node in graph.nodes if (use := weight_use(node)) is not None]
        done: set[int] = set()
        is_changed = False
        for position, use in enumerate(uses):
            context.on_progress(self.name, position, len(uses))
            constant = constant_source(use.weights, producers)
            if constant is None:
                context.declined(f"{label_of(use.node)}: not clustered: its weights are computed", [use.node])
            elif id(constant) in done:
                context.note(f"{label_of(use.node)}: shares its weights with a layer before it", [use.node])
            elif reason := _refusal(use, constant, self.clusters):
                context.declined(f"{label_of(use.node)}: not clustered: {reason}", [use.node])
            else:
                self._cluster(use.node, constant, context)
                is_changed = True
            if constant is not None:
                done.add(id(constant))
        return is_changed

    def _cluster(self, node: Node, weights: Value, context: PassContext) -> None:
        levels, scale = _levels(weights)
        codebook = find_codebook(levels, self.clusters, self.seed)
        indices = nearest(levels, codebook)
        weights.clusters = Clusters(indices, codebook, scale, self.cost)
        rounded = weights.clusters.integers()
        per_row = scale.reshape(-1, *[1] * (levels.ndim - 1))  # O, 1, ...
        before = weights.data.astype(np.float64) * (per_row if weights.dtype == "int8" else 1)
        weights.constant = (
            rounded if weights.dtype == "int8" else (rounded.astype(np.float32) * per_row).astype(np.float32)
        )
        error = float(np.mean((before - rounded * per_row.astype(np.float64)) ** 2))
        old_bytes, new_bytes = weights.type.elements, packed_bytes(weights.type.elements, len(codebook))
        context.did(
            f"{label_of(node)}: {old_bytes:,} weights share {len(codebook)} values: {old_bytes:,} bytes as int8 ->"
            f" {new_bytes:,} bytes, mean squared error {error:.3g}",
            [node],
            [node],
        )


def packed_bytes(elements: int, clusters: int) -> int:
    """Bytes of packed indices and an int8 codebook."""
    return math.ceil(elements * max(1, math.ceil(math.log2(clusters))) / 8) + clusters


def _refusal(use: WeightUse, weights: Value, clusters: int) -> str | None:
    elements = weights.type.elements
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
    if weights.dtype == "int8":
        return _integer_refusal(weights)
    return None if np.all(np.isfinite(weights.data)) else "its weights hold NaN or infinite numbers"


def _integer_refusal(weights: Value) -> str | None:
    quantization = weights.quantization
    if quantization is None or not quantization.is_symmetric:
        return "its integer weights have a zero point"
    if quantization.axis not in (None, 0):
        return f"its integer weights have their scales along axis {quantization.axis}"
    return None


def _levels(weights: Value) -> tuple[Array, NDArray[np.float32]]:
    """The weights in steps of their output channel's scale, within [-127, 127] for float ones, and the scales."""
    rows = weights.shape[0]
    if weights.dtype == "int8":
        assert weights.quantization is not None
        scales = np.array(weights.quantization.scale, np.float32)
        return weights.data.astype(np.float64), np.ascontiguousarray(np.broadcast_to(scales, (rows,)))
    largest = np.abs(weights.data).reshape(rows, -1).max(axis=1)
    # Rows of zeros need a scale as well: their biases count in steps of it.
    stand_in = largest[largest > 0].min() if largest.any() else np.float32(1)
    scales = (np.where(largest > 0, largest, stand_in) / np.float32(_LEVELS)).astype(np.float32)
    levels = weights.data.astype(np.float64) / scales.reshape(-1, *[1] * (weights.type.rank - 1))
    return np.clip(levels, -_LEVELS, _LEVELS), scales


def find_codebook(levels: Array, clusters: int, seed: int) -> NDArray[np.int8]:
    """At most `clusters` int8 values, ascending, that lie near `levels`. Zero is one of them where some level is zero.

    k-means sees each rounded level once, weighted by how often it occurs: the values are rounded to int8 anyway, and a
    layer of any size is then clustered in milliseconds.
    """
    points, counts = np.unique(np.rint(levels).astype(np.int64), return_counts=True)
    has_zero = bool((levels == 0).any())
    if has_zero:
        counts, points = counts[points != 0], points[points != 0]
    wanted = clusters - has_zero
    centres = points if len(points) <= wanted else np.rint(_centres(points, counts, wanted, seed))
    return np.unique(np.concatenate([centres, [0]] if has_zero else [centres])).astype(np.int8)


def _centres(points: Array, counts: Array, clusters: int, seed: int) -> Array:
    from sklearn.cluster import KMeans

    means = KMeans(
        clusters,
        n_init=_RESTARTS,  # pyright: ignore[reportArgumentType] (the default there is a string)
        random_state=seed,
    )
    means.fit(points.astype(np.float64)[:, None], sample_weight=counts.astype(np.float64))
    return np.asarray(means.cluster_centers_[:, 0])


def nearest(levels: Array, codebook: NDArray[np.int8]) -> NDArray[np.uint8]:
    """For each level, the index of the nearest value of an ascending codebook; of two as near, the lower."""
    middles = (codebook[1:].astype(np.float64) + codebook[:-1]) / 2
    return np.searchsorted(middles, levels, side="left").astype(np.uint8)
