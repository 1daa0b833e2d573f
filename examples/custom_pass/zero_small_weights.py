"""A pass of one's own: it runs wherever this package is installed beside tinyopt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tinyopt import Graph, Pass, PassContext


@dataclass(frozen=True)
class ZeroSmallWeights(Pass):
    """Set weights that hardly count to zero.

    What: in each convolution and dense layer, weights below `share` of the layer's largest become 0.
    Before -> After: w = [0.5, -0.004, 0.2]  =>  w = [0.5, 0, 0.2]    (share 0.01)
    Exactness: approximate; each output moves by at most share * max|w| * sum|x|.
    Refuses when: no weight is small enough, or the weights are clustered.
    """

    name: ClassVar[str] = "zero-small-weights"
    share: float = 0.01

    def run(self, graph: Graph, context: PassContext) -> bool:
        is_changed = False
        for node in graph.nodes:
            if node.op not in ("Conv", "Dense") or not node.input(1).is_constant:
                continue
            weights = node.input(1)
            size = np.abs(weights.data)
            is_small = (size < self.share * size.max()) & (size > 0)
            if weights.clusters is not None or not is_small.any():
                reason = "its weights are clustered" if weights.clusters else "no weight is small enough"
                context.declined(f"{node.op} '{node.name}': {reason}", [node])
                continue
            weights.constant = np.where(is_small, 0, weights.data).astype(weights.dtype)
            context.did(f"{node.op} '{node.name}': {is_small.sum()} weights are zero now", [node], [node])
            is_changed = True
        return is_changed
