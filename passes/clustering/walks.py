"""What layers read before and after clustering, and the problem that each of them poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinyopt.ir import Array, Graph, Node
from tinyopt.pass_manager import PassContext
from tinyopt.passes.calibration_samples import chosen_samples, split, too_few
from tinyopt.passes.clustering.fitting import Problem
from tinyopt.passes.clustering.layers import Layer
from tinyopt.passes.quantization.moments import measure_moments
from tinyopt.passes.quantization.walk import Walk


@dataclass(frozen=True, eq=False)
class Walks:
    """What the layers read in the graph before clustering, and in the graph as it stands."""

    exact: Walk
    clustered: Walk
    twins: dict[str, Node]

    @classmethod
    def over(cls, graph: Graph, before: Graph, context: PassContext) -> Walks | None:
        """None where there are too few samples."""
        if too_few(context.samples):
            return None
        samples = chosen_samples(graph, context.samples)
        return cls(Walk(before, samples), Walk(graph, samples), {node.name: node for node in before.nodes})

    def inputs(self, node: Node) -> tuple[Sequence[Array], Sequence[Array]]:
        """What a layer reads before clustering and as things stand, for each sample."""
        twin = self.twins[node.name]
        self.exact.run_before(twin)
        self.clustered.run_before(node)
        return self.exact.arrays(twin.input(0)), self.clustered.arrays(node.input(0))


def problem_of(layer: Layer, x: Sequence[Array], z: Sequence[Array], clusters: int, seed: int) -> Problem | None:
    """None where the layer's input hardly varies."""
    used, held_out = split(len(x))
    moments = measure_moments(layer.node, x, z, used, with_exact=False)
    if not moments.varies:
        return None
    judge = measure_moments(layer.node, x, z, held_out, with_exact=True)
    return Problem(layer.wanted, moments, judge, layer.scale, clusters, seed, layer.is_integer)
